//! The API: Kubernetes' paths, verbs and words over HTTP.
//!
//! Goes in: requests, from the TLS listener and the unix socket ([`serve`]). Comes out: answers, and desired state in
//! the store. Reads come from the store as well; the only thing read besides it are log files.
//!
//! The handlers (`read`, `write`, `delete`, `watch`) know no kind: they work on JSON and on the values in [`kinds`]. A
//! kind brings its names, its table and its admission. What is the same for every request stands in `guard`: who asks, from
//! where, and how many at once.
//!
//! **Invariants:** this room never calls the runtime and never writes a status. Every refusal is a Kubernetes `Status`
//! ([`error`]). No request, however large, slow or deep, holds more than a fixed amount of memory.

mod answer;
mod body;
mod delete;
mod discovery;
pub mod error;
mod guard;
pub mod images;
pub mod kinds;
mod log;
mod negotiate;
pub mod openapi;
mod params;
pub mod pki;
mod read;
mod selector;
pub mod serve;
mod table;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use error::ApiError;
pub use guard::{Identity, Peer};

use crate::linux::inotify::Inotify;
use crate::model::Timestamp;
use crate::store::Store;
use kinds::{KINDS, Kind};
use params::Head;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How much and how long the API lets anyone have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests being worked on at once, streams not counted; more are told to come back (429).
    pub requests: usize,
    /// Watches and logs being streamed at once; more are told to come back (429).
    pub streams: usize,
    /// Connections of one listener; more wait to be accepted.
    pub connections: usize,
    /// Until a request's head has arrived, counted from when it could: also how long an idle connection is kept.
    pub head_timeout: Duration,
    /// Until a request's body has arrived.
    pub body_timeout: Duration,
    /// Between two bookmarks of a watch.
    pub bookmark_every: Duration,
    /// What requests in flight get when the agent stops.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 128,
            streams: 1024,
            connections: 4096,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            bookmark_every: Duration::from_mins(1),
            stop_timeout: Duration::from_secs(3),
        }
    }
}

/// Everything a handler may need: cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub store: Store,
    pub node_name: Arc<str>,
    /// `LOG_DIR`: the files of `/log` are beneath it.
    pub log_dir: Arc<Path>,
    /// Set by the agent once it serves pods: `/readyz` tells it.
    pub ready: Arc<AtomicBool>,
    pub clock: Clock,
    /// Cancelled when the agent stops: listeners close, watches and logs end.
    pub shutdown: CancellationToken,
    pub limits: Limits,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    inotify: Inotify,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState")
            .field("node_name", &self.node_name)
            .field("log_dir", &self.log_dir)
            .field("ready", &self.ready)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl ApiState {
    pub fn new(store: Store, node_name: &str, log_dir: &Path, clock: Clock, limits: Limits) -> Self {
        Self {
            store,
            node_name: node_name.into(),
            log_dir: log_dir.into(),
            ready: Arc::new(AtomicBool::new(false)),
            clock,
            shutdown: CancellationToken::new(),
            limits,
            requests: Arc::new(Semaphore::new(limits.requests)),
            streams: Arc::new(Semaphore::new(limits.streams)),
            inotify: Inotify::default(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The right to stream until it is dropped.
    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| ApiError::TooManyRequests { retry_after: Duration::from_secs(1) })
    }
}

/// Every path of the API. `extra` brings paths of other rooms: they stand behind the same guard.
pub fn router(state: ApiState, extra: Router) -> Router {
    let mut router: Router<ApiState> = discovery::router().merge(openapi::router()).merge(health());
    for kind in KINDS {
        router = router.merge(routes(kind));
    }
    let router = router
        .route("/api/v1/namespaces/{namespace}/pods/{name}/log", get(log::serve))
        .with_state(state.clone())
        .merge(extra)
        .fallback(|| async { ApiError::NoSuchPath })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed });
    router
        .layer(axum::middleware::from_fn_with_state(state, guard::guard))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
}

/// The paths of one kind.
fn routes(kind: &'static Kind) -> Router<ApiState> {
    let list = get(move |State(state): State<ApiState>, head: Head| async move { collection(&state, kind, &head).await });
    let in_collection = list
        .clone()
        .post(move |State(state): State<ApiState>, head: Head, request: Request| async move {
            write::create(&state, kind, &head, request.into_body()).await
        })
        .delete(move |State(state): State<ApiState>, head: Head, request: Request| async move {
            delete::collection(&state, kind, &head, request.into_body()).await
        });
    let object = get(move |State(state): State<ApiState>, head: Head| async move { read::get(&state, kind, &head).await });
    let of_object = object
        .clone()
        .put(move |State(state): State<ApiState>, head: Head, request: Request| async move {
            write::replace(&state, kind, &head, request.into_body()).await
        })
        .merge(patch(move |State(state): State<ApiState>, head: Head, request: Request| async move {
            write::patch(&state, kind, &head, request.into_body()).await
        }))
        .delete(move |State(state): State<ApiState>, head: Head, request: Request| async move {
            delete::delete(&state, kind, &head, request.into_body()).await
        });
    let path = kind.collection_path();
    let mut router = Router::new()
        .route(&format!("{path}/{{name}}"), of_object)
        .route(&path, in_collection);
    if kind.subresources.iter().any(|s| s.name == "status") {
        router = router.route(&format!("{path}/{{name}}/status"), object);
    }
    if kind.namespaced {
        router = router.route(&format!("{}/{}", kind.base_path(), kind.plural), list);
    }
    router
}

/// LIST, or WATCH where the query says so.
async fn collection(state: &ApiState, kind: &'static Kind, head: &Head) -> Result<Response, ApiError> {
    if head.params.flag("watch").unwrap_or(false) {
        watch::watch(state, kind, head)
    } else {
        read::list(state, kind, head).await
    }
}

fn health() -> Router<ApiState> {
    let ok = || async { answer::response(StatusCode::OK, "text/plain; charset=utf-8", "ok") };
    let ready = |State(state): State<ApiState>| async move {
        if state.ready.load(Ordering::Acquire) && !state.shutdown.is_cancelled() {
            answer::response(StatusCode::OK, "text/plain; charset=utf-8", "ok")
        } else {
            answer::response(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", "not ready")
        }
    };
    Router::new().route("/healthz", get(ok)).route("/livez", get(ok)).route("/readyz", get(ready))
}

fn panicked(reason: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = reason
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| reason.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    ApiError::internal("a handler failed", text.to_owned()).into_response()
}
