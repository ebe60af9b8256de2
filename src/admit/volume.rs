//! The rules of a pod's volumes (`validation.go`: `ValidateVolumes`).

pub(super) mod projected;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, Volume};

use super::container::check_path;
use super::fault::{Findings, Path};
use super::fields::{self, Treatment};
use super::names;
use super::quantity::Quantity;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// Checks every volume; what comes back are the names that mounts may refer to.
pub(super) fn check_all<'a>(volumes: &'a [Volume], at: &Path, findings: &mut Findings) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = at.index(i);
        if volume.name.is_empty() {
            findings.required(&at.child("name"), "");
        } else {
            findings.invalid_each(&at.child("name"), &volume.name, &names::dns_label(&volume.name));
            if !seen.insert(volume.name.as_str()) {
                findings.duplicate(&at.child("name"), &volume.name);
            }
        }
        check(volume, &at, findings);
    }
    seen
}

fn check(volume: &Volume, at: &Path, findings: &mut Findings) {
    let mut sources = 0;
    for (name, set, treatment) in fields::volume_sources(volume) {
        if !set {
            continue;
        }
        sources += 1;
        if sources > 1 {
            findings.forbidden(&at.child(name), "may not specify more than 1 volume type");
        }
        match treatment {
            Treatment::Honoured | Treatment::Harmless => {}
            Treatment::Warned(text) => findings.warn(&at.child(name), text),
            Treatment::Refused(what) => findings.unsupported(&at.child(name), what),
        }
    }
    if sources == 0 {
        // Kubernetes takes an emptyDir then; podd asks, since the source is mostly there and misspelt.
        findings.required(at, "must specify a volume type");
    }
    if let Some(source) = &volume.empty_dir {
        check_empty_dir(source, &at.child("emptyDir"), findings);
    }
    if let Some(source) = &volume.host_path {
        check_host_path(source, &at.child("hostPath"), findings);
    }
    if let Some(source) = &volume.image {
        check_image(source, &at.child("image"), findings);
    }
    projected::check(volume, at, findings);
}

/// `validateImageVolumeSource`, of a pod.
fn check_image(source: &ImageVolumeSource, at: &Path, findings: &mut Findings) {
    let ImageVolumeSource { pull_policy, reference } = source;
    if reference.as_deref().unwrap_or_default().is_empty() {
        findings.required(&at.child("reference"), "");
    }
    let policy = pull_policy.as_deref().unwrap_or_default();
    if !PULL_POLICIES.contains(&policy) {
        findings.not_supported(&at.child("pullPolicy"), policy, &PULL_POLICIES);
    }
}

fn check_empty_dir(source: &EmptyDirVolumeSource, at: &Path, findings: &mut Findings) {
    let EmptyDirVolumeSource { medium, size_limit } = source;
    match medium.as_deref().unwrap_or_default() {
        "" | "Memory" => {}
        huge if huge.starts_with("HugePages") => findings.unsupported(&at.child("medium"), "huge pages"),
        other => findings.not_supported(&at.child("medium"), other, &["", "Memory"]),
    }
    if let Some(limit) = size_limit {
        let at = at.child("sizeLimit");
        match Quantity::parse(&limit.0) {
            Err(error) => findings.invalid(&at, &limit.0, &error.to_string()),
            Ok(amount) if amount.is_negative() => {
                findings.invalid(&at, &limit.0, "must be greater than or equal to 0");
            }
            Ok(_) => {}
        }
    }
}

fn check_host_path(source: &HostPathVolumeSource, at: &Path, findings: &mut Findings) {
    let HostPathVolumeSource { path, type_ } = source;
    let path_at = at.child("path");
    if path.is_empty() {
        findings.required(&path_at, "");
    } else {
        if !path.starts_with('/') {
            findings.invalid(&path_at, path, "must be an absolute path");
        }
        check_path(path, &path_at, findings);
    }
    let kind = type_.as_deref().unwrap_or_default();
    if !HOST_PATH_TYPES.contains(&kind) {
        findings.not_supported(&at.child("type"), kind, &HOST_PATH_TYPES);
    }
}
