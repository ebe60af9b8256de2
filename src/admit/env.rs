//! The rules of a container's variables (`validation.go`: `ValidateEnv`, `ValidateEnvFrom`), and of what refers to fields
//! and resources of the pod, which `downwardAPI` volumes do as well.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
    SecretEnvSource,
};

use super::container::{check_length, check_text};
use super::fault::{Findings, Path};
use super::quantity::Quantity;
use super::{fields, names};
use crate::model::expansion::Expander;

/// What a variable may be told of its pod.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What any field selector of a pod may name (`ConvertDownwardAPIFieldLabel`).
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
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
const HUGE_PAGES: [&str; 2] = ["limits.hugepages-", "requests.hugepages-"];
const CPU_DIVISORS: [&str; 2] = ["1m", "1"];
const BYTE_DIVISORS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];
const TOO_MANY_SOURCES: &str = "may not have more than one field specified at a time";

/// Checks the variables and gives back what command and args may refer to, as far as the manifest says it.
pub(super) fn check(
    env: &[EnvVar],
    at: &Path,
    expander: &mut Expander,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut known = BTreeMap::new();
    for (i, variable) in env.iter().enumerate() {
        let at_entry = at.index(i);
        let name_at = at_entry.child("name");
        if variable.name.is_empty() {
            findings.required(&name_at, "");
        } else {
            findings.invalid_each(&name_at, &variable.name, &names::env_name(&variable.name));
            if let Some(earlier) = seen.insert(&variable.name, i) {
                let text = format!("hides previous definition of {:?} at env[{earlier}]", variable.name);
                findings.warn(&at_entry, &text);
            }
        }
        let value = variable.value.as_deref().unwrap_or_default();
        let value_at = at_entry.child("value");
        check_text(value, &value_at, findings);
        let text = expander.variable(&variable.name, value, &known);
        let text = check_length(text, &value_at, findings);
        if let Some(source) = &variable.value_from {
            check_source(source, value, &at_entry.child("valueFrom"), findings);
            // Known at the start alone: until then a reference to it stands for itself.
            known.remove(&variable.name);
        } else if let Some(text) = text {
            known.insert(variable.name.clone(), text);
        }
        fields::env(variable, &at_entry, findings);
    }
    known
}

/// `validateEnvVarValueFrom`.
fn check_source(source: &EnvVarSource, value: &str, at: &Path, findings: &mut Findings) {
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = source;
    if let Some(field) = field_ref {
        check_field(field, &FIELDS, &at.child("fieldRef"), findings);
    }
    if let Some(resource) = resource_field_ref {
        check_resource(resource, false, &at.child("resourceFieldRef"), findings);
    }
    if let Some(key) = config_map_key_ref {
        check_key(&key.name, &key.key, &at.child("configMapKeyRef"), findings);
    }
    if let Some(key) = secret_key_ref {
        check_key(&key.name, &key.key, &at.child("secretKeyRef"), findings);
    }
    let given = [
        field_ref.is_some(),
        resource_field_ref.is_some(),
        config_map_key_ref.is_some(),
        secret_key_ref.is_some(),
        file_key_ref.is_some(),
    ];
    match given.iter().filter(|given| **given).count() {
        0 => findings.invalid(
            at,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ),
        _ if !value.is_empty() => findings.invalid(at, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => findings.invalid(at, "", TOO_MANY_SOURCES),
    }
    fields::env_source(source, at, findings);
}

/// A key of an object.
fn check_key(object: &str, key: &str, at: &Path, findings: &mut Findings) {
    if object.is_empty() {
        findings.required(&at.child("name"), "");
    }
    if key.is_empty() {
        findings.required(&at.child("key"), "");
    } else {
        findings.invalid_each(&at.child("key"), key, &names::config_key(key));
    }
}

/// `ValidateEnvFrom`.
pub(super) fn check_from(sources: &[EnvFromSource], at: &Path, findings: &mut Findings) {
    for (i, source) in sources.iter().enumerate() {
        let EnvFromSource {
            config_map_ref,
            prefix,
            secret_ref,
        } = source;
        let at_entry = at.index(i);
        let prefix = prefix.as_deref().unwrap_or_default();
        findings.invalid_each(&at_entry.child("prefix"), prefix, &names::env_name(prefix));
        let named = [
            (
                "configMapRef",
                config_map_ref
                    .as_ref()
                    .map(|ConfigMapEnvSource { name, optional: _ }| name),
            ),
            (
                "secretRef",
                secret_ref.as_ref().map(|SecretEnvSource { name, optional: _ }| name),
            ),
        ];
        for (field, name) in &named {
            if name.is_some_and(String::is_empty) {
                findings.required(&at_entry.child(field).child("name"), "");
            }
        }
        match named.iter().filter(|(_, name)| name.is_some()).count() {
            0 => findings.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => findings.invalid(at, "", TOO_MANY_SOURCES),
        }
    }
}

/// A `fieldRef` (`validateObjectFieldSelector`). `supported`: the fields that may be asked for here, but for single labels
/// and annotations, which may always be.
pub(super) fn check_field(field: &ObjectFieldSelector, supported: &[&str], at: &Path, findings: &mut Findings) {
    let ObjectFieldSelector {
        api_version,
        field_path,
    } = field;
    let version = api_version.as_deref().unwrap_or("v1");
    let path_at = at.child("fieldPath");
    if field_path.is_empty() {
        findings.required(&path_at, "");
        return;
    }
    let unknown = |findings: &mut Findings, why: String| {
        findings.invalid(&path_at, field_path, &format!("error converting fieldPath: {why}"));
    };
    if version != "v1" {
        return unknown(findings, format!("unsupported pod version: {version}"));
    }
    match subscripted(field_path) {
        Some(("metadata.annotations", key)) => {
            findings.invalid_each(at, key, &names::qualified_name(&key.to_lowercase()));
        }
        Some(("metadata.labels", key)) => findings.invalid_each(at, key, &names::qualified_name(key)),
        Some(_) => unknown(
            findings,
            format!("field label does not support subscript: {field_path}"),
        ),
        // What old clients call it.
        None if field_path == "spec.host" && supported.contains(&"spec.nodeName") => {}
        None if !KNOWN_FIELDS.contains(&field_path.as_str()) => {
            unknown(findings, format!("field label not supported: {field_path}"));
        }
        None if !supported.contains(&field_path.as_str()) => findings.not_supported(&path_at, field_path, supported),
        None => {}
    }
}

/// `metadata.labels['key']` (`fieldpath.SplitMaybeSubscriptedPath`).
pub(super) fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (path, key) = path.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, key))
}

/// A `resourceFieldRef` (`validateContainerResourceFieldSelector`). A file must name its container (`in_volume`).
pub(super) fn check_resource(selector: &ResourceFieldSelector, in_volume: bool, at: &Path, findings: &mut Findings) {
    let ResourceFieldSelector {
        container_name,
        divisor,
        resource,
    } = selector;
    let is_huge_page = HUGE_PAGES.iter().any(|prefix| {
        let size = resource.strip_prefix(prefix).map(Quantity::parse);
        size.is_some_and(|size| size.is_ok())
    });
    if in_volume && container_name.as_ref().is_none_or(String::is_empty) {
        findings.required(&at.child("containerName"), "");
    } else if resource.is_empty() {
        findings.required(&at.child("resource"), "");
    } else if !RESOURCES.contains(&resource.as_str()) && !is_huge_page {
        findings.not_supported(&at.child("resource"), resource, &RESOURCES);
    }
    let Some(divisor) = divisor else { return };
    let at = at.child("divisor");
    let amount = match Quantity::parse(&divisor.0) {
        Ok(amount) => amount,
        Err(error) => return findings.invalid(&at, &divisor.0, &error.to_string()),
    };
    let is_one_of = |known: &[&str]| known.iter().any(|text| Quantity::parse(text) == Ok(amount));
    let (known, of): (&[&str], _) = match resource.as_str() {
        "limits.cpu" | "requests.cpu" => (&CPU_DIVISORS, "cpu"),
        "limits.memory" | "requests.memory" => (&BYTE_DIVISORS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (&BYTE_DIVISORS, "local ephemeral storage"),
        _ => (&BYTE_DIVISORS, "hugepages"),
    };
    // Zero is none.
    if amount != Quantity::ZERO && !is_one_of(known) {
        let listed = match known.len() {
            2 => known.join(" and "),
            _ => known.join(", "),
        };
        let detail = format!("only divisor's values {listed} are supported with the {of} resource");
        findings.invalid(&at, resource, &detail);
    }
}
