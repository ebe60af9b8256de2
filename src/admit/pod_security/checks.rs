//! The checks of Pod Security Standards, each by its name in `k8s.io/pod-security-admission/policy`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, LifecycleHandler, PodSpec, Probe, SELinuxOptions, SecurityContext, Volume, WindowsSecurityContextOptions,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Version;

/// What a check looks at.
pub(super) struct Look<'a> {
    pub(super) metadata: &'a ObjectMeta,
    pub(super) spec: &'a PodSpec,
    /// Of all kinds.
    pub(super) containers: &'a [Container],
    pub(super) version: Version,
}

/// Reason and detail; `None`: nothing is wrong.
type Found = Option<(String, String)>;
pub(super) type Check = fn(&Look<'_>) -> Found;

/// By name.
pub(super) const BASELINE: [Check; 12] = [
    app_armor_profile,
    capabilities_baseline,
    host_namespaces,
    host_path_volumes,
    host_ports,
    hosts_of_probes_and_hooks,
    privileged,
    proc_mount,
    se_linux_options,
    seccomp_profile_baseline,
    sysctls,
    windows_host_process,
];

/// Those of the baseline that are not overridden, then its own, both by name.
pub(super) const RESTRICTED: [Check; 15] = [
    app_armor_profile,
    host_namespaces,
    host_ports,
    hosts_of_probes_and_hooks,
    privileged,
    proc_mount,
    se_linux_options,
    sysctls,
    windows_host_process,
    allow_privilege_escalation,
    capabilities_restricted,
    restricted_volumes,
    run_as_non_root,
    run_as_user,
    seccomp_profile_restricted,
];

impl Look<'_> {
    /// The names of the containers for which this holds.
    fn containers_that(&self, mut is: impl FnMut(&Container) -> bool) -> Vec<&str> {
        let found = self.containers.iter().filter(|container| is(container));
        found.map(|container| container.name.as_str()).collect()
    }

    fn is_from(&self, minor: u32) -> bool {
        self.version >= Version::Minor(minor)
    }
}

fn context(container: &Container) -> Option<&SecurityContext> {
    container.security_context.as_ref()
}

#[expect(clippy::unnecessary_wraps, reason = "what a check ends with")]
fn found(reason: &str, detail: String) -> Found {
    Some((reason.to_owned(), detail))
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// `container "a"`, `containers "a", "b"`
fn named(containers: &[&str]) -> String {
    let word = plural("container", "containers", containers.len());
    format!("{word} {}", quoted(containers))
}

/// `pod and container "a"`: who says something of the two; `None`: neither.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let containers = (!containers.is_empty()).then(|| named(containers));
    let all: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().chain(containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

fn app_armor_profile(look: &Look<'_>) -> Found {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut is_bad = |kind: Option<&String>| {
        let bad = kind.filter(|kind| !["RuntimeDefault", "Localhost"].contains(&kind.as_str()));
        values.extend(bad.cloned());
        bad.is_some()
    };
    let pod = look.spec.security_context.as_ref();
    let pod = is_bad(pod.and_then(|pod| Some(&pod.app_armor_profile.as_ref()?.type_)));
    let containers =
        look.containers_that(|c| is_bad(context(c).and_then(|c| Some(&c.app_armor_profile.as_ref()?.type_))));
    let annotations = look.metadata.annotations.iter().flatten();
    let annotations: Vec<String> = annotations
        .filter(|(name, value)| {
            let allowed = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            name.starts_with(ANNOTATION) && !allowed
        })
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    let word = plural("annotation", "annotations", annotations.len());
    let by_annotation = (!annotations.is_empty()).then(|| word.to_owned());
    let all: Vec<String> = setters(pod, &containers).into_iter().chain(by_annotation).collect();
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    if all.is_empty() {
        return None;
    }
    let reason = plural(
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
        values.len(),
    );
    let (who, what) = (all.join(" and "), quoted(&values));
    found(reason, format!("{who} must not set AppArmor profile type to {what}"))
}

fn capabilities_baseline(look: &Look<'_>) -> Found {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    adding(look, &ALLOWED).map(|detail| ("non-default capabilities".to_owned(), detail))
}

/// Which containers add a capability that is not allowed.
fn adding(look: &Look<'_>, allowed: &[&str]) -> Option<String> {
    let mut names = BTreeSet::new();
    let containers = look.containers_that(|container| {
        let added = context(container).and_then(|context| context.capabilities.as_ref()?.add.as_ref());
        let bad = added
            .into_iter()
            .flatten()
            .filter(|name| !allowed.contains(&name.as_str()));
        let before = bad.clone().count();
        names.extend(bad.cloned());
        before > 0
    });
    let who = setters(false, &containers)?;
    Some(format!(
        "{who} must not include {} in securityContext.capabilities.add",
        quoted(&names)
    ))
}

fn host_namespaces(look: &Look<'_>) -> Found {
    let shared = [
        ("hostIPC=true", look.spec.host_ipc),
        ("hostNetwork=true", look.spec.host_network),
        ("hostPID=true", look.spec.host_pid),
    ];
    let shared = shared.into_iter().filter(|(_, set)| *set == Some(true));
    let names: Vec<&str> = shared.map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| ("host namespaces".to_owned(), names.join(", ")))
}

fn host_path_volumes(look: &Look<'_>) -> Found {
    let volumes = look.spec.volumes.iter().flatten();
    let names: Vec<&str> = volumes
        .filter(|volume| volume.host_path.is_some())
        .map(|volume| volume.name.as_str())
        .collect();
    let word = plural("volume", "volumes", names.len());
    (!names.is_empty()).then(|| ("hostPath volumes".to_owned(), format!("{word} {}", quoted(&names))))
}

fn host_ports(look: &Look<'_>) -> Found {
    let mut ports = BTreeSet::new();
    let containers = look.containers_that(|container| {
        let taken = container.ports.iter().flatten().filter_map(|port| port.host_port);
        let taken: Vec<String> = taken.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let is_bad = !taken.is_empty();
        ports.extend(taken);
        is_bad
    });
    let who = setters(false, &containers)?;
    let uses = plural("uses", "use", containers.len());
    let word = plural("hostPort", "hostPorts", ports.len());
    let ports: Vec<String> = ports.into_iter().collect();
    found("hostPort", format!("{who} {uses} {word} {}", ports.join(", ")))
}

fn hosts_of_probes_and_hooks(look: &Look<'_>) -> Found {
    if !look.is_from(34) {
        return None;
    }
    let of_probe = |probe: &Option<Probe>| {
        let probe = probe.as_ref();
        let get = probe.and_then(|probe| probe.http_get.as_ref()?.host.clone());
        [get, probe.and_then(|probe| probe.tcp_socket.as_ref()?.host.clone())]
    };
    let of_hook = |hook: Option<&LifecycleHandler>| {
        let get = hook.and_then(|hook| hook.http_get.as_ref()?.host.clone());
        [get, hook.and_then(|hook| hook.tcp_socket.as_ref()?.host.clone())]
    };
    let mut hosts = BTreeSet::new();
    let containers = look.containers_that(|container| {
        let hooks = container.lifecycle.as_ref();
        let all = [
            of_probe(&container.liveness_probe),
            of_probe(&container.readiness_probe),
            of_probe(&container.startup_probe),
            of_hook(hooks.and_then(|hooks| hooks.post_start.as_ref())),
            of_hook(hooks.and_then(|hooks| hooks.pre_stop.as_ref())),
        ];
        let all = all.into_iter().flatten().flatten().filter(|host| !host.is_empty());
        let all: Vec<String> = all.collect();
        let is_bad = !all.is_empty();
        hosts.extend(all);
        is_bad
    });
    let mut containers = containers;
    containers.sort_unstable();
    let who = setters(false, &containers)?;
    let uses = plural("uses", "use", containers.len());
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    found(
        "probe or lifecycle host",
        format!("{who} {uses} {word} {}", quoted(&hosts)),
    )
}

fn privileged(look: &Look<'_>) -> Found {
    let containers = look.containers_that(|c| context(c).is_some_and(|context| context.privileged == Some(true)));
    let who = setters(false, &containers)?;
    found(
        "privileged",
        format!("{who} must not set securityContext.privileged=true"),
    )
}

fn proc_mount(look: &Look<'_>) -> Found {
    let mut kinds = BTreeSet::new();
    let containers = look.containers_that(|container| {
        let kind = context(container).and_then(|context| context.proc_mount.clone());
        let bad = kind.filter(|kind| kind != "Default");
        let is_bad = bad.is_some();
        kinds.extend(bad);
        is_bad
    });
    let who = setters(false, &containers)?;
    found(
        "procMount",
        format!("{who} must not set securityContext.procMount to {}", quoted(&kinds)),
    )
}

fn se_linux_options(look: &Look<'_>) -> Found {
    let mut types = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut is_bad = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else { return false };
        let set = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
        let kind = options.type_.as_deref().unwrap_or_default();
        let known = ["", "container_t", "container_init_t", "container_kvm_t"].contains(&kind)
            || (kind == "container_engine_t" && look.is_from(31));
        if !known {
            types.insert(kind.to_owned());
        }
        user |= set(&options.user);
        role |= set(&options.role);
        !known || set(&options.user) || set(&options.role)
    };
    let pod = look.spec.security_context.as_ref();
    let pod = is_bad(pod.and_then(|pod| pod.se_linux_options.as_ref()));
    let containers = look.containers_that(|c| is_bad(context(c).and_then(|c| c.se_linux_options.as_ref())));
    let who = setters(pod, &containers)?;
    let word = plural("type", "types", types.len());
    let of_type = (!types.is_empty()).then(|| format!("{word} {}", quoted(&types)));
    let of_user = user.then(|| "user may not be set".to_owned());
    let of_role = role.then(|| "role may not be set".to_owned());
    let what: Vec<String> = of_type.into_iter().chain(of_user).chain(of_role).collect();
    found(
        "seLinuxOptions",
        format!(
            "{who} set forbidden securityContext.seLinuxOptions: {}",
            what.join("; ")
        ),
    )
}

fn seccomp_profile_baseline(look: &Look<'_>) -> Found {
    forbidden_seccomp(look)
}

/// Who sets a profile that confines nothing.
fn forbidden_seccomp(look: &Look<'_>) -> Found {
    let mut kinds = BTreeSet::new();
    let mut is_bad = |kind: Option<&String>| {
        let bad = kind.filter(|kind| !["RuntimeDefault", "Localhost"].contains(&kind.as_str()));
        kinds.extend(bad.cloned());
        bad.is_some()
    };
    let pod = is_bad(seccomp_of_pod(look));
    let containers = look.containers_that(|c| is_bad(seccomp_of(c)));
    let who = setters(pod, &containers)?;
    found(
        "seccompProfile",
        format!(
            "{who} must not set securityContext.seccompProfile.type to {}",
            quoted(&kinds)
        ),
    )
}

fn seccomp_of_pod<'a>(look: &Look<'a>) -> Option<&'a String> {
    let profile = look.spec.security_context.as_ref()?.seccomp_profile.as_ref()?;
    Some(&profile.type_)
}

fn seccomp_of(container: &Container) -> Option<&String> {
    Some(&context(container)?.seccomp_profile.as_ref()?.type_)
}

fn sysctls(look: &Look<'_>) -> Found {
    /// Each with the version since which it is safe.
    const SAFE: [(&str, u32); 12] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let is_safe = |name: &str| SAFE.iter().any(|(safe, since)| *safe == name && look.is_from(*since));
    let set = look
        .spec
        .security_context
        .iter()
        .flat_map(|pod| pod.sysctls.iter().flatten());
    let names: Vec<&str> = set
        .map(|sysctl| sysctl.name.as_str())
        .filter(|name| !is_safe(name))
        .collect();
    (!names.is_empty()).then(|| ("forbidden sysctls".to_owned(), names.join(", ")))
}

fn windows_host_process(look: &Look<'_>) -> Found {
    let is_bad = |options: Option<&WindowsSecurityContextOptions>| {
        options.is_some_and(|options| options.host_process == Some(true))
    };
    let pod = look.spec.security_context.as_ref();
    let pod = is_bad(pod.and_then(|pod| pod.windows_options.as_ref()));
    let containers = look.containers_that(|c| is_bad(context(c).and_then(|c| c.windows_options.as_ref())));
    let who = setters(pod, &containers)?;
    found(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

fn allow_privilege_escalation(look: &Look<'_>) -> Found {
    if !look.is_from(8) {
        return None;
    }
    let says_no = |context: &SecurityContext| context.allow_privilege_escalation == Some(false);
    let containers = look.containers_that(|c| !context(c).is_some_and(says_no));
    let who = setters(false, &containers)?;
    found(
        "allowPrivilegeEscalation != false",
        format!("{who} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

fn capabilities_restricted(look: &Look<'_>) -> Found {
    if !look.is_from(22) {
        return capabilities_baseline(look);
    }
    let drops_all = |context: &SecurityContext| {
        let dropped = context.capabilities.as_ref().and_then(|lists| lists.drop.as_ref());
        dropped.is_some_and(|names| names.iter().any(|name| name == "ALL"))
    };
    let keeping = look.containers_that(|c| !context(c).is_some_and(drops_all));
    let keeping =
        setters(false, &keeping).map(|who| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    let adding = adding(look, &["NET_BIND_SERVICE"]);
    let details: Vec<String> = keeping.into_iter().chain(adding).collect();
    (!details.is_empty()).then(|| ("unrestricted capabilities".to_owned(), details.join("; ")))
}

fn restricted_volumes(look: &Look<'_>) -> Found {
    let mut kinds = BTreeSet::new();
    let volumes = look.spec.volumes.iter().flatten();
    let names: Vec<&str> = volumes
        .filter_map(|volume| {
            kinds.insert(restricted_kind(volume)?);
            Some(volume.name.as_str())
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    let word = plural("volume", "volumes", names.len());
    let uses = plural("uses", "use", names.len());
    let of_kind = plural("restricted volume type", "restricted volume types", kinds.len());
    found(
        "restricted volume types",
        format!("{word} {} {uses} {of_kind} {}", quoted(&names), quoted(&kinds)),
    )
}

/// `None`: one that everybody may have. Of the others podd admits two alone.
fn restricted_kind(volume: &Volume) -> Option<&'static str> {
    let Volume {
        config_map,
        csi,
        downward_api,
        empty_dir,
        ephemeral,
        host_path,
        image,
        persistent_volume_claim,
        projected,
        secret,
        ..
    } = volume;
    let is_open = config_map.is_some()
        || csi.is_some()
        || downward_api.is_some()
        || empty_dir.is_some()
        || ephemeral.is_some()
        || persistent_volume_claim.is_some()
        || projected.is_some()
        || secret.is_some();
    match (is_open, host_path, image) {
        (true, ..) => None,
        (false, Some(_), _) => Some("hostPath"),
        (false, None, Some(_)) => Some("image"),
        (false, None, None) => Some("unknown"),
    }
}

fn run_as_non_root(look: &Look<'_>) -> Found {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = look.spec.security_context.as_ref().and_then(|pod| pod.run_as_non_root);
    let of = |container: &Container| context(container).and_then(|context| context.run_as_non_root);
    let as_root = look.containers_that(|c| of(c) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &as_root) {
        return found(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = look.containers_that(|c| of(c).is_none() && of_pod != Some(true));
    let who = setters(false, &silent)?;
    found(
        REASON,
        format!("pod or {who} must set securityContext.runAsNonRoot=true"),
    )
}

fn run_as_user(look: &Look<'_>) -> Found {
    if !look.is_from(23) {
        return None;
    }
    let pod = look
        .spec
        .security_context
        .as_ref()
        .is_some_and(|pod| pod.run_as_user == Some(0));
    let containers = look.containers_that(|c| context(c).is_some_and(|context| context.run_as_user == Some(0)));
    let who = setters(pod, &containers)?;
    found("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp_profile_restricted(look: &Look<'_>) -> Found {
    let forbidden = forbidden_seccomp(look);
    if forbidden.is_some() || seccomp_of_pod(look).is_some() {
        return forbidden;
    }
    let silent = look.containers_that(|c| seccomp_of(c).is_none());
    let who = setters(false, &silent)?;
    found(
        "seccompProfile",
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""),
    )
}
