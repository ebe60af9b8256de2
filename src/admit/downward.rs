//! What a pod may ask of itself (`validation.go`: `validateObjectFieldSelector`,
//! `validateContainerResourceFieldSelector`), and what is meant by it.

use k8s_openapi::api::core::v1::{ObjectFieldSelector, ResourceFieldSelector};

use super::fault::{Findings, Path};
use super::names;
use super::quantity::Quantity;
use crate::model::{Field, ResourceField, ResourceValue};

/// What a file of a volume may tell (`validVolumeDownwardAPIFieldPathExpressions`).
pub(super) const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// What Kubernetes' conversion knows besides (`ConvertDownwardAPIFieldLabel`): each may be allowed elsewhere.
const OTHER_FIELDS: [&str; 9] = [
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const CPU_DIVISORS: [&str; 2] = ["1m", "1"];
const BYTE_DIVISORS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

/// Checks a `fieldRef`, of which only `supported` paths (and single labels and annotations) are allowed.
pub(super) fn check_field(selector: &ObjectFieldSelector, supported: &[&str], at: &Path, findings: &mut Findings) {
    let ObjectFieldSelector {
        api_version,
        field_path,
    } = selector;
    let path_at = at.child("fieldPath");
    if field_path.is_empty() {
        findings.required(&path_at, "");
        return;
    }
    let convert = |problem: String| format!("error converting fieldPath: {problem}");
    let version = api_version.as_deref().filter(|version| !version.is_empty());
    if let Some(version) = version.filter(|version| *version != "v1") {
        let problem = convert(format!("unsupported pod version: {version}"));
        findings.invalid(&path_at, field_path, &problem);
        return;
    }
    match subscripted(field_path) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            findings.invalid_each(at, &key, &names::qualified_name(&key));
        }
        Some(("metadata.labels", key)) => findings.invalid_each(at, key, &names::qualified_name(key)),
        Some(_) => {
            let problem = convert(format!("field label does not support subscript: {field_path}"));
            findings.invalid(&path_at, field_path, &problem);
        }
        None if supported.contains(&field_path.as_str()) => {}
        None if VOLUME_FIELDS.contains(&field_path.as_str()) || OTHER_FIELDS.contains(&field_path.as_str()) => {
            findings.not_supported(&path_at, field_path, supported);
        }
        None => {
            let problem = convert(format!("field label not supported: {field_path}"));
            findings.invalid(&path_at, field_path, &problem);
        }
    }
}

/// Checks a `resourceFieldRef`; in a volume there is no container that asks, so it must name one.
pub(super) fn check_resource(selector: &ResourceFieldSelector, in_volume: bool, at: &Path, findings: &mut Findings) {
    let ResourceFieldSelector {
        container_name,
        divisor,
        resource,
    } = selector;
    let is_huge = huge_page(resource).is_some();
    if in_volume && container_name.as_deref().unwrap_or_default().is_empty() {
        findings.required(&at.child("containerName"), "");
    } else if resource.is_empty() {
        findings.required(&at.child("resource"), "");
    } else if !RESOURCES.contains(&resource.as_str()) && !is_huge {
        findings.not_supported(&at.child("resource"), resource, &RESOURCES);
    } else if let Some((_, size)) = huge_page(resource)
        && !Quantity::parse(size).is_ok_and(|size| size.units() > 0)
    {
        findings.not_supported(&at.child("resource"), resource, &RESOURCES);
    }
    let Some(divisor) = divisor.as_ref().map(|divisor| divisor.0.as_str()) else {
        return;
    };
    let divisor_at = at.child("divisor");
    let amount = match Quantity::parse(divisor) {
        Err(error) => return findings.invalid(&divisor_at, divisor, &error.to_string()),
        Ok(Quantity::ZERO) => return,
        Ok(amount) => amount,
    };
    let (divisors, text): (&[&str], _) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (
            &CPU_DIVISORS,
            "only divisor's values 1m and 1 are supported with the cpu resource",
        ),
        "memory" => (
            &BYTE_DIVISORS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the \
             memory resource",
        ),
        "ephemeral-storage" => (
            &BYTE_DIVISORS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the \
             local ephemeral storage resource",
        ),
        _ if is_huge => (
            &BYTE_DIVISORS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the \
             hugepages resource",
        ),
        _ => return,
    };
    if !divisors.iter().any(|known| Quantity::parse(known) == Ok(amount)) {
        findings.invalid(&divisor_at, resource, text);
    }
}

/// What a checked `fieldPath` means; `None`: nothing that podd knows.
pub(super) fn field(path: &str) -> Option<Field> {
    Some(match (path, subscripted(path)) {
        (_, Some(("metadata.labels", key))) => Field::Label(key.to_owned()),
        (_, Some(("metadata.annotations", key))) => Field::Annotation(key.to_owned()),
        ("metadata.name", _) => Field::Name,
        ("metadata.namespace", _) => Field::Namespace,
        ("metadata.uid", _) => Field::Uid,
        ("metadata.labels", _) => Field::Labels,
        ("metadata.annotations", _) => Field::Annotations,
        ("spec.nodeName", _) => Field::NodeName,
        ("spec.serviceAccountName", _) => Field::ServiceAccountName,
        ("status.hostIP", _) => Field::HostIp,
        ("status.hostIPs", _) => Field::HostIps,
        ("status.podIP", _) => Field::PodIp,
        ("status.podIPs", _) => Field::PodIps,
        _ => return None,
    })
}

/// What a checked `resourceFieldRef` means; `None`: nothing that podd knows.
pub(super) fn resource(selector: &ResourceFieldSelector) -> Option<ResourceValue> {
    let ResourceFieldSelector {
        container_name,
        divisor,
        resource,
    } = selector;
    let is_cpu = resource.ends_with(".cpu");
    let divisor = match divisor {
        None => Quantity::ZERO,
        Some(divisor) => Quantity::parse(&divisor.0).ok()?,
    };
    let divisor = match (if is_cpu { divisor.millis() } else { divisor.units() }, is_cpu) {
        (0, true) => 1_000,
        (0, false) => 1,
        (given, _) => given,
    };
    let field = match resource.as_str() {
        "limits.cpu" => ResourceField::LimitsCpu,
        "limits.memory" => ResourceField::LimitsMemory,
        "limits.ephemeral-storage" => ResourceField::LimitsEphemeralStorage,
        "requests.cpu" => ResourceField::RequestsCpu,
        "requests.memory" => ResourceField::RequestsMemory,
        "requests.ephemeral-storage" => ResourceField::RequestsEphemeralStorage,
        other => {
            let (is_limit, size) = huge_page(other)?;
            let size = Quantity::parse(size).ok()?.units();
            if is_limit {
                ResourceField::LimitsHugepages(size)
            } else {
                ResourceField::RequestsHugepages(size)
            }
        }
    };
    Some(ResourceValue {
        container: container_name.clone().filter(|name| !name.is_empty()),
        resource: field,
        divisor,
    })
}

/// Whether it is the limit, and the size of the pages.
fn huge_page(resource: &str) -> Option<(bool, &str)> {
    let limit = resource.strip_prefix("limits.hugepages-").map(|size| (true, size));
    limit.or_else(|| resource.strip_prefix("requests.hugepages-").map(|size| (false, size)))
}

/// `path['key']` (`fieldpath.SplitMaybeSubscriptedPath`).
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (path, key) = path.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, key))
}
