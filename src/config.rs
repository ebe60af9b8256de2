//! The agent's settings: flags win over `PODD_*` variables, these over the file, the file over the defaults.
//!
//! Goes in: what the command line said ([`Settings`]) and a TOML file with the same names. Comes out: a [`Config`] in
//! which every value was checked, or an error that names the setting and what was expected.

mod amounts;
mod thresholds;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::image::Reference;
use crate::image::registry::{ProxySettings, RegistrySettings};
use crate::model::{AllowedSysctls, IDS_PER_POD, SysctlPatternError};
use crate::node::{Amounts, Thresholds};
use crate::space::Policy;
use crate::store::UserRange;

/// Everything `podd serve` can be told, as it was told: each may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// State: database, images, volumes, certificates [default: /var/lib/podd]
    #[arg(long, env = "PODD_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// What dies with the boot: sockets and journals of running pods [default: /run/podd]
    #[arg(long, env = "PODD_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Containers' output, as a kubelet lays it out [default: /var/log/pods]
    #[arg(long, env = "PODD_LOG_DIR", value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Links to the logs of all containers, `<pod>_<namespace>_<container>-<id>.log`; empty: none [default:
    /// /var/log/containers, none where log-dir has another value than its default]
    #[arg(long, env = "PODD_CONTAINER_LOG_DIR", value_name = "DIR")]
    pub container_log_dir: Option<PathBuf>,
    /// HTTPS address of the API [default: 127.0.0.1:7443]
    #[arg(long, env = "PODD_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// Unix socket of the API, for root alone [default: the run directory's podd.sock]
    #[arg(long, env = "PODD_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Addresses of pods; the first is the bridge's [default: 10.244.0.0/22]
    #[arg(long, env = "PODD_POD_CIDR", value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// The bridge that pods are attached to [default: podd0]
    #[arg(long, env = "PODD_BRIDGE", value_name = "NAME")]
    pub bridge: Option<String>,
    /// The cgroup that holds every pod, in each hierarchy [default: podd]
    #[arg(long, env = "PODD_CGROUP_ROOT", value_name = "NAME")]
    pub cgroup_root: Option<String>,
    /// The name of the node in the API [default: the host's name]
    #[arg(long, env = "PODD_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Manifests of static pods: YAML or JSON, one pod in each file [default: none]
    #[arg(long, env = "PODD_MANIFEST_DIR", value_name = "DIR")]
    pub manifest_dir: Option<PathBuf>,
    /// The longest wait before a failing container is started again, 1s to 300s [default: 300s]
    #[arg(long, env = "PODD_MAX_RESTART_BACKOFF", value_name = "DURATION")]
    pub max_restart_backoff: Option<String>,
    /// How long exec, attach, port-forward or proxy may be without data before it is ended; 0 for ever [default: 4h]
    #[arg(long, env = "PODD_STREAMING_IDLE_TIMEOUT", value_name = "DURATION")]
    pub streaming_idle_timeout: Option<String>,
    /// An OCI runtime and the handler by which a `RuntimeClass` names it; may be given several times
    /// [default: runc, crun and runsc, where they are found]
    #[arg(long, env = "PODD_RUNTIME", value_name = "HANDLER=PATH", value_delimiter = ',')]
    #[serde(skip)]
    pub runtime: Vec<String>,
    /// The same in the file: `[runtimes.HANDLER]` with `path` and `args`.
    #[arg(skip)]
    #[serde(default)]
    pub runtimes: BTreeMap<String, RuntimeProgram>,
    /// Percent of the disk from which on images that no pod uses are removed, the least recently used first; 100: never
    /// [default: 85]
    #[arg(long, env = "PODD_IMAGE_GC_HIGH_THRESHOLD", value_name = "PERCENT")]
    pub image_gc_high_threshold: Option<u8>,
    /// Percent of the disk down to which they are removed [default: 80]
    #[arg(long, env = "PODD_IMAGE_GC_LOW_THRESHOLD", value_name = "PERCENT")]
    pub image_gc_low_threshold: Option<u8>,
    /// How long an image stays at least after it came [default: 2m]
    #[arg(long, env = "PODD_IMAGE_MINIMUM_GC_AGE", value_name = "DURATION")]
    pub image_minimum_gc_age: Option<String>,
    /// Mirrors, certificates and more for each registry, as containerd's hosts.toml [default: /etc/podd/certs.d]
    #[arg(long, env = "PODD_REGISTRY_CONFIG", value_name = "DIR")]
    pub registry_config: Option<PathBuf>,
    /// The registry of image names without one [default: docker.io]
    #[arg(long, env = "PODD_DEFAULT_REGISTRY", value_name = "HOST")]
    pub default_registry: Option<String>,
    /// The node's own credentials for registries, a docker config [default: the root's config.json]
    #[arg(long, env = "PODD_DOCKER_CONFIG", value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// The most bytes that an image may have, packed or unpacked, such as 20Gi [default: 64Gi]
    #[arg(long, env = "PODD_MAX_IMAGE_SIZE", value_name = "BYTES")]
    pub max_image_size: Option<String>,
    /// What is kept back for the machine itself, such as cpu=500m,memory=1Gi,ephemeral-storage=10Gi [default: nothing]
    #[arg(long, env = "PODD_SYSTEM_RESERVED", value_name = "AMOUNTS")]
    pub system_reserved: Option<String>,
    /// What pods may have, whatever is measured, such as cpu=3500m,memory=6Gi,pods=200 [default: all but what is kept back]
    #[arg(long, env = "PODD_ALLOCATABLE", value_name = "AMOUNTS")]
    pub allocatable: Option<String>,
    /// What must be left of the machine at least, in a kubelet's words; with less of it no new pods are taken. Empty: nothing
    /// [default: memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<5%,imagefs.available<1Gi,imagefs.inodesFree<5%]
    #[arg(long, env = "PODD_EVICTION_HARD", value_name = "THRESHOLDS")]
    pub eviction_hard: Option<String>,
    /// How long there must have been enough of it again before new pods are taken [default: 5m]
    #[arg(long, env = "PODD_EVICTION_PRESSURE_TRANSITION_PERIOD", value_name = "DURATION")]
    pub eviction_pressure_transition_period: Option<String>,
    /// How many pods there may be [default: as many as there are addresses, at least 110]
    #[arg(long, env = "PODD_MAX_PODS", value_name = "NUMBER")]
    pub max_pods: Option<u64>,
    /// Where pods find the seccomp profiles that they name [default: seccomp in the root]
    #[arg(long, env = "PODD_SECCOMP_PROFILE_ROOT", value_name = "DIR")]
    pub seccomp_profile_root: Option<PathBuf>,
    /// Kernel parameters that pods may set beyond the safe ones: names, or beginnings of names with * behind them
    /// [default: none]
    #[arg(
        long,
        env = "PODD_ALLOWED_UNSAFE_SYSCTLS",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    #[serde(default)]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Processes and threads that all containers of one pod may have together; -1: each container has its own limit alone
    /// [default: -1]
    #[arg(
        long,
        env = "PODD_POD_PIDS_LIMIT",
        value_name = "COUNT",
        allow_negative_numbers = true
    )]
    pub pod_pids_limit: Option<i64>,
    /// The ids of the machine that the user namespaces of pods have, 65536 each, as in /etc/subuid
    /// [default: 1879048192:268435456]
    #[arg(long, env = "PODD_USER_IDS", value_name = "FIRST:COUNT")]
    pub user_ids: Option<String>,
    /// Who tokens of service accounts say made them, an https URL [default: `https://kubernetes.default.svc.cluster.local`]
    #[arg(long, env = "PODD_SERVICE_ACCOUNT_ISSUER", value_name = "URL")]
    pub service_account_issuer: Option<String>,
}

/// An OCI runtime's program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RuntimeProgram {
    /// Absolute.
    pub path: PathBuf,
    /// What it is given before each command.
    #[serde(default)]
    pub args: Vec<String>,
}

impl Settings {
    /// Where `self` says nothing, take what `below` says.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let Self {
            root,
            run_dir,
            log_dir,
            container_log_dir,
            listen,
            socket,
            pod_cidr,
            bridge,
            cgroup_root,
            node_name,
            manifest_dir,
            max_restart_backoff,
            streaming_idle_timeout,
            runtime,
            runtimes,
            image_gc_high_threshold,
            image_gc_low_threshold,
            image_minimum_gc_age,
            registry_config,
            default_registry,
            docker_config,
            max_image_size,
            system_reserved,
            allocatable,
            eviction_hard,
            eviction_pressure_transition_period,
            max_pods,
            seccomp_profile_root,
            allowed_unsafe_sysctls,
            pod_pids_limit,
            user_ids,
            service_account_issuer,
        } = self;
        Self {
            runtime: [runtime, below.runtime].concat(),
            runtimes: below.runtimes.into_iter().chain(runtimes).collect(),
            root: root.or(below.root),
            run_dir: run_dir.or(below.run_dir),
            log_dir: log_dir.or(below.log_dir),
            container_log_dir: container_log_dir.or(below.container_log_dir),
            listen: listen.or(below.listen),
            socket: socket.or(below.socket),
            pod_cidr: pod_cidr.or(below.pod_cidr),
            bridge: bridge.or(below.bridge),
            cgroup_root: cgroup_root.or(below.cgroup_root),
            node_name: node_name.or(below.node_name),
            manifest_dir: manifest_dir.or(below.manifest_dir),
            max_restart_backoff: max_restart_backoff.or(below.max_restart_backoff),
            streaming_idle_timeout: streaming_idle_timeout.or(below.streaming_idle_timeout),
            image_gc_high_threshold: image_gc_high_threshold.or(below.image_gc_high_threshold),
            image_gc_low_threshold: image_gc_low_threshold.or(below.image_gc_low_threshold),
            image_minimum_gc_age: image_minimum_gc_age.or(below.image_minimum_gc_age),
            registry_config: registry_config.or(below.registry_config),
            default_registry: default_registry.or(below.default_registry),
            docker_config: docker_config.or(below.docker_config),
            max_image_size: max_image_size.or(below.max_image_size),
            system_reserved: system_reserved.or(below.system_reserved),
            allocatable: allocatable.or(below.allocatable),
            eviction_hard: eviction_hard.or(below.eviction_hard),
            eviction_pressure_transition_period: eviction_pressure_transition_period
                .or(below.eviction_pressure_transition_period),
            max_pods: max_pods.or(below.max_pods),
            seccomp_profile_root: seccomp_profile_root.or(below.seccomp_profile_root),
            allowed_unsafe_sysctls: if allowed_unsafe_sysctls.is_empty() {
                below.allowed_unsafe_sysctls
            } else {
                allowed_unsafe_sysctls
            },
            pod_pids_limit: pod_pids_limit.or(below.pod_pids_limit),
            user_ids: user_ids.or(below.user_ids),
            service_account_issuer: service_account_issuer.or(below.service_account_issuer),
        }
    }

    /// Read the file of `--config`.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

/// The settings of one agent, each of them valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub root: PathBuf,
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
    /// Where the logs of all containers have links; `None`: nowhere.
    pub container_log_dir: Option<PathBuf>,
    pub listen: SocketAddr,
    pub socket: PathBuf,
    pub pod_cidr: String,
    pub bridge: String,
    pub cgroup_root: String,
    pub node_name: String,
    /// `None`: no static pods.
    pub manifest_dir: Option<PathBuf>,
    pub max_restart_backoff: Duration,
    /// [`Duration::MAX`]: for ever.
    pub streaming_idle_timeout: Duration,
    /// By handler.
    pub runtimes: BTreeMap<String, RuntimeProgram>,
    pub image_gc: Policy,
    pub registries: RegistrySettings,
    /// Bytes.
    pub max_image_size: u64,
    /// What is kept back for the machine itself.
    pub reserved: Amounts,
    /// What pods may have, whatever is measured.
    pub allocatable: Amounts,
    /// With less of something left, the node is under pressure.
    pub eviction_hard: Thresholds,
    /// A pressure that was not found for so long is over.
    pub pressure_transition: Duration,
    pub seccomp_profile_root: PathBuf,
    /// The kernel parameters that pods may set.
    pub sysctls: AllowedSysctls,
    /// `None`: only each container is limited.
    pub pod_pids_limit: Option<i64>,
    pub user_ids: UserRange,
    /// An https URL.
    pub service_account_issuer: String,
}

/// Who tokens of service accounts say made them when nothing else is said.
const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where the agent's state lies when nothing else is said.
pub const DEFAULT_ROOT: &str = "/var/lib/podd";
/// Where the agent's socket lies when nothing else is said.
pub const DEFAULT_RUN_DIR: &str = "/run/podd";
const DEFAULT_LOG_DIR: &str = "/var/log/pods";
/// The name of the agent's socket in its run directory.
pub const SOCKET_NAME: &str = "podd.sock";

/// Linux `IFNAMSIZ` less the final NUL.
const INTERFACE_NAME_MAX: usize = 15;

impl Config {
    /// Fill in the defaults and check every value.
    pub fn new(settings: Settings, host_name: &str) -> Result<Self, ConfigError> {
        let Settings {
            root,
            run_dir,
            log_dir,
            container_log_dir,
            listen,
            socket,
            pod_cidr,
            bridge,
            cgroup_root,
            node_name,
            manifest_dir,
            max_restart_backoff,
            streaming_idle_timeout,
            runtime,
            runtimes,
            image_gc_high_threshold,
            image_gc_low_threshold,
            image_minimum_gc_age,
            registry_config,
            default_registry,
            docker_config,
            max_image_size,
            system_reserved,
            allocatable,
            eviction_hard,
            eviction_pressure_transition_period,
            max_pods,
            seccomp_profile_root,
            allowed_unsafe_sysctls,
            pod_pids_limit,
            user_ids,
            service_account_issuer,
        } = settings;
        let runtimes = all_runtimes(runtime, runtimes)?;
        let root = absolute("root", root.unwrap_or_else(|| PathBuf::from(DEFAULT_ROOT)))?;
        let run_dir = absolute("run-dir", run_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_RUN_DIR)))?;
        let log_dir = absolute("log-dir", log_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_LOG_DIR)))?;
        // Of an agent beside another one, with logs of its own, nobody looks for links in the usual place.
        let is_usual = log_dir == Path::new(DEFAULT_LOG_DIR);
        let container_log_dir = container_log_dir
            .or_else(|| is_usual.then(|| PathBuf::from("/var/log/containers")))
            .filter(|dir| !dir.as_os_str().is_empty())
            .map(|dir| absolute("container-log-dir", dir))
            .transpose()?;
        let socket = absolute("socket", socket.unwrap_or_else(|| run_dir.join(SOCKET_NAME)))?;
        let listen = listen.unwrap_or_else(|| "127.0.0.1:7443".to_owned());
        let listen = listen.parse().map_err(|_| {
            invalid(
                "listen",
                &listen,
                "an address and port such as 127.0.0.1:7443 or [::1]:7443",
            )
        })?;
        let bridge = bridge.unwrap_or_else(|| "podd0".to_owned());
        if bridge.is_empty()
            || bridge.len() > INTERFACE_NAME_MAX
            || !bridge
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.')
            || bridge.starts_with('.')
        {
            return Err(invalid(
                "bridge",
                &bridge,
                "an interface name of 1 to 15 letters, digits, '-', '_' or '.'",
            ));
        }
        let cgroup_root = cgroup_root.unwrap_or_else(|| "podd".to_owned());
        if cgroup_root.is_empty()
            || !cgroup_root
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_whitespace))
        {
            return Err(invalid(
                "cgroup-root",
                &cgroup_root,
                "a relative cgroup path such as podd or podd.slice/pods",
            ));
        }
        let node_name = node_name.unwrap_or_else(|| host_name.to_lowercase());
        if !is_dns_subdomain(&node_name) {
            return Err(invalid(
                "node-name",
                &node_name,
                "an RFC 1123 subdomain: lower-case letters, digits, '-' and '.', at most 253 characters",
            ));
        }
        let manifest_dir = manifest_dir.map(|dir| absolute("manifest-dir", dir)).transpose()?;
        let max_restart_backoff = match max_restart_backoff {
            None => Duration::from_mins(5),
            Some(text) => parse_duration(&text)
                .filter(|d| (1..=300).contains(&d.as_secs()))
                .ok_or_else(|| {
                    invalid(
                        "max-restart-backoff",
                        &text,
                        "a duration of 1s to 300s such as 30s or 5m",
                    )
                })?,
        };
        let streaming_idle_timeout = match streaming_idle_timeout {
            None => Duration::from_hours(4),
            Some(text) => match parse_duration(&text) {
                Some(Duration::ZERO) => Duration::MAX,
                Some(limit) => limit,
                None => {
                    return Err(invalid(
                        "streaming-idle-timeout",
                        &text,
                        "a duration such as 4h, 30m or 90s, or 0",
                    ));
                }
            },
        };
        let pressure_transition = match eviction_pressure_transition_period {
            None => Duration::from_mins(5),
            Some(text) => parse_duration(&text).ok_or_else(|| {
                invalid(
                    "eviction-pressure-transition-period",
                    &text,
                    "a duration such as 5m or 30s",
                )
            })?,
        };
        let image_gc = image_gc(image_gc_high_threshold, image_gc_low_threshold, image_minimum_gc_age)?;
        let default_registry = default_registry.unwrap_or_else(|| "docker.io".to_owned());
        // A name that has it as its registry must be read so: it is a host, perhaps with a port.
        let is_registry = Reference::parse(&format!("{default_registry}/x/x"))
            .is_ok_and(|reference| reference.registry() == default_registry);
        if !is_registry {
            return Err(invalid(
                "default-registry",
                &default_registry,
                "a registry such as docker.io or registry.example:5000",
            ));
        }
        let registries = RegistrySettings {
            hosts: absolute(
                "registry-config",
                registry_config.unwrap_or_else(|| PathBuf::from("/etc/podd/certs.d")),
            )?,
            docker_config: absolute(
                "docker-config",
                docker_config.unwrap_or_else(|| root.join("config.json")),
            )?,
            default_registry,
            // Not podd's own settings: see `agent`.
            proxies: ProxySettings::default(),
        };
        let max_image_size = match max_image_size {
            None => 64 << 30,
            Some(text) => parse_bytes(&text)
                .filter(|bytes| *bytes > 0)
                .ok_or_else(|| invalid("max-image-size", &text, "bytes such as 20Gi, 500M or 1000000"))?,
        };
        let pod_pids_limit = match pod_pids_limit.unwrap_or(-1) {
            -1 => None,
            limit if limit > 0 => Some(limit),
            other => {
                let expected = "-1 or a number of processes and threads";
                return Err(invalid("pod-pids-limit", &other.to_string(), expected));
            }
        };
        let service_account_issuer = service_account_issuer.unwrap_or_else(|| DEFAULT_ISSUER.to_owned());
        // OpenID Connect Discovery: https, neither a query nor a fragment.
        let is_issuer = url::Url::parse(&service_account_issuer)
            .is_ok_and(|url| url.scheme() == "https" && url.query().is_none() && url.fragment().is_none());
        if !is_issuer {
            return Err(invalid(
                "service-account-issuer",
                &service_account_issuer,
                "an https URL without a query, such as https://kubernetes.default.svc.cluster.local",
            ));
        }
        let pod_cidr = pod_cidr.unwrap_or_else(|| "10.244.0.0/22".to_owned());
        let seccomp_profile_root = absolute(
            "seccomp-profile-root",
            seccomp_profile_root.unwrap_or_else(|| root.join("seccomp")),
        )?;
        let sysctls = AllowedSysctls::with_unsafe(allowed_unsafe_sysctls.iter().map(String::as_str))
            .map_err(ConfigError::AllowedUnsafeSysctls)?;
        Ok(Self {
            root,
            run_dir,
            log_dir,
            container_log_dir,
            listen,
            socket,
            pod_cidr,
            bridge,
            cgroup_root,
            node_name,
            manifest_dir,
            max_restart_backoff,
            streaming_idle_timeout,
            runtimes,
            image_gc,
            registries,
            max_image_size,
            reserved: amounts::reserved(system_reserved.as_deref())?,
            allocatable: amounts::allocatable(allocatable.as_deref(), max_pods)?,
            eviction_hard: thresholds::read(eviction_hard.as_deref())?,
            pressure_transition,
            seccomp_profile_root,
            sysctls,
            pod_pids_limit,
            user_ids: user_range(user_ids)?,
            service_account_issuer,
        })
    }
}

/// podd's own runtime, for a class that asks for it by name.
pub const OWN_HANDLER: &str = "podd";

/// Those of the file and those of the flags, the first flag of each handler winning over all others.
fn all_runtimes(
    flags: Vec<String>,
    mut runtimes: BTreeMap<String, RuntimeProgram>,
) -> Result<BTreeMap<String, RuntimeProgram>, ConfigError> {
    for flag in flags.into_iter().rev() {
        let (handler, path) = flag
            .split_once('=')
            .ok_or_else(|| invalid("runtime", &flag, "a handler and a path such as kata=/opt/kata/runtime"))?;
        let program = RuntimeProgram {
            path: PathBuf::from(path),
            args: Vec::new(),
        };
        runtimes.insert(handler.to_owned(), program);
    }
    for (handler, program) in &runtimes {
        // `pkg/apis/node/validation`: a handler is an RFC 1123 label.
        if handler.contains('.') || handler.len() > 63 || !is_dns_subdomain(handler) || handler == OWN_HANDLER {
            return Err(invalid(
                "runtime",
                handler,
                "a handler: lower-case letters, digits and '-', at most 63 of them, and not podd",
            ));
        }
        if !program.path.is_absolute() {
            let path = program.path.display().to_string();
            return Err(invalid("runtime", &path, "an absolute path"));
        }
    }
    Ok(runtimes)
}

/// Kubelet `kubeletconfig/validation`: percents, and the low one below the high one.
fn image_gc(high: Option<u8>, low: Option<u8>, minimum_age: Option<String>) -> Result<Policy, ConfigError> {
    const PERCENT: &str = "a number of percent, 0 to 100";
    let high = high.unwrap_or(85);
    if high > 100 {
        return Err(invalid("image-gc-high-threshold", &high.to_string(), PERCENT));
    }
    let low = low.unwrap_or(80);
    if low >= high {
        return Err(invalid(
            "image-gc-low-threshold",
            &low.to_string(),
            "a number of percent below image-gc-high-threshold",
        ));
    }
    let minimum_age = match minimum_age {
        None => Duration::from_mins(2),
        Some(text) => parse_duration(&text)
            .ok_or_else(|| invalid("image-minimum-gc-age", &text, "a duration such as 2m, 90s or 24h"))?,
    };
    Ok(Policy { high, low, minimum_age })
}

/// Whole ranges of pods, none of them the machine's own first one. By default ids that `useradd` gives no subordinate
/// ranges from and systemd leaves alone (systemd `docs/UIDS-GIDS.md`: 0x70000000 to 0x7fffffff are unused).
fn user_range(text: Option<String>) -> Result<UserRange, ConfigError> {
    let Some(text) = text else {
        return Ok(UserRange {
            first: 0x7000_0000,
            pods: 4096,
        });
    };
    let parsed = || {
        let (first, count) = text.split_once(':')?;
        let (first, count) = (first.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
        let whole = first % IDS_PER_POD == 0 && count % IDS_PER_POD == 0;
        // (uid_t) -1 is no id: the last range stays free.
        let fits = u64::from(first) + u64::from(count) <= u64::from(u32::MAX - (IDS_PER_POD - 1));
        (whole && fits && first > 0 && count > 0).then_some(UserRange {
            first,
            pods: count / IDS_PER_POD,
        })
    };
    parsed().ok_or_else(|| {
        invalid(
            "user-ids",
            &text,
            "a first id and a number of ids, both multiples of 65536, such as 131072:6553600",
        )
    })
}

fn absolute(setting: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path).map_err(|_| invalid(setting, &path.display().to_string(), "a path"))
}

fn invalid(setting: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Invalid {
        setting,
        value: value.to_owned(),
        expected,
    }
}

/// Whole seconds, or hours, minutes and seconds in this order: `90`, `90s`, `1m30s`, `4h`.
fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut seconds = 0_u64;
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(length)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// Whole bytes, or with one of Kubernetes' suffixes: `500M`, `20Gi`.
fn parse_bytes(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let unit: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// RFC 1123 subdomain, as Kubernetes checks names of objects (`apimachinery/pkg/util/validation`).
fn is_dns_subdomain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("allowed-unsafe-sysctls")]
    AllowedUnsafeSysctls(#[source] SysctlPatternError),
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration file {} cannot be understood", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{setting}: {value:?} is not {expected}")]
    Invalid {
        setting: &'static str,
        value: String,
        expected: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_manual() {
        let config = Config::new(Settings::default(), "Host-1").unwrap();
        assert_eq!(config.socket, Path::new("/run/podd/podd.sock"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:7443");
        assert_eq!(config.node_name, "host-1");
        assert_eq!(config.max_restart_backoff, Duration::from_mins(5));
        assert_eq!(config.streaming_idle_timeout, Duration::from_hours(4));
    }

    #[test]
    fn the_nearer_word_wins() {
        let flags = Settings {
            bridge: Some("flag0".to_owned()),
            ..Settings::default()
        };
        let file: Settings = toml::from_str("bridge = \"file0\"\npod-cidr = \"10.9.0.0/24\"").unwrap();
        let config = Config::new(flags.over(file), "h").unwrap();
        assert_eq!(config.bridge, "flag0");
        assert_eq!(config.pod_cidr, "10.9.0.0/24");
    }

    #[test]
    fn runtimes_come_from_the_file_and_from_flags() {
        let file: Settings = toml::from_str(
            "[runtimes.runc]\npath = \"/opt/runc\"\nargs = [\"--debug\"]\n[runtimes.crun]\npath = \"/opt/crun\"",
        )
        .unwrap();
        let flags = Settings {
            runtime: vec!["crun=/bin/crun".to_owned()],
            ..Settings::default()
        };
        let config = Config::new(flags.over(file), "h").unwrap();
        let runc = &config.runtimes["runc"];
        assert_eq!(
            (&*runc.path, &*runc.args),
            (Path::new("/opt/runc"), &["--debug".to_owned()][..])
        );
        assert_eq!(config.runtimes["crun"].path, Path::new("/bin/crun"));
        for wrong in ["runc", "podd=/bin/x", "Run_C=/bin/x", "runc=bin/x"] {
            let settings = Settings {
                runtime: vec![wrong.to_owned()],
                ..Settings::default()
            };
            let error = Config::new(settings, "h").unwrap_err();
            assert!(error.to_string().starts_with("runtime: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_misspelt_setting_in_the_file_is_named() {
        let error = toml::from_str::<Settings>("brigde = \"x\"").unwrap_err();
        assert!(error.to_string().contains("brigde"), "{error}");
    }

    #[test]
    fn each_wrong_value_names_its_setting() {
        let wrong: [(Settings, &str); 15] = [
            (
                Settings {
                    image_gc_high_threshold: Some(101),
                    ..Settings::default()
                },
                "image-gc-high-threshold",
            ),
            (
                Settings {
                    image_gc_high_threshold: Some(80),
                    ..Settings::default()
                },
                "image-gc-low-threshold",
            ),
            (
                Settings {
                    listen: Some("localhost".to_owned()),
                    ..Settings::default()
                },
                "listen",
            ),
            (
                Settings {
                    bridge: Some("much-too-long-a-name".to_owned()),
                    ..Settings::default()
                },
                "bridge",
            ),
            (
                Settings {
                    cgroup_root: Some("../x".to_owned()),
                    ..Settings::default()
                },
                "cgroup-root",
            ),
            (
                Settings {
                    node_name: Some("Not_A_Name".to_owned()),
                    ..Settings::default()
                },
                "node-name",
            ),
            (
                Settings {
                    max_restart_backoff: Some("301s".to_owned()),
                    ..Settings::default()
                },
                "max-restart-backoff",
            ),
            (
                Settings {
                    default_registry: Some("registry".to_owned()),
                    ..Settings::default()
                },
                "default-registry",
            ),
            (
                Settings {
                    max_image_size: Some("20GiB".to_owned()),
                    ..Settings::default()
                },
                "max-image-size",
            ),
            (
                Settings {
                    user_ids: Some("1000:65536".to_owned()),
                    ..Settings::default()
                },
                "user-ids",
            ),
            (
                Settings {
                    user_ids: Some("4294836224:131072".to_owned()),
                    ..Settings::default()
                },
                "user-ids",
            ),
            (
                Settings {
                    streaming_idle_timeout: Some("long".to_owned()),
                    ..Settings::default()
                },
                "streaming-idle-timeout",
            ),
            (
                Settings {
                    eviction_hard: Some("memory.available<lots".to_owned()),
                    ..Settings::default()
                },
                "eviction-hard",
            ),
            (
                Settings {
                    eviction_pressure_transition_period: Some("soon".to_owned()),
                    ..Settings::default()
                },
                "eviction-pressure-transition-period",
            ),
            (
                Settings {
                    pod_pids_limit: Some(0),
                    ..Settings::default()
                },
                "pod-pids-limit",
            ),
        ];
        for (settings, name) in wrong {
            let error = Config::new(settings, "h").unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn sizes_are_bytes_with_a_suffix() {
        for (text, bytes) in [("1000", 1000), ("500M", 500_000_000), ("20Gi", 20 << 30)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "Gi", "-1", "1.5G", "99999999Ti"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_hours_minutes_and_seconds() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("1m30s", 90),
            ("5m", 300),
            ("4h", 14_400),
            ("1h1s", 3601),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1d", "-3", "m", "1s1m", "1m5", "1h1h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
