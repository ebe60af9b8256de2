//! The API: Kubernetes' paths, verbs and words over HTTP.
//!
//! Goes in: requests, from the TLS listener and the unix socket (`serve`). Comes out: answers, and desired state in
//! the store. Reads come from the store as well; the only things reached besides it are log files, and what runs in pods
//! (`stream`).
//!
//! The handlers (`read`, `write`, `delete`, `watching`) know no kind: they work on JSON and on the values in [`kinds`]. A
//! kind brings its names, its table and its admission. What is the same for every request stands in `guard`: from where it
//! comes, who asks and whether they may ([`auth`]), and how many at once.
//!
//! **Invariants:** this room never calls the runtime, but for streams, and writes of a status only what it begins with and
//! what clients are allowed to. Every refusal is a Kubernetes `Status`
//! ([`error`]). No request, however large, slow or deep, holds more than a fixed amount of memory.

mod accounts;
mod answer;
pub mod auth;
mod body;
mod delete;
mod discovery;
pub mod error;
mod guard;
mod heartbeat;
pub mod images;
pub mod kinds;
mod log;
mod negotiate;
mod node_watch;
pub mod openapi;
mod pace;
mod params;
mod patch;
mod pod_security;
mod pods;
mod read;
mod selector;
mod serve;
mod stream;
mod table;
#[cfg(test)]
mod tests;
pub mod tls;
mod watching;
mod write;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{MethodRouter, get, patch, post, put};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use discovery::git_version;
pub use error::ApiError;
pub use serve::{serve_tls, serve_unix};

use crate::linux::inotify::Inotify;
use crate::model::Timestamp;
use crate::runtime::stream::Streams;
use crate::store::Store;
use auth::Bearers;
use kinds::{Amend, KINDS, Kind};
use node_watch::NodeWatch;
use params::Head;
use pod_security::PolicyWatch;

/// How much and how long the API lets anyone have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests being worked on at once, streams not counted; more wait for their turn.
    pub requests: usize,
    /// How long a request waits for its turn before it is told to come back (429).
    pub patience: Duration,
    /// Watches, logs and streams of pods at once; more are told to come back (429).
    pub streams: usize,
    /// Connections of one listener; more wait to be accepted.
    pub connections: usize,
    /// Until a request's head has arrived: from its first byte, for the first one from when it could.
    pub head_timeout: Duration,
    /// How long a connection is kept between two requests (`IdleTimeout` of a kube-apiserver).
    pub idle_timeout: Duration,
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
            patience: Duration::from_secs(10),
            streams: 1024,
            connections: 4096,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            body_timeout: Duration::from_secs(30),
            bookmark_every: Duration::from_mins(1),
            stop_timeout: Duration::from_secs(3),
        }
    }
}

/// What the API is given by the agent.
#[derive(Debug, Clone)]
pub struct ApiState {
    pub store: Store,
    /// The node that pods are bound to.
    pub node_name: String,
    /// `LOG_DIR`: the files of `/log` are beneath it.
    pub log_dir: PathBuf,
    /// True once the agent serves pods: `/readyz` tells it.
    pub ready: watch::Receiver<bool>,
    /// Where exec, attach and port-forward lead.
    pub streams: Arc<dyn Streams>,
    /// How long such a stream may be without data.
    pub streaming_idle_timeout: Duration,
    /// Who is known by a token.
    pub bearers: Bearers,
    /// Where pods reach this API.
    pub address: SocketAddr,
    /// Where the time comes from.
    pub clock: fn() -> Timestamp,
}

/// What every handler has: the agent's gifts and what all requests share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    store: Store,
    node_name: Arc<str>,
    node: Arc<NodeWatch>,
    policies: Arc<PolicyWatch>,
    log_dir: Arc<Path>,
    ready: watch::Receiver<bool>,
    clock: fn() -> Timestamp,
    limits: Limits,
    streams: Arc<Semaphore>,
    pod_streams: Arc<dyn Streams>,
    streaming_idle_timeout: Duration,
    bearers: Bearers,
    address: SocketAddr,
    inotify: Inotify,
    lines: Arc<watching::Lines>,
}

impl Api {
    fn new(state: ApiState, limits: Limits) -> Self {
        let ApiState {
            store,
            node_name,
            log_dir,
            ready,
            streams,
            streaming_idle_timeout,
            bearers,
            address,
            clock,
        } = state;
        let node_name: Arc<str> = node_name.into();
        Self {
            node: Arc::new(NodeWatch::new(store.clone(), Arc::clone(&node_name))),
            policies: Arc::new(PolicyWatch::new(store.clone())),
            store,
            node_name,
            log_dir: log_dir.into(),
            ready,
            clock,
            limits,
            streams: Arc::new(Semaphore::new(limits.streams)),
            pod_streams: streams,
            streaming_idle_timeout,
            bearers,
            address,
            inotify: Inotify::default(),
            lines: Arc::default(),
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The right to stream until it is dropped.
    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| ApiError::TooManyRequests {
                retry_after: Duration::from_secs(1),
            })
    }
}

/// Every path of the API. Paths of other rooms may be merged to it: the listeners put all of them behind the guard.
pub fn router(state: ApiState) -> Router {
    router_with(state, Limits::default())
}

/// The same with limits other than the usual ones.
pub fn router_with(state: ApiState, limits: Limits) -> Router {
    let mut router: Router<Api> = discovery::router().merge(openapi::router()).merge(health());
    for kind in KINDS {
        router = router.merge(routes(kind));
    }
    router
        .route("/api/v1/namespaces/{namespace}/pods/{name}/log", get(log::serve))
        .merge(pods::router())
        .merge(accounts::router())
        .merge(stream::router())
        .fallback(|uri: Uri| async move { discovery::no_such_path(uri.path()) })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .with_state(Api::new(state, limits))
}

/// The paths of one kind: a method for each of its verbs. A kind that only is read answers a POST too, with why it cannot.
fn routes(kind: &'static Kind) -> Router<Api> {
    if !kind.is_stored() {
        let ask = post(
            move |State(state): State<Api>, head: Head, request: Request| async move {
                write::create(&state, kind, &head, request.into_body()).await
            },
        );
        return Router::new().route(&kind.collection_path(), ask);
    }
    let list = get(
        move |State(state): State<Api>, head: Head, upgrade: watching::Upgrade| async move {
            collection(&state, kind, &head, upgrade).await
        },
    );
    let mut in_collection = list.clone().post(
        move |State(state): State<Api>, head: Head, request: Request| async move {
            write::create(&state, kind, &head, request.into_body()).await
        },
    );
    if kind.can("deletecollection") {
        in_collection = in_collection.delete(
            move |State(state): State<Api>, head: Head, request: Request| async move {
                delete::collection(&state, kind, &head, request.into_body()).await
            },
        );
    }
    let object = get(move |State(state): State<Api>, head: Head| async move { read::get(&state, kind, &head).await });
    let mut of_object = object.clone();
    if kind.can("update") {
        of_object = of_object.merge(replacing(kind, kind.amend));
    }
    if kind.can("patch") {
        of_object = of_object.merge(patching(kind, kind.amend));
    }
    if kind.can("delete") {
        of_object = of_object.delete(
            move |State(state): State<Api>, head: Head, request: Request| async move {
                delete::delete(&state, kind, &head, request.into_body()).await
            },
        );
    }
    let path = kind.collection_path();
    let mut router = Router::new()
        .route(&format!("{path}/{{name}}"), of_object)
        .route(&path, in_collection);
    for subresource in kind.subresources {
        let path = format!("{path}/{{name}}/{}", subresource.name);
        let can = |verb: &str| subresource.verbs.contains(&verb);
        let shows_the_object = ["ephemeralcontainers", "resize", "status"].contains(&subresource.name);
        if shows_the_object && can("get") {
            router = router.route(&path, object.clone());
        }
        if let Some(amend) = subresource.amend.filter(|_| can("update")) {
            router = router.route(&path, replacing(kind, amend));
        }
        if let Some(amend) = subresource.amend.filter(|_| can("patch")) {
            router = router.route(&path, patching(kind, amend));
        }
    }
    if kind.namespaced {
        router = router.route(&format!("{}/{}", kind.base_path(), kind.plural), list);
    }
    match kind.deprecated {
        None => router,
        Some(why) => router.layer(map_response(move |answer: Response| async move {
            answer::with_warning(answer, why)
        })),
    }
}

fn replacing(kind: &'static Kind, amend: Amend) -> MethodRouter<Api> {
    put(
        move |State(state): State<Api>, head: Head, request: Request| async move {
            write::replace(&state, kind, amend, &head, request.into_body()).await
        },
    )
}

fn patching(kind: &'static Kind, amend: Amend) -> MethodRouter<Api> {
    patch(
        move |State(state): State<Api>, head: Head, request: Request| async move {
            write::patch(&state, kind, amend, &head, request.into_body()).await
        },
    )
}

/// LIST, or WATCH where the query says so.
async fn collection(
    state: &Api,
    kind: &'static Kind,
    head: &Head,
    upgrade: watching::Upgrade,
) -> Result<Response, ApiError> {
    if head.params.flag("watch").unwrap_or(false) {
        watching::watch(state, kind, head, upgrade).await
    } else {
        read::list(state, kind, head).await
    }
}

fn health() -> Router<Api> {
    let ok = || async { answer::response(StatusCode::OK, "text/plain; charset=utf-8", "ok") };
    let ready = |State(state): State<Api>| async move {
        if *state.ready.borrow() {
            answer::response(StatusCode::OK, "text/plain; charset=utf-8", "ok")
        } else {
            answer::response(
                StatusCode::SERVICE_UNAVAILABLE,
                "text/plain; charset=utf-8",
                "not ready",
            )
        }
    };
    Router::new()
        .route("/healthz", get(ok))
        .route("/livez", get(ok))
        .route("/readyz", get(ready))
}
