//! Namespaces (`pkg/apis/core/validation`, `ValidateNamespace`; `pkg/registry/core/namespace`).
//!
//! What is in a namespace, and its end, is the garbage room's.

use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec};
use serde_json::{Value, json};

use super::rules::{self, Rules};
use super::{
    AGE, Amended, Kind, METADATA_NAME, NAME, Row, Selectable, Subresource, age_cell, at, name_cell, row, selectable,
    text,
};
use crate::admit::deletion::KUBERNETES;
use crate::admit::{FieldValidation, Findings, MetadataRules, NameRule, Path, names, pod_security};
use crate::api::error::ApiError;
use crate::model::Timestamp;

/// Namespaces that are always there (`plugin/pkg/admission/namespace/lifecycle`).
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

const SELF: (&str, &str, &str) = ("", "v1", "Namespace");

pub(crate) static NAMESPACE: Kind = Kind {
    short_names: &["ns"],
    // A namespace is emptied by one deletion, not by a deletion of everything at once.
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    subresources: &[
        Subresource {
            name: "finalize",
            kind: SELF,
            verbs: &["update"],
            amend: Some(amend_finalize),
        },
        Subresource {
            name: "status",
            kind: SELF,
            verbs: &["get", "patch", "update"],
            amend: Some(rules::amend_status::<Namespace>),
        },
    ],
    columns: &[NAME, text("Status", "The status of the namespace"), AGE],
    selectable: &[
        METADATA_NAME,
        Selectable {
            path: "name",
            ..selectable("metadata.name")
        },
        selectable("status.phase"),
    ],
    row: cells,
    ..rules::kind::<Namespace>("namespace")
};

impl Rules for Namespace {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Label,
        namespaced: false,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &NAMESPACE
    }

    fn fill(&mut self) {
        if let Some(name) = self.metadata.name.clone() {
            let labels = self.metadata.labels.get_or_insert_default();
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
        // The one that `/finalize` takes away is put there once, when the namespace is made.
        let spec = self.spec.get_or_insert_default();
        let finalizers = spec.finalizers.get_or_insert_default();
        if self.metadata.deletion_timestamp.is_none() && !finalizers.iter().any(|name| name == KUBERNETES) {
            finalizers.push(KUBERNETES.to_owned());
        }
    }

    fn check(&self, findings: &mut Findings) {
        pod_security::check_labels(&self.metadata, findings);
        let at = Path::root("spec").child("finalizers");
        for name in self.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()) {
            findings.invalid_each(&at, name, &names::qualified_name(name));
        }
    }

    fn keep(&mut self, before: &Self) {
        self.spec.clone_from(&before.spec);
    }

    fn first_status(_sent: Option<Value>) -> Option<Value> {
        Some(json!({ "phase": "Active" }))
    }
}

/// 403 for a namespace that must stay.
pub(crate) fn check_mortal(name: &str) -> Result<(), ApiError> {
    if IMMORTAL.contains(&name) {
        return Err(ApiError::ForbiddenObject {
            kind: &NAMESPACE,
            name: name.to_owned(),
            why: "this namespace may not be deleted".to_owned(),
            causes: Vec::new(),
        });
    }
    Ok(())
}

/// PUT of `/finalize`: `spec.finalizers` alone.
#[expect(clippy::needless_pass_by_value, reason = "an `Amend` like the others")]
fn amend_finalize(current: &Value, proposed: Value, validation: FieldValidation) -> Result<Amended, ApiError> {
    rules::check_identity(&NAMESPACE, current, &proposed)?;
    let bytes = serde_json::to_vec(&proposed).map_err(|e| ApiError::internal("an object cannot be written", e))?;
    let decoded = Namespace::decode(&bytes, crate::admit::Encoding::Json, validation)?;
    let spec: NamespaceSpec = decoded.object.spec.clone().unwrap_or_default();
    let mut findings = Findings::default();
    decoded.object.check(&mut findings);
    findings.finish().map_err(|faults| ApiError::Invalid {
        group: "",
        kind: NAMESPACE.kind,
        name: at(current, "/metadata/name").to_owned(),
        faults,
    })?;
    let mut object = current.clone();
    object["spec"]["finalizers"] = spec.finalizers.unwrap_or_default().into();
    Ok(Amended {
        object,
        warnings: decoded.warnings,
    })
}

fn cells(object: &Value, now: Timestamp) -> Row {
    row(vec![
        name_cell(object),
        at(object, "/status/phase").into(),
        age_cell(object, now),
    ])
}
