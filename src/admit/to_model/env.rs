//! Variables as podd means them, and what refers to fields and resources of the pod.

use k8s_openapi::api::core::v1 as wire;

use super::super::env::subscripted;
use super::{ModelError, amount, missing, not_understood, text};
use crate::model::{EnvFrom, EnvValue, EnvVar, Field, ObjectKey, ObjectKind, ResourceField, ResourceValue};

pub(super) fn variable(variable: &wire::EnvVar, field: &str) -> Result<EnvVar, ModelError> {
    let wire::EnvVar {
        name,
        value,
        value_from,
    } = variable;
    let value = match value_from {
        None => EnvValue::Text(value.clone().unwrap_or_default()),
        Some(source) => value_of(source, field)?,
    };
    Ok(EnvVar {
        name: name.clone(),
        value,
    })
}

fn value_of(source: &wire::EnvVarSource, field: &str) -> Result<EnvValue, ModelError> {
    let wire::EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref: _,
        resource_field_ref,
        secret_key_ref,
    } = source;
    if let Some(wire::ConfigMapKeySelector { key, name, optional }) = config_map_key_ref {
        Ok(EnvValue::ConfigMapKey(key_of(name, key, *optional)))
    } else if let Some(wire::SecretKeySelector { key, name, optional }) = secret_key_ref {
        Ok(EnvValue::SecretKey(key_of(name, key, *optional)))
    } else if let Some(selector) = field_ref {
        Ok(EnvValue::Field(field_of(selector, field)?))
    } else if let Some(selector) = resource_field_ref {
        Ok(EnvValue::Resource(resource_of(selector, field)?))
    } else {
        Err(missing(&format!("a source that is known for {field}")))
    }
}

fn key_of(object: &str, key: &str, optional: Option<bool>) -> ObjectKey {
    ObjectKey {
        object: object.to_owned(),
        key: key.to_owned(),
        optional: optional == Some(true),
    }
}

pub(super) fn from(source: &wire::EnvFromSource, field: &str) -> Result<EnvFrom, ModelError> {
    let wire::EnvFromSource {
        config_map_ref,
        prefix,
        secret_ref,
    } = source;
    let (kind, object, optional) = if let Some(wire::ConfigMapEnvSource { name, optional }) = config_map_ref {
        (ObjectKind::ConfigMap, name, optional)
    } else if let Some(wire::SecretEnvSource { name, optional }) = secret_ref {
        (ObjectKind::Secret, name, optional)
    } else {
        return Err(missing(&format!("a source that is known for {field}")));
    };
    Ok(EnvFrom {
        prefix: prefix.clone().unwrap_or_default(),
        kind,
        object: object.clone(),
        optional: *optional == Some(true),
    })
}

/// A `fieldRef`; `field` names where it stands.
pub(super) fn field_of(selector: &wire::ObjectFieldSelector, field: &str) -> Result<Field, ModelError> {
    let path = selector.field_path.as_str();
    Ok(match subscripted(path) {
        Some(("metadata.labels", key)) => Field::Label(key.to_owned()),
        Some(("metadata.annotations", key)) => Field::Annotation(key.to_owned()),
        Some(_) => return Err(not_understood(field, path)),
        None => match path {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            "metadata.uid" => Field::Uid,
            "metadata.labels" => Field::Labels,
            "metadata.annotations" => Field::Annotations,
            "spec.nodeName" | "spec.host" => Field::NodeName,
            "spec.serviceAccountName" => Field::ServiceAccountName,
            "status.hostIP" => Field::HostIp,
            "status.hostIPs" => Field::HostIps,
            "status.podIP" => Field::PodIp,
            "status.podIPs" => Field::PodIps,
            other => return Err(not_understood(field, other)),
        },
    })
}

/// A `resourceFieldRef`; `field` names where it stands.
pub(super) fn resource_of(selector: &wire::ResourceFieldSelector, field: &str) -> Result<ResourceValue, ModelError> {
    let wire::ResourceFieldSelector {
        container_name,
        divisor,
        resource,
    } = selector;
    let is_cpu = ["limits.cpu", "requests.cpu"].contains(&resource.as_str());
    let resource = match resource.as_str() {
        "limits.cpu" => ResourceField::LimitsCpu,
        "limits.memory" => ResourceField::LimitsMemory,
        "limits.ephemeral-storage" => ResourceField::LimitsEphemeralStorage,
        "requests.cpu" => ResourceField::RequestsCpu,
        "requests.memory" => ResourceField::RequestsMemory,
        "requests.ephemeral-storage" => ResourceField::RequestsEphemeralStorage,
        other => {
            if let Some(size) = other.strip_prefix("limits.hugepages-") {
                ResourceField::LimitsHugepages(amount(size, field)?.units())
            } else if let Some(size) = other.strip_prefix("requests.hugepages-") {
                ResourceField::RequestsHugepages(amount(size, field)?.units())
            } else {
                return Err(not_understood(field, other));
            }
        }
    };
    let divisor = divisor
        .as_ref()
        .map(|divisor| amount(&divisor.0, field))
        .transpose()?
        .map(|divisor| if is_cpu { divisor.millis() } else { divisor.units() })
        .filter(|divisor| *divisor > 0);
    Ok(ResourceValue {
        container: text(container_name.as_ref()).map(str::to_owned),
        resource,
        divisor: divisor.unwrap_or(if is_cpu { 1000 } else { 1 }),
    })
}
