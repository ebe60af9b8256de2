//! One host of a registry, asked with one credential: tokens, redirects, and what is tried again.
//!
//! Goes in: what is asked. Comes out: an answer that succeeded, or why not, in containerd's words where it has some.
//!
//! **Invariant:** `Authorization` and the headers of `hosts.toml` go to this host alone (and a password to the token
//! server it names); an `https` host never leads to plain `http`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION,
    RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;

use super::address::{relative, same_origin, without_query};
use super::ask::Ask;
use super::auth::{Challenge, basic, bearer, token_query};
use super::hosts::{Host, is_local};
use super::proxies::Proxies;
use super::transport::{self, Body, HttpClient, Reach, TlsError};
use super::words::told;
use super::{Action, Credential, Manifest, RegistryError};
use crate::image::reference::Reference;
use crate::image::stream::Digest;

/// How long a host may take to begin its answer.
pub(super) const ANSWER: Duration = Duration::from_mins(1);
/// How long a manifest or config may take to come.
const DOCUMENT: Duration = Duration::from_mins(5);
/// How long the upload of one blob may take, from its first byte to its answer.
pub(super) const UPLOAD: Duration = Duration::from_hours(4);
/// How often a request that met a fault of the host's own is sent again, and the first wait before it (then doubled).
const AGAIN: u32 = 4;
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A host that wants to be left alone for longer is not waited for: the pull's own back-off is.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);
/// Redirects of one request.
const REDIRECTS_MAX: usize = 10;
/// The most that is read of a token.
const TOKEN_MAX: usize = 1024 * 1024;

/// The clients of one host: for itself, and for whom it names.
#[derive(Clone)]
pub(super) struct Clients {
    own: HttpClient,
    named: HttpClient,
    proxies: Proxies,
}

impl Clients {
    pub(super) fn new(host: &Host, proxies: &Proxies) -> Result<Self, TlsError> {
        let uri: Option<Uri> = host.base.parse().ok();
        let reach = match uri.as_ref().and_then(Uri::host) {
            Some(name) if is_local(name) => Reach::Anywhere,
            Some(_) | None => Reach::Outside,
        };
        Ok(Self {
            own: transport::client(&host.tls, host.dial, Reach::Anywhere, proxies)?,
            named: transport::client(&host.tls, host.dial, reach, proxies)?,
            proxies: proxies.clone(),
        })
    }
}

/// See the module's doc.
pub(super) struct Endpoint {
    host: Host,
    clients: Clients,
    /// The image's own registry, for mirrors that serve several.
    registry: String,
    /// `library/busybox`.
    path: String,
    credential: Option<Credential>,
    /// What this host took last, by scope.
    authorization: Mutex<HashMap<&'static str, HeaderValue>>,
    out: AtomicBool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("base", &self.host.base)
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct WireToken {
    token: Option<String>,
    access_token: Option<String>,
}

impl Endpoint {
    pub(super) fn new(host: Host, clients: Clients, reference: &Reference, credential: Option<Credential>) -> Self {
        Self {
            host,
            clients,
            registry: reference.registry().to_owned(),
            path: reference.path().to_owned(),
            credential,
            authorization: Mutex::default(),
            out: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.host.name
    }

    pub(super) fn can(&self, action: Action) -> bool {
        match action {
            Action::Resolve => self.host.capabilities.resolve,
            Action::Pull => self.host.capabilities.pull,
            // A mirror is filled by whoever mirrors.
            Action::Push => self.host.capabilities.push && self.host.is_origin,
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    pub(super) fn put_out(&self) {
        self.out.store(true, Ordering::Relaxed);
    }

    /// How a request is called in errors: never with a query, which may hold a signature.
    pub(super) fn words(&self, method: &Method, path: &str) -> String {
        let word = match method.as_str() {
            "GET" => "Get",
            "HEAD" => "Head",
            other => other,
        };
        format!("{word} \"{}/{}/{path}\"", self.host.base, self.path)
    }

    pub(super) fn words_of(&self, ask: &Ask) -> String {
        self.words(&ask.method, &ask.path)
    }

    fn uri(&self, path: &str) -> Result<Uri, RegistryError> {
        let mut text = format!("{}/{}/{path}", self.host.base, self.path);
        if !self.host.is_origin {
            // As containerd asks mirrors that serve several registries.
            text = format!("{text}?ns={}", self.registry);
        }
        text.parse().map_err(|_| RegistryError::Malformed {
            request: self.words(&Method::GET, path),
            what: "an address",
        })
    }

    /// The index or manifest called `name`, with the digest that it has.
    pub(super) async fn manifest(&self, name: &str, limit: u64) -> Result<(Digest, Manifest), RegistryError> {
        let ask = Ask::get(format!("manifests/{name}")).accept(super::MANIFESTS);
        let response = self.send(&ask).await?;
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .unwrap_or_default()
            .trim()
            .to_owned();
        let bytes = self.whole(&ask, response, limit).await?;
        Ok((Digest::of(&bytes), Manifest { media_type, bytes }))
    }

    pub(super) fn verified(&self, what: &str, expected: &Digest, found: &Digest) -> Result<(), RegistryError> {
        if expected == found {
            return Ok(());
        }
        Err(RegistryError::Digest {
            request: format!("{what} {expected} of {}/{}", self.host.base, self.path),
            expected: expected.to_string(),
            found: found.to_string(),
        })
    }

    /// The whole body of an answer.
    pub(super) async fn whole(
        &self,
        ask: &Ask,
        response: Response<Incoming>,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let whole = tokio::time::timeout(DOCUMENT, self.whole_in_its_time(ask, response, limit));
        whole.await.unwrap_or_else(|_elapsed| {
            Err(RegistryError::Silent {
                request: self.words_of(ask),
                seconds: DOCUMENT.as_secs(),
            })
        })
    }

    async fn whole_in_its_time(
        &self,
        ask: &Ask,
        response: Response<Incoming>,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let request = || self.words_of(ask);
        let too_large = || RegistryError::TooLarge {
            request: request(),
            limit,
        };
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        loop {
            let frame = tokio::time::timeout(ANSWER, body.frame())
                .await
                .map_err(|_elapsed| RegistryError::Silent {
                    request: request(),
                    seconds: ANSWER.as_secs(),
                })?;
            let Some(frame) = frame else { return Ok(bytes) };
            let frame = frame.map_err(|source| RegistryError::Broken {
                request: request(),
                source,
            })?;
            if let Ok(data) = frame.into_data() {
                if (bytes.len() + data.len()) as u64 > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
    }

    /// Send a request until it is answered well, or refused for good.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let mut again = 0;
        loop {
            let response = self.authorized(ask).await;
            let wait = match &response {
                Ok(response) if is_passing(response.status()) => retry_after(response.headers()),
                Err(RegistryError::Token { status, .. }) if is_passing(*status) => None,
                // Nothing was answered: the connection was cut.
                Err(RegistryError::Request { source, .. }) if !source.is_connect() => None,
                _ => return self.judged(ask, response?).await,
            };
            let wait = wait.unwrap_or(AGAIN_AFTER.saturating_mul(1 << again));
            if again == AGAIN || wait > RETRY_AFTER_MAX {
                return self.judged(ask, response?).await;
            }
            again += 1;
            tokio::time::sleep_until(tokio::time::Instant::now() + wait).await;
        }
    }

    /// What a status says.
    async fn judged(&self, ask: &Ask, response: Response<Incoming>) -> Result<Response<Incoming>, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let request = self.words_of(ask);
        let message = told(response).await;
        Err(match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what: request, message },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
                action: if ask.push { "push" } else { "pull" },
                request,
                status,
                message,
            },
            _ => RegistryError::Status {
                request,
                status,
                message,
            },
        })
    }

    fn known_authorization(&self, scope: &'static str) -> Option<HeaderValue> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(scope).cloned()
    }

    /// Send it with what the host took last; when it takes that no more (a token lives for minutes), with what it asks
    /// for, once.
    async fn authorized(&self, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let scope = ask.scope();
        let (response, is_own) = self.followed(ask, self.known_authorization(scope)).await?;
        // Whom this host has sent to does not say where its password goes (CVE-2020-15157).
        if response.status() != StatusCode::UNAUTHORIZED || !is_own {
            return Ok(response);
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = Challenge::best(challenges.iter().filter_map(|value| value.to_str().ok()));
        let fresh = match (challenge, &self.credential) {
            (None, _) if challenges.iter().next().is_some() => {
                return Err(RegistryError::UnknownChallenge {
                    host: self.host.name.clone(),
                });
            }
            (None, _) | (Some(Challenge::Basic), None | Some(Credential::IdentityToken(_))) => return Ok(response),
            (Some(Challenge::Basic), Some(Credential::Password { username, password })) => basic(username, password)?,
            (Some(_), Some(Credential::RegistryToken(token))) => bearer(token, &self.host.name)?,
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let own = format!("repository:{}:{}", self.path, ask.scope());
                let scope = scope.unwrap_or(own);
                self.token(&realm, service.as_deref(), &scope).await?
            }
        };
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(scope, fresh.clone());
        self.followed(ask, Some(fresh)).await.map(|(response, _)| response)
    }

    /// Ask the token server that this host named.
    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<HeaderValue, RegistryError> {
        let refused = |why| RegistryError::Redirect {
            request: format!("the token server of {}", self.host.base),
            location: without_query(realm),
            why,
        };
        let uri: Uri = realm.parse().map_err(|_| refused("it is no address"))?;
        self.check_scheme(&uri).map_err(refused)?;
        let query = token_query(service, scope);
        let separator = if uri.query().is_some() { '&' } else { '?' };
        let (uri, method, body) = match &self.credential {
            // RFC 6749, as docker's token servers have it.
            Some(Credential::IdentityToken(token)) => {
                let token = percent_encoding::utf8_percent_encode(token, percent_encoding::NON_ALPHANUMERIC);
                let form = format!("grant_type=refresh_token&client_id=podd&{query}&refresh_token={token}");
                (uri, Method::POST, form)
            }
            Some(Credential::Password { .. } | Credential::RegistryToken(_)) | None => {
                let whole = format!("{realm}{separator}{query}");
                let whole = whole.parse().map_err(|_| refused("it is no address"))?;
                (whole, Method::GET, String::new())
            }
        };
        let mut headers = HeaderMap::new();
        if let Some(Credential::Password { username, password }) = &self.credential {
            headers.insert(AUTHORIZATION, basic(username, password)?);
        }
        if method == Method::POST {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
        }
        let request = format!("{:?}", without_query(realm));
        let response = self.once(&uri, &method, &headers, body.into(), &request).await?;
        let status = response.status();
        if !status.is_success() {
            let message = told(response).await;
            return Err(RegistryError::Token {
                request,
                status,
                message,
            });
        }
        let no_token = || RegistryError::NoToken {
            host: self.host.name.clone(),
        };
        let body = Limited::new(response.into_body(), TOKEN_MAX).collect();
        let body = tokio::time::timeout(ANSWER, body)
            .await
            .map_err(|_elapsed| no_token())?
            .map_err(|_broken| no_token())?;
        let WireToken { token, access_token } = serde_json::from_slice(&body.to_bytes()).map_err(|_| no_token())?;
        let token = token.filter(|token| !token.is_empty()).or(access_token);
        bearer(&token.ok_or_else(no_token)?, &self.host.name)
    }

    fn check_scheme(&self, uri: &Uri) -> Result<(), &'static str> {
        match uri.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if self.host.base.starts_with("http://") => Ok(()),
            Some("http") => Err("it is not encrypted"),
            Some(_) | None => Err("it is no address of the web"),
        }
    }

    /// Send it and go where it is sent to. What this host alone may know stays here. True: the answer is this host's own.
    async fn followed(
        &self,
        ask: &Ask,
        authorization: Option<HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), RegistryError> {
        let own = self.uri(&ask.path)?;
        let mut uri = own.clone();
        let mut method = ask.method.clone();
        for _ in 0..REDIRECTS_MAX {
            let mut headers = ask.headers.clone();
            if same_origin(&uri, &own) {
                headers.extend(authorization.clone().map(|value| (AUTHORIZATION, value)));
            }
            let request = self.words_of(ask);
            let response = self.once(&uri, &method, &headers, ask.body.clone(), &request).await?;
            let reads = matches!(method, Method::GET | Method::HEAD);
            if !(reads && response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED) {
                return Ok((response, same_origin(&uri, &own)));
            }
            if response.status() == StatusCode::SEE_OTHER && method != Method::HEAD {
                method = Method::GET;
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let refused = |why| RegistryError::Redirect {
                request: request.clone(),
                location: without_query(location.unwrap_or_default()),
                why,
            };
            let next = location
                .and_then(|location| relative(&uri, location))
                .ok_or_else(|| refused("it is no address"))?;
            self.check_scheme(&next).map_err(refused)?;
            uri = next;
        }
        Err(RegistryError::Malformed {
            request: self.words_of(ask),
            what: "a chain of redirects",
        })
    }

    /// One request to one address, and its answer's head.
    async fn once(
        &self,
        uri: &Uri,
        method: &Method,
        headers: &HeaderMap,
        body: Bytes,
        words: &str,
    ) -> Result<Response<Incoming>, RegistryError> {
        let body: Body = if body.is_empty() {
            Empty::new().map_err(|never| match never {}).boxed()
        } else {
            Full::new(body).map_err(|never| match never {}).boxed()
        };
        self.once_within(ANSWER, uri, method, headers, body, words).await
    }

    pub(super) async fn once_within(
        &self,
        limit: Duration,
        uri: &Uri,
        method: &Method,
        headers: &HeaderMap,
        body: Body,
        words: &str,
    ) -> Result<Response<Incoming>, RegistryError> {
        let base: Option<Uri> = self.host.base.parse().ok();
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        request.headers_mut().extend(headers.clone());
        if base.as_ref().is_some_and(|base| same_origin(uri, base)) {
            request.headers_mut().extend(self.host.headers.iter().cloned());
        }
        request.headers_mut().insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("podd/", env!("CARGO_PKG_VERSION"))),
        );
        // Through a tunnel the proxy is told when it is made.
        if uri.scheme_str() == Some("http")
            && let Some(proxy) = self.clients.proxies.of(uri)
            && let Some(password) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, password.clone());
        }
        let is_own = base.as_ref().and_then(Uri::host) == uri.host();
        let client = if is_own { &self.clients.own } else { &self.clients.named };
        match tokio::time::timeout(limit, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(RegistryError::Request {
                request: words.to_owned(),
                source,
            }),
            Err(_elapsed) => Err(RegistryError::Silent {
                request: words.to_owned(),
                seconds: limit.as_secs(),
            }),
        }
    }

    /// Where an upload that was begun is to be sent: as the host says, with what it last took.
    pub(super) fn upload_address(
        &self,
        ask: &Ask,
        response: &Response<Incoming>,
        digest: &Digest,
    ) -> Result<(Uri, HeaderMap), RegistryError> {
        let malformed = || RegistryError::Malformed {
            request: self.words_of(ask),
            what: "a place for an upload",
        };
        let own = self.uri(&ask.path)?;
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(malformed)?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let location = format!("{location}{separator}digest={digest}");
        let uri = relative(&own, &location).ok_or_else(malformed)?;
        self.check_scheme(&uri).map_err(|why| RegistryError::Redirect {
            request: self.words_of(ask),
            location: without_query(&location),
            why,
        })?;
        let mut headers = HeaderMap::new();
        if same_origin(&uri, &own) {
            headers.extend(
                self.known_authorization(ask.scope())
                    .map(|value| (AUTHORIZATION, value)),
            );
        }
        Ok((uri, headers))
    }

    /// As [`Endpoint::judged`], for requests whose body went elsewhere.
    pub(super) async fn judge_upload(&self, ask: &Ask, response: Response<Incoming>) -> Result<(), RegistryError> {
        self.judged(ask, response).await.map(drop)
    }
}

/// Tried again: the host has a fault, or is asked too often.
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// `Retry-After` in seconds; a date is as good as nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The length an answer announces.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    header_number(headers, &CONTENT_LENGTH)
}

fn header_number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
