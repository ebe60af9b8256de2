//! What is served: `/api`, `/apis`, `/api/v1`, each in the form that the client knows; and `/version`.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use super::Api;
use super::answer::json_response;
use super::error::ApiError;
use super::kinds::{KINDS, Kind};
use super::negotiate::{self, Discovery};

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
        Discovery::Aggregated(version) => Ok(aggregated(version, str::is_empty)),
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
        Discovery::Aggregated(version) => Ok(aggregated(version, |group| !group.is_empty())),
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
        resources.push(json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
            "shortNames": kind.short_names,
            "categories": kind.categories,
        }));
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
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources
    });
    json_response(StatusCode::OK, &list)
}

fn kinds_of(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS
        .iter()
        .copied()
        .filter(move |k| k.group == group && k.version == version)
}

/// `APIGroupDiscoveryList` in this version of `apidiscovery.k8s.io`.
fn aggregated(version: &'static str, wanted: impl Fn(&str) -> bool) -> Response {
    let kind_reference =
        |(group, version, kind): (&str, &str, &str)| json!({ "group": group, "version": version, "kind": kind });
    let resource = |kind: &Kind| {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| json!({ "subresource": s.name, "responseKind": kind_reference(s.kind), "verbs": s.verbs }))
            .collect();
        json!({
            "resource": kind.plural,
            "responseKind": kind_reference((kind.group, kind.version, kind.kind)),
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": kind.singular,
            "verbs": kind.verbs,
            "shortNames": kind.short_names,
            "categories": kind.categories,
            "subresources": subresources,
        })
    };
    let mut groups: Vec<&str> = Vec::new();
    for (group, _) in group_versions() {
        if wanted(group) && !groups.contains(&group) {
            groups.push(group);
        }
    }
    let items: Vec<Value> = groups
        .into_iter()
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
    let mut response = json_response(StatusCode::OK, &list);
    // kubectl reads group, version and kind of the document from here.
    let content_type = match version {
        "v2beta1" => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}
