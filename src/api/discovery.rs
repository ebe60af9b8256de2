//! What is served: `/api`, `/apis`, `/api/v1`, each in the form that the client knows; and `/version`.
//!
//! Goes in: the kinds. Comes out: groups, versions and resources; and for a path that is not served, what is served
//! instead.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use sha2::{Digest, Sha512};

use super::Api;
use super::answer::{hex, json_response, response};
use super::error::ApiError;
use super::kinds::{KINDS, Kind};
use super::negotiate::{self, Discovery};
use super::openapi::matches_tag;

/// The version of Kubernetes whose API this is.
pub(crate) const KUBERNETES: (&str, &str) = ("1", "36");

pub(crate) fn router() -> Router<Api> {
    let mut router = Router::new()
        .route("/version", get(version))
        .route("/version/", get(version))
        .route("/api", get(core_versions))
        .route("/api/", get(core_versions))
        .route("/apis", get(groups))
        .route("/apis/", get(groups));
    for (group, version) in group_versions() {
        let (path, handler) = if group.is_empty() {
            (
                format!("/api/{version}"),
                get(move || async move { resources(group, version) }),
            )
        } else {
            (
                format!("/apis/{group}/{version}"),
                get(move || async move { resources(group, version) }),
            )
        };
        router = router.route(&path, handler.clone()).route(&format!("{path}/"), handler);
    }
    for group in named_groups() {
        let handler =
            get(move || async move { json_response(StatusCode::OK, &with_type(group_document(group), "APIGroup")) });
        router = router
            .route(&format!("/apis/{group}"), handler.clone())
            .route(&format!("/apis/{group}/"), handler);
    }
    router
}

/// Every group and version that a kind is in, once, in the order of the kinds.
pub(crate) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for kind in KINDS {
        if !found.contains(&(kind.group, kind.version)) {
            found.push((kind.group, kind.version));
        }
    }
    found
}

fn named_groups() -> Vec<&'static str> {
    let mut found: Vec<&'static str> = Vec::new();
    for (group, _) in group_versions() {
        if !group.is_empty() && !found.contains(&group) {
            found.push(group);
        }
    }
    found
}

/// `gitVersion` of `/version`; also what the node says of itself.
pub fn git_version() -> String {
    let (major, minor) = KUBERNETES;
    format!("v{major}.{minor}.0+podd.{}", env!("CARGO_PKG_VERSION"))
}

async fn version() -> Response {
    let (major, minor) = KUBERNETES;
    let platform = format!("{}/{}", std::env::consts::OS, go_architecture());
    json_response(
        StatusCode::OK,
        &json!({
            "major": major,
            "minor": minor,
            "emulationMajor": major,
            "emulationMinor": minor,
            "minCompatibilityMajor": major,
            "minCompatibilityMinor": minor,
            "gitVersion": git_version(),
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": platform,
        }),
    )
}

/// The architecture in Go's words, which clients compare with.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn core_versions(headers: HeaderMap) -> Result<Response, ApiError> {
    match negotiate::discovery(&headers)? {
        Discovery::Aggregated(version) => Ok(aggregated(&headers, version, str::is_empty)),
        Discovery::Legacy => {
            let versions: Vec<&str> = group_versions()
                .into_iter()
                .filter(|(g, _)| g.is_empty())
                .map(|(_, v)| v)
                .collect();
            Ok(json_response(
                StatusCode::OK,
                &json!({ "kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": [] }),
            ))
        }
    }
}

async fn groups(headers: HeaderMap) -> Result<Response, ApiError> {
    match negotiate::discovery(&headers)? {
        Discovery::Aggregated(version) => Ok(aggregated(&headers, version, |group| !group.is_empty())),
        Discovery::Legacy => {
            let groups: Vec<Value> = named_groups().into_iter().map(group_document).collect();
            Ok(json_response(
                StatusCode::OK,
                &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }),
            ))
        }
    }
}

fn with_type(mut document: Value, kind: &str) -> Value {
    document["kind"] = kind.into();
    document["apiVersion"] = "v1".into();
    document
}

fn group_document(group: &str) -> Value {
    let versions: Vec<Value> = group_versions()
        .into_iter()
        .filter(|(g, _)| *g == group)
        .map(|(g, v)| json!({ "groupVersion": format!("{g}/{v}"), "version": v }))
        .collect();
    json!({ "name": group, "preferredVersion": versions.first(), "versions": versions })
}

/// `APIResourceList` of a group and version.
fn resources(group: &str, version: &str) -> Response {
    let mut resources = Vec::new();
    for kind in kinds_of(group, version) {
        let mut resource = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        add_names(&mut resource, kind);
        resources.push(resource);
        for sub in kind.subresources {
            let (group, version, name) = sub.kind;
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": name,
                "verbs": sub.verbs,
            });
            if (group, version) != (kind.group, kind.version) {
                resource["group"] = group.into();
                resource["version"] = version.into();
            }
            resources.push(resource);
        }
    }
    let list = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": joined(group, version),
        "resources": resources,
    });
    json_response(StatusCode::OK, &list)
}

/// Short names and categories, where there are any.
fn add_names(resource: &mut Value, kind: &Kind) {
    for (field, names) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
        if !names.is_empty() {
            resource[field] = names.into();
        }
    }
}

fn kinds_of(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS
        .iter()
        .copied()
        .filter(move |k| k.group == group && k.version == version)
}

/// `APIGroupDiscoveryList` in this version of `apidiscovery.k8s.io`.
fn aggregated(headers: &HeaderMap, version: &'static str, wanted: impl Fn(&str) -> bool) -> Response {
    let kind_reference =
        |(group, version, kind): (&str, &str, &str)| json!({ "group": group, "version": version, "kind": kind });
    let resource = |kind: &Kind| {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| json!({ "subresource": s.name, "responseKind": kind_reference(s.kind), "verbs": s.verbs }))
            .collect();
        let mut resource = json!({
            "resource": kind.plural,
            "responseKind": kind_reference((kind.group, kind.version, kind.kind)),
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": kind.singular,
            "verbs": kind.verbs,
        });
        add_names(&mut resource, kind);
        if !subresources.is_empty() {
            resource["subresources"] = subresources.into();
        }
        resource
    };
    let groups = std::iter::once("").chain(named_groups()).filter(|group| wanted(group));
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = group_versions()
                .into_iter()
                .filter(|(g, _)| *g == group)
                .map(|(g, v)| {
                    let resources: Vec<Value> = kinds_of(g, v).map(resource).collect();
                    json!({ "version": v, "freshness": "Current", "resources": resources })
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({})
            } else {
                json!({ "name": group })
            };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let text = list.to_string();
    let tag = format!("\"{}\"", hex(&Sha512::digest(&text)).to_ascii_uppercase());
    // kubectl reads group, version and kind of the document from here.
    let content_type = match version {
        "v2beta1" => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    };
    let mut answer = if matches_tag(headers, &tag) {
        response(StatusCode::NOT_MODIFIED, content_type, Body::empty())
    } else {
        response(StatusCode::OK, content_type, text)
    };
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    answer
}

/// Why there is nothing at a path: where it names a version that is not served, the one that is.
pub(crate) fn no_such_path(path: &str) -> ApiError {
    let mut parts = path.split('/').skip(1);
    let group = match parts.next() {
        Some("api") => Some(""),
        Some("apis") => parts.next(),
        _ => None,
    };
    let (Some(group), Some(version)) = (group, parts.next().filter(|v| !v.is_empty())) else {
        return ApiError::NoSuchPath;
    };
    if group_versions().contains(&(group, version)) {
        return ApiError::NoSuchPath;
    }
    let resource = match parts.next() {
        Some("namespaces") => parts.nth(1).unwrap_or("namespaces"),
        other => other.unwrap_or_default(),
    };
    // The same resource of the same group, of another group, or else the group as it is.
    let served = KINDS
        .iter()
        .filter(|kind| kind.plural == resource)
        .min_by_key(|kind| kind.group != group)
        .map(|kind| kind.api_version())
        .or_else(|| {
            let (group, version) = group_versions().into_iter().find(|(g, _)| *g == group)?;
            Some(joined(group, version))
        });
    match served {
        Some(served) => ApiError::VersionNotServed {
            asked: joined(group, version),
            served,
        },
        None => ApiError::NoSuchPath,
    }
}

/// `v1`, `apps/v1`.
fn joined(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_not_served_names_the_one_that_is() {
        let pods = "the server could not find the requested resource: v1beta3 is not served, v1 is";
        for path in [
            "/api/v1beta3",
            "/api/v1beta3/",
            "/api/v1beta3/pods",
            "/api/v1beta3/namespaces/default/pods/x",
        ] {
            let error = no_such_path(path);
            assert_eq!(error.to_string(), pods, "{path}");
            assert_eq!(error.status()["code"], 404);
            assert_eq!(error.status()["reason"], "NotFound");
        }
        // A kind that went to another group.
        assert_eq!(
            no_such_path("/apis/extensions/v1beta1/namespaces/default/pods").to_string(),
            "the server could not find the requested resource: extensions/v1beta1 is not served, v1 is"
        );
    }

    #[test]
    fn what_was_never_there_is_only_not_found() {
        for path in [
            "/",
            "/api",
            "/api/v1/nothing",
            "/apis/example.org/v1/things",
            "/apis/example.org",
            "/other/v1beta1/pods",
        ] {
            assert_eq!(
                no_such_path(path).to_string(),
                "the server could not find the requested resource",
                "{path}"
            );
        }
    }
}
