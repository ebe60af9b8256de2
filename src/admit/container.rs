//! The rules of one container (`validation.go`: `validateContainerCommon` and what it calls).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Component, PathBuf};

use k8s_openapi::api::core::v1::{Container, ContainerPort, VolumeMount};

use super::fault::{Findings, Path};
use super::spec::{BAD_IP, one_of};
use super::{env, fields, life, names, resources, schema, security};
use crate::model::expansion::{self, Expander, TooLong};

/// Linux' `PATH_MAX`, its NUL left out.
const PATH_MAX: usize = 4095;

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Regular,
    /// Runs to its end before the next one.
    Init,
    /// An init container that restarts always.
    Sidecar,
    Ephemeral,
}

impl Role {
    /// Of an entry of `initContainers`.
    pub(super) fn of_init(container: &Container) -> Self {
        if container.restart_policy.as_deref() == Some("Always") {
            Self::Sidecar
        } else {
            Self::Init
        }
    }
}

/// What of the pod the rules of its containers depend on.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) host_network: bool,
    /// The names of its volumes.
    pub(super) volumes: BTreeSet<&'a str>,
    /// `terminationGracePeriodSeconds`; `None` where it is faulty itself.
    pub(super) grace: Option<i64>,
    pub(super) restart_policy: Option<&'a str>,
    /// `os.name`.
    pub(super) os: Option<&'a str>,
}

pub(super) fn check(
    container: &Container,
    role: Role,
    at: &Path,
    around: &Surroundings<'_>,
    expander: &mut Expander,
    findings: &mut Findings,
) {
    let name_at = at.child("name");
    if container.name.is_empty() {
        findings.required(&name_at, "");
    } else {
        findings.invalid_each(&name_at, &container.name, &names::dns_label(&container.name));
    }
    check_image(
        container.image.as_deref().unwrap_or_default(),
        &at.child("image"),
        findings,
    );
    let pull_policies = ["Always", "IfNotPresent", "Never"];
    one_of(
        container.image_pull_policy.as_deref(),
        &pull_policies,
        &at.child("imagePullPolicy"),
        findings,
    );

    if let Some(dir) = container.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        let at = at.child("workingDir");
        if !dir.starts_with('/') {
            findings.invalid(&at, dir, "must be an absolute path");
        }
        check_text(dir, &at, findings);
        if dir.len() > PATH_MAX {
            findings.too_long(&at, PATH_MAX);
        }
    }
    check_ports(
        container.ports.as_deref().unwrap_or_default(),
        &at.child("ports"),
        around.host_network,
        findings,
    );
    env::check_from(
        container.env_from.as_deref().unwrap_or_default(),
        &at.child("envFrom"),
        findings,
    );
    let known = env::check(
        container.env.as_deref().unwrap_or_default(),
        &at.child("env"),
        expander,
        findings,
    );
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        for (i, word) in words.iter().flatten().enumerate() {
            let at = at.child(field).index(i);
            check_text(word, &at, findings);
            check_length(expander.word(word, &known), &at, findings);
        }
    }
    check_mounts(
        container.volume_mounts.as_deref().unwrap_or_default(),
        &at.child("volumeMounts"),
        &around.volumes,
        container
            .security_context
            .as_ref()
            .is_some_and(|context| context.privileged == Some(true)),
        findings,
    );
    if let Some(resources) = &container.resources {
        resources::check(resources, &at.child("resources"), findings);
    }
    if let Some(path) = container.termination_message_path.as_deref() {
        let at = at.child("terminationMessagePath");
        if !path.starts_with('/') || cleaned(path) == *"/" {
            findings.invalid(&at, path, "must be an absolute path");
        }
        check_path(path, &at, findings);
    }
    let policies = ["FallbackToLogsOnError", "File"];
    one_of(
        container.termination_message_policy.as_deref(),
        &policies,
        &at.child("terminationMessagePolicy"),
        findings,
    );
    if let Some(context) = &container.security_context {
        security::check_container(context, &at.child("securityContext"), findings);
    }
    life::check(container, role, at, around, expander, findings);
    fields::container(container, at, findings);
}

fn check_image(image: &str, at: &Path, findings: &mut Findings) {
    if image.is_empty() {
        findings.required(at, "");
    } else if image.trim() != image {
        findings.invalid(at, image, "must not have leading or trailing whitespace");
    } else if image.contains(|c: char| c.is_whitespace() || c.is_control()) {
        findings.invalid(at, image, "must not contain whitespace");
    }
}

/// What becomes a C string: an argument, a variable, a path.
pub(super) fn check_text(text: &str, at: &Path, findings: &mut Findings) {
    if text.contains('\0') {
        findings.invalid(at, text, "must not contain a NUL character");
    }
}

/// A path in which nothing leads upwards.
pub(super) fn check_path(path: &str, at: &Path, findings: &mut Findings) {
    check_text(path, at, findings);
    if path.len() > PATH_MAX {
        findings.too_long(at, PATH_MAX);
    }
    if path.split('/').any(|part| part == "..") {
        findings.invalid(at, path, "must not contain '..'");
    }
}

/// An absolute path without doubled slashes and dots; what is relative begins at the root, as the kubelet has it.
pub(super) fn cleaned(path: &str) -> PathBuf {
    let parts = std::path::Path::new(path).components();
    let mut clean = PathBuf::from("/");
    clean.extend(parts.filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)));
    clean
}

fn check_ports(ports: &[ContainerPort], at: &Path, host_network: bool, findings: &mut Findings) {
    let valid = |port: i32| (1..=65_535).contains(&port);
    let range = names::range(1, 65_535);
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = at.index(i);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let messages = names::port_name(name);
            findings.invalid_each(&at.child("name"), name, &messages);
            if messages.is_empty() && !seen.insert(name) {
                findings.duplicate(&at.child("name"), name);
            }
        }
        if port.container_port == 0 {
            findings.required(&at.child("containerPort"), "");
        } else if !valid(port.container_port) {
            findings.invalid_value(&at.child("containerPort"), port.container_port, &range);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            if !valid(host_port) {
                findings.invalid_value(&at.child("hostPort"), host_port, &range);
            }
            if host_network && host_port != port.container_port {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                findings.invalid_value(&at.child("containerPort"), port.container_port, detail);
            }
        }
        if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty())
            && ip.parse::<IpAddr>().is_err()
        {
            findings.invalid(&at.child("hostIP"), ip, BAD_IP);
        }
        one_of(
            port.protocol.as_deref(),
            &["SCTP", "TCP", "UDP"],
            &at.child("protocol"),
            findings,
        );
        fields::port(port, host_network, &at, findings);
    }
}

/// No two ports of a pod may claim the same port of the host.
pub(super) fn check_host_ports(containers: &[Container], at: &Path, findings: &mut Findings) {
    let mut claimed = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|port| *port != 0) else {
                continue;
            };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let address = port.host_ip.as_deref().unwrap_or_default();
            if !claimed.insert((protocol, address, host_port)) {
                let claim = format!("{protocol}/{address}/{host_port}");
                findings.duplicate(&at.index(i).child("ports").index(j).child("hostPort"), &claim);
            }
        }
    }
}

pub(super) fn check_length(expanded: Result<String, TooLong>, at: &Path, findings: &mut Findings) -> Option<String> {
    match expanded {
        Ok(text) => return Some(text),
        Err(TooLong::Word) => findings.too_long(at, expansion::MAX_WORD),
        Err(TooLong::Pod) => findings.forbidden(
            at,
            &format!(
                "arguments and variables of a pod may not be more than {} bytes in all",
                expansion::MAX_POD
            ),
        ),
    }
    None
}

fn check_mounts(
    mounts: &[VolumeMount],
    at: &Path,
    volumes: &BTreeSet<&str>,
    privileged: bool,
    findings: &mut Findings,
) {
    let mut seen = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let at = at.index(i);
        if mount.name.is_empty() {
            findings.required(&at.child("name"), "");
        } else if !volumes.contains(mount.name.as_str()) {
            findings.not_found(&at.child("name"), &mount.name);
        }
        let path_at = at.child("mountPath");
        if mount.mount_path.is_empty() {
            findings.required(&path_at, "");
        } else {
            check_path(&mount.mount_path, &path_at, findings);
            let clean = cleaned(&mount.mount_path);
            if clean == *"/" {
                findings.invalid(&path_at, &mount.mount_path, "must not be the root of the container");
            }
            if !seen.insert(clean) {
                findings.invalid(&path_at, &mount.mount_path, "must be unique");
            }
            if let Some(remark) = schema::wildcard_remark(&mount.mount_path) {
                findings.warn(&path_at, &remark);
            }
        }
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            let at = at.child("subPath");
            if sub_path.starts_with('/') {
                findings.invalid(&at, sub_path, "must be a relative path");
            }
            check_path(sub_path, &at, findings);
        }
        if let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
            let at = at.child("subPathExpr");
            if mount.sub_path.as_deref().is_some_and(|path| !path.is_empty()) {
                findings.invalid(&at, expression, "subPathExpr and subPath are mutually exclusive");
            }
            if expression.starts_with('/') {
                findings.invalid(&at, expression, "must be a relative path");
            }
            check_path(expression, &at, findings);
        }
        fields::volume_mount(mount, &at, findings);
        check_propagation(mount, privileged, &at.child("mountPropagation"), findings);
        check_recursive_read_only(mount, &at.child("recursiveReadOnly"), findings);
    }
}

/// `validateMountPropagation`.
fn check_propagation(mount: &VolumeMount, privileged: bool, at: &Path, findings: &mut Findings) {
    let propagation = mount.mount_propagation.as_deref();
    one_of(propagation, &["Bidirectional", "HostToContainer", "None"], at, findings);
    if propagation == Some("Bidirectional") && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        findings.forbidden(at, detail);
    }
}

/// `validateMountRecursiveReadOnly`.
fn check_recursive_read_only(mount: &VolumeMount, at: &Path, findings: &mut Findings) {
    let mode = mount.recursive_read_only.as_deref();
    one_of(mode, &["Disabled", "Enabled", "IfPossible"], at, findings);
    if !matches!(mode, Some("Enabled" | "IfPossible")) {
        return;
    }
    if mount.read_only != Some(true) {
        findings.forbidden(at, "may only be specified when readOnly is true");
    }
    let propagation = mount.mount_propagation.as_deref();
    if propagation.is_some_and(|propagation| !matches!(propagation, "" | "None")) {
        findings.forbidden(
            at,
            "may only be specified when mountPropagation is None or not specified",
        );
    }
}
