//! DELETE of one object and of a collection.
//!
//! A pod is only marked here (`apiserver/pkg/registry/rest/delete.go`, `BeforeDelete`; `pkg/registry/core/pod/strategy.go`,
//! `CheckGracefulDelete`): the controller stops what runs and removes the object when nothing is left.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::body;
use super::error::ApiError;
use super::kinds::{Deletion, Kind};
use super::params::{Head, invalid_option};
use super::read;
use super::write::without_status;
use crate::admit::{Encoding, FaultReason};
use crate::model::Timestamp;
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
    dry_run: Option<Vec<String>>,
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
                dry_run: params.text("dryRun").map(|v| vec![v.to_owned()]),
            });
        }
        // Every client sends these as JSON; a YAML reader would have to be kept from growing what it reads.
        if body::encoding(&head.headers)? == Encoding::Yaml {
            return Err(ApiError::UnsupportedMediaType {
                accepted: "application/json",
            });
        }
        body::check_depth(&bytes)?;
        serde_json::from_slice(&bytes).map_err(|e| ApiError::bad_request(format!("DeleteOptions cannot be read: {e}")))
    }

    /// Those in the body of an eviction; `dry_run` is the query's.
    pub(crate) fn of(options: DeleteOptions, dry_run: bool) -> Self {
        let DeleteOptions {
            api_version: _,
            dry_run: dry_run_said,
            grace_period_seconds,
            ignore_store_read_error_with_cluster_breaking_potential: _,
            kind: _,
            orphan_dependents: _,
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
            dry_run: if dry_run {
                Some(vec!["All".to_owned()])
            } else {
                dry_run_said
            },
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
        if let Some(policy) = &self.propagation_policy
            && !["Background", "Foreground", "Orphan"].contains(&policy.as_str())
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

pub(crate) async fn delete(state: &Api, kind: &'static Kind, head: &Head, body: Body) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let options = Options::read(state, head, body).await?;
    options.check()?;
    let object = read::stored(state, kind, head.namespace(), head.name()?).await?;
    match one(state, kind, object, &options).await? {
        Deleted::Marked(object) => answer.object(StatusCode::OK, &object, &[]),
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
        .list(kind.kind, head.namespace.as_deref(), None, None)
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
        let done = match kind.deletion {
            Deletion::Graceful => {
                let Some(marked) = mark(&object.json, options.grace_period_seconds, state.now()) else {
                    return Ok(Deleted::Marked(object.json.as_ref().clone()));
                };
                if options.is_dry_run() {
                    return Ok(Deleted::Marked(marked));
                }
                let desired = without_status(marked);
                let updated = state
                    .store
                    .update(kind.kind, namespace, name, object.resource_version, desired)
                    .await;
                updated.map(|stored| Deleted::Marked(stored.json.as_ref().clone()))
            }
            Deletion::AtOnce if options.is_dry_run() => return Ok(Deleted::Gone(object)),
            Deletion::AtOnce => state
                .store
                .delete(kind.kind, namespace, name, object.resource_version)
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

/// The object as it is once its deletion was asked for; `None` when it is being deleted already and this changes nothing.
fn mark(object: &Value, asked: Option<i64>, now: Timestamp) -> Option<Value> {
    let metadata = &object["metadata"];
    let (grace, from) = if let Some(until) = metadata["deletionTimestamp"].as_str() {
        let before = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        // A second delete may only shorten the grace; it counts from the first one.
        let grace = asked.map(non_negative).filter(|g| *g < before)?;
        let until: Timestamp = until.parse().ok()?;
        (grace, until.checked_sub(SignedDuration::from_secs(before)).ok()?)
    } else {
        let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
            // Nothing runs of a pod that has no node.
            || object["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
        let of_spec = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        (
            if ended {
                0
            } else {
                non_negative(asked.unwrap_or(of_spec))
            },
            now,
        )
    };
    let until = from
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    let mut marked = object.clone();
    let generation = metadata["generation"].as_i64().unwrap_or(0) + 1;
    marked["metadata"]["deletionTimestamp"] = whole_seconds(until).into();
    marked["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    marked["metadata"]["generation"] = generation.into();
    Some(marked)
}

/// A negative grace counts as one second (`CheckGracefulDelete`).
fn non_negative(grace: i64) -> i64 {
    if grace < 0 { 1 } else { grace }
}

/// `metav1.Time` has whole seconds. A started one counts as whole, so that nobody gets less than the grace he was given.
fn whole_seconds(at: Timestamp) -> String {
    let started = i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(at.as_second() + started)
        .unwrap_or(at)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}, "status": {"phase": "Running"}})
    }

    #[test]
    fn the_first_delete_marks_the_pod_with_its_own_grace() {
        let marked = mark(&pod(), None, at("2026-01-01T00:00:00.9Z")).unwrap();
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:21Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 20);
        assert_eq!(marked["metadata"]["generation"], 2);
    }

    #[test]
    fn a_later_delete_may_only_shorten_the_grace() {
        let marked = mark(&pod(), Some(60), at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(mark(&marked, None, at("2026-01-01T00:00:05Z")), None);
        assert_eq!(mark(&marked, Some(60), at("2026-01-01T00:00:05Z")), None);
        let shorter = mark(&marked, Some(10), at("2026-01-01T00:00:05Z")).unwrap();
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 10);
        let killed = mark(&shorter, Some(0), at("2026-01-01T00:00:06Z")).unwrap();
        assert_eq!(killed["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(mark(&killed, Some(0), at("2026-01-01T00:00:06Z")), None);
    }

    #[test]
    fn an_ended_pod_needs_no_grace_and_a_negative_one_is_a_second() {
        let mut ended = pod();
        ended["status"]["phase"] = "Succeeded".into();
        assert_eq!(
            mark(&ended, Some(30), at("2026-01-01T00:00:00Z")).unwrap()["metadata"]["deletionGracePeriodSeconds"],
            0
        );
        assert_eq!(
            mark(&pod(), Some(-5), at("2026-01-01T00:00:00Z")).unwrap()["metadata"]["deletionGracePeriodSeconds"],
            1
        );
    }

    #[test]
    fn a_grace_beyond_all_time_does_no_harm() {
        assert!(mark(&pod(), Some(i64::MAX), at("2026-01-01T00:00:00Z")).is_some());
    }

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
