//! A pod's place in the network: its link, its address and its ports of the machine.
//!
//! Goes in: a sandbox whose infra process runs. Comes out: the sandbox reachable, or why it is not.
//!
//! **Invariant:** a pod without ports of the machine costs nothing here but its link. A pod with the host's network has
//! neither.

use std::net::IpAddr;

use super::StepError;
use super::machine::{Machine, step};
use crate::model::{FailureReason, HostPort, PodSpec, Uid};
use crate::network::NetworkError;

/// The ports of the machine that lead to this pod, those of its ordinary containers first.
pub fn host_ports(pod: &PodSpec) -> Vec<HostPort> {
    // On the host's network a port of the container is one of the host by itself.
    if pod.host_network {
        return Vec::new();
    }
    let containers = pod.containers.iter().chain(&pod.init_containers);
    containers.flat_map(|container| container.host_ports.clone()).collect()
}

impl Machine {
    /// Give a sandbox its link and its ports. Done already: nothing happens.
    pub(super) async fn connect(
        &self,
        pod: &PodSpec,
        sandbox: u32,
        infra_pid: i32,
        ip: Option<IpAddr>,
    ) -> Result<(), StepError> {
        let Some(IpAddr::V4(ip)) = ip else { return Ok(()) };
        let ports = host_ports(pod);
        let link = async {
            self.network.attach(&pod.uid, sandbox, infra_pid, ip).await?;
            if ports.is_empty() {
                return Ok(());
            }
            self.network.reflect(&pod.uid, sandbox).await
        };
        let open = async {
            if ports.is_empty() {
                return Ok(());
            }
            self.network.set_ports(&pod.uid, ip, &ports).await
        };
        let (linked, opened) = tokio::join!(link, open);
        linked
            .and(opened)
            .map_err(|error: NetworkError| step(FailureReason::CreatePodSandboxError, &error))
    }

    /// Close the pod's ports, before its address is another's. It has none: nothing happens.
    pub(super) async fn disconnect(&self, uid: &Uid) -> Result<(), StepError> {
        let closed = self.network.remove_ports(uid).await;
        closed.map_err(|error| step(FailureReason::KillPodSandboxError, &error))
    }
}
