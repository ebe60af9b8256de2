//! What a pod takes of its machine, and what the machine has to give.
//!
//! Rules: Kubernetes `component-helpers/resource/helpers.go` (`PodRequests`, `AggregateContainerRequests`) and
//! `pkg/scheduler/framework/plugins/{noderesources,nodeports}`; words: `pkg/kubelet/lifecycle/predicate.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::{Capacity, ContainerSpec, GivenUpReason, PodSpec, Protocol};

/// All that one pod asks for: requests count, limits do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of ephemeral storage.
    pub storage: u64,
    /// Bytes of huge pages, by the size of one page in bytes.
    pub hugepages: BTreeMap<u64, u64>,
    pub ports: BTreeSet<ClaimedPort>,
}

/// A port of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimedPort {
    pub protocol: Protocol,
    pub port: u16,
    /// `None`: every address of the machine.
    pub ip: Option<IpAddr>,
}

/// What the machine has for its pods; `pods` counts them, the rest is as in [`Claim`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocatable {
    pub cpu_milli: u64,
    pub memory: u64,
    pub storage: u64,
    pub pods: u64,
    pub hugepages: BTreeMap<u64, u64>,
}

impl Allocatable {
    /// The part of it that single containers are told.
    pub fn capacity(&self) -> Capacity {
        Capacity {
            cpu_milli: self.cpu_milli,
            memory: self.memory,
            storage: self.storage,
        }
    }
}

/// What there is not enough of for one more pod. Its text is a kubelet's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    Amount {
        of: Amount,
        requested: u64,
        /// By all other pods.
        used: u64,
        capacity: u64,
    },
    /// A port of the machine is another pod's.
    HostPorts,
}

/// What amounts there are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    Pods,
    Cpu,
    Memory,
    Storage,
    /// Of pages of so many bytes.
    Hugepages(u64),
}

impl Lack {
    /// `status.reason` of a pod that is turned away for it.
    pub fn reason(&self) -> GivenUpReason {
        match self {
            Self::Amount { of, .. } => match of {
                Amount::Pods => GivenUpReason::OutOfPods,
                Amount::Cpu => GivenUpReason::OutOfCpu,
                Amount::Memory => GivenUpReason::OutOfMemory,
                Amount::Storage => GivenUpReason::OutOfEphemeralStorage,
                Amount::Hugepages(size) => GivenUpReason::OutOfHugepages(*size),
            },
            Self::HostPorts => GivenUpReason::NodePorts,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount {
                of,
                requested,
                used,
                capacity,
            } => write!(
                f,
                "Node didn't have enough resource: {of}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
            Self::HostPorts => {
                f.write_str("Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")
            }
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
        match self {
            Self::Pods => f.write_str("pods"),
            Self::Cpu => f.write_str("cpu"),
            Self::Memory => f.write_str("memory"),
            Self::Storage => f.write_str("ephemeral-storage"),
            Self::Hugepages(size) => match UNITS.iter().find(|(unit, _)| size.is_multiple_of(*unit)) {
                Some((unit, name)) => write!(f, "hugepages-{}{name}", size / unit),
                None => write!(f, "hugepages-{size}"),
            },
        }
    }
}

impl PodSpec {
    /// What the pod takes of its machine while it is there: at any time of its life no more than this runs at once.
    pub fn claim(&self) -> Claim {
        let containers = self.init_containers.iter().chain(&self.containers);
        let sizes = containers
            .map(|container| &container.resources)
            .chain([&self.resources])
            .flat_map(|resources| resources.hugepages.keys());
        let sidecars = self.init_containers.iter().filter(|init| init.is_sidecar());
        Claim {
            cpu_milli: self.cpu_request_milli(),
            memory: self.memory_request(),
            storage: self.storage_request(),
            hugepages: sizes.map(|size| (*size, self.hugepages(*size))).collect(),
            ports: sidecars.chain(&self.containers).flat_map(ports_of).collect(),
        }
    }
}

fn ports_of(container: &ContainerSpec) -> impl Iterator<Item = ClaimedPort> {
    container.host_ports.iter().map(|port| ClaimedPort {
        protocol: port.protocol,
        port: port.host_port,
        ip: port.host_ip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HostPort, RestartPolicy};
    use crate::reconcile::testing::{container, pod, sidecar};

    fn asks(mut container: ContainerSpec, cpu: u64, memory: u64) -> ContainerSpec {
        container.resources.cpu_request_milli = Some(cpu);
        container.resources.memory_request = Some(memory);
        // Limits do not count.
        container.resources.memory_limit = Some(memory * 10);
        container
    }

    fn amounts(pod: &PodSpec) -> (u64, u64) {
        let claim = pod.claim();
        (claim.cpu_milli, claim.memory)
    }

    #[test]
    fn a_pod_takes_the_most_that_runs_at_once() {
        let mut pod = pod(RestartPolicy::Always, &[]);
        pod.containers = vec![
            asks(container("a"), 100, 10),
            asks(container("b"), 50, 20),
            container("c"),
        ];
        assert_eq!(amounts(&pod), (150, 30));
        // One after the other, before the rest: only what is more than the rest counts.
        pod.init_containers = vec![asks(container("i"), 400, 5), asks(container("j"), 300, 8)];
        assert_eq!(amounts(&pod), (400, 30));
        // A sidecar runs beside all that comes after it, and beside the containers.
        pod.init_containers.insert(1, asks(sidecar("s"), 200, 7));
        assert_eq!(amounts(&pod), (500, 37));
        pod.runtime.overhead_cpu_milli = 11;
        pod.runtime.overhead_memory = 3;
        assert_eq!(amounts(&pod), (511, 40));
        // The pod's own word takes the place of the sum; its limit only where nothing else is said.
        pod.resources.memory_request = Some(100);
        pod.resources.cpu_limit_milli = Some(9000);
        assert_eq!(amounts(&pod), (511, 103));
    }

    #[test]
    fn a_limit_of_the_pod_is_its_request_where_no_container_has_one() {
        let mut pod = pod(RestartPolicy::Always, &["a"]);
        assert_eq!(pod.claim(), Claim::default());
        pod.resources.cpu_limit_milli = Some(300);
        assert_eq!(amounts(&pod), (300, 0));
    }

    #[test]
    fn huge_pages_and_storage_are_summed_each_by_itself() {
        let mut pod = pod(RestartPolicy::Always, &["a", "b"]);
        for (place, container) in pod.containers.iter_mut().enumerate() {
            container.resources.storage_request = Some(7);
            container.resources.hugepages = [(2 << 20, 4 << 20)].into();
            if place == 1 {
                container.resources.hugepages.insert(1 << 30, 1 << 30);
            }
        }
        let claim = pod.claim();
        assert_eq!(claim.storage, 14);
        assert_eq!(claim.hugepages, [(2 << 20, 8 << 20), (1 << 30, 1 << 30)].into());
    }

    #[test]
    fn ports_of_containers_and_sidecars_are_taken() {
        let with_port = |mut container: ContainerSpec, port| {
            container.host_ports = vec![HostPort {
                host_ip: None,
                host_port: port,
                container_port: 80,
                protocol: Protocol::Tcp,
            }];
            container
        };
        let mut pod = pod(RestartPolicy::Always, &[]);
        pod.containers = vec![with_port(container("a"), 1)];
        pod.init_containers = vec![with_port(container("i"), 2), with_port(sidecar("s"), 3)];
        let ports: Vec<u16> = pod.claim().ports.iter().map(|port| port.port).collect();
        assert_eq!(ports, [1, 3]);
    }

    #[test]
    fn what_lacks_is_said_as_a_kubelet_says_it() {
        let lack = |of| Lack::Amount {
            of,
            requested: 2000,
            used: 500,
            capacity: 2000,
        };
        for (of, reason, name) in [
            (Amount::Cpu, "OutOfcpu", "cpu"),
            (Amount::Memory, "OutOfmemory", "memory"),
            (Amount::Storage, "OutOfephemeral-storage", "ephemeral-storage"),
            (Amount::Pods, "OutOfpods", "pods"),
            (Amount::Hugepages(2 << 20), "OutOfhugepages-2Mi", "hugepages-2Mi"),
            (Amount::Hugepages(1 << 30), "OutOfhugepages-1Gi", "hugepages-1Gi"),
        ] {
            let lack = lack(of);
            assert_eq!(lack.reason().as_str(), reason);
            assert!(lack.reason().is_rejection());
            assert_eq!(
                lack.to_string(),
                format!("Node didn't have enough resource: {name}, requested: 2000, used: 500, capacity: 2000")
            );
        }
        assert_eq!(Lack::HostPorts.reason().as_str(), "NodePorts");
        assert_eq!(
            Lack::HostPorts.to_string(),
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        );
    }
}
