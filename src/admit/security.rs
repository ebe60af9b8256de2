//! The rules of security contexts (`validation.go`: `ValidatePodSecurityContext`, `ValidateSecurityContext`).

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, SeccompProfile, SecurityContext};

use super::fault::{Findings, Path};
use super::{fields, names, suggest};

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

pub(super) fn check_pod(context: &PodSecurityContext, at: &Path, findings: &mut Findings) {
    fields::pod_security(context, at, findings);
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
    if let Some(id) = id.filter(|id| u32::try_from(*id).is_err()) {
        findings.invalid_value(at, id, &names::range(0, i64::from(u32::MAX)));
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
        "Localhost" => findings.unsupported(&at.child("type"), "seccomp profiles from files"),
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
        "Localhost" => findings.unsupported(&at.child("type"), "AppArmor profiles"),
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = localhost_profile {
                let detail = "can only be set when AppArmor type is Localhost";
                findings.invalid(&at.child("localhostProfile"), name, detail);
            }
            if type_ == "RuntimeDefault" {
                findings.warn(
                    &at.child("type"),
                    "podd loads no AppArmor profiles: the container runs without one",
                );
            }
        }
        other => findings.not_supported(&at.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}
