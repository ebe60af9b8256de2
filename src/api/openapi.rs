//! The `OpenAPI` document: `/openapi.json` for people and generators, `/openapi/v3` in the shape that kubectl reads.
//!
//! The frame (info, paths, operations) is utoipa's and made from the kinds; the schemas are k8s-openapi's own. The two are
//! merged as JSON. It is written down in `openapi/podd.json` (`podd openapi > openapi/podd.json`), and a test compares.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApiBuilder, Ref, Required, Type,
};

use super::Api;
use super::answer::{hex, json_response, response};
use super::discovery::group_versions;
use super::error::ApiError;
use super::kinds::{KINDS, Kind};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The whole document.
pub fn document() -> Value {
    let mut paths = Paths::new();
    for kind in KINDS {
        add_paths(&mut paths, kind);
    }
    for (path, what) in [
        ("/healthz", "Whether podd lives."),
        ("/livez", "Whether podd lives."),
        ("/readyz", "Whether podd serves pods."),
    ] {
        let text = ContentBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build();
        let operation = OperationBuilder::new()
            .operation_id(Some(path.trim_start_matches('/')))
            .description(Some(what))
            .response(
                "200",
                ResponseBuilder::new().description("OK").content("text/plain", text),
            );
        paths.add_path_operation(path, vec![HttpMethod::Get], operation);
    }
    let version = OperationBuilder::new()
        .operation_id(Some("getVersion"))
        .description(Some("The version of podd, and of Kubernetes' API that it speaks."))
        .response(
            "200",
            ResponseBuilder::new()
                .description("OK")
                .content("application/json", object_content()),
        );
    paths.add_path_operation("/version", vec![HttpMethod::Get], version);
    let info = InfoBuilder::new()
        .title("podd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "A pod host for one Linux machine: Kubernetes pods over HTTP, without a cluster.",
        ))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ));
    let frame = OpenApiBuilder::new().info(info).paths(paths).build();
    let mut document = serde_json::to_value(frame).unwrap_or_default();
    document["components"] = json!({ "schemas": schemas() });
    document
}

fn object_content() -> utoipa::openapi::Content {
    ContentBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::Object)))
        .build()
}

/// How lists merge in a strategic patch: schema, field, strategy, key (struct tags of `k8s.io/api/core/v1/types.go`).
/// kubectl works out its patches by these; without them it would send whole lists.
const MERGED_LISTS: &[(&str, &str, &str, &str)] = &[
    ("api.core.v1.PodSpec", "containers", "merge", "name"),
    ("api.core.v1.PodSpec", "initContainers", "merge", "name"),
    ("api.core.v1.PodSpec", "ephemeralContainers", "merge", "name"),
    ("api.core.v1.PodSpec", "volumes", "merge,retainKeys", "name"),
    ("api.core.v1.PodSpec", "imagePullSecrets", "merge", "name"),
    ("api.core.v1.PodSpec", "hostAliases", "merge", "ip"),
    (
        "api.core.v1.PodSpec",
        "topologySpreadConstraints",
        "merge",
        "topologyKey",
    ),
    ("api.core.v1.PodSpec", "resourceClaims", "merge,retainKeys", "name"),
    ("api.core.v1.PodSpec", "schedulingGates", "merge", "name"),
    ("api.core.v1.Container", "env", "merge", "name"),
    ("api.core.v1.Container", "ports", "merge", "containerPort"),
    ("api.core.v1.Container", "volumeMounts", "merge", "mountPath"),
    ("api.core.v1.Container", "volumeDevices", "merge", "devicePath"),
    ("api.core.v1.EphemeralContainer", "env", "merge", "name"),
    ("api.core.v1.EphemeralContainer", "ports", "merge", "containerPort"),
    ("api.core.v1.EphemeralContainer", "volumeMounts", "merge", "mountPath"),
    ("api.core.v1.EphemeralContainer", "volumeDevices", "merge", "devicePath"),
    ("api.core.v1.PodStatus", "conditions", "merge", "type"),
    ("api.core.v1.PodStatus", "podIPs", "merge", "ip"),
    ("api.core.v1.PodStatus", "hostIPs", "merge", "ip"),
    (
        "apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "ownerReferences",
        "merge",
        "uid",
    ),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", "merge", ""),
];

/// The schemas of every kind, its list, and what else the operations speak of.
fn schemas() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3();
    let mut generator = settings.into_generator();
    for kind in KINDS {
        (kind.schema)(&mut generator);
    }
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>();
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta>();
    let mut schemas = generator.take_definitions(true);
    for (schema, field, strategy, key) in MERGED_LISTS {
        let list = schemas
            .get_mut(&format!("io.k8s.{schema}"))
            .and_then(|s| s["properties"].get_mut(*field));
        if let Some(list) = list {
            list["x-kubernetes-patch-strategy"] = (*strategy).into();
            if !key.is_empty() {
                list["x-kubernetes-patch-merge-key"] = (*key).into();
            }
        }
    }
    for kind in KINDS {
        let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
        let name = kind.schema_name();
        let identity = json!([{ "group": kind.group, "version": kind.version, "kind": kind.kind }]);
        if let Some(schema) = schemas.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] = identity;
        }
        schemas.insert(
            format!("{name}List"),
            json!({
                "type": "object",
                "description": format!("A list of {}.", kind.plural),
                "required": ["items"],
                "properties": {
                    "apiVersion": { "type": "string" },
                    "kind": { "type": "string" },
                    "metadata": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
                    "items": { "type": "array", "items": reference(&name) },
                },
                "x-kubernetes-group-version-kind": [
                    { "group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind) }
                ],
            }),
        );
    }
    schemas
}

/// A parameter of the query.
struct Parameter(&'static str, Type, &'static str);

const LIST: &[Parameter] = &[
    Parameter("labelSelector", Type::String, "Only objects whose labels match."),
    Parameter("fieldSelector", Type::String, "Only objects whose fields match."),
    Parameter(
        "limit",
        Type::Integer,
        "At most so many objects; `continue` of the answer leads on.",
    ),
    Parameter(
        "continue",
        Type::String,
        "Where a list goes on, as the answer before it said.",
    ),
    Parameter(
        "resourceVersion",
        Type::String,
        "Not older than this version; for a watch: every change after it.",
    ),
    Parameter("resourceVersionMatch", Type::String, "`NotOlderThan` or `Exact`."),
    Parameter(
        "watch",
        Type::Boolean,
        "Stream changes, one JSON object a line, instead of a list.",
    ),
    Parameter("allowWatchBookmarks", Type::Boolean, "Send bookmarks while watching."),
    Parameter(
        "sendInitialEvents",
        Type::Boolean,
        "Begin a watch with everything there is.",
    ),
    Parameter("timeoutSeconds", Type::Integer, "How long a watch lasts."),
];
const WRITE: &[Parameter] = &[
    Parameter("dryRun", Type::String, "`All`: check everything, store nothing."),
    Parameter("fieldManager", Type::String, "Who writes; not recorded yet."),
    Parameter(
        "fieldValidation",
        Type::String,
        "What becomes of unknown fields: `Strict`, `Warn` (default) or `Ignore`.",
    ),
];
const DELETE: &[Parameter] = &[
    Parameter("dryRun", Type::String, "`All`: check everything, delete nothing."),
    Parameter(
        "gracePeriodSeconds",
        Type::Integer,
        "Between SIGTERM and SIGKILL; instead of the pod's own.",
    ),
    Parameter(
        "propagationPolicy",
        Type::String,
        "`Background`, `Foreground` or `Orphan`.",
    ),
];
const LOG: &[Parameter] = &[
    Parameter(
        "container",
        Type::String,
        "Which container; needed where there are several.",
    ),
    Parameter("follow", Type::Boolean, "Go on as long as the container runs."),
    Parameter("previous", Type::Boolean, "The instance before the present one."),
    Parameter("timestamps", Type::Boolean, "A timestamp before each line."),
    Parameter("sinceSeconds", Type::Integer, "Only what is not older."),
    Parameter("sinceTime", Type::String, "Only what is not older (RFC 3339)."),
    Parameter("tailLines", Type::Integer, "Only so many lines from the end."),
    Parameter("limitBytes", Type::Integer, "At most so many bytes."),
    Parameter(
        "stream",
        Type::String,
        "`All` (default), `Stdout` or `Stderr`; one alone not together with `tailLines`.",
    ),
];
const REMOTE: &[Parameter] = &[
    Parameter(
        "container",
        Type::String,
        "Which container; needed where there are several.",
    ),
    Parameter("stdin", Type::Boolean, "Stream to its standard input."),
    Parameter("stdout", Type::Boolean, "Stream its standard output."),
    Parameter("stderr", Type::Boolean, "Stream its standard error; never with `tty`."),
    Parameter("tty", Type::Boolean, "With a terminal."),
];
const EXEC: &[Parameter] = &[
    Parameter(
        "command",
        Type::String,
        "The program; given again for each of its arguments.",
    ),
    Parameter(
        "container",
        Type::String,
        "Which container; needed where there are several.",
    ),
    Parameter("stdin", Type::Boolean, "Stream to its standard input."),
    Parameter("stdout", Type::Boolean, "Stream its standard output."),
    Parameter("stderr", Type::Boolean, "Stream its standard error; never with `tty`."),
    Parameter("tty", Type::Boolean, "With a terminal."),
];
const FORWARD: &[Parameter] = &[Parameter(
    "ports",
    Type::String,
    "Which ports, for WebSockets whose channels are those; several with commas.",
)];

const JSON: &[&str] = &["application/json", "application/yaml"];
const PATCHES: &[&str] = &[
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
];

/// One operation of a kind, in the making.
struct Draft<'a> {
    kind: &'a Kind,
    verb: &'static str,
    action: &'static str,
    description: String,
    in_name: bool,
    parameters: &'static [Parameter],
    body: Option<(&'static [&'static str], String)>,
    answers: Vec<(&'static str, String)>,
}

impl Draft<'_> {
    fn build(self) -> Operation {
        let kind = self.kind;
        let identity = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
        let mut operation = OperationBuilder::new()
            .operation_id(Some(format!("{}{}", self.verb, kind.kind)))
            .description(Some(self.description))
            .tag(kind.api_version())
            .extensions(Some(
                Extensions::builder()
                    .add("x-kubernetes-action", self.action)
                    .add("x-kubernetes-group-version-kind", identity)
                    .build(),
            ));
        let string = || ObjectBuilder::new().schema_type(Type::String);
        for (name, wanted) in [
            ("namespace", kind.namespaced && self.verb != "listAll"),
            ("name", self.in_name),
        ] {
            if wanted {
                let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
                operation = operation.parameter(parameter.required(Required::True).schema(Some(string())));
            }
        }
        for Parameter(name, of_type, description) in self.parameters {
            let parameter = ParameterBuilder::new().name(*name).parameter_in(ParameterIn::Query);
            let schema = ObjectBuilder::new().schema_type(of_type.clone());
            operation = operation.parameter(
                parameter
                    .required(Required::False)
                    .description(Some(*description))
                    .schema(Some(schema)),
            );
        }
        if let Some((media, schema)) = self.body {
            let mut body = RequestBodyBuilder::new();
            for media in media {
                body = body.content(*media, content(&schema));
            }
            operation = operation.request_body(Some(body.build()));
        }
        for (code, schema) in self.answers {
            let media = if schema.is_empty() {
                "text/plain"
            } else {
                "application/json"
            };
            let content = if schema.is_empty() {
                ContentBuilder::new().schema(Some(string())).build()
            } else {
                content(&schema)
            };
            operation = operation.response(code, ResponseBuilder::new().description("OK").content(media, content));
        }
        operation
            .response(
                "default",
                ResponseBuilder::new()
                    .description("What went wrong")
                    .content("application/json", content(STATUS)),
            )
            .build()
    }
}

fn content(schema: &str) -> utoipa::openapi::Content {
    ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .build()
}

fn add_paths(paths: &mut Paths, kind: &Kind) {
    let one = kind.schema_name();
    let list = format!("{one}List");
    let (collection, object) = (kind.collection_path(), format!("{}/{{name}}", kind.collection_path()));
    let draft = |verb, action, description: String, in_name, parameters, body, answers| {
        Draft {
            kind,
            verb,
            action,
            description,
            in_name,
            parameters,
            body,
            answers,
        }
        .build()
    };
    let mut add = |path: &str, method, operation| paths.add_path_operation(path, vec![method], operation);
    let (plural, singular) = (kind.plural, kind.singular);
    add(
        &collection,
        HttpMethod::Get,
        draft(
            "list",
            "list",
            format!("List or watch {plural} of a namespace."),
            false,
            LIST,
            None,
            vec![("200", list.clone())],
        ),
    );
    add(
        &collection,
        HttpMethod::Post,
        draft(
            "create",
            "post",
            format!("Make a {singular}."),
            false,
            WRITE,
            Some((JSON, one.clone())),
            vec![("201", one.clone())],
        ),
    );
    add(
        &collection,
        HttpMethod::Delete,
        draft(
            "deleteCollection",
            "deletecollection",
            format!("Delete {plural} of a namespace."),
            false,
            LIST,
            Some((JSON, DELETE_OPTIONS.to_owned())),
            vec![("200", list.clone())],
        ),
    );
    add(
        &object,
        HttpMethod::Get,
        draft(
            "get",
            "get",
            format!("One {singular}."),
            true,
            &[],
            None,
            vec![("200", one.clone())],
        ),
    );
    add(
        &object,
        HttpMethod::Put,
        draft(
            "replace",
            "put",
            format!("Replace a {singular}."),
            true,
            WRITE,
            Some((JSON, one.clone())),
            vec![("200", one.clone())],
        ),
    );
    add(
        &object,
        HttpMethod::Patch,
        draft(
            "patch",
            "patch",
            format!("Change a {singular}."),
            true,
            WRITE,
            Some((PATCHES, one.clone())),
            vec![("200", one.clone())],
        ),
    );
    add(
        &object,
        HttpMethod::Delete,
        draft(
            "delete",
            "delete",
            format!("Delete a {singular}."),
            true,
            DELETE,
            Some((JSON, DELETE_OPTIONS.to_owned())),
            vec![("200", one.clone())],
        ),
    );
    for sub in kind.subresources {
        let path = format!("{object}/{}", sub.name);
        match sub.name {
            "log" => add(
                &path,
                HttpMethod::Get,
                draft(
                    "log",
                    "connect",
                    "What a container wrote.".to_owned(),
                    true,
                    LOG,
                    None,
                    vec![("200", String::new())],
                ),
            ),
            "attach" | "exec" | "portforward" | "proxy" => {
                let (parameters, description) = match sub.name {
                    "attach" => (REMOTE, "Be at a container's input and output (WebSocket or SPDY/3.1)."),
                    "exec" => (EXEC, "Run a program in a container (WebSocket or SPDY/3.1)."),
                    "portforward" => (FORWARD, "Reach ports of the pod (WebSocket or SPDY/3.1)."),
                    _ => (
                        &[][..],
                        "Pass a request on to a port of the pod; paths beneath this one too.",
                    ),
                };
                for (verb, method) in CONNECT {
                    if sub.name != "proxy" && !matches!(method, HttpMethod::Get | HttpMethod::Post) {
                        continue;
                    }
                    let operation = Draft {
                        kind,
                        verb: "connect",
                        action: "connect",
                        description: description.to_owned(),
                        in_name: true,
                        parameters,
                        body: None,
                        answers: vec![("200", String::new())],
                    };
                    let mut operation = operation.build();
                    operation.operation_id = Some(format!("connect{verb}{}{}", kind.kind, capital(sub.name)));
                    // Not of the kind itself: kubectl takes the first PATCH that is, and asks it what it can do.
                    let (group, version, options) = sub.kind;
                    operation.extensions = Some(
                        Extensions::builder()
                            .add("x-kubernetes-action", "connect")
                            .add(
                                "x-kubernetes-group-version-kind",
                                json!({ "group": group, "version": version, "kind": options }),
                            )
                            .build(),
                    );
                    add(&path, method.clone(), operation);
                }
            }
            "status" => add(
                &path,
                HttpMethod::Get,
                draft(
                    "getStatus",
                    "get",
                    format!("One {singular}, for its status."),
                    true,
                    &[],
                    None,
                    vec![("200", one.clone())],
                ),
            ),
            _ => {}
        }
    }
    if kind.namespaced {
        let path = format!("{}/{plural}", kind.base_path());
        add(
            &path,
            HttpMethod::Get,
            draft(
                "listAll",
                "list",
                format!("List or watch {plural} of all namespaces."),
                false,
                LIST,
                None,
                vec![("200", list)],
            ),
        );
    }
}

/// The methods of streams, as their operations are named.
const CONNECT: &[(&str, HttpMethod)] = &[
    ("Get", HttpMethod::Get),
    ("Post", HttpMethod::Post),
    ("Put", HttpMethod::Put),
    ("Delete", HttpMethod::Delete),
    ("Patch", HttpMethod::Patch),
    ("Head", HttpMethod::Head),
    ("Options", HttpMethod::Options),
];

/// `Exec` of `exec`.
fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

/// The part of the document about one group and version, as `/openapi/v3/...` has it.
fn part(prefix: &str) -> Value {
    let mut document = document();
    // kubectl reads 3.0; nothing in our operations or schemas is of 3.1 alone.
    document["openapi"] = "3.0.0".into();
    if let Some(license) = document.pointer_mut("/info/license").and_then(Value::as_object_mut) {
        license.remove("identifier");
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.retain(|path, _| path.starts_with(prefix));
    }
    document
}

/// A part as it is sent: made at its first use, and kept.
struct Part {
    /// `api/v1`
    name: String,
    made: OnceLock<(Bytes, String)>,
}

impl Part {
    fn get(&self) -> &(Bytes, String) {
        self.made.get_or_init(|| {
            let bytes = part(&format!("/{}/", self.name)).to_string();
            let hash = hex(&Sha256::digest(&bytes));
            (Bytes::from(bytes), hash)
        })
    }
}

pub(crate) fn router() -> Router<Api> {
    let parts: std::sync::Arc<Vec<Part>> = std::sync::Arc::new(
        group_versions()
            .into_iter()
            .map(|(group, version)| {
                let name = if group.is_empty() {
                    format!("api/{version}")
                } else {
                    format!("apis/{group}/{version}")
                };
                Part {
                    name,
                    made: OnceLock::new(),
                }
            })
            .collect(),
    );
    let of_index = std::sync::Arc::clone(&parts);
    let index = get(move || async move {
        let paths: Map<String, Value> = of_index
            .iter()
            .map(|part| {
                let url = format!("/openapi/v3/{}?hash={}", part.name, part.get().1);
                (part.name.clone(), json!({ "serverRelativeURL": url }))
            })
            .collect();
        json_response(StatusCode::OK, &json!({ "paths": paths }))
    });
    let one = get(move |Path(name): Path<String>, RawQuery(query): RawQuery| async move {
        let part = parts.iter().find(|p| p.name == name).ok_or(ApiError::NoSuchPath)?;
        let (bytes, hash) = part.get();
        let hashed = query.is_some_and(|q| q.contains(hash.as_str()));
        Ok::<_, ApiError>(cacheable(bytes.clone(), hash, hashed))
    });
    Router::new()
        .route(
            "/openapi.json",
            get(|| async { json_response(StatusCode::OK, &document()) }),
        )
        .route("/openapi/v3", index.clone())
        .route("/openapi/v3/", index)
        .route("/openapi/v3/{*name}", one)
}

/// What was asked for by its hash never changes, and is not asked for again.
fn cacheable(bytes: Bytes, hash: &str, hashed: bool) -> Response {
    let mut response = response(StatusCode::OK, "application/json", bytes);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        headers.insert(header::ETAG, tag);
    }
    if hashed {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(
            header::EXPIRES,
            HeaderValue::from_static("Fri, 31 Dec 9999 23:59:59 GMT"),
        );
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let part = part("/api/v1/");
        assert_eq!(part["openapi"], "3.0.0");
        let patch = &part["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "", "version": "v1", "kind": "Pod"})
        );
        let names: Vec<&Value> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["name"])
            .collect();
        assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
        assert!(part["components"]["schemas"]["io.k8s.api.core.v1.Pod"].is_object());
        assert!(part["paths"].get("/healthz").is_none());
    }

    #[test]
    fn every_list_that_merges_is_there() {
        let schemas = schemas();
        for (schema, field, strategy, _) in MERGED_LISTS {
            let list = &schemas[&format!("io.k8s.{schema}")]["properties"][field];
            assert_eq!(list["x-kubernetes-patch-strategy"], *strategy, "{schema}.{field}");
        }
    }
}
