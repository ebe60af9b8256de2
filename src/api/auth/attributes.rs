//! What a request asks of podd: its verb, and a resource or a path (`apiserver/pkg/endpoints/request/requestinfo.go`).
//!
//! **Invariant:** the path is cut where the router cuts it, at the slashes that were sent, and each piece is decoded by
//! itself: what the rules see is what a handler would be given.

use std::borrow::Cow;

use axum::extract::Query;
use axum::http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::api::params::Params;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `get`, `list`, `create`; for a path the method in lower case. Empty for a method that means nothing.
    pub(crate) verb: String,
    pub(crate) target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Resource(Resource),
    /// A path that names no resource.
    Path(String),
}

/// A resource, one object of it, or what is beneath one. What is not said is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Resource {
    /// `pods`, `pods/log`: as rules name it.
    pub(crate) fn combined(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(&self.plural)
        } else {
            Cow::Owned(format!("{}/{}", self.plural, self.subresource))
        }
    }
}

/// What is beneath a namespace itself, and no resource in it.
const OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

/// What runs something or opens a way into a pod: to be allowed to read a pod must not be enough, and over WebSocket these
/// are GETs.
const CONNECTING: [&str; 3] = ["exec", "attach", "portforward"];

impl Attributes {
    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        let path = |verb: String| Self {
            verb,
            target: Target::Path(decoded(uri.path())),
        };
        let other = || path(method.as_str().to_ascii_lowercase());
        let pieces: Vec<String> = uri.path().trim_matches('/').split('/').map(decoded).collect();
        if pieces.len() < 3 {
            return other();
        }
        let (group, version, mut rest) = match (pieces[0].as_str(), pieces.as_slice()) {
            ("api", [_, version, rest @ ..]) => ("", version, rest),
            ("apis", [_, group, version, rest @ ..]) if !rest.is_empty() => (group.as_str(), version, rest),
            _ => return other(),
        };
        let mut verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let mut subresources = true;
        if matches!(rest[0].as_str(), "watch" | "proxy") {
            if rest.len() < 2 {
                return other();
            }
            // The old forms, which podd does not serve.
            subresources = rest[0] == "watch";
            verb = if subresources { "watch" } else { "proxy" };
            rest = &rest[1..];
        }
        let mut namespace = String::new();
        if rest[0] == "namespaces" && rest.len() > 1 {
            namespace.clone_from(&rest[1]);
            if rest.len() > 2 && !OF_NAMESPACES.contains(&rest[2].as_str()) {
                rest = &rest[2..];
            }
        }
        let piece = |at: usize| rest.get(at).cloned().unwrap_or_default();
        let mut resource = Resource {
            group: group.to_owned(),
            version: version.clone(),
            plural: piece(0),
            subresource: if subresources { piece(2) } else { String::new() },
            namespace,
            name: piece(1),
        };
        if resource.plural == "pods" && CONNECTING.contains(&resource.subresource.as_str()) && verb == "get" {
            verb = "create";
        }
        // What is beneath a nameless object is no list of it.
        let in_collection = resource.name.is_empty() && resource.subresource.is_empty();
        if in_collection && verb == "get" {
            let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| Params::from(pairs));
            let params = query.unwrap_or_default();
            verb = if params.flag("watch").unwrap_or(false) {
                "watch"
            } else {
                "list"
            };
            resource.name = one_name(params.get("fieldSelector").unwrap_or_default());
        }
        if in_collection && verb == "delete" {
            verb = "deletecollection";
        }
        Self {
            verb: verb.to_owned(),
            target: Target::Resource(resource),
        }
    }
}

/// The one object that a field selector means, if it means one.
fn one_name(selector: &str) -> String {
    let name = selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value))
    });
    let fits = |name: &&str| !matches!(*name, "." | "..") && !name.contains(['/', '%']);
    name.filter(fits).unwrap_or_default().to_owned()
}

fn decoded(piece: &str) -> String {
    percent_decode_str(piece).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, uri: &str) -> String {
        let Attributes { verb, target } = Attributes::of(&method.parse().unwrap(), &uri.parse().unwrap());
        match target {
            Target::Path(path) => format!("{verb} path {path}"),
            Target::Resource(resource) => {
                let combined = resource.combined().into_owned();
                let Resource {
                    group,
                    version,
                    namespace,
                    name,
                    ..
                } = resource;
                format!("{verb} {group}/{version} {combined} {namespace}/{name}")
            }
        }
    }

    #[test]
    fn requests_are_understood_as_kubernetes_understands_them() {
        const PODS: &str = "/api/v1/namespaces/ns/pods";
        for (method, uri, expected) in [
            ("GET", PODS.to_owned(), "list /v1 pods ns/"),
            ("HEAD", PODS.to_owned(), "list /v1 pods ns/"),
            ("GET", format!("{PODS}?watch=true"), "watch /v1 pods ns/"),
            ("GET", format!("{PODS}?watch"), "watch /v1 pods ns/"),
            ("GET", format!("{PODS}?watch=0"), "list /v1 pods ns/"),
            ("GET", format!("{PODS}?watch=%FF"), "watch /v1 pods ns/"),
            (
                "GET",
                format!("{PODS}?watch=1&fieldSelector=a%3Db,metadata.name%3Dx"),
                "watch /v1 pods ns/x",
            ),
            (
                "GET",
                format!("{PODS}?fieldSelector=metadata.name==x"),
                "list /v1 pods ns/x",
            ),
            (
                "GET",
                format!("{PODS}?fieldSelector=metadata.name!=x"),
                "list /v1 pods ns/",
            ),
            ("POST", PODS.to_owned(), "create /v1 pods ns/"),
            ("DELETE", PODS.to_owned(), "deletecollection /v1 pods ns/"),
            ("GET", format!("{PODS}/x"), "get /v1 pods ns/x"),
            ("GET", format!("{PODS}/x?watch=1"), "get /v1 pods ns/x"),
            ("PUT", format!("{PODS}/x"), "update /v1 pods ns/x"),
            ("PATCH", format!("{PODS}/x"), "patch /v1 pods ns/x"),
            ("DELETE", format!("{PODS}/x"), "delete /v1 pods ns/x"),
            ("GET", format!("{PODS}/x/log"), "get /v1 pods/log ns/x"),
            ("POST", format!("{PODS}/x/exec"), "create /v1 pods/exec ns/x"),
            ("GET", format!("{PODS}/x/exec?command=ls"), "create /v1 pods/exec ns/x"),
            ("GET", format!("{PODS}/x/attach"), "create /v1 pods/attach ns/x"),
            (
                "GET",
                format!("{PODS}/x/portforward"),
                "create /v1 pods/portforward ns/x",
            ),
            ("GET", format!("{PODS}/x/proxy/a/b/exec"), "get /v1 pods/proxy ns/x"),
            ("POST", format!("{PODS}/x/eviction"), "create /v1 pods/eviction ns/x"),
            ("OPTIONS", PODS.to_owned(), " /v1 pods ns/"),
            ("GET", "/api/v1/pods".to_owned(), "list /v1 pods /"),
            ("GET", "/api/v1/namespaces".to_owned(), "list /v1 namespaces /"),
            ("GET", "/api/v1/namespaces/ns".to_owned(), "get /v1 namespaces ns/ns"),
            (
                "PUT",
                "/api/v1/namespaces/ns/finalize".to_owned(),
                "update /v1 namespaces/finalize ns/ns",
            ),
            (
                "GET",
                "/api/v1/namespaces/ns/status".to_owned(),
                "get /v1 namespaces/status ns/ns",
            ),
            ("GET", "/api/v1/nodes/n/proxy/logs".to_owned(), "get /v1 nodes/proxy /n"),
            (
                "GET",
                "/apis/apps/v1/namespaces/ns/deployments/d/scale".to_owned(),
                "get apps/v1 deployments/scale ns/d",
            ),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(),
                "create authorization.k8s.io/v1 selfsubjectaccessreviews /",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/ns/secrets".to_owned(),
                "watch /v1 secrets ns/",
            ),
            (
                "GET",
                "/api/v1/proxy/namespaces/ns/pods/x/log".to_owned(),
                "proxy /v1 pods ns/x",
            ),
            ("GET", "/api/v1/watch".to_owned(), "get path /api/v1/watch"),
            ("GET", "/api".to_owned(), "get path /api"),
            ("GET", "/api/v1".to_owned(), "get path /api/v1"),
            ("GET", "/api/v1/".to_owned(), "get path /api/v1/"),
            ("GET", "/apis/apps/v1".to_owned(), "get path /apis/apps/v1"),
            ("GET", "/openapi/v3/api/v1".to_owned(), "get path /openapi/v3/api/v1"),
            (
                "POST",
                "/podd/v1/images/import?name=a".to_owned(),
                "post path /podd/v1/images/import",
            ),
            ("DELETE", "/podd/v1/images".to_owned(), "delete path /podd/v1/images"),
            ("GET", "/".to_owned(), "get path /"),
        ] {
            assert_eq!(of(method, &uri), expected, "{method} {uri}");
        }
    }

    #[test]
    fn what_is_escaped_cuts_no_path() {
        for (uri, expected) in [
            ("/api/v1/namespaces/a%2Fsecrets%2Fb/pods", "list /v1 pods a/secrets/b/"),
            ("/api/v1/namespaces/a/pods/x%2Fexec", "get /v1 pods a/x/exec"),
            ("/api/v1/namespaces/a/%73ecrets/x", "get /v1 secrets a/x"),
            ("/api/v1/namespaces/a/pods/x/%65xec", "create /v1 pods/exec a/x"),
            ("//api/v1/secrets", "list /v1 secrets /"),
            ("/api/v1//secrets", "get /v1  /secrets"),
        ] {
            let found = of("GET", uri);
            assert_eq!(found, expected, "{uri}");
        }
    }
}
