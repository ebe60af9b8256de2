//! The ports of the machine that pods had when the last agent ended.

use std::net::IpAddr;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::admit;
use crate::controller::POD;
use crate::network::PodPorts;
use crate::runtime::host_ports;
use crate::store::{Store, StoredObject};

/// Of every pod that has an address, the ports that lead to it; those of the newest sandbox stand last.
///
/// A pod that cannot be read has none: the controller tells of it in its own words.
pub(super) async fn of_last_agent(store: &Store) -> anyhow::Result<Vec<PodPorts>> {
    let pods = store.list(POD, None, None, None).await;
    let pods = pods.context("cannot list the pods of the store")?.objects;
    let mut found = Vec::new();
    for object in pods.iter().filter(|object| wants_ports(&object.json)) {
        let observed = store.observed(&object.uid).await;
        let observed = observed.with_context(|| format!("cannot read what is recorded of pod {}", object.uid))?;
        let Some(sandbox) = observed.sandbox.filter(|_| !observed.torn_down) else {
            continue;
        };
        let (Some(IpAddr::V4(ip)), Some(ports)) = (sandbox.ip, ports(object)) else {
            continue;
        };
        let pod = PodPorts {
            uid: object.uid.clone(),
            ip,
            ports,
        };
        found.push((sandbox.created_at, pod));
    }
    found.sort_by_key(|(created_at, _)| *created_at);
    Ok(found.into_iter().map(|(_, pod)| pod).collect())
}

fn ports(object: &StoredObject) -> Option<Vec<crate::model::HostPort>> {
    let pod: Pod = serde_json::from_value((*object.json).clone()).ok()?;
    Some(host_ports(&admit::to_model(&pod).ok()?))
}

/// Most pods have none, and need not be understood for that.
fn wants_ports(pod: &Value) -> bool {
    let spec = &pod["spec"];
    let list = |name: &str| spec[name].as_array().into_iter().flatten();
    let of_container = |container: &Value| {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports
            .clone()
            .any(|port| port["hostPort"].as_u64().is_some_and(|port| port != 0))
    };
    spec["hostNetwork"] != true && list("containers").chain(list("initContainers")).any(of_container)
}
