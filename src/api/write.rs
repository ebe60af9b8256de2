//! POST, PUT and PATCH, for every kind.
//!
//! **Invariant:** nothing is stored that its kind's `admit` or `amend` did not return; a change is stored only over the
//! version it was made from.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use uuid::Uuid;

use super::Api;
use super::accounts;
use super::body;
use super::error::ApiError;
use super::kinds::pod::POD;
use super::kinds::token_review::TOKEN_REVIEW;
use super::kinds::{Accounts, Amended, Draft, Kind, NAMESPACE};
use super::params::Head;
use super::patch::Patch;
use super::pod_security;
use super::read;
use crate::admit::deletion::{self, Manner};
use crate::admit::{DEFAULT_ACCOUNT, Decoded, Encoding, FieldValidation};
use crate::model::Uid;
use crate::store::{StoreError, StoredObject};

/// How often a made-up name is made up anew when it is taken (`rest.Store`, `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: u32 = 8;
/// How often a PATCH is applied anew to a newer object (`apiserver/pkg/endpoints/handlers/patch.go`, `MaxRetryWhenPatchConflicts`).
const CONFLICT_ATTEMPTS: u32 = 5;

pub(crate) async fn create(state: &Api, kind: &'static Kind, head: &Head, body: Body) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let dry_run = head.params.dry_run("CreateOptions")?;
    let validation = head.params.field_validation("CreateOptions")?;
    let encoding = body::encoding(&head.headers)?;
    let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
    if encoding == Encoding::Json {
        body::check_depth(&bytes)?;
    }
    let namespace = head.namespace();
    let (node, classes) = state
        .node
        .look()
        .await
        .map_err(|error| ApiError::from_store(error, kind, ""))?;
    let unread = |error| ApiError::from_store(error, kind, "");
    let all = state.bearers.accounts();
    // The one that most pods have; whatever else one names is looked up when that is known.
    let mut accounts = Accounts::new();
    if kind.kind == POD.kind
        && let Some(account) = all.account(namespace, DEFAULT_ACCOUNT).await.map_err(unread)?
    {
        accounts.insert(DEFAULT_ACCOUNT.to_owned(), Some(account));
    }
    let mut attempt = 1;
    loop {
        let uid = Uid(Uuid::new_v4().to_string());
        let suffix = name_suffix(Uuid::new_v4());
        let volume_suffix = name_suffix(Uuid::new_v4());
        let draft = Draft {
            bytes: &bytes,
            encoding,
            validation,
            namespace,
            node: &node,
            classes: &classes,
            accounts: &accounts,
            asker: head.asker.as_deref(),
            now: state.now(),
            uid: uid.clone(),
            suffix: &suffix,
            volume_suffix: &volume_suffix,
        };
        let mut admitted = match (kind.admit)(&draft) {
            Err(ApiError::AccountUnread { name }) if !accounts.contains_key(&name) => {
                check_namespace(state, kind, namespace, "").await?;
                let account = all.account_for_pod(namespace, &name).await.map_err(unread)?;
                accounts.insert(name, account);
                continue;
            }
            admitted => admitted?,
        };
        if !kind.is_stored() {
            let mut object = admitted.object;
            if kind.kind == TOKEN_REVIEW.kind {
                object = accounts::reviewed(state, object).await?;
            }
            return answer.object(StatusCode::CREATED, &object, &admitted.warnings);
        }
        let said = pod_security::check(state, kind, namespace, None, &admitted.object).await?;
        admitted.warnings.extend(said);
        let name = admitted.name.as_str();
        if dry_run {
            check_namespace(state, kind, namespace, name).await?;
            if state
                .store
                .get(kind.stored_as, namespace, name)
                .await
                .map_err(|e| ApiError::from_store(e, kind, name))?
                .is_some()
            {
                return Err(ApiError::AlreadyExists {
                    kind,
                    name: name.to_owned(),
                });
            }
            let mut object = admitted.object;
            if let Some(status) = admitted.status {
                object["status"] = status;
            }
            return answer.object(StatusCode::CREATED, &object, &admitted.warnings);
        }
        match state
            .store
            .create_in_namespace(kind.stored_as, namespace, name, &uid, admitted.object, admitted.status)
            .await
        {
            Ok(stored) => return answer.object(StatusCode::CREATED, &stored.json, &admitted.warnings),
            Err(StoreError::AlreadyExists { .. }) if admitted.generated && attempt < NAME_ATTEMPTS => attempt += 1,
            Err(error) => return Err(ApiError::from_store(error, kind, name)),
        }
    }
}

/// Five characters of Kubernetes' alphabet for made-up names (`apimachinery/pkg/util/rand`: no vowels, no look-alikes).
fn name_suffix(random: Uuid) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    random
        .as_bytes()
        .iter()
        .take(5)
        .map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]))
        .collect()
}

/// What the store checks as it makes an object, for a dry run.
async fn check_namespace(state: &Api, kind: &'static Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
    if namespace.is_empty() {
        return Ok(());
    }
    let found = read::stored(state, &NAMESPACE, "", namespace).await?;
    if found.json["metadata"]["deletionTimestamp"].is_string() {
        return Err(ApiError::ending_namespace(kind, name.to_owned(), namespace));
    }
    Ok(())
}

/// Store a changed object over the version it was made from: the halves of it that differ. One that was only held by what
/// the change took away is removed.
pub(crate) async fn store_over(
    state: &Api,
    kind: &'static Kind,
    current: &StoredObject,
    object: Value,
) -> Result<StoredObject, StoreError> {
    let (namespace, name) = (&current.namespace, &current.name);
    if deletion::is_over(Manner::of(kind.stored_as), &object) {
        return state
            .store
            .delete(kind.stored_as, namespace, name, current.resource_version)
            .await
            .map(|gone| StoredObject {
                json: Arc::new(object),
                ..gone
            });
    }
    let status = object
        .get("status")
        .filter(|status| Some(*status) != current.json.get("status"));
    let status = status.cloned();
    state
        .store
        .update_halves(
            kind.stored_as,
            namespace,
            name,
            current.resource_version,
            without_status(object),
            status,
        )
        .await
}

/// What the store takes as desired: the object without what the store itself adds.
fn without_status(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
    }
    object
}

/// An update that asks for a version other than the current one comes too late.
fn check_version(kind: &'static Kind, proposed: &Value, current: &StoredObject) -> Result<(), ApiError> {
    match proposed["metadata"]["resourceVersion"].as_str() {
        None | Some("") => Ok(()),
        Some(asked) if asked == current.resource_version.to_string() => Ok(()),
        Some(_) => Err(ApiError::conflict(kind, &current.name)),
    }
}

/// PUT of an object or, by another `amend`, of a part of it.
pub(crate) async fn replace(
    state: &Api,
    kind: &'static Kind,
    amend: impl Fn(&Value, Value, FieldValidation) -> Result<Amended, ApiError>,
    head: &Head,
    body: Body,
) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let dry_run = head.params.dry_run("UpdateOptions")?;
    let validation = head.params.field_validation("UpdateOptions")?;
    let encoding = body::encoding(&head.headers)?;
    let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
    if encoding == Encoding::Json {
        body::check_depth(&bytes)?;
    }
    let Decoded {
        object: proposed,
        mut warnings,
    } = (kind.read)(&bytes, encoding, validation)?;
    let unconditional = proposed["metadata"]["resourceVersion"]
        .as_str()
        .is_none_or(str::is_empty);
    let mut attempt = 1;
    loop {
        let current = read::stored(state, kind, head.namespace(), head.name()?).await?;
        check_version(kind, &proposed, &current)?;
        let amended = amend(&current.json, proposed.clone(), FieldValidation::Ignore)?;
        warnings.extend(amended.warnings);
        let before = Some(&*current.json);
        warnings.extend(pod_security::check(state, kind, &current.namespace, before, &amended.object).await?);
        warnings.dedup();
        if dry_run || amended.object == *current.json {
            return answer.object(StatusCode::OK, &amended.object, &warnings);
        }
        match store_over(state, kind, &current, amended.object).await {
            Ok(stored) => return answer.object(StatusCode::OK, &stored.json, &warnings),
            Err(StoreError::Conflict { .. }) if unconditional && attempt < CONFLICT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(ApiError::from_store(error, kind, &current.name)),
        }
    }
}

/// PATCH of an object or, by another `amend`, of a part of it.
pub(crate) async fn patch(
    state: &Api,
    kind: &'static Kind,
    amend: impl Fn(&Value, Value, FieldValidation) -> Result<Amended, ApiError>,
    head: &Head,
    body: Body,
) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let dry_run = head.params.dry_run("PatchOptions")?;
    let validation: FieldValidation = head.params.field_validation("PatchOptions")?;
    let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
    let (patch, doubled) = Patch::read(&head.headers, &bytes, validation)?;
    let mut attempt = 1;
    loop {
        let current = read::stored(state, kind, head.namespace(), head.name()?).await?;
        let proposed = patch.apply(kind, &kind.shown(&current.json))?;
        check_version(kind, &proposed, &current)?;
        let mut amended = amend(&current.json, proposed, validation)?;
        amended.warnings.extend_from_slice(&doubled);
        let before = Some(&*current.json);
        let said = pod_security::check(state, kind, &current.namespace, before, &amended.object).await?;
        amended.warnings.extend(said);
        if dry_run || amended.object == *current.json {
            return answer.object(StatusCode::OK, &amended.object, &amended.warnings);
        }
        match store_over(state, kind, &current, amended.object).await {
            Ok(stored) => return answer.object(StatusCode::OK, &stored.json, &amended.warnings),
            Err(StoreError::Conflict { .. }) if attempt < CONFLICT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(ApiError::from_store(error, kind, &current.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_use_kubernetes_alphabet() {
        let suffix = name_suffix(Uuid::from_bytes([255; 16]));
        assert_eq!(suffix.len(), 5);
        assert!(suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)));
    }
}
