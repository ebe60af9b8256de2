//! Questions about oneself: may I do this, what may I do, who am I. They are answered and never stored.
//!
//! Goes in: the question, and who asks. Comes out: the question with its `status` filled in.

use k8s_openapi::Resource as _;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule, SelfSubjectAccessReview,
    SelfSubjectRulesReview, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Admitted, Amended, Column, Draft, Kind, Row};
use crate::admit::{self, Decoded, Encoding, Fault, FaultReason, FieldValidation};
use crate::api::accounts::user_info;
use crate::api::auth::Identity;
use crate::api::auth::attributes::{Attributes, Resource, Target};
use crate::api::auth::rules::{Decision, authorize, rules_of};
use crate::api::error::ApiError;
use crate::model::Timestamp;

/// May I do this? (`kubectl auth can-i create pods`)
pub static SELF_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    group: SelfSubjectAccessReview::GROUP,
    version: SelfSubjectAccessReview::VERSION,
    kind: SelfSubjectAccessReview::KIND,
    plural: SelfSubjectAccessReview::URL_PATH_SEGMENT,
    singular: "selfsubjectaccessreview",
    read: read::<SelfSubjectAccessReview>,
    admit: access,
    schema: |generator| generator.subschema_for::<SelfSubjectAccessReview>(),
    ..REVIEW
};

/// What may I do? (`kubectl auth can-i --list`)
pub static SELF_SUBJECT_RULES_REVIEW: Kind = Kind {
    group: SelfSubjectRulesReview::GROUP,
    version: SelfSubjectRulesReview::VERSION,
    kind: SelfSubjectRulesReview::KIND,
    plural: SelfSubjectRulesReview::URL_PATH_SEGMENT,
    singular: "selfsubjectrulesreview",
    read: read::<SelfSubjectRulesReview>,
    admit: list_rules,
    schema: |generator| generator.subschema_for::<SelfSubjectRulesReview>(),
    ..REVIEW
};

/// Who am I? (`kubectl auth whoami`)
pub static SELF_SUBJECT_REVIEW: Kind = WHO;

const WHO: Kind = Kind {
    group: SelfSubjectReview::GROUP,
    version: SelfSubjectReview::VERSION,
    kind: SelfSubjectReview::KIND,
    plural: SelfSubjectReview::URL_PATH_SEGMENT,
    singular: "selfsubjectreview",
    read: read::<SelfSubjectReview>,
    admit: tell_who::<SelfSubjectReview>,
    deprecated: None,
    view: None,
    schema: |generator| generator.subschema_for::<SelfSubjectReview>(),
    ..REVIEW
};

/// The same as kubectl 1.27 asks it: it knows no later version.
pub static SELF_SUBJECT_REVIEW_BETA: Kind = Kind {
    version: BetaReview::VERSION,
    read: read::<BetaReview>,
    admit: tell_who::<BetaReview>,
    schema: |generator| generator.subschema_for::<BetaReview>(),
    ..WHO
};

/// `SelfSubjectReview` contains the user information that the kube-apiserver has about the user making this request.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.api.authentication.v1beta1.SelfSubjectReview")]
struct BetaReview {
    /// `APIVersion` defines the versioned schema of this representation of an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
    /// Kind is a string value representing the REST resource this object represents.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Standard object's metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<ObjectMeta>,
    /// Status is filled in by the server with the user attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<SelfSubjectReviewStatus>,
}

impl k8s_openapi::Resource for BetaReview {
    const API_VERSION: &'static str = "authentication.k8s.io/v1beta1";
    const GROUP: &'static str = SelfSubjectReview::GROUP;
    const KIND: &'static str = SelfSubjectReview::KIND;
    const VERSION: &'static str = "v1beta1";
    const URL_PATH_SEGMENT: &'static str = SelfSubjectReview::URL_PATH_SEGMENT;
    type Scope = k8s_openapi::ClusterResourceScope;
}

/// What all reviews have in common.
pub(super) const REVIEW: Kind = Kind {
    group: "",
    version: "",
    kind: "",
    // Answered and forgotten.
    stored_as: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: &["create"],
    subresources: &[],
    // The columns of a kind without its own (`apiserver/pkg/registry/rest/table.go`).
    columns: &[
        Column {
            name: "Name",
            cell_type: "string",
            format: "name",
            description: "Name must be unique within a namespace.",
            priority: 0,
        },
        Column {
            name: "Created At",
            cell_type: "date",
            format: "",
            description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
            priority: 0,
        },
    ],
    selectable: &[],
    row,
    read: read::<SelfSubjectReview>,
    admit: tell_who::<SelfSubjectReview>,
    amend,
    deprecated: None,
    view: None,
    schema: |generator| generator.subschema_for::<SelfSubjectReview>(),
};

fn row(object: &Value, _now: Timestamp) -> Row {
    let metadata = &object["metadata"];
    Row {
        cells: vec![
            metadata["name"].as_str().unwrap_or_default().into(),
            metadata["creationTimestamp"].as_str().unwrap_or_default().into(),
        ],
        conditions: Vec::new(),
    }
}

fn amend(_current: &Value, _proposed: Value, _validation: FieldValidation) -> Result<Amended, ApiError> {
    Err(ApiError::MethodNotAllowed)
}

pub(super) fn decode<K: DeserializeOwned + JsonSchema + k8s_openapi::Resource>(
    bytes: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
) -> Result<Decoded<K>, ApiError> {
    admit::decode(bytes, encoding, validation).map_err(|e| ApiError::bad_request(e.to_string()))
}

fn written(review: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(review).map_err(|e| ApiError::internal("a review cannot be written", e))
}

pub(super) fn read<K>(bytes: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded<Value>, ApiError>
where
    K: DeserializeOwned + Serialize + JsonSchema + k8s_openapi::Resource,
{
    let Decoded { object, warnings } = decode::<K>(bytes, encoding, validation)?;
    Ok(Decoded {
        object: written(&object)?,
        warnings,
    })
}

pub(super) fn answered(review: &impl Serialize, warnings: Vec<String>) -> Result<Admitted, ApiError> {
    Ok(Admitted {
        name: String::new(),
        object: written(review)?,
        status: None,
        generated: false,
        warnings,
    })
}

/// Who asks: the guard said so, or there is none.
fn asker<'a>(draft: &Draft<'a>) -> Result<&'a Identity, ApiError> {
    draft.asker.ok_or(ApiError::Unauthorized)
}

fn access(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let identity = asker(draft)?;
    let Decoded {
        object: mut review,
        warnings,
    } = decode::<SelfSubjectAccessReview>(draft.bytes, draft.encoding, draft.validation)?;
    let mut faults = Vec::new();
    let mut fault = |field: &str, detail: &str| {
        faults.push(Fault {
            field: field.to_owned(),
            reason: FaultReason::Invalid,
            detail: detail.to_owned(),
        });
    };
    if review.metadata != ObjectMeta::default() {
        fault("metadata", "Invalid value: must be empty");
    }
    let asked = match (&review.spec.resource_attributes, &review.spec.non_resource_attributes) {
        (Some(resource), None) => Some(of_resource(resource)),
        (None, Some(path)) => Some(of_path(path)),
        (Some(_), Some(_)) => {
            fault(
                "spec.nonResourceAttributes",
                "Invalid value: cannot be specified in combination with resourceAttributes",
            );
            None
        }
        (None, None) => {
            fault(
                "spec.resourceAttributes",
                "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
            None
        }
    };
    let Some(asked) = asked.filter(|_| faults.is_empty()) else {
        return Err(ApiError::Invalid {
            group: SELF_SUBJECT_ACCESS_REVIEW.group,
            kind: SELF_SUBJECT_ACCESS_REVIEW.kind,
            name: String::new(),
            faults,
        });
    };
    let (allowed, reason) = match authorize(identity, &asked) {
        Decision::Allowed { reason } => (true, Some(reason)),
        Decision::Denied => (false, None),
    };
    review.status = Some(SubjectAccessReviewStatus {
        allowed,
        reason,
        ..SubjectAccessReviewStatus::default()
    });
    answered(&review, warnings)
}

/// Selectors can only narrow what is asked, and no rule of podd's is narrower than a resource.
fn of_resource(attributes: &ResourceAttributes) -> Attributes {
    let ResourceAttributes {
        field_selector: _,
        group,
        label_selector: _,
        name,
        namespace,
        resource,
        subresource,
        verb,
        version,
    } = attributes;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Attributes {
        verb: text(verb),
        target: Target::Resource(Resource {
            group: text(group),
            version: text(version),
            plural: text(resource),
            subresource: text(subresource),
            namespace: text(namespace),
            name: text(name),
        }),
    }
}

fn of_path(attributes: &NonResourceAttributes) -> Attributes {
    let NonResourceAttributes { path, verb } = attributes;
    Attributes {
        verb: verb.clone().unwrap_or_default(),
        target: Target::Path(path.clone().unwrap_or_default()),
    }
}

fn list_rules(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let identity = asker(draft)?;
    let Decoded {
        object: mut review,
        warnings,
    } = decode::<SelfSubjectRulesReview>(draft.bytes, draft.encoding, draft.validation)?;
    if review.spec.namespace.as_ref().is_none_or(String::is_empty) {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let some = |list: &[&str]| Some(owned(list)).filter(|list| !list.is_empty());
    let mut status = SubjectRulesReviewStatus::default();
    let namespace = review.spec.namespace.as_deref().unwrap_or_default();
    for rule in rules_of(identity, namespace) {
        if rule.paths.is_empty() {
            status.resource_rules.push(ResourceRule {
                api_groups: some(rule.groups),
                resource_names: None,
                resources: some(rule.resources),
                verbs: owned(rule.verbs),
            });
        } else {
            status.non_resource_rules.push(NonResourceRule {
                non_resource_urls: some(rule.paths),
                verbs: owned(rule.verbs),
            });
        }
    }
    review.status = Some(status);
    answered(&review, warnings)
}

/// Nothing of the question matters: it only has to be one.
fn tell_who<K>(draft: &Draft<'_>) -> Result<Admitted, ApiError>
where
    K: DeserializeOwned + JsonSchema + k8s_openapi::Resource,
{
    let identity = asker(draft)?.clone();
    let Decoded { object: _, warnings } = decode::<K>(draft.bytes, draft.encoding, draft.validation)?;
    let review = SelfSubjectReview {
        metadata: ObjectMeta {
            creation_timestamp: Some(Time(draft.now)),
            ..ObjectMeta::default()
        },
        status: Some(SelfSubjectReviewStatus {
            user_info: Some(user_info(identity)),
        }),
    };
    let mut admitted = answered(&review, warnings)?;
    admitted.object["apiVersion"] = K::API_VERSION.into();
    Ok(admitted)
}
