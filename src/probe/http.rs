//! A GET as a kubelet does it: HTTP/1.1, one connection for each, whoever the server's certificate says it is, redirects
//! followed on the same host.
//!
//! `pkg/probe/http/{http,request}.go`; errors read as those of Go's client do.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::action::{Outcome, dial_text};
use super::words;
use crate::insecure_tls;

/// Bytes of an answer that are read (`maxRespBodyLength`).
const BODY_MAX: usize = 10 << 10;
/// So many redirects are not followed any more (`RedirectChecker`).
const REDIRECTS_MAX: usize = 10;
/// The version that a kubelet of this kind gives itself.
const VERSION: &str = "1.36";
/// Long enough for what nobody limits.
const NO_LIMIT: Duration = Duration::from_hours(24 * 365);

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Get<'a> {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// With its query, if any.
    pub(super) path: String,
    pub(super) headers: &'a [(String, String)],
    /// `probe` or `lifecycle`: who it says it is.
    pub(super) agent: &'static str,
}

impl Get<'_> {
    pub(super) fn without_tls(&self) -> Self {
        Self {
            https: false,
            ..self.clone()
        }
    }

    fn url(&self) -> Result<Url, GetError> {
        let scheme = if self.https { "https" } else { "http" };
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let text = format!("{scheme}://{}{slash}{}", authority(&self.host, self.port), self.path);
        Url::parse(&text).map_err(|source| GetError::Url { url: text, source })
    }

    fn headers(&self) -> Result<HeaderMap, GetError> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            let bad = || GetError::Header { name: name.clone() };
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let value = HeaderValue::from_str(value).map_err(|_| bad())?;
            headers.append(key, value);
        }
        if !headers.contains_key(header::USER_AGENT) {
            let agent = format!("kube-{}/{VERSION}", self.agent);
            let agent = HeaderValue::from_str(&agent).map_err(|_| GetError::Header { name: agent })?;
            headers.insert(header::USER_AGENT, agent);
        }
        match headers.get(header::ACCEPT) {
            None => {
                headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
            }
            // Given empty, it is not sent at all.
            Some(accept) if accept.is_empty() => {
                headers.remove(header::ACCEPT);
            }
            Some(_) => {}
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(headers)
    }
}

/// The last answer: no redirect that may be followed.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: String,
}

impl Answer {
    /// What it means for a probe. The text of a failure must not hold the body, which may be anything.
    pub(super) fn judged(self) -> Outcome {
        let Self { status, body } = self;
        if status.is_success() {
            Outcome::Success
        } else if status.is_redirection() {
            Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        } else {
            Outcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
    }
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum GetError {
    #[error("parse {url:?}: {source}")]
    Url {
        url: String,
        #[source]
        source: url::ParseError,
    },
    #[error("net/http: invalid header field name or value {name:?}")]
    Header { name: String },
    #[error("Get {url:?}: {what}")]
    Connect { url: String, what: String },
    #[error("Get {url:?}: http: server gave HTTP response to HTTPS client")]
    NotTls { url: String },
    #[error("Get {url:?}: {what}")]
    Exchange { url: String, what: String },
    #[error("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    TooLate { url: String },
    #[error("Get {url:?}: stopped after {REDIRECTS_MAX} redirects")]
    Redirects { url: String },
    /// The status came, the body did not.
    #[error("{what}")]
    Body { what: String },
}

/// Ask, and follow redirects on the same host. `limit` is for all of it.
pub(super) async fn get(get: Get<'_>, limit: Option<Duration>) -> Result<Answer, GetError> {
    let deadline = Instant::now() + limit.unwrap_or(NO_LIMIT);
    let mut url = get.url()?;
    let mut headers = get.headers()?;
    let first_host = url.host_str().map(str::to_owned);
    for followed in 0.. {
        let exchanged = timeout_at(deadline, exchange(&url, &headers)).await;
        let (response, connection) = exchanged.map_err(|_| GetError::TooLate { url: url.to_string() })??;
        let Some(next) = redirect(&url, &response) else {
            return answer(response, connection, deadline).await;
        };
        if next.host_str() != first_host.as_deref() {
            return answer(response, connection, deadline).await;
        }
        if followed + 1 >= REDIRECTS_MAX {
            return Err(GetError::Redirects { url: next.to_string() });
        }
        let is_relative = response
            .headers()
            .get(header::LOCATION)
            .and_then(|location| location.to_str().ok())
            .is_some_and(|location| Url::parse(location).is_err());
        // Another name for the host holds only as long as nobody names the host anew.
        if !is_relative {
            headers.remove(header::HOST);
        }
        url = next;
    }
    Err(GetError::Redirects { url: url.to_string() })
}

/// Where an answer leads, if anywhere (Go `net/http/client.go redirectBehavior`).
fn redirect(from: &Url, response: &Response<Incoming>) -> Option<Url> {
    let status = response.status().as_u16();
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    from.join(location)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
}

type Connection = AbortOnDropHandle<()>;

async fn exchange(url: &Url, headers: &HeaderMap) -> Result<(Response<Incoming>, Connection), GetError> {
    let connect = |what: String| GetError::Connect {
        url: url.to_string(),
        what,
    };
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    let tcp = TcpStream::connect((bare, port))
        .await
        .map_err(|error| connect(dial_text(&authority(bare, port), &error)))?;
    if url.scheme() == "https" {
        let tls = insecure_tls::connect(tcp, bare).await.map_err(|error| {
            if is_no_tls(&error) {
                GetError::NotTls { url: url.to_string() }
            } else {
                connect(words::chain(&error))
            }
        })?;
        send(url, headers, tls).await
    } else {
        send(url, headers, tcp).await
    }
}

async fn send(
    url: &Url,
    headers: &HeaderMap,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(Response<Incoming>, Connection), GetError> {
    let broken = |error: hyper::Error| GetError::Exchange {
        url: url.to_string(),
        what: words::chain(&error),
    };
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::trace!(%error, "a connection of a probe broke");
        }
    });
    let connection = AbortOnDropHandle::new(driver);
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(target)
        .body(Empty::<Bytes>::new())
        .map_err(|error| GetError::Exchange {
            url: url.to_string(),
            what: error.to_string(),
        })?;
    *request.headers_mut() = headers.clone();
    if !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&url[url::Position::BeforeHost..url::Position::AfterPort])
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok((response, connection))
}

/// The beginning of the body; what is longer is cut off with the connection.
async fn answer(response: Response<Incoming>, connection: Connection, deadline: Instant) -> Result<Answer, GetError> {
    let status = response.status();
    let mut body = response.into_body();
    let mut read = Vec::new();
    while read.len() < BODY_MAX {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| GetError::Body {
            what: "context deadline exceeded (Client.Timeout or context cancellation while reading body)".to_owned(),
        })?;
        match frame {
            None => break,
            Some(Ok(frame)) => read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(error)) => {
                return Err(GetError::Body {
                    what: words::chain(&error),
                });
            }
        }
    }
    drop(connection);
    Ok(Answer {
        status,
        body: words::text(&read, BODY_MAX),
    })
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The server speaks, but no TLS.
fn is_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
}
