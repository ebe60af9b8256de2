//! Secrets (`pkg/apis/core/validation`, `ValidateSecret`, `ValidateSecretUpdate`).
//!
//! **Invariant:** no value of `data` or `stringData` gets into a message: not of a refusal, nor of a body that cannot be
//! read.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::config_map::{FROZEN, MAX_DATA};
use super::rules::{self, Rules};
use super::{
    AGE, Kind, METADATA_NAME, METADATA_NAMESPACE, NAME, Row, age_cell, at, entries, name_cell, row, selectable, text,
};
use crate::admit::{
    self, DecodeError, Decoded, Encoding, FieldValidation, Findings, MetadataRules, NameRule, Path, names,
};
use crate::api::error::ApiError;
use crate::model::Timestamp;

const OPAQUE: &str = "Opaque";
const REDACTED: &str = "<secret contents redacted>";
const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account.name";

pub(crate) static SECRET: Kind = Kind {
    columns: &[
        NAME,
        text("Type", "Used to facilitate programmatic handling of secret data."),
        text(
            "Data",
            "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'.",
        ),
        AGE,
    ],
    selectable: &[METADATA_NAME, METADATA_NAMESPACE, selectable("type")],
    row: cells,
    ..rules::kind::<Secret>("secret")
};

impl Rules for Secret {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &SECRET
    }

    fn decode(bytes: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded<Self>, ApiError> {
        admit::decode(bytes, encoding, validation).map_err(|error| ApiError::bad_request(hushed(error).to_string()))
    }

    fn fill(&mut self) {
        if let Some(texts) = self.string_data.take() {
            let data = self.data.get_or_insert_default();
            data.extend(
                texts
                    .into_iter()
                    .map(|(key, text)| (key, ByteString(text.into_bytes()))),
            );
        }
        if self.type_.as_deref().unwrap_or_default().is_empty() {
            self.type_ = Some(OPAQUE.to_owned());
        }
    }

    fn check(&self, findings: &mut Findings) {
        let data_at = Path::root("data");
        let mut bytes = 0_usize;
        for (key, value) in self.data.iter().flatten() {
            findings.invalid_each(&data_at.key(key), key, &names::config_key(key));
            bytes = bytes.saturating_add(value.0.len());
        }
        if bytes > MAX_DATA {
            findings.too_long(&data_at, MAX_DATA);
        }
        self.check_type(findings);
    }

    fn check_change(&self, before: &Self, findings: &mut Findings) {
        if self.type_ != before.type_ {
            let said = self.type_.as_deref().unwrap_or_default();
            findings.invalid(&Path::root("type"), said, "field is immutable");
        }
        if before.immutable == Some(true) {
            if self.immutable != Some(true) {
                findings.forbidden(&Path::root("immutable"), FROZEN);
            }
            if self.data != before.data {
                findings.forbidden(&Path::root("data"), FROZEN);
            }
        }
    }
}

/// What each type must have.
trait TypeRules {
    fn check_type(&self, findings: &mut Findings);
}

impl TypeRules for Secret {
    fn check_type(&self, findings: &mut Findings) {
        let data_at = Path::root("data");
        let value = |key: &str| self.data.as_ref().and_then(|data| data.get(key));
        let mut require = |keys: &[&str]| {
            for key in keys {
                if value(key).is_none() {
                    findings.required(&data_at.key(key), "");
                }
            }
        };
        match self.type_.as_deref().unwrap_or_default() {
            "kubernetes.io/service-account-token" => {
                let account = self
                    .metadata
                    .annotations
                    .as_ref()
                    .and_then(|all| all.get(SERVICE_ACCOUNT));
                if account.is_none_or(String::is_empty) {
                    let at = Path::root("metadata").child("annotations").key(SERVICE_ACCOUNT);
                    findings.required(&at, "");
                } else {
                    findings.unsupported(&Path::root("type"), "tokens that never expire");
                }
            }
            "kubernetes.io/dockercfg" => check_json(".dockercfg", value(".dockercfg"), findings),
            "kubernetes.io/dockerconfigjson" => {
                check_json(".dockerconfigjson", value(".dockerconfigjson"), findings);
            }
            // One of the two is enough.
            "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
                require(&["username", "password"]);
            }
            "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
                findings.required(&data_at.key("ssh-privatekey"), "");
            }
            "kubernetes.io/tls" => require(&["tls.crt", "tls.key"]),
            _ => {}
        }
    }
}

fn check_json(key: &str, value: Option<&ByteString>, findings: &mut Findings) {
    let at = Path::root("data").key(key);
    match value {
        None => findings.required(&at, ""),
        Some(text) if serde_json::from_slice::<serde::de::IgnoredAny>(&text.0).is_err() => {
            findings.invalid_value(&at, REDACTED, "it must be JSON");
        }
        Some(_) => {}
    }
}

/// The error without what it found.
fn hushed(error: DecodeError) -> DecodeError {
    match error {
        DecodeError::Fields {
            found,
            expected,
            mut complaints,
        } => {
            for line in &mut complaints.types {
                match line.find(", found ") {
                    Some(cut) => line.truncate(cut),
                    None => "data: the values must be base64".clone_into(line),
                }
            }
            DecodeError::Fields {
                found,
                expected,
                complaints,
            }
        }
        // What quotes may quote a value.
        DecodeError::Unreadable { expected, reason } if reason.contains(['"', '`']) => DecodeError::Unreadable {
            expected,
            reason: "it is not what its encoding says".to_owned(),
        },
        told @ (DecodeError::Unreadable { .. } | DecodeError::WrongVersion { .. } | DecodeError::WrongKind { .. }) => {
            told
        }
    }
}

fn cells(object: &Value, now: Timestamp) -> Row {
    row(vec![
        name_cell(object),
        at(object, "/type").into(),
        entries(&object["data"]).into(),
        age_cell(object, now),
    ])
}
