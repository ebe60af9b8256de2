//! From a request to a stream: which transport and which version of its protocol a client wants, and the 101 that gives it.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::websocket;
use crate::api::error::ApiError;

/// SPDY's own way to name the versions a client knows, the best first.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-version");

/// What a client and the server agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket {
        /// Empty where the client named none.
        protocol: &'static str,
        accept: HeaderValue,
    },
    Spdy {
        protocol: &'static str,
    },
}

/// Every value of a header that is a list, in order.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// Whether the client wants another protocol on its connection, and which.
pub(super) fn wanted(headers: &HeaderMap) -> Option<&str> {
    list(headers, &header::CONNECTION)
        .any(|word| word.eq_ignore_ascii_case("upgrade"))
        .then(|| headers.get(header::UPGRADE)?.to_str().ok())?
}

/// The first protocol of the client that the server knows too.
fn chosen(offered: &[&str], known: &[&'static str]) -> Option<&'static str> {
    offered.iter().find_map(|o| known.iter().copied().find(|k| k == o))
}

fn no_common_protocol(offered: &[&str], known: &[&str]) -> ApiError {
    ApiError::Forbidden {
        message: format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            known.join(" ")
        ),
    }
}

/// Agree upon a transport. `websockets` has an empty name where none at all is fine.
pub(super) fn negotiate(
    method: &Method,
    headers: &HeaderMap,
    websockets: &[&'static str],
    spdys: &[&'static str],
) -> Result<Transport, Box<Response>> {
    let refused = |error: ApiError| Box::new(error.into_response());
    let upgrade_required = || refused(ApiError::bad_request("Upgrade request required"));
    let wanted = wanted(headers).ok_or_else(upgrade_required)?;
    if wanted.eq_ignore_ascii_case("websocket") {
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let version = headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
        let accept = key.and_then(websocket::accept).filter(|_| version == Some(b"13"));
        let (Some(accept), &Method::GET) = (accept, method) else {
            let message = "unable to upgrade: not a WebSocket handshake of version 13";
            return Err(refused(ApiError::bad_request(message)));
        };
        let offered: Vec<&str> = list(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
        let protocol = if offered.is_empty() {
            chosen(&[""], websockets)
        } else {
            chosen(&offered, websockets)
        };
        return match protocol {
            Some(protocol) => Ok(Transport::WebSocket { protocol, accept }),
            None => Err(refused(no_common_protocol(&offered, websockets))),
        };
    }
    if !wanted.eq_ignore_ascii_case("SPDY/3.1") {
        return Err(upgrade_required());
    }
    let offered: Vec<&str> = list(headers, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        let message = "unable to upgrade: X-Stream-Protocol-Version is required";
        return Err(refused(ApiError::bad_request(message)));
    }
    if let Some(protocol) = chosen(&offered, spdys) {
        return Ok(Transport::Spdy { protocol });
    }
    let mut response = no_common_protocol(&offered, spdys).into_response();
    for known in spdys {
        let known = HeaderValue::from_static(known);
        response.headers_mut().append(ACCEPTED_STREAM_PROTOCOL, known);
    }
    Err(Box::new(response))
}

impl Transport {
    /// 101 Switching Protocols.
    pub(super) fn response(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        match self {
            Self::WebSocket { protocol, accept } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.clone());
                if !protocol.is_empty() {
                    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
                }
            }
            Self::Spdy { protocol } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
                headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn asked(method: &Method, extra: &[(&str, &str)]) -> Result<&'static str, StatusCode> {
        let headers = headers(&[&WEBSOCKET[..], extra].concat());
        match negotiate(method, &headers, &["v4", "v5", ""], &["v4", "v3"]) {
            Ok(Transport::WebSocket { protocol, .. } | Transport::Spdy { protocol }) => Ok(protocol),
            Err(response) => Err(response.status()),
        }
    }

    #[test]
    fn the_clients_first_choice_that_is_known_wins() {
        let get = |offers: &str| asked(&Method::GET, &[("sec-websocket-protocol", offers)]);
        assert_eq!(get("v9, v5,v4"), Ok("v5"));
        assert_eq!(get("v9"), Err(StatusCode::FORBIDDEN));
        assert_eq!(asked(&Method::GET, &[]), Ok(""));
        assert_eq!(asked(&Method::POST, &[]), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn spdy_names_its_versions_in_a_header_of_its_own() {
        let ask = |versions: &[&str]| {
            let mut lines = vec![("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
            lines.extend(versions.iter().map(|v| ("x-stream-protocol-version", *v)));
            negotiate(&Method::POST, &headers(&lines), &[], &["v4", "v3"])
        };
        assert_eq!(ask(&["v5", "v3"]).unwrap(), Transport::Spdy { protocol: "v3" });
        assert_eq!(ask(&["v5,v4"]).unwrap(), Transport::Spdy { protocol: "v4" });
        let refused = ask(&["v9"]).unwrap_err();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        let accepted: Vec<&HeaderValue> = refused.headers().get_all(ACCEPTED_STREAM_PROTOCOL).iter().collect();
        assert_eq!(accepted, ["v4", "v3"]);
        assert_eq!(ask(&[]).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn what_wants_no_upgrade_is_told_to() {
        for lines in [
            &[][..],
            &[("upgrade", "websocket")],
            &[("connection", "Upgrade"), ("upgrade", "h2c")],
        ] {
            let refused = negotiate(&Method::GET, &headers(lines), &[""], &["v4"]).unwrap_err();
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{lines:?}");
        }
    }
}
