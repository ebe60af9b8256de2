//! Desired state: a pod as podd means it, made by `admit` from a wire object whose every field was checked.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Timestamp;

/// The `metadata.uid` of a pod: the one name under which anything of the pod is found on the machine.
///
/// Always a lower-case RFC 4122 UUID made by podd, so it is safe as one path component.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub String);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Uid {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of one life of one of this pod's containers, 64 lower-case hex digits: `containerID` on the wire is
    /// `podd://<id>`.
    pub fn container_id(&self, container: &str, attempt: u32) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digest = Sha256::digest(format!("{}/{container}/{attempt}", self.0));
        let digits = digest
            .iter()
            .flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        digits.map(char::from).collect()
    }
}

/// A pod as podd means it: defaults filled in, references resolved, nothing in it that podd cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    pub uid: Uid,
    pub namespace: String,
    pub name: String,
    /// `metadata.generation`: reported back as `status.observedGeneration`.
    pub generation: i64,
    pub created_at: Timestamp,
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds` (default 30 s).
    pub termination_grace: Duration,
    pub host_network: bool,
    pub share_process_namespace: bool,
    /// The short host name inside: `spec.hostname`, else the pod's name, cut at 63 characters.
    pub hostname: String,
    /// `spec.subdomain`, if any.
    pub subdomain: Option<String>,
    pub host_aliases: Vec<HostAlias>,
    /// Conditions, told by others, without which the pod is not ready.
    pub readiness_gates: Vec<String>,
    pub dns: DnsSpec,
    pub security: PodSecurity,
    pub volumes: Vec<Volume>,
    /// In the order of the manifest, never empty, names unique.
    pub containers: Vec<ContainerSpec>,
    /// Set once the pod is being deleted.
    pub deletion: Option<Deletion>,
}

impl PodSpec {
    pub fn container(&self, name: &str) -> Option<&ContainerSpec> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Kubernetes `pkg/apis/core/v1/helper/qos/qos.go`: Guaranteed if every container has cpu and memory limits and
    /// its requests equal them, `BestEffort` if nothing is set anywhere, else Burstable.
    pub fn qos_class(&self) -> QosClass {
        let all = self.containers.iter().map(|container| &container.resources);
        if all.clone().all(Resources::is_empty) {
            return QosClass::BestEffort;
        }
        let guaranteed = all.clone().all(|r| {
            r.cpu_limit_milli.is_some_and(|l| r.cpu_request_milli.unwrap_or(l) == l)
                && r.memory_limit.is_some_and(|l| r.memory_request.unwrap_or(l) == l)
        });
        if guaranteed {
            QosClass::Guaranteed
        } else {
            QosClass::Burstable
        }
    }
}

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// `status.qosClass`; also the cgroup level the pod lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// A deletion that was asked for: `metadata.deletionTimestamp` and `metadata.deletionGracePeriodSeconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// When the (newest) delete was asked for: the grace period counts from here.
    pub requested_at: Timestamp,
    /// Seconds between SIGTERM and SIGKILL; 0 means SIGKILL at once. A later delete may only shorten it.
    pub grace: Duration,
}

/// One container of the pod, in the pod's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    pub name: String,
    /// The image as the manifest names it.
    pub image: String,
    pub pull_policy: PullPolicy,
    /// Replaces the image's Entrypoint when not empty. `$(VAR)` is expanded already.
    pub command: Vec<String>,
    /// Replaces the image's Cmd when not empty. `$(VAR)` is expanded already.
    pub args: Vec<String>,
    /// In order; a later one of the same name wins. `$(VAR)` is expanded already.
    pub env: Vec<(String, String)>,
    /// `None`: the image's `WorkingDir`, else `/`.
    pub working_dir: Option<PathBuf>,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub security: ContainerSecurity,
    pub stdin: bool,
    /// Its input is closed for good by the first client that was attached to it.
    pub stdin_once: bool,
    pub tty: bool,
    /// Where the container may write its last words (default /dev/termination-log).
    pub termination_message_path: PathBuf,
}

/// `imagePullPolicy`, its default already filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// `resources`: cpu in thousandths of a core, memory in bytes. Requests default to limits (Kubernetes defaults.go).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_request_milli: Option<u64>,
    pub cpu_limit_milli: Option<u64>,
    pub memory_request: Option<u64>,
    pub memory_limit: Option<u64>,
}

impl Resources {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One `volumeMounts` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Name of the pod's volume.
    pub volume: String,
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// Relative, without `..`: resolved beneath the volume, links never followed out of it.
    pub sub_path: Option<PathBuf>,
    pub read_only: bool,
}

/// One of the pod's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// Lives as long as the pod. `size_limit` in bytes.
    EmptyDir {
        medium: EmptyDirMedium,
        size_limit: Option<u64>,
    },
    /// A path of the machine itself.
    HostPath { path: PathBuf, kind: HostPathType },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyDirMedium {
    Disk,
    Memory,
}

/// `hostPath.type`, as Kubernetes defines each (`pkg/volume/hostpath/host_path.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathType {
    /// "": no check before mounting.
    Unset,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// One `hostAliases` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    pub ip: IpAddr,
    pub hostnames: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The machine's own resolv.conf. podd has no cluster DNS: `ClusterFirst` means this, with a warning in the README.
    Default,
    /// Only `dnsConfig`.
    None,
}

/// `dnsPolicy` and `dnsConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSpec {
    pub policy: DnsPolicy,
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

/// `spec.securityContext`: what holds for the whole pod. User and group are folded into each container already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSecurity {
    pub supplemental_groups: Vec<u32>,
}

/// The effective security context of a container: pod-level values folded in, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of Kubernetes' securityContext"
)]
pub struct ContainerSecurity {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: bool,
    pub privileged: bool,
    pub allow_privilege_escalation: bool,
    pub read_only_root: bool,
    pub capabilities: Capabilities,
    pub seccomp: SeccompProfile,
}

/// `capabilities.add` and `.drop`: names without `CAP_`, upper case; `ALL` is allowed in both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompProfile {
    RuntimeDefault,
    Unconfined,
}
