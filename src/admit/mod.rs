//! Admission: bytes from a client become an object that podd can carry out, or a refusal that names every faulty field.
//!
//! * [`decode`]: JSON, YAML or protobuf in, one wire object out; unknown, doubled and wrongly typed fields are found here (400).
//! * [`patch`]: an object and a patch in, the changed object out.
//! * [`pod`]: a wire pod in, the same pod out with its defaults filled in and every field checked (422 with all faults).
//! * [`change`]: a pod that is there and what a client made of it in, the changed pod out.
//! * [`apply_class`]: what a new pod gets from the runtime class that it names.
//! * [`apply_account`]: what a new pod gets from its service account.
//! * [`metadata`]: the metadata of an object of any kind, checked and filled in; [`deletion`]: what a DELETE makes of it.
//! * [`pod_security`]: what the pods of a namespace may ask for.
//! * [`to_model`]: an admitted pod in, the pod as podd means it out.
//!
//! What podd does with each known field (honours it, leaves it alone, warns, refuses) stands in one table: `fields.rs`.
//!
//! **Invariant:** pure. No clock, no randomness, no I/O: time, uid and the random suffix of a generated name are passed
//! in. Nothing a client sends makes it panic, recurse deeper than 64 levels or work longer than its size warrants.

mod bounded;
pub mod change;
mod container;
mod decode;
mod defaults;
pub mod deletion;
mod env;
mod ephemeral;
mod fault;
mod fields;
mod life;
mod metadata;
pub mod names;
pub mod patch;
mod placement;
pub mod pod_security;
mod protobuf;
mod quantity;
mod resources;
mod runtime_class;
mod schema;
mod security;
mod service_account;
mod spec;
mod suggest;
mod to_model;
mod tree;
mod volume;
pub mod wire;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

pub use change::is_mirror;
pub use decode::{
    Complaints, DecodeError, Decoded, Encoding, FieldValidation, Identity, decode, decode_json, decode_options,
};
pub use fault::{Fault, FaultReason, Findings, Path};
pub use metadata::{MetadataRules, NameRule, admit as metadata, check_change as metadata_change};
pub use quantity::{Quantity, QuantityError};
pub use runtime_class::{ClassRefusal, apply_class, class_of};
pub use service_account::{AccountRefusal, DEFAULT_ACCOUNT, account_of, apply_account, keep_token};
pub use to_model::{ModelError, to_model};

use crate::model::{Timestamp, Uid};

/// What an admission knows beyond the object itself.
#[derive(Debug, Clone)]
pub struct AdmitContext<'a> {
    /// Becomes `metadata.creationTimestamp`, cut to whole seconds as the wire has it.
    pub now: Timestamp,
    /// The uid the pod gets.
    pub uid: Uid,
    /// The namespace of the request path.
    pub namespace: &'a str,
    /// Five random lower-case alphanumerics, appended to `metadata.generateName`.
    pub name_suffix: &'a str,
}

/// A pod that may be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Defaults filled in; uid, creationTimestamp, generation, name and namespace set; no status.
    pub pod: Pod,
    /// What the client should know, one sentence each (HTTP `Warning` headers).
    pub warnings: Vec<String>,
}

/// What a new pod gets beyond the defaults: the tolerations of Kubernetes' admission plugin `DefaultTolerationSeconds`.
pub fn complete(pod: &mut Pod) {
    placement::default_tolerations(pod.spec.get_or_insert_default());
}

/// Fills in the defaults and checks every field.
///
/// Admitting an admitted pod again changes nothing.
///
/// # Errors
/// All faults at once, each with its path: 422 `Invalid`, `details.causes`.
pub fn pod(pod: Pod, ctx: &AdmitContext<'_>) -> Result<Admitted, Vec<Fault>> {
    let mut findings = Findings::default();
    let added = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref());
    if added.is_some_and(|containers| !containers.is_empty()) {
        findings.forbidden(
            &Path::root("spec").child("ephemeralContainers"),
            "cannot be set on create",
        );
    }
    whole_pod(pod, ctx, findings)
}

/// The same for a pod that is there already and was changed; what may be changed in it is not looked at.
///
/// # Errors
/// As [`pod`].
fn whole_pod(pod: Pod, ctx: &AdmitContext<'_>, mut findings: Findings) -> Result<Admitted, Vec<Fault>> {
    // A status is not the client's to write: it is dropped, as Kubernetes' strategy does on create.
    let Pod {
        metadata,
        spec,
        status: _,
    } = pod;
    let metadata = metadata::admit_pod(metadata, ctx, &mut findings);
    let mut spec = spec.unwrap_or_default();
    defaults::apply(&mut spec);
    spec::check(&spec, &Path::root("spec"), &mut findings);
    let warnings = findings.finish()?;
    Ok(Admitted {
        pod: Pod {
            metadata,
            spec: Some(spec),
            status: None,
        },
        warnings,
    })
}

/// Fills in the defaults of a pod's template.
pub fn fill_template(template: &mut PodTemplateSpec) {
    defaults::apply(template.spec.get_or_insert_default());
}

/// Checks a pod's template whose defaults are filled in.
pub fn check_template(template: &PodTemplateSpec, at: &Path, findings: &mut Findings) {
    if let Some(metadata) = &template.metadata {
        metadata::check_labels(metadata, &at.child("metadata"), findings);
    }
    if let Some(spec) = &template.spec {
        if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
            let at = at.child("spec").child("ephemeralContainers");
            findings.forbidden(&at, "ephemeral containers not allowed in pod template");
        }
        spec::check(spec, &at.child("spec"), findings);
    }
}
