//! Addresses that registries give.
//!
//! Goes in: text of a registry. Comes out: an address, or what an error may show of one.
//!
//! **Invariant:** pure.

use hyper::Uri;

use super::printable;

/// Scheme, host and port are the same.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16()
            .unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
    };
    a.scheme() == b.scheme() && a.host() == b.host() && port(a) == port(b)
}

/// An address as seen from another (RFC 3986, 5.2, as far as registries go).
pub(super) fn relative(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let is_scheme = |scheme: &str| !scheme.contains(['/', '?']);
    if location.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) {
        return location.parse().ok();
    }
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let directory = from.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{directory}/{location}")
    };
    format!("{scheme}://{authority}{path}").parse().ok()
}

/// An address for an error: without what may hold a signature or a password.
pub(super) fn without_query(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    // Nor a password before the host.
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => printable(format!("{scheme}://{rest}").as_bytes()),
        _ => printable(address.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_as_browsers_read_them() {
        let from: Uri = "https://r.example:5000/v2/a/b?x=y".parse().unwrap();
        for (location, want) in [
            ("https://s.example/x?sig=1", "https://s.example/x?sig=1"),
            ("/blob#top", "https://r.example:5000/blob"),
            ("//s.example/x", "https://s.example/x"),
            ("c?d=e", "https://r.example:5000/v2/a/c?d=e"),
        ] {
            assert_eq!(relative(&from, location).unwrap().to_string(), want);
        }
        assert_eq!(relative(&from, "http://"), None);
    }

    #[test]
    fn an_error_shows_neither_a_query_nor_a_password() {
        assert_eq!(
            without_query("https://s.example/x?X-Signature=secret"),
            "https://s.example/x"
        );
        assert_eq!(without_query("https://me:secret@s.example/x"), "https://s.example/x");
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let origin = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(origin("https://a/x", "https://a:443/y"));
        for other in ["http://a/", "https://b/", "https://a:444/"] {
            assert!(!origin("https://a/", other), "{other}");
        }
    }
}
