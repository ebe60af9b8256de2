//! GET of one object and LIST, for every kind.
//!
//! **Invariant:** the resource version of a list is never newer than what the list shows, so that a watch from it misses
//! nothing. All pages of one list carry the version of its first page: what changed since is replayed by that watch.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::error::ApiError;
use super::heartbeat::beaten;
use super::kinds::Kind;
use super::negotiate;
use super::params::{Head, invalid_option};
use super::table::Include;
use crate::admit::FaultReason;
use crate::store::StoredObject;

/// Objects read from the store at once while a selector thins them out.
const CHUNK: usize = 500;

pub(crate) fn answer(state: &Api, kind: &'static Kind, head: &Head) -> Result<Answer, ApiError> {
    Ok(Answer {
        kind,
        form: negotiate::form(&head.headers)?,
        include: Include::parse(head.params.get("includeObject")),
        now: state.now(),
    })
}

pub(crate) async fn stored(
    state: &Api,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
) -> Result<StoredObject, ApiError> {
    let mut object = state
        .store
        .get(kind.kind, namespace, name)
        .await
        .map_err(|e| ApiError::from_store(e, kind, name))?
        .ok_or_else(|| ApiError::NotFound {
            kind,
            name: name.to_owned(),
        })?;
    object.json = beaten(kind.kind, &state.node_name, object.json, state.now());
    Ok(object)
}

pub(crate) async fn get(state: &Api, kind: &'static Kind, head: &Head) -> Result<Response, ApiError> {
    let answer = answer(state, kind, head)?;
    let object = stored(state, kind, head.namespace(), head.name()?).await?;
    answer.object(StatusCode::OK, &object.json, &[])
}

/// What a continue token holds: where to go on, and the version the list began at.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Continue {
    v: u8,
    rv: u64,
    ns: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
            .filter(|c| c.v == 1)
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// A list, gathered page by page.
struct Gathered {
    objects: Vec<Arc<Value>>,
    resource_version: u64,
    next: Option<Continue>,
}

pub(crate) async fn list(state: &Api, kind: &'static Kind, head: &Head) -> Result<Response, ApiError> {
    let answer = answer(state, kind, head)?;
    let params = &head.params;
    let limit = match params.number("limit")? {
        None | Some(0) => None,
        Some(n) => Some(usize::try_from(n).map_err(|_| {
            let detail = format!("Invalid value: {n}: must be greater than or equal to 0");
            invalid_option("ListOptions", "limit", FaultReason::Invalid, detail)
        })?),
    };
    let token = params.text("continue").map(Continue::decode).transpose()?;
    if token.is_some() && params.resource_version()?.is_some() {
        return Err(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    if let Some(token) = &token {
        check_token(state, kind, token).await?;
    }
    let gathered = gather(state, kind, head, limit, token).await?;
    if let Some(asked) = params.resource_version()? {
        let current = gathered.resource_version;
        if asked > current {
            return Err(ApiError::TooLargeResourceVersion { asked, current });
        }
        if params.get("resourceVersionMatch") == Some("Exact") && asked != current {
            return Err(ApiError::too_old(asked, current));
        }
    }
    let mut metadata = json!({ "resourceVersion": gathered.resource_version.to_string() });
    if let Some(next) = &gathered.next {
        metadata["continue"] = next.encode().into();
    }
    answer.list(&metadata, gathered.objects.iter().map(AsRef::as_ref))
}

/// A token is good as long as a watch from its version could replay everything since.
async fn check_token(state: &Api, kind: &'static Kind, token: &Continue) -> Result<(), ApiError> {
    let expired = || {
        ApiError::Expired {
        message: "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.".to_owned(),
    }
    };
    let current = state
        .store
        .resource_version()
        .await
        .map_err(|e| ApiError::from_store(e, kind, ""))?;
    if token.rv > current {
        return Err(expired());
    }
    match state
        .store
        .changes(kind.kind, token.rv, 1)
        .await
        .map_err(|e| ApiError::from_store(e, kind, ""))
    {
        Ok(_) => Ok(()),
        Err(ApiError::Expired { .. }) => Err(expired()),
        Err(other) => Err(other),
    }
}

async fn gather(
    state: &Api,
    kind: &'static Kind,
    head: &Head,
    limit: Option<usize>,
    token: Option<Continue>,
) -> Result<Gathered, ApiError> {
    let selector = head.params.selector(kind)?;
    let namespace = head.namespace.as_deref();
    let mut resource_version = token.as_ref().map(|t| t.rv);
    let mut after = token.map(|t| (t.ns, t.name));
    let mut objects = Vec::new();
    loop {
        // One object more than is wanted tells whether there is a next page.
        let chunk = limit.map(|l| {
            if selector.is_empty() {
                l - objects.len() + 1
            } else {
                CHUNK
            }
        });
        let page = state
            .store
            .list(
                kind.kind,
                namespace,
                after.as_ref().map(|(ns, name)| (ns.as_str(), name.as_str())),
                chunk,
            )
            .await
            .map_err(|e| ApiError::from_store(e, kind, ""))?;
        let version = *resource_version.get_or_insert(page.resource_version);
        let last_page = chunk.is_none_or(|c| page.objects.len() + page.unreadable.len() < c) || page.objects.is_empty();
        for error in &page.unreadable {
            tracing::warn!(%error, kind = kind.kind, "an object is left out of a list");
        }
        for object in page.objects {
            if selector.matches(&object.json) {
                if limit == Some(objects.len()) {
                    let next = after.map(|(ns, name)| Continue {
                        v: 1,
                        rv: version,
                        ns,
                        name,
                    });
                    return Ok(Gathered {
                        objects,
                        resource_version: version,
                        next,
                    });
                }
                let json = Arc::clone(&object.json);
                objects.push(beaten(kind.kind, &state.node_name, json, state.now()));
            }
            after = Some((object.namespace.as_ref().to_owned(), object.name.as_ref().to_owned()));
        }
        if last_page {
            return Ok(Gathered {
                objects,
                resource_version: version,
                next: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_are_opaque_and_come_back_whole() {
        let token = Continue {
            v: 1,
            rv: 7,
            ns: "n".to_owned(),
            name: "p/ü".to_owned(),
        };
        let text = token.encode();
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
        assert_eq!(Continue::decode(&text).unwrap(), token);
        for bad in ["", "x", "e30", "!!!"] {
            assert_eq!(Continue::decode(bad).unwrap_err().status()["code"], 400);
        }
    }
}
