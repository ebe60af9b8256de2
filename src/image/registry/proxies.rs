//! The way to registries that leads through a proxy: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, as Go's programs (and so
//! the container tools) take them.
//!
//! Goes in: what the variables say, and an address. Comes out: the proxy to ask, if any.
//!
//! **Invariant:** pure. This machine and its pods are never asked through a proxy. A proxy's password is never printed.

use std::fmt;
use std::sync::Arc;

use hyper::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// This machine itself (`golang.org/x/net/http/httpproxy useProxy`).
const THIS_MACHINE: &str = "localhost,127.0.0.0/8,::1";

/// What was said of proxies. Empty is nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// For `http` addresses.
    pub http: String,
    /// For `https` addresses.
    pub https: String,
    /// Hosts, domains and networks that are asked directly, separated by commas, each with a port or without.
    pub except: String,
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxySettings")
            .field("http", &!self.http.is_empty())
            .field("https", &!self.https.is_empty())
            .field("except", &self.except)
            .finish()
    }
}

/// A variable cannot be honoured. Its value is not shown: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is not the address of a proxy as http://[user:password@]host[:port]: no other kind is supported")]
pub struct ProxyError {
    pub variable: &'static str,
}

impl ProxySettings {
    /// What the environment says. `variable` gives the value of one, if it is set: the name in capitals comes first, as
    /// in Go. `pods` is the network of the machine's pods.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>, pods: &str) -> Self {
        let said = |names: [&str; 2]| {
            let mut values = names.into_iter().filter_map(&variable);
            values.find(|value| !value.is_empty()).unwrap_or_default()
        };
        let except = said(["NO_PROXY", "no_proxy"]);
        Self {
            http: said(["HTTP_PROXY", "http_proxy"]),
            https: said(["HTTPS_PROXY", "https_proxy"]),
            except: format!("{except},{pods}"),
        }
    }
}

/// Which proxy an address is asked through.
#[derive(Clone)]
pub(super) struct Proxies {
    matcher: Arc<Matcher>,
    /// Asked directly at this port alone.
    ports: Arc<[(Matcher, u16)]>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Proxies {
    pub(super) fn new(settings: &ProxySettings) -> Result<Self, ProxyError> {
        let ProxySettings { http, https, except } = settings;
        let mut whole = vec![THIS_MACHINE];
        let mut ports = Vec::new();
        for entry in except.split(',').map(str::trim) {
            match entry.rsplit_once(':') {
                // What has more colons is an address of IPv6, with a port only behind a bracket.
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    if let Ok(port) = port.parse() {
                        let host = host.trim_matches(['[', ']']);
                        ports.push((
                            Matcher::builder().all("http://any").no(without_star(host)).build(),
                            port,
                        ));
                    }
                }
                Some(_) | None => whole.push(without_star(entry)),
            }
        }
        let build = |except: String| {
            Matcher::builder()
                .http(http.as_str())
                .https(https.as_str())
                .no(except)
                .build()
        };
        let unhindered = build(String::new());
        for (variable, said, to) in [
            ("HTTP_PROXY", http, Uri::from_static("http://any/")),
            ("HTTPS_PROXY", https, Uri::from_static("https://any/")),
        ] {
            let understood = unhindered.intercept(&to);
            if !said.is_empty() && understood.is_none_or(|proxy| proxy.uri().scheme_str() != Some("http")) {
                return Err(ProxyError { variable });
            }
        }
        Ok(Self {
            matcher: Arc::new(build(whole.join(","))),
            ports: ports.into(),
        })
    }

    /// The proxy for an address; `None`: it is asked directly.
    pub(super) fn of(&self, uri: &Uri) -> Option<Intercept> {
        let port = port_of(uri);
        let is_excepted = |(matcher, at): &(Matcher, u16)| *at == port && matcher.intercept(uri).is_none();
        if self.ports.iter().any(is_excepted) {
            return None;
        }
        self.matcher.intercept(uri)
    }
}

/// `*.example.com` is what `.example.com` is.
fn without_star(host: &str) -> &str {
    host.strip_prefix("*.").unwrap_or(host)
}

/// The port that an address means.
pub(super) fn port_of(uri: &Uri) -> u16 {
    let is_secure = uri.scheme_str() == Some("https");
    uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> ProxySettings {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ProxySettings::of_environment(value, "10.244.0.0/22")
    }

    fn proxy(variables: &[(&str, &str)], uri: &str) -> Option<String> {
        let proxies = Proxies::new(&settings(variables)).unwrap();
        let found = proxies.of(&uri.parse().unwrap());
        found.map(|proxy| proxy.uri().authority().unwrap().to_string())
    }

    #[test]
    fn each_scheme_has_its_proxy_and_capitals_come_first() {
        let both = [
            ("HTTP_PROXY", "http://plain:3128"),
            ("https_proxy", "http://me:pw@secure:3129"),
        ];
        assert_eq!(proxy(&both, "http://r.example/").unwrap(), "plain:3128");
        assert_eq!(proxy(&both, "https://r.example/").unwrap(), "secure:3129");
        let two = [("HTTPS_PROXY", "first:1"), ("https_proxy", "second:2")];
        assert_eq!(proxy(&two, "https://r.example/").unwrap(), "first:1");
        assert_eq!(proxy(&two, "http://r.example/"), None);
        assert_eq!(proxy(&[], "https://r.example/"), None);
    }

    #[test]
    fn this_machine_its_pods_and_what_is_excepted_are_asked_directly() {
        let variables = [
            ("HTTPS_PROXY", "http://p:1"),
            (
                "NO_PROXY",
                "inside.example, .dot.example,*.star.example,192.168.0.0/16,port.example:5000,[fd00::1]:443,9.9.9.9",
            ),
        ];
        for direct in [
            "localhost:5000",
            "127.0.0.1:5000",
            "127.8.9.10",
            "[::1]:5000",
            "10.244.1.2:5000",
            "inside.example",
            "a.inside.example",
            "a.dot.example",
            "a.star.example",
            "192.168.3.4",
            "port.example:5000",
            "[fd00::1]",
            "9.9.9.9:8443",
        ] {
            assert_eq!(proxy(&variables, &format!("https://{direct}/v2/")), None, "{direct}");
        }
        for through in [
            "r.example",
            "notinside.example",
            "192.169.0.1",
            "port.example",
            "10.1.2.3",
            "[fd00::1]:5000",
        ] {
            assert!(
                proxy(&variables, &format!("https://{through}/v2/")).is_some(),
                "{through}"
            );
        }
        let none = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "*")];
        assert_eq!(proxy(&none, "https://r.example/"), None);
    }

    #[test]
    fn what_is_no_proxy_is_named_and_no_password_is_shown() {
        for wrong in [
            "socks5://me:hunter2@p:1",
            "https://me:hunter2@p",
            "ftp://me:hunter2@p",
            "http://",
        ] {
            let settings = settings(&[("HTTP_PROXY", wrong)]);
            let error = Proxies::new(&settings).unwrap_err();
            assert_eq!(error.variable, "HTTP_PROXY");
            assert!(!format!("{error} {error:?} {settings:?}").contains("hunter2"));
        }
    }
}
