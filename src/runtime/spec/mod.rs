//! From a container as podd means it to the OCI runtime spec that a shim (or `runc`) carries out.
//!
//! Goes in: the pod, the container, its image, and the facts of the machine and the sandbox. Comes out: a
//! [`Spec`], and what it has no words for. What a kubelet and containerd's CRI plugin make of the same pod is the
//! measure; where it says "kubelet" or "containerd" below, that is where the rule comes from.
//!
//! **Invariant:** a pure function. It reads no file, no clock and no environment; same input, same spec.

mod environment;
mod mounts;
mod process;
mod resources;
pub mod seccomp;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capability, Linux, LinuxDevice, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Root,
    Spec,
};

use crate::linux::cgroup::Controls;
use crate::model::downward::Place;
use crate::model::expansion::PathError;
use crate::model::{Capacity, ContainerSpec, IDS_PER_POD, PodSpec, ResolvedImage, SeccompProfile, Sources};
use crate::shim::protocol::SubPath;

pub use environment::Variables;
pub use process::environment;
pub(super) use resources::{effective, limits, shares};
pub use resources::{oom_score_adj, pod_cgroup, pod_resources};

/// The version of the OCI runtime spec that the result is written in.
const OCI_VERSION: &str = "1.2.0";

/// OCI image-spec, conversion.md: the stop signal, kept with the configuration that it belongs to.
pub const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";

/// Who the first process is: numbers, looked up in the image already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Those of the image's /etc/group and those of the pod.
    pub additional_gids: Vec<u32>,
}

/// Files of the machine that become files of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcFiles {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
    /// Of this attempt.
    pub termination_log: PathBuf,
}

/// Everything a spec is made of.
#[derive(Debug, Clone)]
pub struct SpecInput<'a> {
    pub pod: &'a PodSpec,
    pub container: &'a ContainerSpec,
    pub attempt: u32,
    pub image: &'a ResolvedImage,
    /// What it takes from other objects.
    pub sources: &'a Sources,
    pub user: ResolvedUser,
    /// Where that user is at home in the image: `HOME`, unless image or pod say otherwise.
    pub home: &'a str,
    /// In the shim's pid namespace. Its namespaces are joined as `/proc/<pid>/ns/...`.
    pub infra_pid: i32,
    /// The first process of another container, whose pid namespace is joined where the pod does not share one.
    pub target_pid: Option<i32>,
    /// Of infra's user namespace, if it has one of its own: the machine's id of its 0. Another [`IDS_PER_POD`] follow.
    pub first_id: Option<u32>,
    /// The pod's cgroup, relative to each hierarchy's root: [`pod_cgroup`].
    pub cgroup_parent: &'a str,
    /// The pod's volumes by name, and where on the machine each lies.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    pub etc: EtcFiles,
    /// Bytes of memory the machine has, for [`oom_score_adj`].
    pub memory: u64,
    /// Processes and threads the container may have.
    pub pids_limit: i64,
    /// What can be limited on this machine.
    pub controls: &'a Controls,
    /// What the machine is called: the host name of pods with the host's network.
    pub node_name: &'a str,
    /// Where the pod is, for what it asks of itself.
    pub place: &'a Place,
    /// Where the pod reaches the API; `None`: it is not told.
    pub api: Option<SocketAddr>,
    /// What the machine has for pods: the limits of containers that have none.
    pub allocatable: &'a Capacity,
    /// All that can be handed on (`linux::privilege::capabilities`): no container gets more.
    pub capabilities: &'a [Capability],
    /// The machine's devices (`linux::privilege::devices`): used for privileged containers alone.
    pub host_devices: &'a [LinuxDevice],
}

/// A spec, and the parts of volumes that it cannot name.
#[derive(Debug, Clone)]
pub struct Built {
    pub spec: Spec,
    /// For mounts with a `subPath`: the spec's mount of the same destination has the whole volume as its source.
    pub sub_paths: Vec<SubPath>,
}

/// Why no spec can be made. All are the pod's or the image's fault (`CreateContainerConfigError`), in containerd's
/// words where it has some.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// Neither the container nor its image says what to run.
    #[error("no command specified")]
    NoCommand,
    #[error("unknown capability {name:?}")]
    UnknownCapability { name: String },
    #[error("capability {name:?} cannot be added: podd itself does not have it")]
    CapabilityUnavailable { name: String },
    #[error("volume {name:?} is not there")]
    UnknownVolume { name: String },
    #[error("{what} holds a NUL byte")]
    Nul { what: &'static str },
    /// `kind`: `configmap`, `secret`.
    #[error("{kind} {name:?} not found")]
    ObjectNotFound { kind: &'static str, name: String },
    /// `kind`: `ConfigMap`, `Secret`.
    #[error("couldn't find key {key} in {kind} {namespace}/{object}")]
    KeyNotFound {
        kind: &'static str,
        namespace: String,
        object: String,
        key: String,
    },
    /// No variable can hold it.
    #[error("key {key} in {kind} {namespace}/{object} is no UTF-8 text")]
    NoText {
        kind: &'static str,
        namespace: String,
        object: String,
        key: String,
    },
    /// A resource of another container was asked for.
    #[error("container {name} not found")]
    NoSuchContainer { name: String },
    #[error("variables or arguments are too long once they are expanded")]
    TooLong,
    #[error(transparent)]
    SubPath(#[from] PathError),
    #[error("error SubPath `{path}` must not be an absolute path")]
    AbsoluteSubPath { path: String },
    #[error("unable to provision SubPath `{path}`: must not contain '..'")]
    UpwardSubPath { path: String },
}

/// The spec of one attempt of a container.
///
/// # Errors
/// See [`SpecError`].
pub fn build(input: &SpecInput<'_>) -> Result<Built, SpecError> {
    let security = &input.container.security;
    let capabilities = process::capabilities(security, input.capabilities)?;
    let variables = Variables::of(input)?;
    let (mounts, sub_paths) = mounts::mounts(input, &variables)?;

    // `procMount: Unmasked` (kubelet `securitycontext/util.go ConvertToRuntimeMaskedPaths`).
    let is_open = security.privileged || security.unmasked_proc;
    let mut linux = Linux::default();
    linux
        .set_resources(Some(resources::of_container(input)))
        .set_cgroups_path(Some(cgroups_path(
            input.cgroup_parent,
            &input.container.name,
            input.attempt,
        )))
        .set_namespaces(Some(namespaces(input)))
        .set_devices(security.privileged.then(|| input.host_devices.to_vec()))
        .set_sysctl(sysctls(input))
        .set_uid_mappings(mappings(input))
        .set_gid_mappings(mappings(input))
        .set_seccomp(match security.seccomp {
            SeccompProfile::RuntimeDefault if !security.privileged => Some(seccomp::runtime_default(&capabilities)),
            SeccompProfile::RuntimeDefault | SeccompProfile::Unconfined | SeccompProfile::Localhost(_) => None,
        })
        .set_masked_paths(Some(if is_open { Vec::new() } else { strings(&MASKED_PATHS) }))
        .set_readonly_paths(Some(if is_open { Vec::new() } else { strings(&READONLY_PATHS) }));

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(security.read_only_root));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_hostname(None)
        .set_root(Some(root))
        .set_mounts(Some(mounts))
        .set_process(Some(process::process(input, &variables, &capabilities)?))
        .set_annotations(Some(annotations(input)))
        .set_linux(Some(linux));
    Ok(Built { spec, sub_paths })
}

/// Kubernetes `pkg/securitycontext/util.go`, `defaultMaskedPaths`, without the thermal throttle counters of each single cpu.
/// What is not there is skipped.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Kubernetes `pkg/securitycontext/util.go`, `defaultReadonlyPaths`.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// The cgroup of an attempt: absolute, as OCI wants it for "from each hierarchy's root".
pub(super) fn cgroups_path(pod_cgroup: &str, container: &str, attempt: u32) -> PathBuf {
    Path::new("/").join(pod_cgroup).join(format!("{container}-{attempt}"))
}

/// Infra's namespaces, and a mount namespace of its own; a pid namespace of its own unless the pod shares one or another
/// container's is joined (CRI `NamespaceMode`: POD before TARGET before CONTAINER); a cgroup
/// namespace of its own unless it is privileged (Kubernetes KEP 2254: privileged containers see the host's). One that is
/// not named is the machine's.
fn namespaces(input: &SpecInput<'_>) -> Vec<LinuxNamespace> {
    let namespace = |kind: LinuxNamespaceType, path: Option<PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path);
        namespace
    };
    let isolation = &input.pod.isolation;
    let infra = |name: &str| Some(PathBuf::from(format!("/proc/{}/ns/{name}", input.infra_pid)));
    let pid = if input.pod.share_process_namespace {
        infra("pid")
    } else {
        input
            .target_pid
            .map(|target| PathBuf::from(format!("/proc/{target}/ns/pid")))
    };
    let mut all = Vec::new();
    if !isolation.host_pid {
        all.push(namespace(LinuxNamespaceType::Pid, pid));
    }
    if !isolation.host_ipc {
        all.push(namespace(LinuxNamespaceType::Ipc, infra("ipc")));
    }
    if !input.pod.host_network {
        all.push(namespace(LinuxNamespaceType::Uts, infra("uts")));
        all.push(namespace(LinuxNamespaceType::Network, infra("net")));
    }
    if input.first_id.is_some() {
        all.push(namespace(LinuxNamespaceType::User, infra("user")));
    }
    all.push(namespace(LinuxNamespaceType::Mount, None));
    if !input.container.security.privileged {
        all.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    all
}

/// The ids of the pod's user namespace. Users and groups have the same.
fn mappings(input: &SpecInput<'_>) -> Option<Vec<LinuxIdMapping>> {
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(input.first_id?)
        .size(IDS_PER_POD)
        .build();
    mapping.ok().map(|mapping| vec![mapping])
}

/// The spec as JSON, the same text for the same spec whenever it is made: its maps and sets are sorted.
pub fn text(spec: &Spec) -> Result<Vec<u8>, serde_json::Error> {
    let mut spec = serde_json::to_value(spec)?;
    let capabilities = spec
        .pointer_mut("/process/capabilities")
        .and_then(|sets| sets.as_object_mut());
    for set in capabilities.into_iter().flat_map(|sets| sets.values_mut()) {
        if let Some(set) = set.as_array_mut() {
            set.sort_unstable_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    serde_json::to_vec(&spec)
}

/// In the pod's own network everybody may listen on any port and send echo requests (containerd 2
/// `enable_unprivileged_ports` and `enable_unprivileged_icmp`, both on by default).
fn sysctls(input: &SpecInput<'_>) -> Option<HashMap<String, String>> {
    let mut pairs = vec![("net.ipv4.ip_unprivileged_port_start", "0")];
    // Groups of a user namespace are not all there (containerd: not with a user namespace).
    if input.first_id.is_none() {
        pairs.push(("net.ipv4.ping_group_range", "0 2147483647"));
    }
    // What the pod says itself was set when its sandbox was made.
    let is_own = |name: &str| input.pod.security.sysctls.iter().any(|(own, _)| own == name);
    let pairs = pairs.into_iter().filter(|(name, _)| !is_own(name));
    let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    (!input.pod.host_network).then(|| owned.collect())
}

fn annotations(input: &SpecInput<'_>) -> HashMap<String, String> {
    let pod = input.pod;
    let mut annotations = HashMap::from([
        ("io.kubernetes.pod.namespace".to_owned(), pod.namespace.clone()),
        ("io.kubernetes.pod.name".to_owned(), pod.name.clone()),
        ("io.kubernetes.pod.uid".to_owned(), pod.uid.0.clone()),
        ("io.kubernetes.container.name".to_owned(), input.container.name.clone()),
    ]);
    // The pod's own word wins (kubelet: `lifecycle.stopSignal` becomes the CRI's `stop_signal`).
    let own = input.container.life.stop_signal.as_ref();
    let signal = own.unwrap_or(&input.image.config.stop_signal);
    if !signal.is_empty() {
        annotations.insert(STOP_SIGNAL.to_owned(), signal.clone());
    }
    annotations
}
