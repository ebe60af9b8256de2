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
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Resource {
    /// `pods`, `pods/log`: as rules name it.
    pub(crate) fn combined(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(&self.resource)
        } else {
            Cow::Owned(format!("{}/{}", self.resource, self.subresource))
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
            resource: piece(0),
            subresource: if subresources { piece(2) } else { String::new() },
            namespace,
            name: piece(1),
        };
        if resource.resource == "pods" && CONNECTING.contains(&resource.subresource.as_str()) && verb == "get" {
            verb = "create";
        }
        if resource.name.is_empty() && verb == "get" {
            let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| Params::from(pairs));
            let params = query.unwrap_or_default();
            verb = if params.flag("watch").unwrap_or(false) {
                "watch"
            } else {
                "list"
            };
            resource.name = one_name(params.get("fieldSelector").unwrap_or_default());
        }
        if resource.name.is_empty() && verb == "delete" {
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
