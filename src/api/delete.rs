//! DELETE of one object and of a collection.
//!
//! What becomes of the object is worked out in `admit::deletion`: a pod is only marked here, and the controller stops what
//! runs and removes the object when nothing is left; what finalizers hold waits for them.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::body;
use super::error::ApiError;
use super::kinds::{Kind, NAMESPACE, check_mortal};
use super::params::{Head, invalid_option};
use super::read;
use super::write::store_over;
use crate::admit::deletion::{self, Deletion, Manner, Propagation};
use crate::admit::{self, FaultReason};
use crate::store::{StoreError, StoredObject};

/// How often a delete is tried anew when the object changes under it.
const ATTEMPTS: u32 = 16;

/// `metav1.DeleteOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Options {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    propagation_policy: Option<String>,
    /// What `propagation_policy` was once called.
    orphan_dependents: Option<bool>,
    dry_run: Option<Vec<String>>,
    /// What of the options was not understood.
    #[serde(skip)]
    warnings: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Options {
    /// From the body; where there is none, from the query.
    async fn read(state: &Api, head: &Head, body: Body) -> Result<Self, ApiError> {
        let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
        if bytes.is_empty() {
            let params = &head.params;
            return Ok(Self {
                grace_period_seconds: params.number("gracePeriodSeconds")?,
                preconditions: None,
                propagation_policy: params.text("propagationPolicy").map(str::to_owned),
                orphan_dependents: params.flag("orphanDependents"),
                dry_run: params.text("dryRun").map(|v| vec![v.to_owned()]),
                warnings: Vec::new(),
            });
        }
        let decoded = admit::decode_options(&bytes, body::encoding(&head.headers)?, "DeleteOptions")
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        let mut options = Self::deserialize(decoded.object)
            .map_err(|e| ApiError::bad_request(format!("DeleteOptions cannot be read: {e}")))?;
        options.warnings = decoded.warnings;
        Ok(options)
    }

    /// Those in the body of an eviction; `dry_run` is the query's.
    pub(crate) fn of(options: DeleteOptions, dry_run: bool) -> Self {
        let DeleteOptions {
            api_version: _,
            dry_run: dry_run_said,
            grace_period_seconds,
            ignore_store_read_error_with_cluster_breaking_potential: _,
            kind: _,
            orphan_dependents,
            preconditions,
            propagation_policy,
        } = options;
        Self {
            grace_period_seconds,
            preconditions: preconditions.map(|wanted| Preconditions {
                uid: wanted.uid,
                resource_version: wanted.resource_version,
            }),
            propagation_policy,
            orphan_dependents,
            dry_run: if dry_run {
                Some(vec!["All".to_owned()])
            } else {
                dry_run_said
            },
            warnings: Vec::new(),
        }
    }

    /// The preconditions were met, and the object was changed on the way to its deletion.
    pub(crate) fn follow(&mut self, object: &StoredObject) {
        if let Some(version) = self.preconditions.as_mut().and_then(|p| p.resource_version.as_mut()) {
            *version = object.resource_version.to_string();
        }
    }

    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let unsupported = |field: &str, value: &str, known: &str| {
            let detail = format!("Unsupported value: \"{value}\": supported values: {known}");
            invalid_option("DeleteOptions", field, FaultReason::NotSupported, detail)
        };
        if self.propagation_policy.is_some() && self.orphan_dependents.is_some() {
            return Err(invalid_option(
                "DeleteOptions",
                "propagationPolicy",
                FaultReason::Invalid,
                format!(
                    "Invalid value: {:?}: orphanDependents and deletionPropagation cannot be both set",
                    self.propagation_policy.as_deref().unwrap_or_default()
                ),
            ));
        }
        if let Some(policy) = self.propagation_policy.as_deref()
            && propagation(policy).is_none()
        {
            return Err(unsupported(
                "propagationPolicy",
                policy,
                "\"Background\", \"Foreground\", \"Orphan\"",
            ));
        }
        match self.dry_run.iter().flatten().find(|v| *v != "All") {
            Some(other) => Err(unsupported("dryRun", other, "\"All\"")),
            None => Ok(()),
        }
    }

    fn propagation(&self) -> Option<Propagation> {
        match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some(policy), _) => propagation(policy),
            (None, Some(true)) => Some(Propagation::Orphan),
            (None, Some(false)) => Some(Propagation::Background),
            (None, None) => None,
        }
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.as_ref().is_some_and(|d| !d.is_empty())
    }

    pub(crate) fn check_preconditions(&self, kind: &'static Kind, object: &StoredObject) -> Result<(), ApiError> {
        let Some(wanted) = &self.preconditions else {
            return Ok(());
        };
        let failed = |what: &str, asked: &str, found: &str| {
            Err(ApiError::Conflict {
                kind,
                name: object.name.as_ref().to_owned(),
                why: format!("Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}"),
            })
        };
        if let Some(uid) = wanted.uid.as_deref().filter(|u| *u != object.uid.as_str()) {
            return failed("UID", uid, object.uid.as_str());
        }
        let version = object.resource_version.to_string();
        if let Some(asked) = wanted.resource_version.as_deref().filter(|v| *v != version) {
            return failed("ResourceVersion", asked, &version);
        }
        Ok(())
    }
}

fn propagation(policy: &str) -> Option<Propagation> {
    match policy {
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        "Orphan" => Some(Propagation::Orphan),
        _ => None,
    }
}

pub(crate) async fn delete(state: &Api, kind: &'static Kind, head: &Head, body: Body) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let options = Options::read(state, head, body).await?;
    options.check()?;
    let object = read::stored(state, kind, head.namespace(), head.name()?).await?;
    match one(state, kind, object, &options).await? {
        Deleted::Marked(object) => answer.object(StatusCode::OK, &object, &options.warnings),
        Deleted::Gone(object) => {
            let mut details = json!({ "name": *object.name, "kind": kind.plural, "uid": object.uid.as_str() });
            if !kind.group.is_empty() {
                details["group"] = kind.group.into();
            }
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details
            });
            Ok(super::answer::json_response(StatusCode::OK, &status))
        }
    }
}

pub(crate) async fn collection(
    state: &Api,
    kind: &'static Kind,
    head: &Head,
    body: Body,
) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let selector = head.params.selector(kind)?;
    let options = Options::read(state, head, body).await?;
    options.check()?;
    let page = state
        .store
        .list(kind.stored_as, head.namespace.as_deref(), None, None)
        .await
        .map_err(|e| ApiError::from_store(e, kind, ""))?;
    let mut deleted = Vec::new();
    for object in page.objects.into_iter().filter(|o| selector.matches(&o.json)) {
        match one(state, kind, object, &options).await {
            Ok(Deleted::Marked(json)) => deleted.push(json),
            Ok(Deleted::Gone(object)) => deleted.push(object.json.as_ref().clone()),
            // Someone else deleted it meanwhile: all the better.
            Err(ApiError::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    let version = state
        .store
        .resource_version()
        .await
        .map_err(|e| ApiError::from_store(e, kind, ""))?;
    answer.list(&json!({ "resourceVersion": version.to_string() }), deleted.iter())
}

pub(crate) enum Deleted {
    Marked(Value),
    Gone(StoredObject),
}

pub(crate) async fn one(
    state: &Api,
    kind: &'static Kind,
    mut object: StoredObject,
    options: &Options,
) -> Result<Deleted, ApiError> {
    for _attempt in 0..ATTEMPTS {
        options.check_preconditions(kind, &object)?;
        let (namespace, name) = (&object.namespace, &object.name);
        if kind.stored_as == NAMESPACE.stored_as {
            check_mortal(name)?;
        }
        let deletion = deletion::delete(
            Manner::of(kind.stored_as),
            &object.json,
            options.grace_period_seconds,
            options.propagation(),
            state.now(),
        );
        let done = match deletion {
            Deletion::Unchanged => return Ok(Deleted::Marked(object.json.as_ref().clone())),
            Deletion::Mark(marked) if options.is_dry_run() => return Ok(Deleted::Marked(marked)),
            Deletion::Mark(marked) => store_over(state, kind, &object, marked)
                .await
                .map(|stored| Deleted::Marked(stored.json.as_ref().clone())),
            Deletion::Remove if options.is_dry_run() => return Ok(Deleted::Gone(object)),
            Deletion::Remove => state
                .store
                .delete(kind.stored_as, namespace, name, object.resource_version)
                .await
                .map(Deleted::Gone),
        };
        match done {
            Ok(deleted) => return Ok(deleted),
            Err(StoreError::Conflict { .. }) => {
                let fresh = read::stored(state, kind, namespace, name).await?;
                // A new object of the old name is not the one that was to be deleted.
                if fresh.uid != object.uid {
                    return Err(ApiError::NotFound {
                        kind,
                        name: object.name.as_ref().to_owned(),
                    });
                }
                object = fresh;
            }
            Err(error) => return Err(ApiError::from_store(error, kind, name)),
        }
    }
    Err(ApiError::conflict(kind, &object.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_mean_nothing_are_refused() {
        let options = |text: &str| serde_json::from_str::<Options>(text).unwrap().check();
        assert!(options(r#"{"propagationPolicy":"Background","dryRun":["All"]}"#).is_ok());
        assert_eq!(
            options(r#"{"propagationPolicy":"Later"}"#).unwrap_err().status()["code"],
            422
        );
        assert_eq!(options(r#"{"dryRun":["Some"]}"#).unwrap_err().status()["code"], 422);
    }
}
