//! What holds for every request before its handler sees it: where it came from, who asks, whether they may, and how many
//! ask at once.
//!
//! The listeners put a [`Peer`] into each request; a request without one is from nobody. Handlers find who asks as an
//! `Arc<Identity>` among the request's extensions.
//!
//! **Invariant:** a request that is refused has had no effect: not even its body was read.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rustls::pki_types::UnixTime;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::Limits;
use super::auth::attributes::{Attributes, Resource, Target};
use super::auth::impersonation::{self, ImpersonationError};
use super::auth::rules::{authorize, is_public, refusal};
use super::auth::throttle::Throttle;
use super::auth::{Bearers, Identity, credentials};
use super::error::ApiError;
use super::tls::EXPIRED;

/// What a connection by itself says of who is at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Nothing: a token may say more.
    Nothing,
    Known {
        identity: Arc<Identity>,
        /// Seconds since the epoch up to which this holds; connections may last longer.
        until: Option<u64>,
    },
    /// Something that is not believed, and why.
    Refused(&'static str),
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) shown: Shown,
    /// The names this listener is meant by, for connections that a browser could have made; `None`: it could not.
    pub(crate) hosts: Option<Arc<Hosts>>,
    /// The address of our end of the connection.
    pub(crate) local: Option<IpAddr>,
    /// The address of the other end.
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

/// The host of an authority, without its port.
fn without_port(authority: &str) -> Option<&str> {
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next();
    }
    authority.split(':').next()
}

/// The host that a request means, without its port.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    if let Some(host) = uri.host() {
        return Some(host);
    }
    without_port(headers.get(header::HOST)?.to_str().ok()?)
}

/// Whether a page in a browser may have sent this.
///
/// `Origin` says so, mostly: but some clients send it as well (Python's websocket-client the server's own, Kubernetes'
/// test suite `http://localhost`). So an origin that is a name of ours passes where nothing else speaks of a browser: its
/// `User-Agent`, `Accept-Language` and `Sec-Fetch-Site`, none of which a page can take away. What a foreign page makes a
/// browser load without `Origin` (an image, a link) is known by `Sec-Fetch-Site` alone.
fn is_from_a_page(headers: &HeaderMap, ours: impl Fn(&str) -> bool) -> bool {
    let site = headers.get("sec-fetch-site");
    if site.is_some_and(|site| site == "cross-site" || site == "same-site") {
        return true;
    }
    let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
    if origins.peek().is_none() {
        return false;
    }
    let browser = site.is_some()
        || headers.contains_key("sec-fetch-dest")
        || headers.contains_key(header::ACCEPT_LANGUAGE)
        || headers
            .get(header::USER_AGENT)
            .is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    let own = |origin: &str| {
        let authority = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"));
        authority.and_then(without_port).is_some_and(&ours)
    };
    browser || !origins.all(|origin| origin.to_str().is_ok_and(own))
}

/// No page of any browser has business here, whatever certificate the browser may hold; and a name that is not ours leads
/// here only where someone bends DNS.
fn check_origin(peer: Option<&Peer>, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(Peer {
        hosts: Some(hosts),
        local,
        ..
    }) = peer
    else {
        return Ok(());
    };
    let ours = |host: &str| hosts.allow(host, local.map(|l| l.to_canonical()));
    if is_from_a_page(headers, ours) {
        return Err(ApiError::Forbidden {
            message: "requests from web pages are refused".to_owned(),
        });
    }
    if !host(uri, headers).is_some_and(ours) {
        return Err(ApiError::Misdirected {
            message: "this server is not the host that was asked for".to_owned(),
        });
    }
    Ok(())
}

/// What a listener's requests are judged by.
#[derive(Debug)]
pub(crate) struct Guard {
    requests: Semaphore,
    /// How long one waits for its turn.
    patience: Duration,
    /// `None`: tokens mean nothing here.
    bearers: Option<Bearers>,
    throttle: Throttle,
}

impl Guard {
    pub(crate) fn new(limits: &Limits, bearers: Option<Bearers>) -> Self {
        Self {
            requests: Semaphore::new(limits.requests),
            patience: limits.patience,
            bearers,
            throttle: Throttle::default(),
        }
    }

    /// Who asks: by certificate, else by token.
    async fn authenticate(&self, peer: Option<&Peer>, headers: &mut HeaderMap) -> Result<Arc<Identity>, ApiError> {
        // Taken out whatever it is good for.
        let token = credentials::take(headers);
        let mut refused = None;
        match peer.map(|p| &p.shown) {
            Some(Shown::Known { identity, until }) if until.is_none_or(|until| UnixTime::now().as_secs() <= until) => {
                return Ok(Arc::clone(identity));
            }
            Some(Shown::Known { .. }) => refused = Some(EXPIRED),
            Some(Shown::Refused(why)) => refused = Some(*why),
            Some(Shown::Nothing) | None => {}
        }
        let missing = || match refused {
            Some(why) => ApiError::NotBelieved { why: why.into() },
            None => ApiError::Unauthorized,
        };
        let token = match (token, &self.bearers) {
            (Ok(Some(token)), Some(bearers)) => Ok((token, bearers)),
            (Err(unreadable), Some(_)) => Err(ApiError::NotBelieved {
                why: unreadable.to_string().into(),
            }),
            (_, None) | (Ok(None), _) => return Err(missing()),
        };
        let (remote, now) = (peer.and_then(|p| p.remote), Instant::now());
        self.throttle
            .check(remote, now)
            .map_err(|wait| ApiError::TooManyRequests {
                retry_after: Duration::from_secs(wait.as_secs().saturating_add(1)),
            })?;
        let identity = match token {
            Ok((token, bearers)) => bearers.identify(&token).await,
            Err(unreadable) => Err(unreadable),
        };
        if matches!(identity, Err(ApiError::Unauthorized | ApiError::NotBelieved { .. })) {
            self.throttle.failed(remote, now);
        }
        identity.map(Arc::new)
    }

    /// Who asks, if they may have what they ask for. What they proved it by is taken out of the headers.
    async fn admit(&self, request: &mut Request) -> Result<Arc<Identity>, ApiError> {
        let peer = request.extensions().get::<Peer>().cloned();
        let identity = self.authenticate(peer.as_ref(), request.headers_mut()).await?;
        let identity = Identity::clone(&identity).with_standing();
        let identity = match impersonation::impersonated(&identity, request.headers()) {
            Ok(None) => identity,
            Ok(Some(other)) => {
                tracing::debug!(
                    user = identity.user,
                    as_user = other.user,
                    "a request is made as somebody else"
                );
                other
            }
            Err(ImpersonationError::Forbidden { asked, message }) => return Err(ApiError::Denied { asked, message }),
            Err(
                error @ (ImpersonationError::Unknown { .. }
                | ImpersonationError::NotText { .. }
                | ImpersonationError::WithoutUser),
            ) => return Err(ApiError::bad_request(error.to_string())),
        };
        impersonation::strip(request.headers_mut());
        let asked = Attributes::of(request.method(), request.uri());
        if !authorize(&identity, &asked).is_allowed() {
            let message = refusal(&identity, &asked);
            let asked = match asked.target {
                Target::Resource(resource) => resource,
                Target::Path(_) => Resource::default(),
            };
            return Err(ApiError::Denied {
                asked: Box::new(asked),
                message,
            });
        }
        Ok(Arc::new(identity))
    }
}

/// A router behind the guard: whatever it serves, nobody gets past without being asked who they are.
pub(crate) fn guarded(router: Router, guard: Guard) -> Router {
    router
        .layer(axum::middleware::from_fn_with_state(Arc::new(guard), pass))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
}

async fn pass(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    if let Err(error) = check_origin(request.extensions().get::<Peer>(), request.uri(), request.headers()) {
        return error.into_response();
    }
    if is_public(request.uri().path()) {
        return next.run(request).await;
    }
    match guard.admit(&mut request).await {
        Ok(identity) => request.extensions_mut().insert(identity),
        Err(error) => return error.into_response(),
    };
    // Held until the answer's head is there: what streams on has a permit of its own.
    // Hundreds at once wait for each other a moment; nothing of their bodies is in memory yet.
    let turn = tokio::time::timeout(guard.patience, guard.requests.acquire()).await;
    let Ok(Ok(_permit)) = turn else {
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
