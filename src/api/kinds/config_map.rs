//! `ConfigMaps` (`pkg/apis/core/validation`, `ValidateConfigMap`, `ValidateConfigMapUpdate`).

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{AGE, Kind, NAME, Row, age_cell, entries, name_cell, row, text};
use crate::admit::{Findings, MetadataRules, NameRule, Path, names};
use crate::model::Timestamp;

/// Bytes of all values together, of a `ConfigMap` or a Secret (`MaxSecretSize`).
pub(super) const MAX_DATA: usize = 1024 * 1024;

pub(super) const FROZEN: &str = "field is immutable when `immutable` is set";

pub(super) static CONFIG_MAP: Kind = Kind {
    short_names: &["cm"],
    columns: &[
        NAME,
        text(
            "Data",
            "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.",
        ),
        AGE,
    ],
    row: cells,
    ..rules::kind::<ConfigMap>("configmap")
};

impl Rules for ConfigMap {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &CONFIG_MAP
    }

    fn check(&self, findings: &mut Findings) {
        let (data_at, binary_at) = (Path::root("data"), Path::root("binaryData"));
        let mut bytes = 0_usize;
        for (key, value) in self.data.iter().flatten() {
            findings.invalid_each(&data_at.key(key), key, &names::config_key(key));
            if self.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                findings.invalid(&data_at.key(key), key, "duplicate of key present in binaryData");
            }
            bytes = bytes.saturating_add(value.len());
        }
        for (key, value) in self.binary_data.iter().flatten() {
            findings.invalid_each(&binary_at.key(key), key, &names::config_key(key));
            bytes = bytes.saturating_add(value.0.len());
        }
        if bytes > MAX_DATA {
            // Of the whole object, as Kubernetes says it.
            findings.too_long(&Path::root(""), MAX_DATA);
        }
    }

    fn check_change(&self, before: &Self, findings: &mut Findings) {
        if before.immutable != Some(true) {
            return;
        }
        if self.immutable != Some(true) {
            findings.forbidden(&Path::root("immutable"), FROZEN);
        }
        if self.data != before.data {
            findings.forbidden(&Path::root("data"), FROZEN);
        }
        if self.binary_data != before.binary_data {
            findings.forbidden(&Path::root("binaryData"), FROZEN);
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Row {
    let data = entries(&object["data"]) + entries(&object["binaryData"]);
    row(vec![name_cell(object), data.into(), age_cell(object, now)])
}
