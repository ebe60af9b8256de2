//! What holds for every request before its handler sees it: where it came from, who asks, and how many ask at once.
//!
//! The listeners put a [`Peer`] into each request; a request without one is from nobody.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::Limits;
use super::error::ApiError;

/// Whoever has this group may do everything (Kubernetes' own name for it).
pub(crate) const ADMINS: &str = "system:masters";

/// Who asks: the subject of a certificate of podd's own CA, or root on the unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
}

impl Identity {
    /// Root, on the unix socket.
    pub(crate) fn root() -> Self {
        Self {
            user: "root".to_owned(),
            groups: vec![ADMINS.to_owned()],
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// `None`: nobody who could prove who they are.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The names this listener is meant by, for connections that a browser could have made; `None`: it could not.
    pub(crate) hosts: Option<Arc<Hosts>>,
    /// The address of our end of the connection.
    pub(crate) local: Option<IpAddr>,
    /// The address of the client's end.
    pub(crate) remote: Option<IpAddr>,
    /// True once the agent stops.
    pub(crate) stopping: watch::Receiver<bool>,
    /// Streams that outlive their request: the listener waits for them before it ends.
    pub(crate) streams: TaskTracker,
}

/// Completes once the agent stops; never where no listener said how to know.
pub(crate) async fn stopped(stopping: &mut Option<watch::Receiver<bool>>) {
    match stopping {
        // An error means that the agent is gone already.
        Some(stopping) => drop(stopping.wait_for(|stop| *stop).await),
        None => std::future::pending().await,
    }
}

/// What a `Host` header may name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    pub(crate) names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Hosts {
    fn allow(&self, host: &str, local: Option<IpAddr>) -> bool {
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || self.addresses.contains(&address) || local == Some(address),
            Err(_) => host.eq_ignore_ascii_case("localhost") || self.names.iter().any(|n| n.eq_ignore_ascii_case(host)),
        }
    }
}

/// The paths that tell nothing of anyone: for probes without a certificate.
fn is_public(uri: &Uri) -> bool {
    matches!(uri.path(), "/healthz" | "/livez" | "/readyz" | "/version" | "/version/")
}

/// The host that a request means, without its port.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    if let Some(host) = uri.host() {
        return Some(host);
    }
    let authority = headers.get(header::HOST)?.to_str().ok()?;
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next();
    }
    authority.split(':').next()
}

/// Whether an `Origin` is the habit of a program, as of Python's clients, and not of a page: it is this server itself that
/// is named, for a WebSocket, by a client that does not say what it is. Every browser says so, whatever a page wants.
fn is_a_programs_own(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &axum::http::HeaderValue| value.to_str().ok())
    };
    let is_own = text(header::ORIGIN).and_then(|origin| origin.strip_prefix("https://"));
    is_own.is_some()
        && is_own == text(header::HOST)
        && text(header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"))
        && !headers.contains_key(header::USER_AGENT)
        && !headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"))
}

fn check(request: &Request) -> Result<(), ApiError> {
    let peer = request.extensions().get::<Peer>();
    if let Some(Peer {
        hosts: Some(hosts),
        local,
        ..
    }) = peer
    {
        // No page of any browser has business here, whatever certificate the browser may hold.
        if request.headers().contains_key(header::ORIGIN) && !is_a_programs_own(request.headers()) {
            return Err(ApiError::Forbidden {
                message: "requests from web pages are refused".to_owned(),
            });
        }
        // A name that is not ours leads here only where someone bends DNS.
        match host(request.uri(), request.headers()) {
            Some(host) if hosts.allow(host, local.map(|l| l.to_canonical())) => {}
            Some(_) | None => {
                return Err(ApiError::Misdirected {
                    message: "this server is not the host that was asked for".to_owned(),
                });
            }
        }
    }
    if is_public(request.uri()) {
        return Ok(());
    }
    let identity = peer.and_then(|p| p.identity.as_deref()).ok_or(ApiError::Unauthorized)?;
    if identity.groups.iter().any(|g| g == ADMINS) {
        return Ok(());
    }
    let (method, path) = (request.method(), request.uri().path());
    Err(ApiError::Forbidden {
        message: format!(
            "forbidden: User \"{}\" cannot {} path \"{path}\"",
            identity.user,
            method.as_str().to_lowercase()
        ),
    })
}

/// A router behind the guard: whatever it serves, nobody gets past without being asked who they are.
pub(crate) fn guarded(router: Router, limits: &Limits) -> Router {
    let requests = Arc::new(Semaphore::new(limits.requests));
    router
        .layer(axum::middleware::from_fn_with_state(requests, guard))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
}

async fn guard(State(requests): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    if let Err(error) = check(&request) {
        return error.into_response();
    }
    if is_public(request.uri()) {
        return next.run(request).await;
    }
    // Held until the answer's head is there: what streams on has a permit of its own.
    let Ok(_permit) = requests.try_acquire() else {
        return ApiError::TooManyRequests {
            retry_after: Duration::from_secs(1),
        }
        .into_response();
    };
    next.run(request).await
}

#[expect(clippy::needless_pass_by_value, reason = "the layer gives it so")]
fn panicked(reason: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = reason
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| reason.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    ApiError::internal("a handler failed", text.to_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_found_without_its_port() {
        let of = |uri: &str, host_header: Option<&str>| {
            let uri: Uri = uri.parse().unwrap();
            let mut headers = HeaderMap::new();
            if let Some(value) = host_header {
                headers.insert(header::HOST, value.parse().unwrap());
            }
            host(&uri, &headers).map(str::to_owned)
        };
        assert_eq!(of("/x", Some("127.0.0.1:7443")).as_deref(), Some("127.0.0.1"));
        assert_eq!(of("/x", Some("[::1]:7443")).as_deref(), Some("[::1]"));
        assert_eq!(of("/x", Some("localhost")).as_deref(), Some("localhost"));
        assert_eq!(of("https://evil.example/x", None).as_deref(), Some("evil.example"));
        assert_eq!(of("/x", None), None);
    }

    #[test]
    fn an_origin_is_forgiven_to_programs_alone() {
        let own = [("origin", "https://h:1"), ("host", "h:1"), ("upgrade", "websocket")];
        let of = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.insert(*name, axum::http::HeaderValue::from_static(value));
            }
            is_a_programs_own(&headers)
        };
        assert!(of(&own));
        assert!(!of(&own[..2]), "no WebSocket");
        for more in [
            ("user-agent", "Mozilla/5.0"),
            ("sec-fetch-site", "same-origin"),
            ("host", "other:1"),
            ("origin", "https://evil.example"),
            ("origin", "http://h:1"),
            ("origin", "null"),
        ] {
            assert!(!of(&[&own[..], &[more]].concat()), "{more:?}");
        }
    }

    #[test]
    fn only_our_own_names_are_hosts() {
        let hosts = Hosts {
            names: vec!["node-1".to_owned()],
            addresses: vec!["10.0.0.1".parse().unwrap()],
        };
        let local = Some("192.0.2.7".parse().unwrap());
        for ours in ["127.0.0.1", "[::1]", "localhost", "NODE-1", "10.0.0.1", "192.0.2.7"] {
            assert!(hosts.allow(ours, local), "{ours}");
        }
        for foreign in [
            "evil.example",
            "10.0.0.2",
            "node-1.evil.example",
            "",
            "localhost.evil.example",
        ] {
            assert!(!hosts.allow(foreign, local), "{foreign}");
        }
    }
}
