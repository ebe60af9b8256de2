//! Where a request carries a token: `Authorization: Bearer`, or for a WebSocket, whose clients in browsers cannot set that
//! header, a subprotocol (`apiserver/pkg/authentication/request/{bearertoken,websocket}`).
//!
//! **Invariant:** a token is taken out of the headers, so that no handler logs it or sends it on to a pod.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Before the token in the subprotocol.
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The headers hold something that is meant as a token and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("multiple {SUBPROTOCOL} tokens specified")]
    Several,
    #[error("invalid {SUBPROTOCOL} token encoding")]
    Encoding,
    #[error("missing additional subprotocol")]
    Alone,
}

/// Take the token out of the headers.
pub(crate) fn take(headers: &mut HeaderMap) -> Result<Option<String>, CredentialError> {
    let of_header = headers.remove(header::AUTHORIZATION).and_then(|value| bearer(&value));
    let of_protocol = if is_websocket(headers) {
        subprotocol(headers)?
    } else {
        None
    };
    Ok(of_header.or(of_protocol))
}

fn bearer(value: &HeaderValue) -> Option<String> {
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    let token = token.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let says = |name, word: &str| {
        headers.get_all(name).iter().any(|value| {
            value
                .to_str()
                .is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
        })
    };
    says(header::UPGRADE, "websocket") && says(header::CONNECTION, "upgrade")
}

/// The token among the subprotocols; the others are put back as one header.
fn subprotocol(headers: &mut HeaderMap) -> Result<Option<String>, CredentialError> {
    let offered: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    let (tokens, others): (Vec<&String>, Vec<&String>) = offered.iter().partition(|p| p.starts_with(SUBPROTOCOL));
    let token = match tokens.as_slice() {
        [] => return Ok(None),
        [token] => &token[SUBPROTOCOL.len()..],
        _ => return Err(CredentialError::Several),
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| CredentialError::Encoding)?;
    let token = String::from_utf8(bytes).map_err(|_| CredentialError::Encoding)?;
    if others.is_empty() {
        // The answer has to choose one, and a token must not be echoed.
        return Err(CredentialError::Alone);
    }
    let others: Vec<&str> = others.into_iter().map(String::as_str).collect();
    let value = HeaderValue::from_str(&others.join(",")).map_err(|_| CredentialError::Encoding)?;
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    Ok((!token.is_empty()).then_some(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_bearer_token_is_taken_out_of_the_headers() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            (" BEARER abc ", Some("abc")),
            ("Bearer abc def", Some("abc")),
            ("Bearer  abc", None),
            ("Bearer", None),
            ("Basic dXNlcjpwYXNz", None),
            ("abc", None),
        ] {
            let mut headers = headers(&[("authorization", value)]);
            assert_eq!(take(&mut headers), Ok(token.map(str::to_owned)), "{value}");
            assert!(!headers.contains_key("authorization"), "{value}");
        }
    }

    const WEBSOCKET: [(&str, &str); 2] = [("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")];

    fn offering(protocols: &[&str]) -> HeaderMap {
        let mut list = WEBSOCKET.to_vec();
        list.extend(protocols.iter().map(|p| ("sec-websocket-protocol", *p)));
        headers(&list)
    }

    const TOKEN: &str = "base64url.bearer.authorization.k8s.io.YWJj";

    #[test]
    fn a_subprotocol_may_carry_the_token_and_the_others_are_kept() {
        for offer in [
            &["v5.channel.k8s.io", TOKEN, "v4.channel.k8s.io"][..],
            &[&format!("v5.channel.k8s.io, {TOKEN},v4.channel.k8s.io")],
        ] {
            let mut headers = offering(offer);
            assert_eq!(take(&mut headers), Ok(Some("abc".to_owned())));
            let left: Vec<_> = headers.get_all("sec-websocket-protocol").iter().collect();
            assert_eq!(left, ["v5.channel.k8s.io,v4.channel.k8s.io"]);
        }
    }

    #[test]
    fn subprotocols_without_a_token_stay_as_they_are() {
        let mut headers = offering(&["v5.channel.k8s.io", "v4.channel.k8s.io"]);
        assert_eq!(take(&mut headers), Ok(None));
        assert_eq!(headers.get_all("sec-websocket-protocol").iter().count(), 2);
    }

    #[test]
    fn a_subprotocol_that_is_no_token_is_an_error() {
        for (offer, error) in [
            (&[TOKEN][..], CredentialError::Alone),
            (&["v4.channel.k8s.io", TOKEN, TOKEN], CredentialError::Several),
            (
                &["v4.channel.k8s.io", "base64url.bearer.authorization.k8s.io.Y?"],
                CredentialError::Encoding,
            ),
            (
                &["v4.channel.k8s.io", "base64url.bearer.authorization.k8s.io._w"],
                CredentialError::Encoding,
            ),
        ] {
            assert_eq!(take(&mut offering(offer)), Err(error));
        }
        // Only WebSockets may.
        assert_eq!(take(&mut headers(&[("sec-websocket-protocol", TOKEN)])), Ok(None));
    }
}
