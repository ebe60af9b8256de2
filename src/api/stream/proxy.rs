//! `pods/{[scheme:]name[:port]}/proxy`: plain HTTP, passed on to the address of a pod.
//!
//! Worded and worked as `pkg/registry/core/pod/strategy.go` and `apimachinery/pkg/util/proxy` do, but for links inside of HTML
//! pages, which are passed on as they are. **Invariant:** who the client is stays here: no header that says so, or proves it,
//! reaches the pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::wire::{Activity, PIECE};
use super::{Context, dial_error, upgrade};
use crate::api::Api;
use crate::api::error::ApiError;
use crate::api::guard::Peer;
use crate::api::params::Head;
use crate::insecure_tls;

/// How long a pod gets to take a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of the head of a pod's answer.
const HEAD_LIMIT: usize = 64 * 1024;
/// The parts of a path up to and with `proxy`: `/api/v1/namespaces/{namespace}/pods/{name}/proxy`.
const PREFIX_PARTS: usize = 8;

/// Headers that are of one connection only.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];
/// Headers that tell or prove who the client is, and to whom it wants to be taken for.
const CREDENTIALS: &[&str] = &["authorization", "x-remote-user", "x-remote-uid", "x-remote-group"];
const CREDENTIAL_PREFIXES: &[&str] = &["x-remote-extra-", "impersonate-"];
/// A token in the place of a WebSocket's protocol.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// Which pages may read an answer is not for a pod to say.
const CROSS_ORIGIN: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    is_https: bool,
    address: SocketAddr,
}

/// `name`, `name:port` or `scheme:name:port`.
fn split(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

impl Target {
    fn of(pod: &Pod, scheme: &str, port: &str) -> Result<Self, ApiError> {
        let is_https = scheme == "https";
        let port = if port.is_empty() {
            let mut containers = pod.spec.iter().flat_map(|s| &s.containers);
            let first = containers.find_map(|c| c.ports.iter().flatten().next());
            first.map_or(if is_https { 443 } else { 80 }, |p| {
                u16::try_from(p.container_port).unwrap_or(0)
            })
        } else {
            // Upstream finds this out as it dials.
            port.parse().map_err(|_| ApiError::ServiceUnavailable {
                message: format!("error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"),
            })?
        };
        let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref());
        let ip = ip.and_then(|ip| ip.parse::<IpAddr>().ok()).filter(is_proxyable);
        let ip = ip.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
        Ok(Self {
            is_https,
            address: SocketAddr::new(ip, port),
        })
    }

    async fn connect(&self) -> Result<Box<dyn Connection>, ApiError> {
        let failed = |why: String| unreachable(&format!("dial tcp {}: {why}", self.address));
        let connecting = TcpStream::connect(self.address);
        let tcp = match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => return Err(failed(dial_error(&error))),
            Err(_) => return Err(failed("i/o timeout".to_owned())),
        };
        if !self.is_https {
            return Ok(Box::new(tcp));
        }
        match tokio::time::timeout(DIAL_TIMEOUT, insecure_tls::connect(tcp, &self.address.ip().to_string())).await {
            Ok(Ok(tls)) => Ok(Box::new(tls)),
            Ok(Err(error)) => Err(unreachable(&error.to_string())),
            Err(_) => Err(unreachable("net/http: TLS handshake timeout")),
        }
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

fn unreachable(why: &str) -> ApiError {
    ApiError::ServiceUnavailable {
        message: format!("error trying to reach service: {why}"),
    }
}

/// What Go calls a global unicast address: none of this machine alone, and none of a link.
fn is_proxyable(ip: &IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local)
}

pub(super) async fn serve(State(api): State<Api>, head: Head, request: Request) -> Response {
    let context = Context::new(&api, &head);
    let found = async {
        let id = head.name()?;
        let (scheme, name, port) =
            split(id).ok_or_else(|| ApiError::bad_request(format!("invalid pod request \"{id}\"")))?;
        let (_, pod) = super::pod(&api, &head, name).await?;
        let target = Target::of(&pod, scheme, port)?;
        Ok::<_, ApiError>((target, api.stream_permit()?))
    };
    let passed = match found.await {
        Ok((target, permit)) => pass(request, &target, permit, context).await,
        Err(error) => Err(error),
    };
    passed.unwrap_or_else(IntoResponse::into_response)
}

/// The request to the pod, its answer to the client.
async fn pass(
    request: Request,
    target: &Target,
    permit: OwnedSemaphorePermit,
    context: Context,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let prefix = path
        .split('/')
        .take(PREFIX_PARTS)
        .map(|part| part.len() + 1)
        .sum::<usize>()
        - 1;
    let (prefix, rest) = path.split_at(prefix.min(path.len()));
    let prefix = prefix.to_owned();
    let wanted = upgrade::wanted(request.headers()).map(str::to_owned);
    if rest.is_empty() && wanted.is_none() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return moved(request.uri());
    }
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let uri = format!("{}{query}", if rest.is_empty() { "/" } else { rest });
    let uri: Uri = uri
        .parse()
        .map_err(|e| ApiError::bad_request(format!("the path cannot be passed on: {e}")))?;
    let host = request
        .headers()
        .get(header::HOST)
        .cloned()
        .or_else(|| HeaderValue::from_str(request.uri().authority()?.as_str()).ok());
    let peer = request.extensions().get::<Peer>().cloned();

    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut headers = parts.headers;
    without_hops(&mut headers);
    without_credentials(&mut headers);
    forwarded_headers(&mut headers, &parts.uri, host.as_ref(), peer.as_ref());
    if let Some(host) = &host {
        headers.insert(header::HOST, host.clone());
    } else if let Ok(host) = HeaderValue::from_str(&target.address.to_string()) {
        headers.insert(header::HOST, host);
    }
    if let Some(Ok(wanted)) = wanted.as_deref().map(HeaderValue::from_str) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, wanted);
    }
    let mut outward = Request::new(body);
    *outward.method_mut() = parts.method;
    *outward.uri_mut() = uri;
    *outward.version_mut() = Version::HTTP_11;
    *outward.headers_mut() = headers;

    let connection = target.connect().await?;
    let (mut sender, driver) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(connection))
        .await
        .map_err(|e| unreachable(&e.to_string()))?;
    // Ends with the answer's body, or where that is dropped.
    tokio::spawn(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "a connection to a pod's port broke");
        }
    });
    let mut answer = sender
        .send_request(outward)
        .await
        .map_err(|e| unreachable(&super::session::chain(&e)))?;

    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else {
            return Err(unreachable(
                "the pod switches protocols, which the client did not ask for",
            ));
        };
        let of_pod = hyper::upgrade::on(&mut answer);
        let streams = peer.map_or_else(tokio_util::task::TaskTracker::new, |p| p.streams);
        streams.spawn(async move {
            let _permit = permit;
            match tokio::try_join!(upgrade, of_pod) {
                Ok((client, pod)) => relay(TokioIo::new(client), TokioIo::new(pod), &context).await,
                Err(error) => tracing::debug!(%error, "a connection was closed instead of being passed on"),
            }
        });
        let (mut parts, _) = answer.into_parts();
        let wanted = parts.headers.get(header::UPGRADE).cloned();
        without_hops(&mut parts.headers);
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Some(wanted) = wanted {
            parts.headers.insert(header::UPGRADE, wanted);
        }
        parts.extensions.clear();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    without_hops(&mut parts.headers);
    for name in CROSS_ORIGIN {
        parts.headers.remove(*name);
    }
    let location = parts.headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
    let ours = [
        Some(target.address.to_string()),
        host.and_then(|h| h.to_str().map(str::to_owned).ok()),
    ];
    if let Some(Ok(location)) = location.map(|l| HeaderValue::from_str(&relocated(l, &prefix, &ours))) {
        parts.headers.insert(header::LOCATION, location);
    }
    parts.version = Version::default();
    // It counts as one stream until its body has ended.
    let body = body.map_frame(move |frame| {
        let _until_then = &permit;
        frame
    });
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// A pod's pages name each other beneath `proxy/`: without the slash they would lead astray.
fn moved(uri: &Uri) -> Result<Response, ApiError> {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()))
        .map_err(|e| ApiError::bad_request(format!("the path cannot be passed on: {e}")))?;
    let mut response = StatusCode::MOVED_PERMANENTLY.into_response();
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn without_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
}

fn without_credentials(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            CREDENTIALS.contains(&name) || CREDENTIAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
    let protocols: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL))
        .collect();
    let protocols = HeaderValue::from_str(&protocols.join(", "));
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(protocols) = protocols
        && !protocols.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
    }
}

/// What a server behind a proxy needs to know.
fn forwarded_headers(headers: &mut HeaderMap, uri: &Uri, host: Option<&HeaderValue>, peer: Option<&Peer>) {
    let mut set = |name: &'static str, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-forwarded-uri", HeaderValue::from_str(uri.path()).ok());
    set("x-forwarded-host", host.cloned());
    let is_tls = peer.is_some_and(|peer| peer.hosts.is_some());
    let proto = if is_tls { "https" } else { "http" };
    set("x-forwarded-proto", Some(HeaderValue::from_static(proto)));
    let client = peer
        .and_then(|peer| peer.remote)
        .map(|ip| ip.to_canonical().to_string());
    set("x-forwarded-for", client.and_then(|ip| HeaderValue::from_str(&ip).ok()));
}

/// A redirect to the pod itself leads through the proxy; any other one, and a relative one, stays as it is.
fn relocated(location: &str, prefix: &str, ours: &[Option<String>]) -> String {
    let after_scheme = location
        .split_once("://")
        .map(|(_, rest)| rest)
        .or_else(|| location.strip_prefix("//"));
    let path = match after_scheme {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            if !ours.iter().flatten().any(|our| our == host) {
                return location.to_owned();
            }
            path
        }
        None => location,
    };
    if !path.starts_with('/') || path.starts_with(prefix) {
        return location.to_owned();
    }
    format!("{prefix}{path}")
}

/// Both directions of two connections, each to its end.
async fn relay(client: impl AsyncRead + AsyncWrite, pod: impl AsyncRead + AsyncWrite, context: &Context) {
    let activity = Activity::new();
    let (from_client, to_client) = tokio::io::split(client);
    let (from_pod, to_pod) = tokio::io::split(pod);
    let both = async {
        tokio::join!(
            copy(from_client, to_pod, &activity),
            copy(from_pod, to_client, &activity)
        );
    };
    // Cancel-safe: what is dropped here closes both connections.
    tokio::select! {
        () = both => {}
        () = context.stopped() => {}
        () = activity.idle(context.idle_limit) => {}
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, activity: &Activity) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        activity.touch();
        let written = async {
            to.write_all(&buffer[..length]).await?;
            to.flush().await
        };
        if written.await.is_err() {
            break;
        }
    }
    let _closed = to.shutdown().await;
}

#[cfg(test)]
mod tests;
