//! The Node and its Lease as objects.
//!
//! Goes in: what the machine is, what is stored of both already. Comes out: what is to be stored. Pure.
//!
//! Reasons and messages: Kubernetes `pkg/kubelet/nodestatus/setters.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures,
    NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};

use super::pressure::{Found, Pressure};
use super::{Facts, Handler, Identity, Supply};
use crate::model::{Allocatable, Timestamp, Uid};
use crate::schedule;
use crate::status::quantity;
use crate::store::ImageRow;

/// Kubelet `nodeStatusMaxImages` and `MaxNamesPerImageInNodeStatus`.
const IMAGES: usize = 50;
const NAMES: usize = 5;

/// How long a node whose Lease is not renewed counts as alive (`nodeLeaseDurationSeconds`).
const LEASE_SECONDS: i32 = 40;

/// What `containerRuntimeVersion` begins with.
pub(super) const RUNTIME: &str = "podd://";

/// The taint that a cordon puts on a node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What the node is called, what it is, and what of it is for pods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) identity: &'a Identity,
    pub(super) facts: &'a Facts,
    pub(super) supply: &'a Supply,
    pub(super) found: &'a Found,
}

/// The Node as it is to be: what users wrote on it stays, what the machine says is written anew.
///
/// `ready` is `None` where it is not to be told anew: a node that was ready stays so while the agent starts.
pub(super) fn node(
    now: Timestamp,
    machine: Machine<'_>,
    stored: Option<Node>,
    uid: &Uid,
    ready: Option<bool>,
    images: Vec<ImageRow>,
) -> Node {
    let Machine {
        identity,
        facts,
        supply,
        found,
    } = machine;
    let mut node = stored.unwrap_or_else(|| Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            uid: Some(uid.0.clone()),
            creation_timestamp: Some(wire_time(now)),
            ..ObjectMeta::default()
        },
        ..Node::default()
    });
    let labels = node.metadata.labels.get_or_insert_default();
    labels.extend(schedule::own_labels(&identity.name));
    let spec = node.spec.get_or_insert_default();
    spec.pod_cidr = Some(identity.pod_cidr.clone());
    spec.pod_cidrs = Some(vec![identity.pod_cidr.clone()]);
    let status = node.status.get_or_insert_default();
    let NodeStatus {
        addresses,
        allocatable,
        capacity,
        conditions,
        node_info,
        runtime_handlers,
        // Nobody's, or somebody else's.
        config: _,
        daemon_endpoints: _,
        declared_features: _,
        features,
        images: told_images,
        phase: _,
        volumes_attached: _,
        volumes_in_use: _,
    } = status;
    *capacity = Some(resources(&supply.capacity));
    *allocatable = Some(resources(&supply.allocatable));
    *told_images = Some(self::images(images)).filter(|images| !images.is_empty());
    *addresses = Some(self::addresses(identity));
    *runtime_handlers = Some(identity.handlers.iter().map(handler).collect());
    *features = Some(NodeFeatures {
        supplemental_groups_policy: Some(true),
    });
    *node_info = Some(NodeSystemInfo {
        architecture: schedule::architecture().to_owned(),
        boot_id: facts.boot_id.clone(),
        container_runtime_version: format!("{RUNTIME}{}", env!("CARGO_PKG_VERSION")),
        kernel_version: facts.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: identity.version.clone(),
        machine_id: facts.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: facts.os_image.clone(),
        swap: None,
        system_uuid: facts.system_uuid.clone(),
    });
    let conditions = conditions.get_or_insert_default();
    for pressure in Pressure::ALL {
        let holds = found.holds(pressure);
        let (reason, message) = pressure.words(holds);
        set(conditions, now, pressure.condition(), holds, reason, message);
    }
    let knows_ready = conditions.iter().any(|condition| condition.type_ == "Ready");
    match ready.or((!knows_ready).then_some(false)) {
        Some(true) => set(
            conditions,
            now,
            "Ready",
            true,
            "KubeletReady",
            "podd is posting ready status",
        ),
        Some(false) => set(
            conditions,
            now,
            "Ready",
            false,
            "KubeletNotReady",
            "podd is starting and has not looked at every pod yet",
        ),
        None => {}
    }
    taint(now, &mut node);
    node
}

fn handler(handler: &Handler) -> NodeRuntimeHandler {
    let Handler {
        name,
        recursive_read_only,
        user_namespaces,
    } = handler;
    NodeRuntimeHandler {
        name: Some(name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(*recursive_read_only),
            user_namespaces: Some(*user_namespaces),
        }),
    }
}

/// The largest images, by their digests and then their tags (kubelet `setters.go`, `Images`).
fn images(mut rows: Vec<ImageRow>) -> Vec<ContainerImage> {
    rows.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    rows.truncate(IMAGES);
    let told = rows.iter().map(|row| {
        let names = row.repo_digests().into_iter().chain(row.tags().map(str::to_owned));
        ContainerImage {
            names: Some(names.take(NAMES).collect()),
            size_bytes: i64::try_from(row.size).ok(),
        }
    });
    told.collect()
}

/// Whether a condition holds; `None`: nothing is told of it.
pub(super) fn told(node: &Node, type_: &str) -> Option<bool> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some(condition.status == "True")
}

/// Whether the node is told to be ready.
pub(super) fn is_ready(node: &Node) -> bool {
    told(node, "Ready") == Some(true)
}

/// The Lease that says that the node is alive. One that is stored keeps its times.
pub(super) fn lease(now: Timestamp, identity: &Identity, node: &Uid, stored: Option<Lease>, uid: &Uid) -> Lease {
    let mut lease = stored.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            namespace: Some(super::LEASES.to_owned()),
            uid: Some(uid.0.clone()),
            creation_timestamp: Some(wire_time(now)),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    });
    lease.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: identity.name.clone(),
        uid: node.0.clone(),
        ..OwnerReference::default()
    }]);
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(identity.name.clone());
    spec.lease_duration_seconds = Some(LEASE_SECONDS);
    lease
}

/// Make the taints that podd itself puts on the node agree with what is told of it, and have each taint that drives pods
/// off tell since when it does. False: so it was already.
///
/// Rules: `pkg/controller/nodelifecycle/node_lifecycle_controller.go` (`doNoScheduleTaintingPass`).
pub(super) fn taint(now: Timestamp, node: &mut Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let is_true = |type_| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|told| told.type_ == type_ && told.status == "True")
    };
    let pressures = Pressure::ALL.map(|pressure| (pressure.taint(), is_true(pressure.condition())));
    let spec = node.spec.get_or_insert_default();
    let cordon = (UNSCHEDULABLE, spec.unschedulable == Some(true));
    let mut taints = spec.taints.take().unwrap_or_default();
    let mut changed = false;
    for (key, wanted) in [cordon].into_iter().chain(pressures) {
        let is_own = |taint: &Taint| taint.key == key && taint.effect == "NoSchedule";
        match (wanted, taints.iter().any(is_own)) {
            (true, false) => taints.push(Taint {
                effect: "NoSchedule".to_owned(),
                key: key.to_owned(),
                time_added: Some(wire_time(now)),
                value: None,
            }),
            (false, true) => taints.retain(|taint| !is_own(taint)),
            (true, true) | (false, false) => continue,
        }
        changed = true;
    }
    for taint in &mut taints {
        if schedule::drives_off(taint) && taint.time_added.is_none() {
            taint.time_added = Some(wire_time(now));
            changed = true;
        }
    }
    spec.taints = (!taints.is_empty()).then_some(taints);
    changed
}

fn resources(amounts: &Allocatable) -> BTreeMap<String, Quantity> {
    let Allocatable {
        cpu_milli,
        memory,
        storage,
        pods,
        hugepages,
    } = amounts;
    let mut resources = BTreeMap::from([
        ("cpu".to_owned(), quantity::cpu(*cpu_milli)),
        ("memory".to_owned(), quantity::bytes(*memory)),
        ("ephemeral-storage".to_owned(), quantity::bytes(*storage)),
        ("pods".to_owned(), pods.to_string()),
    ]);
    for (size, bytes) in hugepages {
        resources.insert(format!("hugepages-{}", quantity::bytes(*size)), quantity::bytes(*bytes));
    }
    let quantities = resources.into_iter().map(|(name, amount)| (name, Quantity(amount)));
    quantities.collect()
}

fn addresses(identity: &Identity) -> Vec<NodeAddress> {
    let of = |type_: &str, address: String| NodeAddress {
        type_: type_.to_owned(),
        address,
    };
    let ips = identity.host_ips.iter();
    ips.map(|ip| of("InternalIP", ip.to_string()))
        .chain([of("Hostname", identity.name.clone())])
        .collect()
}

fn set(conditions: &mut Vec<NodeCondition>, now: Timestamp, type_: &str, holds: bool, reason: &str, message: &str) {
    let status = if holds { "True" } else { "False" };
    let told = |heartbeat, transition| NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: heartbeat,
        last_transition_time: transition,
    };
    let new = Some(wire_time(now));
    match conditions.iter_mut().find(|known| known.type_ == type_) {
        // Heartbeats are no reason to write: whoever reads the node gets them anew.
        Some(known) if known.status == status => {
            *known = told(
                known.last_heartbeat_time.take().or_else(|| new.clone()),
                known.last_transition_time.take().or(new),
            );
        }
        Some(known) => *known = told(new.clone(), new),
        None => conditions.push(told(new.clone(), new)),
    }
}

/// Kubernetes' times have whole seconds on the wire.
pub(super) fn wire_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
