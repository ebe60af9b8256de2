//! How a registry wants to be asked: `WWW-Authenticate` and token servers.
//!
//! Goes in: a challenge, a credential. Comes out: the scheme with what it says, and the header that answers it.
//!
//! **Invariant:** pure. What a registry sends is bounded and never believed to be well-formed.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::RegistryError;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best one of the values of `WWW-Authenticate`: a bearer token before a password.
    pub(super) fn best<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for value in values {
            for (scheme, parameters) in challenges(value) {
                let parameter = |name: &str| {
                    parameters
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.clone())
                };
                if scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm")
                {
                    return Some(Self::Bearer {
                        realm,
                        service: parameter("service"),
                        scope: parameter("scope"),
                    });
                }
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

/// `scheme k=v, k="v", scheme2 ..` (RFC 9110, 11.6.1).
fn challenges(value: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = value.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let Some(text) = after.strip_prefix('=') else {
            if !word.is_empty() {
                found.push((word.to_owned(), Vec::new()));
            }
            rest = after.trim_start_matches([' ', '\t', ',']);
            continue;
        };
        let (value, after) = if let Some(quoted) = text.strip_prefix('"') {
            unquoted(quoted)
        } else {
            let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        };
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_owned(), value));
        }
        rest = after.trim_start_matches([' ', '\t', ',', '=']);
    }
    found
}

/// The text up to the closing quote, and what follows it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// The query of a request for a token.
pub(super) fn token_query(service: Option<&str>, scope: &str) -> String {
    let mut query = String::new();
    for (key, value) in [("service", service), ("scope", Some(scope))] {
        if let Some(value) = value {
            let separator = if query.is_empty() { "" } else { "&" };
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            write!(query, "{separator}{key}={value}").expect("a String takes all that is written to it");
        }
    }
    query
}

/// `Authorization` of a user with a password (RFC 7617).
pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, RegistryError> {
    secret(
        &format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))),
        "",
    )
}

/// `Authorization` with a token (RFC 6750) that is for this host.
pub(super) fn bearer(token: &str, host: &str) -> Result<HeaderValue, RegistryError> {
    secret(&format!("Bearer {token}"), host)
}

fn secret(text: &str, host: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::try_from(text).map_err(|_secret| RegistryError::NoToken { host: host.to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_understood_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (value, want) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s, t\",scope=\"repository:x:pull,push\"",
                bearer("https://a/t", Some("s, t"), Some("repository:x:pull,push")),
            ),
            (
                "bearer realm=https://a/t , service=s",
                bearer("https://a/t", Some("s"), None),
            ),
            ("Basic realm=\"a\", Bearer realm=\"b\"", bearer("b", None, None)),
            ("Bearer realm=\"a\\\"b", bearer("a\"b", None, None)),
            ("Bearer", None),
            ("Negotiate", None),
            ("", None),
            ("=,=\"", None),
        ] {
            assert_eq!(Challenge::best([value].into_iter()), want, "{value}");
        }
        assert_eq!(
            Challenge::best(["Basic realm=x", "Bearer realm=\"b\""].into_iter()),
            bearer("b", None, None)
        );
    }

    #[test]
    fn what_is_asked_of_a_token_server_is_escaped() {
        assert_eq!(
            token_query(Some("a b&c"), "repository:x/y:pull"),
            "service=a%20b%26c&scope=repository%3Ax%2Fy%3Apull"
        );
    }

    proptest! {
        #[test]
        fn no_challenge_is_too_odd(value in "\\PC*") {
            Challenge::best([value.as_str()].into_iter());
        }
    }
}
