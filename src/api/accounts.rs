//! Tokens of service accounts: making one, telling whose one is, and the keys that tell anyone else.
//!
//! Rules and words: `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/apis/authentication/validation`,
//! `pkg/registry/authentication/tokenreview/storage.go`, `pkg/routes/openidmetadata.go`.
//!
//! **Invariant:** a token is in an answer to whoever asked for it, and nowhere else.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus, TokenReview, TokenReviewStatus, UserInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::Value;

use super::Api;
use super::answer::{json_response, response};
use super::auth::Identity;
use super::auth::bearer::Bearer;
use super::error::ApiError;
use super::kinds::pod::POD;
use super::kinds::secret::SECRET;
use super::kinds::service_account::SERVICE_ACCOUNT;
use super::kinds::{Kind, NODE};
use super::params::Head;
use super::pods::read_body;
use super::read;
use crate::account::{Account, Bound, BoundTo};
use crate::admit::{Fault, FaultReason};
use crate::store::StoredObject;

/// What a token lives for where nothing is said, in seconds (`pkg/apis/authentication/v1/defaults.go`).
const LIFE: i64 = 3600;
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;

/// The keys change only with the whole state directory (`keysetCacheMaxAge`).
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=3600");

pub(crate) fn router() -> Router<Api> {
    let request = |State(state): State<Api>, head: Head, request: Request| async move {
        token(&state, &head, request.into_body()).await
    };
    let configuration = |State(state): State<Api>| async move {
        let accounts = state.bearers.accounts();
        published("application/json", &accounts.configuration(&state.address.to_string()))
    };
    let keys = |State(state): State<Api>| async move {
        published("application/jwk-set+json", &state.bearers.accounts().keys())
    };
    Router::new()
        .route(
            "/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            post(request),
        )
        .route("/.well-known/openid-configuration", get(configuration))
        .route("/openid/v1/jwks", get(keys))
}

fn published(media: &'static str, document: &Value) -> Response {
    let mut answer = response(StatusCode::OK, media, document.to_string());
    answer.headers_mut().insert(header::CACHE_CONTROL, CACHED);
    answer
}

/// POST `token`: `kubectl create token`.
async fn token(state: &Api, head: &Head, body: axum::body::Body) -> Result<Response, ApiError> {
    // A token that nobody was to get would be of no use to ask for: it is made all the same, as Kubernetes does.
    head.params.dry_run("CreateOptions")?;
    let validation = head.params.field_validation("CreateOptions")?;
    let mut asked: TokenRequest = read_body(state, head, body, validation).await?;
    let (namespace, name) = (head.namespace(), head.name()?);
    for (field, said, own) in [
        ("name", &asked.metadata.name, name),
        ("namespace", &asked.metadata.namespace, namespace),
    ] {
        if let Some(other) = said.as_deref().filter(|said| !said.is_empty() && *said != own) {
            let detail = format!("Invalid value: {other:?}: must match the service account {field} if specified");
            return Err(invalid(name, &format!("metadata.{field}"), detail));
        }
    }
    let accounts = state.bearers.accounts();
    let account = accounts.account(namespace, name).await;
    let account = account.map_err(|error| ApiError::from_store(error, &SERVICE_ACCOUNT, name))?;
    let account = account.ok_or_else(|| ApiError::NotFound {
        kind: &SERVICE_ACCOUNT,
        name: name.to_owned(),
    })?;
    let mut spec = asked.spec.take().unwrap_or_default();
    let life = life(&spec)?;
    let bound = match &spec.bound_object_ref {
        Some(reference) => bound_to(state, namespace, &account, reference).await?,
        None => BoundTo::default(),
    };
    let audiences = spec.audiences.take().filter(|audiences| !audiences.is_empty());
    let audiences = audiences.unwrap_or_else(|| accounts.audiences().to_vec());
    let issued = accounts
        .issue((namespace, name, &account.uid), bound, &audiences, life)
        .map_err(|error| ApiError::internal("a token cannot be made", error))?;
    spec.audiences = Some(audiences);
    spec.expiration_seconds = i64::try_from(life.as_secs()).ok();
    asked.spec = Some(spec);
    asked.metadata.name = Some(name.to_owned());
    asked.metadata.namespace = Some(namespace.to_owned());
    asked.metadata.creation_timestamp = Some(Time(issued.issued_at));
    asked.status = Some(TokenRequestStatus {
        expiration_timestamp: Some(Time(issued.expires_at)),
        token: Some(issued.text),
    });
    Ok(json_response(StatusCode::CREATED, &asked))
}

fn invalid(name: &str, field: &str, detail: String) -> ApiError {
    ApiError::Invalid {
        group: "authentication.k8s.io",
        kind: "TokenRequest",
        name: name.to_owned(),
        faults: vec![Fault {
            field: field.to_owned(),
            reason: FaultReason::Invalid,
            detail,
        }],
    }
}

/// `ValidateTokenRequest`.
fn life(spec: &TokenRequestSpec) -> Result<Duration, ApiError> {
    let seconds = spec.expiration_seconds.unwrap_or(LIFE);
    let refuse = |why: &str| {
        let detail = format!("Invalid value: {seconds}: {why}");
        Err(invalid("", "spec.expirationSeconds", detail))
    };
    if seconds < SHORTEST {
        return refuse("may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST {
        return refuse("may not specify a duration larger than 2^32 seconds");
    }
    Ok(Duration::from_secs(seconds.unsigned_abs()))
}

/// What the token is worth nothing without.
async fn bound_to(
    state: &Api,
    namespace: &str,
    account: &Account,
    reference: &BoundObjectReference,
) -> Result<BoundTo, ApiError> {
    let BoundObjectReference {
        api_version,
        kind,
        name,
        uid,
    } = reference;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (version, kind, name) = (text(api_version), text(kind), text(name));
    let one = |stored: &StoredObject| Bound {
        name: stored.name.to_string(),
        uid: stored.uid.0.clone(),
    };
    let look = async |kind: &'static Kind, namespace: &str| {
        let stored = read::stored(state, kind, namespace, &name).await?;
        match uid.as_deref().filter(|uid| !uid.is_empty() && **uid != *stored.uid.0) {
            Some(asked) => Err(ApiError::Conflict {
                kind,
                name: name.clone(),
                why: format!(
                    "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            }),
            None => Ok(stored),
        }
    };
    match (version.as_str(), kind.as_str()) {
        ("v1", "Pod") => {
            let pod = look(&POD, namespace).await?;
            let own = account.object.metadata.name.as_deref().unwrap_or_default();
            if pod.json["spec"]["serviceAccountName"].as_str().unwrap_or_default() != own {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {own:?} to pod running with different serviceaccount name."
                )));
            }
            let node = match pod.json["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()) {
                Some(node) => Some(node_ref(state, node).await?),
                None => None,
            };
            Ok(BoundTo {
                pod: Some(one(&pod)),
                node,
                secret: None,
            })
        }
        ("v1", "Secret") => Ok(BoundTo {
            secret: Some(one(&look(&SECRET, namespace).await?)),
            ..BoundTo::default()
        }),
        ("v1", "Node") => Ok(BoundTo {
            node: Some(one(&look(&NODE, "").await?)),
            ..BoundTo::default()
        }),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", &version));
            Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )))
        }
    }
}

/// The node by its name; one that is not there has no uid.
async fn node_ref(state: &Api, name: &str) -> Result<Bound, ApiError> {
    let node = state.store.get(NODE.kind, "", name).await;
    let node = node.map_err(|error| ApiError::from_store(error, &NODE, name))?;
    Ok(Bound {
        name: name.to_owned(),
        uid: node.map(|node| node.uid.0).unwrap_or_default(),
    })
}

/// A review with its answer.
pub(crate) async fn reviewed(state: &Api, review: Value) -> Result<Value, ApiError> {
    let mut review =
        TokenReview::deserialize(review).map_err(|error| ApiError::internal("a review cannot be read", error))?;
    let token = review.spec.token.as_str();
    let audiences = review.spec.audiences.as_deref().unwrap_or_default();
    review.status = Some(match state.bearers.look(token, audiences).await? {
        Ok(Bearer { identity, audiences }) => TokenReviewStatus {
            audiences: Some(audiences),
            authenticated: Some(true),
            error: None,
            user: Some(user_info(identity.with_standing())),
        },
        Err(why) => TokenReviewStatus {
            error: Some(why),
            user: Some(UserInfo::default()),
            ..TokenReviewStatus::default()
        },
    });
    serde_json::to_value(&review).map_err(|error| ApiError::internal("a review cannot be written", error))
}

/// An identity in the words of `authentication.k8s.io`.
pub(crate) fn user_info(identity: Identity) -> UserInfo {
    let Identity {
        user,
        uid,
        groups,
        extra,
    } = identity;
    UserInfo {
        extra: Some(extra).filter(|extra| !extra.is_empty()),
        groups: Some(groups).filter(|groups| !groups.is_empty()),
        uid: Some(uid).filter(|uid| !uid.is_empty()),
        username: Some(user),
    }
}
