//! Desired state: a pod as podd means it, made by `admit` from a wire object whose every field was checked.

use std::collections::BTreeMap;
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
    /// What its containers may be told of it.
    pub about: About,
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds` (default 30 s).
    pub termination_grace: Duration,
    pub host_network: bool,
    pub share_process_namespace: bool,
    /// Which other walls between it and the machine are moved.
    pub isolation: Isolation,
    /// The short host name inside: `spec.hostname`, else the pod's name, cut at 63 characters.
    pub hostname: String,
    /// `spec.subdomain`, if any.
    pub subdomain: Option<String>,
    pub host_aliases: Vec<HostAlias>,
    /// Conditions, told by others, without which the pod is not ready.
    pub readiness_gates: Vec<String>,
    pub dns: DnsSpec,
    pub security: PodSecurity,
    /// `spec.resources`: of the pod as a whole; empty when it says nothing.
    pub resources: Resources,
    pub volumes: Vec<Volume>,
    /// `spec.activeDeadlineSeconds`: how long it may be active, counted from when it was first seen.
    pub active_deadline: Option<Duration>,
    /// Init containers, in the order in which they run; those that restart always are sidecars
    /// ([`ContainerSpec::is_sidecar`] tells them apart in this list).
    pub init_containers: Vec<ContainerSpec>,
    /// In the order of the manifest, never empty. Names are unique over all three lists.
    pub containers: Vec<ContainerSpec>,
    /// Added to the living pod (`kubectl debug`), in the order in which they came; run once, they decide nothing.
    pub ephemeral_containers: Vec<ContainerSpec>,
    /// Who makes its containers, and what that costs.
    pub runtime: PodRuntime,
    /// Set once the pod is being deleted.
    pub deletion: Option<Deletion>,
}

impl PodSpec {
    /// A container of any of the three lists.
    pub fn container(&self, name: &str) -> Option<&ContainerSpec> {
        self.init_containers
            .iter()
            .chain(&self.containers)
            .chain(&self.ephemeral_containers)
            .find(|container| container.name == name)
    }

    /// One that has to end with success before what comes after it begins.
    pub fn is_init(&self, container: &ContainerSpec) -> bool {
        !container.is_sidecar() && self.init_containers.iter().any(|init| init.name == container.name)
    }

    /// What its volumes take from other objects and from itself, each with the name of its volume.
    pub fn projections(&self) -> impl Iterator<Item = (&str, &Projection)> {
        self.volumes.iter().flat_map(|volume| {
            let sources = match &volume.source {
                VolumeSource::Projected { sources, .. } => &sources[..],
                VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => &[],
            };
            sources.iter().map(|source| (volume.name.as_str(), source))
        })
    }
}

/// What the downward API tells of a pod beyond its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `spec.serviceAccountName`; empty for a pod that was stored before it had one.
    pub service_account: String,
}

/// The namespaces that a pod shares with the machine or has for itself, beyond the usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of Kubernetes' pod")]
pub struct Isolation {
    /// `hostPID`: its containers live in the machine's pid namespace.
    pub host_pid: bool,
    /// `hostIPC`: in the machine's IPC namespace.
    pub host_ipc: bool,
    /// `hostUsers: false`: a user namespace of its own, with ids that no other pod has.
    pub user_namespace: bool,
    /// `setHostnameAsFQDN`: the kernel's host name is the whole name with its domain.
    pub hostname_is_fqdn: bool,
}

/// How many ids a pod's user namespace has (a kubelet's `idsPerPod`, which must be a multiple of this).
pub const IDS_PER_POD: u32 = 65_536;

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

/// `spec.runtimeClassName` and `spec.overhead`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRuntime {
    /// The name of a `RuntimeClass`; `None`: podd's own runtime.
    pub class: Option<String>,
    /// What the pod needs besides its containers, in thousandths of a core.
    pub overhead_cpu_milli: u64,
    /// The same of memory, in bytes.
    pub overhead_memory: u64,
}

/// One container of the pod, in the pod's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    pub name: String,
    /// The image as the manifest names it.
    pub image: String,
    pub pull_policy: PullPolicy,
    /// Replaces the image's Entrypoint when not empty. As written: `$(VAR)` is expanded at every start.
    pub command: Vec<String>,
    /// Replaces the image's Cmd when not empty. As written, too.
    pub args: Vec<String>,
    /// In order; a later one of the same name wins, and any of them over what `env_from` gives.
    pub env: Vec<EnvVar>,
    /// In order; a later one wins.
    pub env_from: Vec<EnvFrom>,
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
    /// Those of its `ports` that have a `hostPort`.
    pub host_ports: Vec<HostPort>,
    pub life: ContainerLife,
}

impl ContainerSpec {
    /// For a container of `init_containers`: it is started in its turn, runs beside the others, and is stopped last.
    pub fn is_sidecar(&self) -> bool {
        self.life.restart_policy == Some(RestartPolicy::Always)
    }
}

/// A port of the machine that leads to one of the container (`ports[].hostPort`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `hostIP`; `None`: every address of the machine ("" and 0.0.0.0).
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// `ports[].protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// One entry of a container's `env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    pub name: String,
    pub value: EnvValue,
}

/// Where the value of a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// As written: `$(VAR)` in it means the variables before it.
    Text(String),
    ConfigMapKey(ObjectKey),
    SecretKey(ObjectKey),
    Field(Field),
    Resource(ResourceValue),
}

/// One key of a ConfigMap or Secret of the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectKey {
    pub object: String,
    pub key: String,
    pub optional: bool,
}

/// One entry of a container's `envFrom`: every key of an object, each name after `prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFrom {
    pub prefix: String,
    pub kind: ObjectKind,
    pub object: String,
    pub optional: bool,
}

/// What data is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

impl ObjectKind {
    /// As messages about its keys name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// As messages about its objects name it: `configmap "x" not found`.
    pub fn resource(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// A `fieldRef` (Kubernetes `pkg/fieldpath`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Name,
    Namespace,
    Uid,
    /// `metadata.labels['key']`
    Label(String),
    /// `metadata.annotations['key']`
    Annotation(String),
    /// All of them, one `key="value"` a line. Volumes only.
    Labels,
    Annotations,
    /// The rest is for variables only.
    NodeName,
    ServiceAccountName,
    HostIp,
    HostIps,
    PodIp,
    PodIps,
}

/// A `resourceFieldRef`: what a container may have, divided and rounded up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceValue {
    /// `None`: the container that asks.
    pub container: Option<String>,
    pub resource: ResourceField,
    /// What one unit of the answer is: thousandths of a core for cpu (default 1000), bytes else (default 1).
    pub divisor: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceField {
    LimitsCpu,
    LimitsMemory,
    LimitsEphemeralStorage,
    RequestsCpu,
    RequestsMemory,
    RequestsEphemeralStorage,
    /// Of pages of this size, in bytes.
    LimitsHugepages(u64),
    RequestsHugepages(u64),
}

/// What is to happen to a container over its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerLife {
    /// The container's own `restartPolicy`; `None`: the pod's. `Always` in an init container makes it a sidecar.
    pub restart_policy: Option<RestartPolicy>,
    /// `restartPolicyRules`: the first that matches an end decides it, before any policy.
    pub restart_rules: Vec<RestartRule>,
    pub startup: Option<Probe>,
    pub liveness: Option<Probe>,
    pub readiness: Option<Probe>,
    /// `lifecycle.postStart`: run at once after it was started; it is not "started" before that is done.
    pub post_start: Option<Action>,
    /// `lifecycle.preStop`: run before the stop signal, within the grace.
    pub pre_stop: Option<Action>,
    /// `lifecycle.stopSignal`, as `SIGUSR1`; `None`: the image's.
    pub stop_signal: Option<String>,
    pub termination_message_policy: TerminationMessagePolicy,
    pub resize_policy: ResizePolicy,
    /// Ephemeral containers: the container whose processes it sees (`targetContainerName`).
    pub target: Option<String>,
}

/// One of a container's `restartPolicyRules`: what follows an end with one of these exit codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRule {
    pub action: RestartAction,
    /// `exitCodes.values`, as the status reports them.
    pub codes: Vec<i32>,
    /// `exitCodes.operator` is `NotIn`: every other code is meant.
    pub is_negated: bool,
}

impl RestartRule {
    pub fn matches(&self, code: i32) -> bool {
        self.codes.contains(&code) != self.is_negated
    }
}

/// `restartPolicyRules[].action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartAction {
    /// The container is started again.
    Restart,
    /// All containers of the pod are ended at once and begin anew in the same sandbox, init containers first.
    RestartAllContainers,
}

/// A probe, its defaults filled in (Kubernetes `pkg/apis/core/v1/defaults.go SetDefaults_Probe`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub action: Action,
    pub initial_delay: Duration,
    /// Default 10 s.
    pub period: Duration,
    /// Default 1 s.
    pub timeout: Duration,
    /// Default 1; always 1 for liveness and startup.
    pub success_threshold: u32,
    /// Default 3.
    pub failure_threshold: u32,
    /// Replaces the pod's grace for the stop that this probe causes; never for readiness.
    pub termination_grace: Option<Duration>,
}

/// What a probe or a hook does. Named ports are numbers already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run in the container; success is exit code 0.
    Exec { command: Vec<String> },
    HttpGet {
        /// `None`: the pod's address.
        host: Option<String>,
        port: u16,
        https: bool,
        /// With its query, if any.
        path: String,
        headers: Vec<(String, String)>,
    },
    /// A connection that is accepted. Probes only.
    TcpSocket { host: Option<String>, port: u16 },
    /// `grpc.health.v1.Health/Check`. Probes only.
    Grpc { port: u16, service: String },
    /// Hooks only.
    Sleep { duration: Duration },
}

/// Where the last words of a container are looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TerminationMessagePolicy {
    #[default]
    File,
    /// The end of its log, when it failed and wrote no file.
    FallbackToLogsOnError,
}

/// Whether a change of a resource restarts the container (`resizePolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResizePolicy {
    pub cpu_restarts: bool,
    pub memory_restarts: bool,
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
    /// `ephemeral-storage`, in bytes.
    pub storage_request: Option<u64>,
    pub storage_limit: Option<u64>,
    /// `hugepages-<size>`: by the size of a page, both in bytes. Request and limit are always the same.
    pub hugepages: BTreeMap<u64, u64>,
}

impl Resources {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the machine has for its pods: cpu in thousandths of a core, memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_milli: u64,
    pub memory: u64,
    /// `ephemeral-storage`, in bytes.
    pub storage: u64,
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
    /// `subPathExpr`, as written: what `$(VAR)` makes of it takes the place of `sub_path`.
    pub sub_path_expr: Option<String>,
    pub read_only: bool,
    /// Everything mounted beneath it is read-only, too (`recursiveReadOnly`).
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

/// `mountPropagation` (Kubernetes `MountPropagationMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// rprivate
    #[default]
    None,
    /// rslave: what the machine mounts there later is seen.
    HostToContainer,
    /// rshared: and what the container mounts there is seen by the machine.
    Bidirectional,
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
    /// The merged layers of an image, for reading.
    Image { reference: String, pull_policy: PullPolicy },
    /// Files that podd writes, and writes anew when what they tell changes: `configMap`, `secret`, `downwardAPI` and
    /// `projected` alike.
    Projected {
        sources: Vec<Projection>,
        default_mode: u32,
    },
}

/// One source of a projected volume. A later one's file takes the place of an earlier one's of the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    Object {
        kind: ObjectKind,
        name: String,
        /// Empty: every key, each as a file of its name.
        items: Vec<KeyToPath>,
        optional: bool,
    },
    Downward {
        items: Vec<DownwardFile>,
    },
    Token {
        /// Empty: the API's own.
        audience: String,
        /// How long it is good for; it is renewed before.
        expiration: Duration,
        path: PathBuf,
    },
}

/// `items[]` of a ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyToPath {
    pub key: String,
    /// Relative, without `..`.
    pub path: PathBuf,
    pub mode: Option<u32>,
}

/// `downwardAPI.items[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownwardFile {
    pub path: PathBuf,
    pub mode: Option<u32>,
    pub value: DownwardValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownwardValue {
    Field(Field),
    Resource(ResourceValue),
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
    /// `supplementalGroupsPolicy: Strict`: the image's /etc/group adds none.
    pub strict_groups: bool,
    /// `fsGroup`: a group of every process, and the owner of its volumes.
    pub fs_group: Option<u32>,
    /// Kernel parameters of the pod's namespaces, names with dots, in order.
    pub sysctls: Vec<(String, String)>,
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
    pub app_armor: AppArmorProfile,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
}

/// `capabilities.add` and `.drop`: names without `CAP_`, upper case; `ALL` is allowed in both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompProfile {
    RuntimeDefault,
    Unconfined,
    /// A file beneath the agent's directory of profiles (`localhostProfile`).
    Localhost(PathBuf),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AppArmorProfile {
    /// Nothing was said: none.
    #[default]
    Unset,
    RuntimeDefault,
    Unconfined,
    /// The name of a profile that the kernel has.
    Localhost(String),
}
