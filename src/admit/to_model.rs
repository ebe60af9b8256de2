//! From an admitted pod to the pod as podd means it.
//!
//! Everything was checked when the pod was admitted, so nothing can fail here; a stored pod that says otherwise was
//! written by another version, and the error names the field.

mod env;
mod life;
mod projected;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{self as wire, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::container::cleaned;
use super::defaults;
use super::ephemeral;
use super::names::LABEL_MAX;
use super::quantity::Quantity;
use super::security::plain_capability;
use crate::model::expansion::Expander;
use crate::model::{
    About, AppArmorProfile, Capabilities, ContainerSecurity, ContainerSpec, Deletion, DnsPolicy, DnsSpec,
    EmptyDirMedium, HostAlias, HostPathType, HostPort, Isolation, Mount, PodRuntime, PodSecurity, PodSpec, Propagation,
    Protocol, PullPolicy, Resources, RestartPolicy, SeccompProfile, Timestamp, Uid, Volume, VolumeSource,
    normal_sysctl,
};

/// A stored pod that this version of podd cannot understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("the stored pod lacks {field}")]
    Missing { field: String },
    #[error("the stored pod has {field} {value:?}, which this version of podd does not understand")]
    NotUnderstood { field: String, value: String },
}

/// What stands in place of a text that should not be repeated.
const TOO_LONG: &str = "(too long once it is expanded)";

fn missing(field: &str) -> ModelError {
    ModelError::Missing {
        field: field.to_owned(),
    }
}

fn not_understood(field: impl Into<String>, value: impl std::fmt::Display) -> ModelError {
    ModelError::NotUnderstood {
        field: field.into(),
        value: value.to_string(),
    }
}

/// Makes the model of an admitted pod.
///
/// # Errors
/// [`ModelError`] names what cannot be understood; never for what [`super::pod`] gave.
pub fn to_model(pod: &Pod) -> Result<PodSpec, ModelError> {
    let Pod {
        metadata,
        spec,
        status: _,
    } = pod;
    let spec = spec.as_ref().ok_or_else(|| missing("spec"))?;
    let name = metadata.name.clone().ok_or_else(|| missing("metadata.name"))?;
    let grace = spec.termination_grace_period_seconds.unwrap_or(defaults::GRACE_SECONDS);
    let containers = Containers::of(spec)?;
    let hostname_override = text(spec.hostname_override.as_ref());
    Ok(PodSpec {
        uid: Uid(metadata.uid.clone().ok_or_else(|| missing("metadata.uid"))?),
        namespace: metadata
            .namespace
            .clone()
            .ok_or_else(|| missing("metadata.namespace"))?,
        generation: metadata.generation.unwrap_or(1),
        created_at: metadata
            .creation_timestamp
            .as_ref()
            .ok_or_else(|| missing("metadata.creationTimestamp"))?
            .0,
        about: About {
            labels: metadata.labels.clone().unwrap_or_default(),
            annotations: metadata.annotations.clone().unwrap_or_default(),
            service_account: spec.service_account_name.clone().unwrap_or_default(),
        },
        restart_policy: restart_policy(spec.restart_policy.as_deref(), "spec.restartPolicy")?,
        termination_grace: seconds(grace).ok_or_else(|| not_understood("spec.terminationGracePeriodSeconds", grace))?,
        host_network: spec.host_network == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        isolation: Isolation {
            host_pid: spec.host_pid == Some(true),
            host_ipc: spec.host_ipc == Some(true),
            user_namespace: spec.host_users == Some(false),
            hostname_is_fqdn: spec.set_hostname_as_fqdn == Some(true),
        },
        hostname: hostname_override
            .or(text(spec.hostname.as_ref()))
            .unwrap_or_else(|| short_name(&name))
            .to_owned(),
        // With an overriding name there is no domain behind it.
        subdomain: text(spec.subdomain.as_ref())
            .filter(|_| hostname_override.is_none())
            .map(str::to_owned),
        host_aliases: spec
            .host_aliases
            .iter()
            .flatten()
            .map(host_alias)
            .collect::<Result<_, _>>()?,
        readiness_gates: spec
            .readiness_gates
            .iter()
            .flatten()
            .map(|gate| gate.condition_type.clone())
            .collect(),
        dns: dns(spec)?,
        security: pod_security(spec.security_context.as_ref())?,
        resources: resources(spec.resources.as_ref(), "spec.resources")?,
        volumes: spec.volumes.iter().flatten().map(volume).collect::<Result<_, _>>()?,
        active_deadline: spec
            .active_deadline_seconds
            .map(|deadline| seconds(deadline).ok_or_else(|| not_understood("spec.activeDeadlineSeconds", deadline)))
            .transpose()?,
        init_containers: containers.init,
        containers: containers.regular,
        ephemeral_containers: containers.ephemeral,
        runtime: pod_runtime(spec)?,
        deletion: deletion(metadata)?,
        name,
    })
}

fn pod_runtime(spec: &wire::PodSpec) -> Result<PodRuntime, ModelError> {
    let overhead = |name: &str, unit: fn(Quantity) -> u64| {
        let found = spec.overhead.as_ref().and_then(|list| list.get(name));
        let parsed = found.map(|text| amount(&text.0, "spec.overhead")).transpose()?;
        Ok::<_, ModelError>(parsed.map_or(0, unit))
    };
    Ok(PodRuntime {
        class: text(spec.runtime_class_name.as_ref()).map(str::to_owned),
        overhead_cpu_milli: overhead("cpu", Quantity::millis)?,
        overhead_memory: overhead("memory", Quantity::units)?,
    })
}

/// An empty text is none.
fn text(field: Option<&String>) -> Option<&str> {
    field.map(String::as_str).filter(|text| !text.is_empty())
}

fn seconds(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// A pod's name as a host name: 63 characters that do not end in punctuation (`kubelet_pods.go`).
fn short_name(name: &str) -> &str {
    // Admitted names are ASCII; anything else is left whole rather than cut within a character.
    name.get(..LABEL_MAX)
        .map_or(name, |cut| cut.trim_end_matches(['-', '.']))
}

fn restart_policy(policy: Option<&str>, field: &str) -> Result<RestartPolicy, ModelError> {
    match policy.unwrap_or_default() {
        "Always" | "" => Ok(RestartPolicy::Always),
        "OnFailure" => Ok(RestartPolicy::OnFailure),
        "Never" => Ok(RestartPolicy::Never),
        other => Err(not_understood(field, other)),
    }
}

/// `deletionTimestamp` is the end of the grace; the model wants its beginning.
fn deletion(metadata: &ObjectMeta) -> Result<Option<Deletion>, ModelError> {
    let Some(deadline) = &metadata.deletion_timestamp else {
        return Ok(None);
    };
    let grace = metadata.deletion_grace_period_seconds.unwrap_or(0);
    let bad = || not_understood("metadata.deletionGracePeriodSeconds", grace);
    let grace = seconds(grace).ok_or_else(bad)?;
    let requested_at: Timestamp = deadline.0.checked_sub(grace).map_err(|_| bad())?;
    Ok(Some(Deletion { requested_at, grace }))
}

fn host_alias(alias: &wire::HostAlias) -> Result<HostAlias, ModelError> {
    let wire::HostAlias { hostnames, ip } = alias;
    let ip: IpAddr = ip.parse().map_err(|_| not_understood("spec.hostAliases[].ip", ip))?;
    Ok(HostAlias {
        ip,
        hostnames: hostnames.clone().unwrap_or_default(),
    })
}

fn dns(spec: &wire::PodSpec) -> Result<DnsSpec, ModelError> {
    let policy = match spec.dns_policy.as_deref().unwrap_or_default() {
        // There is no cluster DNS: Kubernetes falls back to the machine's own in that case, too.
        "ClusterFirst" | "ClusterFirstWithHostNet" | "Default" | "" => DnsPolicy::Default,
        "None" => DnsPolicy::None,
        other => return Err(not_understood("spec.dnsPolicy", other)),
    };
    let wire::PodDNSConfig {
        nameservers,
        options,
        searches,
    } = spec.dns_config.clone().unwrap_or_default();
    let options = options
        .into_iter()
        .flatten()
        .map(|wire::PodDNSConfigOption { name, value }| {
            let name = name.unwrap_or_default();
            match value.filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            }
        });
    Ok(DnsSpec {
        policy,
        nameservers: nameservers.unwrap_or_default(),
        searches: searches.unwrap_or_default(),
        options: options.collect(),
    })
}

fn pod_security(context: Option<&wire::PodSecurityContext>) -> Result<PodSecurity, ModelError> {
    let groups = context
        .and_then(|context| context.supplemental_groups.as_deref())
        .unwrap_or_default();
    let supplemental_groups = groups
        .iter()
        .map(|group| id(*group, "spec.securityContext.supplementalGroups"))
        .collect::<Result<_, _>>()?;
    let context = context.cloned().unwrap_or_default();
    let sysctls = context.sysctls.into_iter().flatten();
    Ok(PodSecurity {
        supplemental_groups,
        strict_groups: context.supplemental_groups_policy.as_deref() == Some("Strict"),
        fs_group: context
            .fs_group
            .map(|group| id(group, "spec.securityContext.fsGroup"))
            .transpose()?,
        sysctls: sysctls
            .map(|wire::Sysctl { name, value }| (normal_sysctl(&name), value))
            .collect(),
    })
}

fn id(id: i64, field: &str) -> Result<u32, ModelError> {
    u32::try_from(id).map_err(|_| not_understood(field, id))
}

fn volume(volume: &wire::Volume) -> Result<Volume, ModelError> {
    let field = || format!("spec.volumes[{}]", volume.name);
    let source = if let Some(wire::EmptyDirVolumeSource { medium, size_limit }) = &volume.empty_dir {
        let medium = match medium.as_deref().unwrap_or_default() {
            "" => EmptyDirMedium::Disk,
            "Memory" => EmptyDirMedium::Memory,
            other => return Err(not_understood(format!("{}.emptyDir.medium", field()), other)),
        };
        let limit = size_limit
            .as_ref()
            .map(|limit| amount(&limit.0, &field()))
            .transpose()?;
        VolumeSource::EmptyDir {
            medium,
            size_limit: limit.map(Quantity::units).filter(|bytes| *bytes > 0),
        }
    } else if let Some(wire::HostPathVolumeSource { path, type_ }) = &volume.host_path {
        let kind = match type_.as_deref().unwrap_or_default() {
            "" => HostPathType::Unset,
            "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
            "Directory" => HostPathType::Directory,
            "FileOrCreate" => HostPathType::FileOrCreate,
            "File" => HostPathType::File,
            "Socket" => HostPathType::Socket,
            "CharDevice" => HostPathType::CharDevice,
            "BlockDevice" => HostPathType::BlockDevice,
            other => return Err(not_understood(format!("{}.hostPath.type", field()), other)),
        };
        VolumeSource::HostPath {
            path: cleaned(path),
            kind,
        }
    } else if let Some(wire::ImageVolumeSource { pull_policy, reference }) = &volume.image {
        VolumeSource::Image {
            reference: reference
                .clone()
                .ok_or_else(|| missing(&format!("{}.image.reference", field())))?,
            pull_policy: self::pull_policy(pull_policy.as_deref(), || format!("{}.image.pullPolicy", field()))?,
        }
    } else {
        let source = projected::source(volume, &field())?;
        source.ok_or_else(|| missing(&format!("a source that is known for {}", field())))?
    };
    Ok(Volume {
        name: volume.name.clone(),
        source,
    })
}

fn pull_policy(policy: Option<&str>, field: impl Fn() -> String) -> Result<PullPolicy, ModelError> {
    match policy.unwrap_or_default() {
        "Always" => Ok(PullPolicy::Always),
        "IfNotPresent" | "" => Ok(PullPolicy::IfNotPresent),
        "Never" => Ok(PullPolicy::Never),
        other => Err(not_understood(field(), other)),
    }
}

fn amount(text: &str, field: &str) -> Result<Quantity, ModelError> {
    Quantity::parse(text).map_err(|_| not_understood(field, text))
}

/// The containers of a pod, list by list.
struct Containers {
    regular: Vec<ContainerSpec>,
    init: Vec<ContainerSpec>,
    ephemeral: Vec<ContainerSpec>,
}

impl Containers {
    fn of(spec: &wire::PodSpec) -> Result<Self, ModelError> {
        if spec.containers.is_empty() {
            return Err(missing("spec.containers"));
        }
        let pod = spec.security_context.clone().unwrap_or_default();
        let mut expander = Expander::new();
        let mut read = |entry: &_, target, list| container(entry, target, list, &pod, &mut expander);
        let regular = spec.containers.iter().map(|entry| read(entry, None, "containers"));
        let regular = regular.collect::<Result<_, _>>()?;
        let init = spec.init_containers.iter().flatten();
        let init = init.map(|entry| read(entry, None, "initContainers"));
        let init = init.collect::<Result<_, _>>()?;
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|entry| {
            let (common, target) = ephemeral::parts(entry.clone());
            read(&common, target, "ephemeralContainers")
        });
        Ok(Self {
            regular,
            init,
            ephemeral: ephemeral.collect::<Result<_, _>>()?,
        })
    }
}

fn container(
    container: &wire::Container,
    target: Option<String>,
    list: &str,
    pod: &wire::PodSecurityContext,
    expander: &mut Expander,
) -> Result<ContainerSpec, ModelError> {
    let field = |name: &str| format!("spec.{list}[{}].{name}", container.name);
    let pull_policy = pull_policy(container.image_pull_policy.as_deref(), || field("imagePullPolicy"))?;
    let message_path = text(container.termination_message_path.as_ref()).unwrap_or(defaults::TERMINATION_MESSAGE_PATH);
    Ok(ContainerSpec {
        name: container.name.clone(),
        image: container.image.clone().ok_or_else(|| missing(&field("image")))?,
        pull_policy,
        command: container.command.clone().unwrap_or_default(),
        args: container.args.clone().unwrap_or_default(),
        env: container
            .env
            .iter()
            .flatten()
            .map(|variable| env::variable(variable, &field("env")))
            .collect::<Result<_, _>>()?,
        env_from: container
            .env_from
            .iter()
            .flatten()
            .map(|source| env::from(source, &field("envFrom")))
            .collect::<Result<_, _>>()?,
        working_dir: text(container.working_dir.as_ref()).map(PathBuf::from),
        mounts: container.volume_mounts.iter().flatten().map(mount).collect(),
        resources: resources(container.resources.as_ref(), &field("resources"))?,
        security: security(container.security_context.as_ref(), pod, &field("securityContext"))?,
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        termination_message_path: cleaned(message_path),
        host_ports: container
            .ports
            .iter()
            .flatten()
            .filter_map(|port| host_port(port, &field("ports")).transpose())
            .collect::<Result<_, _>>()?,
        life: life::life(container, target, expander, &field)?,
    })
}

fn mount(mount: &wire::VolumeMount) -> Mount {
    let sub_path: PathBuf = Path::new(mount.sub_path.as_deref().unwrap_or_default())
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    Mount {
        volume: mount.name.clone(),
        path: cleaned(&mount.mount_path),
        sub_path: Some(sub_path).filter(|path| !path.as_os_str().is_empty()),
        sub_path_expr: text(mount.sub_path_expr.as_ref()).map(str::to_owned),
        read_only: mount.read_only == Some(true),
        recursive_read_only: matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        },
    }
}

/// A port that leads from the machine to the container; `None`: it is only told of.
fn host_port(port: &wire::ContainerPort, field: &str) -> Result<Option<HostPort>, ModelError> {
    let number = |port: i32| u16::try_from(port).map_err(|_| not_understood(field, port));
    let Some(outside) = port.host_port.filter(|port| *port != 0) else {
        return Ok(None);
    };
    let host_ip = text(port.host_ip.as_ref())
        .map(|ip| ip.parse::<IpAddr>().map_err(|_| not_understood(field, ip)))
        .transpose()?;
    let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => return Err(not_understood(field, other)),
    };
    Ok(Some(HostPort {
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        host_port: number(outside)?,
        container_port: number(port.container_port)?,
        protocol,
    }))
}

/// Zero means "no limit" to Kubernetes' cgroups and "nothing said" to its `QoS` classes.
fn resources(resources: Option<&wire::ResourceRequirements>, field: &str) -> Result<Resources, ModelError> {
    let Some(wire::ResourceRequirements {
        claims: _,
        limits,
        requests,
    }) = resources
    else {
        return Ok(Resources::default());
    };
    let read = |list: &Option<BTreeMap<String, _>>, name: &str, unit: fn(Quantity) -> u64| {
        let found: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            list.as_ref().and_then(|list| list.get(name));
        let parsed = found.map(|text| amount(&text.0, field)).transpose()?;
        Ok::<_, ModelError>(parsed.map(unit).filter(|amount| *amount > 0))
    };
    // A request of nothing beside a limit is no request that is left out: that would be the limit.
    let request = |name: &str, limit: Option<u64>, unit| {
        let asked = requests.as_ref().is_some_and(|requests| requests.contains_key(name));
        Ok::<_, ModelError>(read(requests, name, unit)?.or(limit.filter(|_| asked).map(|_| 0)))
    };
    let cpu_limit_milli = read(limits, "cpu", Quantity::millis)?;
    let memory_limit = read(limits, "memory", Quantity::units)?;
    Ok(Resources {
        cpu_request_milli: request("cpu", cpu_limit_milli, Quantity::millis)?,
        cpu_limit_milli,
        memory_request: request("memory", memory_limit, Quantity::units)?,
        memory_limit,
        storage_request: read(requests, "ephemeral-storage", Quantity::units)?,
        storage_limit: read(limits, "ephemeral-storage", Quantity::units)?,
        hugepages: hugepages(limits.as_ref(), field)?,
    })
}

/// `hugepages-<size>`: by the size of a page.
fn hugepages(
    limits: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    field: &str,
) -> Result<BTreeMap<u64, u64>, ModelError> {
    let named = limits.into_iter().flatten().filter_map(|(name, given)| {
        let size = name.strip_prefix("hugepages-")?;
        Some((size, &given.0))
    });
    named
        .map(|(size, given)| Ok((amount(size, field)?.units(), amount(given, field)?.units())))
        .filter(|pair| !matches!(pair, Ok((_, 0))))
        .collect()
}

/// What a container says wins over what its pod says.
fn security(
    context: Option<&wire::SecurityContext>,
    pod: &wire::PodSecurityContext,
    field: &str,
) -> Result<ContainerSecurity, ModelError> {
    let own = context.cloned().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let named = |names: Option<Vec<String>>| -> Vec<String> {
        names
            .unwrap_or_default()
            .iter()
            .map(|name| plain_capability(name))
            .collect()
    };
    let capabilities = match own.capabilities {
        Some(wire::Capabilities { add, drop }) => Capabilities {
            add: named(add),
            drop: named(drop),
        },
        None => Capabilities::default(),
    };
    let profile = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let seccomp = match profile.map_or("RuntimeDefault", |profile| profile.type_.as_str()) {
        // A privileged container is confined by nothing, whatever the profile says (as containerd has it).
        _ if privileged => SeccompProfile::Unconfined,
        "RuntimeDefault" => SeccompProfile::RuntimeDefault,
        "Unconfined" => SeccompProfile::Unconfined,
        "Localhost" => {
            let file = profile.and_then(|profile| profile.localhost_profile.as_deref());
            SeccompProfile::Localhost(PathBuf::from(file.unwrap_or_default()))
        }
        other => return Err(not_understood(format!("{field}.seccompProfile.type"), other)),
    };
    let profile = own.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref());
    let app_armor = match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_ref())) {
        None => AppArmorProfile::Unset,
        Some(("RuntimeDefault", _)) => AppArmorProfile::RuntimeDefault,
        Some(("Unconfined", _)) => AppArmorProfile::Unconfined,
        Some(("Localhost", name)) => AppArmorProfile::Localhost(name.cloned().unwrap_or_default()),
        Some((other, _)) => return Err(not_understood(format!("{field}.appArmorProfile.type"), other)),
    };
    Ok(ContainerSecurity {
        run_as_user: own
            .run_as_user
            .or(pod.run_as_user)
            .map(|user| id(user, field))
            .transpose()?,
        run_as_group: own
            .run_as_group
            .or(pod.run_as_group)
            .map(|group| id(group, field))
            .transpose()?,
        run_as_non_root: own.run_as_non_root.or(pod.run_as_non_root) == Some(true),
        privileged,
        allow_privilege_escalation: privileged || own.allow_privilege_escalation.unwrap_or(true),
        read_only_root: own.read_only_root_filesystem == Some(true),
        capabilities,
        seccomp,
        app_armor,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}
