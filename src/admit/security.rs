//! The rules of security contexts (`validation.go`: `ValidatePodSecurityContext`, `ValidateSecurityContext`).

use std::collections::BTreeSet;
use std::path::{Component, Path as FilePath};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

use super::fault::{Findings, Path};
use super::spec::one_of;
use super::{fields, names, suggest};
use crate::model::{SYSCTL_MAX, SYSCTL_PATTERN, SysctlNamespace, is_sysctl_name, normal_sysctl, sysctl_namespace};

/// Kubernetes' largest user and group (`apimachinery/pkg/util/validation`).
const ID_MAX: i64 = i32::MAX as i64;
/// `validation.go maxLocalhostProfileLength`.
const APP_ARMOR_NAME_MAX: usize = 4095;

/// Linux' capabilities without `CAP_` (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// What the walls between a pod and the machine ask of each other.
pub(super) fn check_walls(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    if spec.host_pid == Some(true) && spec.share_process_namespace == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        findings.invalid_value(&at.child("shareProcessNamespace"), true, detail);
    }
    let contexts = |list: &'static str, index: usize, context: Option<&SecurityContext>| {
        let mount = context.and_then(|context| context.proc_mount.clone());
        (
            at.child(list).index(index).child("securityContext").child("procMount"),
            mount,
        )
    };
    let init = spec.init_containers.iter().flatten().enumerate();
    let regular = spec.containers.iter().enumerate();
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    let all = init
        .map(|(i, c)| contexts("initContainers", i, c.security_context.as_ref()))
        .chain(regular.map(|(i, c)| contexts("containers", i, c.security_context.as_ref())))
        .chain(ephemeral.map(|(i, c)| contexts("ephemeralContainers", i, c.security_context.as_ref())));
    for (at, mount) in all {
        match mount.as_deref() {
            None | Some("Default") => {}
            Some("Unmasked") if spec.host_users == Some(false) => {}
            Some("Unmasked") => findings.invalid(&at, "Unmasked", "`hostUsers` must be false to use `Unmasked`"),
            Some(other) => findings.not_supported(&at, other, &["Default", "Unmasked"]),
        }
    }
    if let Some(context) = &spec.security_context {
        let sysctls = context.sysctls.as_deref().unwrap_or_default();
        let at = at.child("securityContext").child("sysctls");
        check_sysctls(sysctls, spec, &at, findings);
    }
}

/// `validation.go validateSysctls`, `validateHostSysctl`. Whether one is allowed here is the node's to say.
fn check_sysctls(sysctls: &[Sysctl], spec: &PodSpec, at: &Path, findings: &mut Findings) {
    let mut taken = BTreeSet::new();
    for (i, Sysctl { name, value }) in sysctls.iter().enumerate() {
        let at_value = at.index(i).child("value");
        let at = at.index(i).child("name");
        let normal = normal_sysctl(name);
        if name.is_empty() {
            findings.required(&at, "");
        } else if !is_sysctl_name(name) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex ^{SYSCTL_PATTERN}$");
            findings.invalid(&at, name, &detail);
        } else if taken.contains(&normal) {
            findings.duplicate(&at, name);
        }
        match sysctl_namespace(&normal) {
            Some(SysctlNamespace::Net) if spec.host_network == Some(true) => {
                findings.invalid(&at, name, "may not be specified when 'hostNetwork' is true");
            }
            Some(SysctlNamespace::Ipc) if spec.host_ipc == Some(true) => {
                findings.invalid(&at, name, "may not be specified when 'hostIPC' is true");
            }
            Some(_) | None => {}
        }
        if value.contains('\0') {
            findings.invalid(&at_value, value, "must not contain NUL bytes");
        }
        taken.insert(normal);
    }
}

pub(super) fn check_pod(context: &PodSecurityContext, at: &Path, findings: &mut Findings) {
    fields::pod_security(context, at, findings);
    check_id(context.fs_group, &at.child("fsGroup"), findings);
    one_of(
        context.fs_group_change_policy.as_deref(),
        &["Always", "OnRootMismatch"],
        &at.child("fsGroupChangePolicy"),
        findings,
    );
    one_of(
        context.supplemental_groups_policy.as_deref(),
        &["Merge", "Strict"],
        &at.child("supplementalGroupsPolicy"),
        findings,
    );
    check_id(context.run_as_user, &at.child("runAsUser"), findings);
    check_id(context.run_as_group, &at.child("runAsGroup"), findings);
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        check_id(Some(*group), &at.child("supplementalGroups").index(i), findings);
    }
    check_seccomp(context.seccomp_profile.as_ref(), &at.child("seccompProfile"), findings);
    check_app_armor(
        context.app_armor_profile.as_ref(),
        &at.child("appArmorProfile"),
        findings,
    );
}

pub(super) fn check_container(context: &SecurityContext, at: &Path, findings: &mut Findings) {
    fields::container_security(context, at, findings);
    check_id(context.run_as_user, &at.child("runAsUser"), findings);
    check_id(context.run_as_group, &at.child("runAsGroup"), findings);
    check_seccomp(context.seccomp_profile.as_ref(), &at.child("seccompProfile"), findings);
    check_app_armor(
        context.app_armor_profile.as_ref(),
        &at.child("appArmorProfile"),
        findings,
    );
    let mut adds_admin = false;
    if let Some(capabilities) = &context.capabilities {
        for (field, list) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
            for (i, name) in list.iter().flatten().enumerate() {
                check_capability(name, &at.child("capabilities").child(field).index(i), findings);
            }
        }
        adds_admin = capabilities
            .add
            .iter()
            .flatten()
            .any(|name| plain_capability(name) == "SYS_ADMIN");
    }
    if context.allow_privilege_escalation == Some(false) {
        let at = at.child("allowPrivilegeEscalation");
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            findings.invalid_value(&at, false, detail);
        }
        if adds_admin {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            findings.invalid_value(&at, false, detail);
        }
    }
}

/// Upper case, without `CAP_`: how the model has it.
pub(super) fn plain_capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

fn check_capability(name: &str, at: &Path, findings: &mut Findings) {
    let plain = plain_capability(name);
    if plain == "ALL" || CAPABILITIES.contains(&plain.as_str()) {
        return;
    }
    let question = suggest::question(&plain, CAPABILITIES.into_iter());
    findings.invalid(at, name, &format!("must be a Linux capability or ALL{question}"));
}

fn check_id(id: Option<i64>, at: &Path, findings: &mut Findings) {
    if let Some(id) = id.filter(|id| !(0..=ID_MAX).contains(id)) {
        findings.invalid_value(at, id, &names::range(0, ID_MAX));
    }
}

/// `validation.go validateLocalDescendingPath`.
fn check_descending(file: &str, at: &Path, findings: &mut Findings) {
    if file.starts_with('/') {
        findings.invalid(at, file, "must be a relative path");
    }
    if FilePath::new(file)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        findings.invalid(at, file, "must not contain '..'");
    }
    if file.contains('\0') {
        findings.invalid(at, file, "must not contain NUL bytes");
    }
}

fn check_seccomp(profile: Option<&SeccompProfile>, at: &Path, findings: &mut Findings) {
    let Some(SeccompProfile {
        localhost_profile,
        type_,
    }) = profile
    else {
        return;
    };
    match type_.as_str() {
        "" => findings.required(&at.child("type"), "type is required when seccompProfile is set"),
        "Localhost" => {
            let at = at.child("localhostProfile");
            match localhost_profile.as_deref() {
                None | Some("") => findings.required(&at, "must be set when seccomp type is Localhost"),
                Some(file) => check_descending(file, &at, findings),
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(file) = localhost_profile {
                let detail = "can only be set when seccomp type is Localhost";
                findings.invalid(&at.child("localhostProfile"), file, detail);
            }
        }
        other => findings.not_supported(&at.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

fn check_app_armor(profile: Option<&AppArmorProfile>, at: &Path, findings: &mut Findings) {
    let Some(AppArmorProfile {
        localhost_profile,
        type_,
    }) = profile
    else {
        return;
    };
    match type_.as_str() {
        "" => findings.required(&at.child("type"), "type is required when appArmorProfile is set"),
        "Localhost" => {
            let at = at.child("localhostProfile");
            let name = localhost_profile.as_deref().unwrap_or_default();
            if name.trim() != name {
                findings.invalid(&at, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                findings.required(&at, "must be set when AppArmor type is Localhost");
            } else if name.contains(char::is_control) {
                // It becomes one line of a file of the kernel's.
                findings.invalid(&at, name, "must not contain control characters");
            }
            if name.len() > APP_ARMOR_NAME_MAX {
                findings.too_long(&at, APP_ARMOR_NAME_MAX);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = localhost_profile {
                let detail = "can only be set when AppArmor type is Localhost";
                findings.invalid(&at.child("localhostProfile"), name, detail);
            }
            if type_ == "RuntimeDefault" {
                findings.warn(
                    &at.child("type"),
                    "podd loads no AppArmor profiles: the container has podd-default where the kernel has that, else none",
                );
            }
        }
        other => findings.not_supported(&at.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}
