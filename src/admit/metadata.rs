//! `metadata` of an object that is to be created or changed (`apimachinery/pkg/api/validation/objectmeta.go`,
//! `apiserver/pkg/registry/rest/create.go`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::AdmitContext;
use super::deletion::{FOREGROUND, ORPHAN};
use super::fault::{Findings, Path};
use super::names;

/// Names plus values of all annotations, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// What is left of `generateName` once five random characters are to follow it.
const MAX_GENERATE_NAME: usize = 58;
/// The longest name of one directory entry; `<namespace>_<name>_<uid>` is one of podd's.
const NAME_MAX: usize = 255;
/// Finalizers that need no domain before them (`pkg/apis/core/helper`, `IsStandardFinalizerName`).
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];

/// How the names of a kind are formed (each kind's `ValidateName` in `pkg/apis/*/validation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// Labels joined by dots.
    Subdomain,
    Label,
}

impl NameRule {
    fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => names::dns_subdomain(name),
            Self::Label => names::dns_label(name),
        }
    }
}

/// What the metadata of a kind must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataRules {
    pub name: NameRule,
    pub namespaced: bool,
    /// The kind counts the changes of its spec.
    pub generation: bool,
}

/// A pod's. Its names are also those of its log directory.
pub(super) const POD: MetadataRules = MetadataRules {
    name: NameRule::Subdomain,
    namespaced: true,
    generation: true,
};

/// A pod's metadata: as [`admit`], and short enough for its log directory.
pub(super) fn admit_pod(metadata: ObjectMeta, ctx: &AdmitContext<'_>, findings: &mut Findings) -> ObjectMeta {
    let admitted = admit(metadata, POD, ctx, findings);
    let name = admitted.name.as_deref().unwrap_or_default();
    // A longer one is reported as such already.
    let room = NAME_MAX.saturating_sub(2 + ctx.namespace.len() + ctx.uid.as_str().len());
    if name.len() > room && name.len() <= names::SUBDOMAIN_MAX {
        let detail =
            format!("must be no more than {room} bytes in this namespace: podd's log directory bears both names");
        findings.invalid(&Path::root("metadata").child("name"), name, &detail);
    }
    admitted
}

/// Checks what the client says of itself and fills in what the server says.
pub fn admit(
    metadata: ObjectMeta,
    rules: MetadataRules,
    ctx: &AdmitContext<'_>,
    findings: &mut Findings,
) -> ObjectMeta {
    let ObjectMeta {
        annotations,
        finalizers,
        generate_name,
        labels,
        name,
        namespace,
        owner_references,
        // The server's to say, whatever was sent.
        creation_timestamp: _,
        deletion_grace_period_seconds: _,
        deletion_timestamp: _,
        generation: _,
        managed_fields: _,
        resource_version: _,
        self_link: _,
        uid: _,
    } = metadata;
    let at = Path::root("metadata");
    let generate_name = generate_name.filter(|prefix| !prefix.is_empty());

    let name = match (name.filter(|name| !name.is_empty()), &generate_name) {
        (Some(name), prefix) => {
            findings.invalid_each(&at.child("name"), &name, &rules.name.check(&name));
            if let Some(prefix) = prefix {
                check_prefix(prefix, rules.name, &at, findings);
            }
            name
        }
        (None, Some(prefix)) => {
            check_prefix(prefix, rules.name, &at, findings);
            let mut cut = prefix.len().min(MAX_GENERATE_NAME);
            while !prefix.is_char_boundary(cut) {
                cut -= 1;
            }
            format!("{}{}", &prefix[..cut], ctx.name_suffix)
        }
        (None, None) => {
            findings.required(&at.child("name"), "name or generateName is required");
            String::new()
        }
    };

    if rules.namespaced {
        match namespace.as_deref() {
            Some(said) if !said.is_empty() && said != ctx.namespace => findings.invalid(
                &at.child("namespace"),
                said,
                &format!(
                    "the namespace of the provided object does not match the namespace sent on the request ({:?})",
                    ctx.namespace
                ),
            ),
            _ => findings.invalid_each(&at.child("namespace"), ctx.namespace, &names::dns_label(ctx.namespace)),
        }
    }

    let admitted = ObjectMeta {
        annotations,
        creation_timestamp: Some(Time(whole_seconds(ctx.now))),
        deletion_grace_period_seconds: None,
        deletion_timestamp: None,
        finalizers,
        generate_name,
        generation: rules.generation.then_some(1),
        labels,
        managed_fields: None,
        name: Some(name),
        namespace: rules.namespaced.then(|| ctx.namespace.to_owned()),
        owner_references,
        resource_version: None,
        self_link: None,
        uid: Some(ctx.uid.as_str().to_owned()),
    };
    check_open(&admitted, findings);
    admitted
}

/// Checks what of `metadata` a client may change later on, against what it was.
pub fn check_change(before: &ObjectMeta, after: &ObjectMeta, findings: &mut Findings) {
    check_open(after, findings);
    if before.deletion_timestamp.is_none() {
        return;
    }
    let known: Vec<&String> = before.finalizers.iter().flatten().collect();
    let mut new: Vec<&String> = after
        .finalizers
        .iter()
        .flatten()
        .filter(|name| !known.contains(name))
        .collect();
    new.sort();
    if !new.is_empty() {
        let new: Vec<String> = new.iter().map(|name| format!("{name:?}")).collect();
        findings.forbidden(
            &Path::root("metadata").child("finalizers"),
            &format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                new.join(", ")
            ),
        );
    }
}

/// Labels, annotations, finalizers and owners: the client's part.
fn check_open(metadata: &ObjectMeta, findings: &mut Findings) {
    let at = Path::root("metadata");
    check_labels(metadata, &at, findings);
    check_finalizers(metadata.finalizers.as_deref().unwrap_or_default(), &at, findings);
    check_owners(metadata.owner_references.as_deref().unwrap_or_default(), &at, findings);
}

/// Labels and annotations, of an object or of a template.
pub(super) fn check_labels(metadata: &ObjectMeta, at: &Path, findings: &mut Findings) {
    for (key, value) in metadata.labels.iter().flatten() {
        let at = at.child("labels");
        findings.invalid_each(&at, key, &names::qualified_name(key));
        findings.invalid_each(&at, value, &names::label_value(value));
    }
    let mut annotation_bytes = 0_usize;
    for (key, value) in metadata.annotations.iter().flatten() {
        findings.invalid_each(
            &at.child("annotations"),
            key,
            &names::qualified_name(&key.to_lowercase()),
        );
        annotation_bytes = annotation_bytes.saturating_add(key.len() + value.len());
    }
    if annotation_bytes > MAX_ANNOTATIONS {
        findings.too_long(&at.child("annotations"), MAX_ANNOTATIONS);
    }
}

fn check_finalizers(finalizers: &[String], at: &Path, findings: &mut Findings) {
    let at = at.child("finalizers");
    for (index, name) in finalizers.iter().enumerate() {
        findings.invalid_each(&at, name, &names::qualified_name(name));
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name.as_str()) {
            findings.invalid(
                &at.index(index),
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |wanted: &str| finalizers.iter().any(|name| name == wanted);
    if has(ORPHAN) && has(FOREGROUND) {
        let said = serde_json::to_string(finalizers).unwrap_or_default();
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        findings.invalid_value(&at, said, &detail);
    }
}

fn check_owners(references: &[OwnerReference], at: &Path, findings: &mut Findings) {
    let at = at.child("ownerReferences");
    let mut controller: Option<&str> = None;
    for reference in references {
        let OwnerReference {
            api_version,
            block_owner_deletion: _,
            controller: controls,
            kind,
            name,
            uid,
        } = reference;
        if api_version.rsplit('/').next().unwrap_or_default().is_empty() {
            findings.invalid(&at.child("apiVersion"), api_version, "version must not be empty");
        }
        for (field, value) in [("kind", kind), ("name", name), ("uid", uid)] {
            if value.is_empty() {
                findings.invalid(&at.child(field), value, "must not be empty");
            }
        }
        if kind == "Event" && matches!(api_version.as_str(), "v1" | "events.k8s.io/v1") {
            let said = serde_json::to_string(reference).unwrap_or_default();
            findings.invalid_value(
                &at,
                said,
                &format!("{api_version}, Kind={kind} is disallowed from being an owner"),
            );
        }
        if *controls == Some(true) {
            match controller {
                None => controller = Some(name),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    );
                    let said = serde_json::to_string(references).unwrap_or_default();
                    findings.invalid_value(&at, said, &detail);
                }
            }
        }
    }
}

/// A prefix may end in a hyphen, since something follows it.
fn check_prefix(prefix: &str, rule: NameRule, at: &Path, findings: &mut Findings) {
    let masked = match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => prefix.to_owned(),
    };
    findings.invalid_each(&at.child("generateName"), prefix, &rule.check(&masked));
}

/// The wire writes times in whole seconds; stored otherwise, an object would differ from its own copy.
fn whole_seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}
