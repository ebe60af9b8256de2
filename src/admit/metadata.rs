//! `metadata` of an object that is to be created (`apimachinery/pkg/api/validation/objectmeta.go`,
//! `apiserver/pkg/registry/rest/create.go`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::AdmitContext;
use super::fault::{Findings, Path};
use super::names;

/// Names plus values of all annotations, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// What is left of `generateName` once five random characters are to follow it.
const MAX_GENERATE_NAME: usize = 58;
/// The longest name of one directory entry; `<namespace>_<name>_<uid>` is one of podd's.
const NAME_MAX: usize = 255;

/// Checks what the client says of itself and fills in what the server says.
pub(super) fn admit(metadata: ObjectMeta, ctx: &AdmitContext<'_>, findings: &mut Findings) -> ObjectMeta {
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
            findings.invalid_each(&at.child("name"), &name, &names::dns_subdomain(&name));
            if let Some(prefix) = prefix {
                check_prefix(prefix, &at, findings);
            }
            name
        }
        (None, Some(prefix)) => {
            check_prefix(prefix, &at, findings);
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
    // A longer one is reported as such already.
    let room = NAME_MAX.saturating_sub(2 + ctx.namespace.len() + ctx.uid.as_str().len());
    if name.len() > room && name.len() <= names::SUBDOMAIN_MAX {
        let detail =
            format!("must be no more than {room} bytes in this namespace: podd's log directory bears both names");
        findings.invalid(&at.child("name"), &name, &detail);
    }

    for (key, value) in labels.iter().flatten() {
        let at = at.child("labels");
        findings.invalid_each(&at, key, &names::qualified_name(key));
        findings.invalid_each(&at, value, &names::label_value(value));
    }
    let mut annotation_bytes = 0_usize;
    for (key, value) in annotations.iter().flatten() {
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
    if finalizers.iter().flatten().next().is_some() {
        findings.warn(
            &at.child("finalizers"),
            "podd does not wait for finalizers yet: a delete does not stop at them",
        );
    }
    if owner_references.iter().flatten().next().is_some() {
        findings.warn(
            &at.child("ownerReferences"),
            "podd does not collect the dependents of deleted owners yet",
        );
    }

    ObjectMeta {
        annotations,
        creation_timestamp: Some(Time(whole_seconds(ctx.now))),
        deletion_grace_period_seconds: None,
        deletion_timestamp: None,
        finalizers,
        generate_name,
        generation: Some(1),
        labels,
        managed_fields: None,
        name: Some(name),
        namespace: Some(ctx.namespace.to_owned()),
        owner_references,
        resource_version: None,
        self_link: None,
        uid: Some(ctx.uid.as_str().to_owned()),
    }
}

/// A prefix may end in a hyphen, since something follows it.
fn check_prefix(prefix: &str, at: &Path, findings: &mut Findings) {
    let masked = match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => prefix.to_owned(),
    };
    findings.invalid_each(&at.child("generateName"), prefix, &names::dns_subdomain(&masked));
}

/// The wire writes times in whole seconds; stored otherwise, an object would differ from its own copy.
fn whole_seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}
