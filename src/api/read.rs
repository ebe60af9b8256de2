//! GET of one object and LIST, for every kind.
//!
//! **Invariant:** a list shows exactly the state of its resource version, so that a watch from it misses nothing and
//! repeats nothing. All pages of one list show the state of its first page; where that is no longer known, the client is
//! told (410).

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
use super::params::{Head, Params, invalid_option};
use super::selector::Selector;
use super::table::Include;
use crate::admit::FaultReason;
use crate::store::StoredObject;

/// Objects read from the store at once while a selector thins them out.
const CHUNK: usize = 500;

pub(crate) fn answer(state: &Api, kind: &'static Kind, head: &Head) -> Result<Answer, ApiError> {
    Ok(Answer {
        kind,
        form: negotiate::form(&head.headers)?,
        include: Include::parse(head.params.text("includeObject"))?,
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
        .get(kind.stored_as, namespace, name)
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
    if let Some(asked) = head.params.resource_version()? {
        check_not_ahead(state, kind, asked).await?;
    }
    let object = stored(state, kind, head.namespace(), head.name()?).await?;
    answer.object(StatusCode::OK, &object.json, &[])
}

/// What a continue token holds: where to go on, and the version the list began at.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Continue {
    v: u8,
    /// `None`: that version cannot be shown any more; the client was told so, and goes on with what there is now.
    rv: Option<u64>,
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

/// Which state of the objects a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The newest.
    Now,
    /// The newest, which must not be older than this.
    NotBefore(u64),
    /// This one, or none.
    Exactly(u64),
}

impl At {
    /// Kubernetes' rules of `resourceVersion` and `resourceVersionMatch`.
    fn parse(params: &Params, limited: bool, token: Option<&Continue>) -> Result<Self, ApiError> {
        params.check_list()?;
        let asked = params.resource_version()?;
        if let Some(token) = token {
            if asked.is_some() {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            return Ok(token.rv.map_or(Self::Now, Self::Exactly));
        }
        Ok(match (asked, params.text("resourceVersionMatch")) {
            (None, _) => Self::Now,
            (Some(version), Some("Exact")) => Self::Exactly(version),
            // Without a match a limited list has always been of that very version.
            (Some(version), None) if limited => Self::Exactly(version),
            (Some(version), _) => Self::NotBefore(version),
        })
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
    let at = At::parse(params, limit.is_some(), token.as_ref())?;
    if let At::NotBefore(asked) | At::Exactly(asked) = at {
        check_not_ahead(state, kind, asked).await?;
    }
    let selector = params.selector(kind)?;
    let after = token.map(|t| (t.ns, t.name));
    let gathered = match gather(state, kind, head, &selector, limit, at, after.clone()).await {
        Err(ApiError::Expired { .. }) if after.is_some() => {
            let (ns, name) = after.unwrap_or_default();
            let token = Continue {
                v: 1,
                rv: None,
                ns,
                name,
            }
            .encode();
            return Err(ApiError::ExpiredContinue { token });
        }
        gathered => gathered?,
    };
    let mut metadata = json!({ "resourceVersion": gathered.resource_version.to_string() });
    if let Some(next) = &gathered.next {
        metadata["continue"] = next.encode().into();
        // A selector would have to be applied to all that is left: then nobody counts, as in Kubernetes.
        if selector.is_empty() {
            let after = (next.ns.as_str(), next.name.as_str());
            let left = state
                .store
                .count_at(
                    kind.stored_as,
                    head.namespace.as_deref(),
                    after,
                    gathered.resource_version,
                )
                .await
                .map_err(|e| ApiError::from_store(e, kind, ""))?;
            metadata["remainingItemCount"] = left.into();
        }
    }
    answer.list(&metadata, gathered.objects.iter().map(AsRef::as_ref))
}

/// A version that is yet to come cannot be waited for: it is from another life of the database.
pub(crate) async fn check_not_ahead(state: &Api, kind: &'static Kind, asked: u64) -> Result<(), ApiError> {
    let current = state
        .store
        .resource_version()
        .await
        .map_err(|e| ApiError::from_store(e, kind, ""))?;
    if asked > current {
        return Err(ApiError::TooLargeResourceVersion { asked, current });
    }
    Ok(())
}

async fn gather(
    state: &Api,
    kind: &'static Kind,
    head: &Head,
    selector: &Selector,
    limit: Option<usize>,
    at: At,
    mut after: Option<(String, String)>,
) -> Result<Gathered, ApiError> {
    let namespace = head.namespace.as_deref();
    let mut version = match at {
        At::Now | At::NotBefore(_) => None,
        At::Exactly(version) => Some(version),
    };
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
        let from = after.as_ref().map(|(ns, name)| (ns.as_str(), name.as_str()));
        let page = match version {
            None => state.store.list(kind.stored_as, namespace, from, chunk).await,
            Some(version) => {
                state
                    .store
                    .list_at(kind.stored_as, namespace, from, chunk, version)
                    .await
            }
        }
        .map_err(|e| ApiError::from_store(e, kind, ""))?;
        let version = *version.get_or_insert(page.resource_version);
        let last_page = chunk.is_none_or(|c| page.objects.len() + page.unreadable.len() < c) || page.objects.is_empty();
        for error in &page.unreadable {
            tracing::warn!(%error, kind = kind.kind, "an object is left out of a list");
        }
        for object in page.objects {
            if selector.matches(&object.json) {
                if limit == Some(objects.len()) {
                    let next = after.map(|(ns, name)| Continue {
                        v: 1,
                        rv: Some(version),
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
            rv: Some(7),
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
