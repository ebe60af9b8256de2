//! The operations of one kind and of its subresources, named as Kubernetes names them.
//!
//! Goes in: a kind's names, verbs and subresources. Comes out: its paths, each with its operations, as `OpenAPI` 3.0
//! writes them (3.1 writes these parts alike).

use serde_json::{Map, Value, json};

use super::parameters::{self, query};
use super::schemas::{DELETE_OPTIONS, STATUS, identity, name, of_subresource, reference};
use crate::api::kinds::{KINDS, Kind};

/// Bodies of objects: all but the answers come in protobuf too.
const BODIES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const ANSWERS: &[&str] = &["application/json", "application/yaml"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// Of whatever kind, as Kubernetes' own document has it: generators stumble over a choice between a list and an object.
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// What went wrong, by code: the answers that any operation may give, and those of operations that change something.
const ERRORS: &[(&str, &str, bool)] = &[
    ("400", "BadRequest", false),
    ("401", "Unauthorized", false),
    ("403", "Forbidden", false),
    ("404", "NotFound", false),
    ("405", "MethodNotAllowed", false),
    ("406", "NotAcceptable", false),
    ("408", "Timeout", true),
    ("409", "Conflict", true),
    ("410", "Gone", false),
    ("413", "RequestEntityTooLarge", true),
    ("415", "UnsupportedMediaType", true),
    ("421", "Misdirected", false),
    ("422", "Invalid", false),
    ("429", "TooManyRequests", false),
    ("500", "InternalError", false),
    ("503", "ServiceUnavailable", false),
    ("504", "ServerTimeout", false),
];

/// References to the named answers of [`ERRORS`].
pub(super) fn errors(changes: bool) -> impl Iterator<Item = (String, Value)> {
    ERRORS
        .iter()
        .filter(move |(_, _, of_changes)| changes || !of_changes)
        .map(|(code, name, _)| {
            let reference = json!({ "$ref": format!("#/components/responses/{name}") });
            ((*code).to_owned(), reference)
        })
}

/// The named answers that [`ERRORS`] refers to, for `components.responses`.
pub(super) fn error_responses() -> Value {
    let responses: Map<String, Value> = ERRORS
        .iter()
        .map(|(_, name, _)| {
            let mut response = json!({
                "description": *name,
                "content": { "application/json": { "schema": reference(STATUS) } },
            });
            if *name == "TooManyRequests" {
                response["headers"] = json!({ "Retry-After": { "schema": { "type": "integer" } } });
            }
            ((*name).to_owned(), response)
        })
        .collect();
    responses.into()
}

/// The schemas that only operations speak of.
pub(super) fn own_schemas() -> [(&'static str, Value); 1] {
    let patch = json!({
        "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
        "type": "object",
        "additionalProperties": true,
    });
    [(PATCH, patch)]
}

/// The words of a group and version in operation ids: `CoreV1`, `AppsV1`, `RbacAuthorizationV1`.
pub(super) fn group_words(group: &str, version: &str) -> String {
    let group = match group {
        "" => "core",
        named => named.strip_suffix(".k8s.io").unwrap_or(named),
    };
    group.split('.').chain([version]).map(title).collect()
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

/// What operations of a kind have in common.
struct Of {
    kind: &'static Kind,
    /// `CoreV1`
    words: String,
    /// `Namespaced` or nothing.
    scope: &'static str,
}

/// A subresource, as discovery lists it.
#[derive(Clone, Copy)]
struct Sub {
    name: &'static str,
    /// Group, version and kind of what it takes and answers.
    kind: (&'static str, &'static str, &'static str),
    verbs: &'static [&'static str],
}

/// One operation, in the making.
struct Draft {
    id: String,
    action: &'static str,
    description: String,
    /// Group, version and kind that it is about.
    about: (&'static str, &'static str, &'static str),
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Map<String, Value>,
    changes: bool,
}

impl Draft {
    fn build(self, tag: &str) -> Value {
        let (group, version, kind) = self.about;
        let mut answers = self.answers;
        for (code, reference) in errors(self.changes) {
            answers.entry(code).or_insert(reference);
        }
        let mut operation = json!({
            "operationId": self.id,
            "description": self.description,
            "tags": [tag],
            "responses": answers,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": kind },
        });
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.into();
        }
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        operation
    }
}

pub(super) fn content(media: &[&str], schema: &Value) -> Value {
    let of_media: Map<String, Value> = media
        .iter()
        .map(|m| ((*m).to_owned(), json!({ "schema": schema })))
        .collect();
    of_media.into()
}

fn body(media: &[&str], schema: &Value, required: bool) -> Value {
    let mut body = json!({ "content": content(media, schema) });
    if required {
        body["required"] = true.into();
    }
    body
}

fn answers(codes: &[(&str, &str)], schema: &Value) -> Map<String, Value> {
    codes
        .iter()
        .map(|(code, description)| {
            let response = json!({ "description": description, "content": content(ANSWERS, schema) });
            ((*code).to_owned(), response)
        })
        .collect()
}

const OK: (&str, &str) = ("200", "OK");
const CREATED: (&str, &str) = ("201", "Created");
const ACCEPTED: (&str, &str) = ("202", "Accepted");

/// Every path of a kind, in the order of the alphabet.
pub(super) fn paths(kind: &'static Kind) -> Vec<(String, Value)> {
    let of = Of::new(kind);
    let mut paths = Vec::new();
    let collection = kind.collection_path();
    let object = format!("{collection}/{{name}}");
    let namespace = || kind.namespaced.then(parameters::namespace);
    let mut add = |path: String, of_path: Vec<Value>, operations: Vec<(&'static str, Draft)>| {
        if operations.is_empty() {
            return;
        }
        let tag = of.tag();
        let mut item: Map<String, Value> = operations
            .into_iter()
            .map(|(method, draft)| (method.to_owned(), draft.build(&tag)))
            .collect();
        if !of_path.is_empty() {
            item.insert("parameters".to_owned(), of_path.into());
        }
        paths.push((path, item.into()));
    };
    add(collection, namespace().into_iter().collect(), of.of_collection());
    let named: Vec<Value> = [Some(parameters::name(kind)), namespace()]
        .into_iter()
        .flatten()
        .collect();
    add(object.clone(), named.clone(), of.of_object());
    for sub in kind.subresources {
        let sub = Sub {
            name: sub.name,
            kind: sub.kind,
            verbs: sub.verbs,
        };
        let path = format!("{object}/{}", sub.name);
        add(path.clone(), named.clone(), of.of_subresource(sub, false));
        if sub.name == "proxy" {
            let mut with_path = named.clone();
            with_path.push(parameters::path());
            add(format!("{path}/{{path}}"), with_path, of.of_subresource(sub, true));
        }
    }
    if kind.namespaced && of.has("list") {
        add(
            format!("{}/{}", kind.base_path(), kind.plural),
            Vec::new(),
            vec![("get", of.list_all())],
        );
    }
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    paths
}

impl Of {
    fn new(kind: &'static Kind) -> Self {
        Self {
            kind,
            words: group_words(kind.group, kind.version),
            scope: if kind.namespaced { "Namespaced" } else { "" },
        }
    }

    /// `core_v1`
    fn tag(&self) -> String {
        let group = match self.kind.group {
            "" => "core",
            named => named.strip_suffix(".k8s.io").unwrap_or(named),
        };
        format!("{}_{}", group.replace('.', "_"), self.kind.version)
    }

    fn has(&self, verb: &str) -> bool {
        self.kind.verbs.contains(&verb)
    }

    fn schema(&self) -> Value {
        reference(&name(identity(self.kind)))
    }

    fn id(&self, verb: &str, sub: &str) -> String {
        let Self { kind, words, scope } = self;
        format!("{verb}{words}{scope}{}{}", kind.kind, title(sub))
    }

    /// What can be done with an object that was made: `links` of the answer that it was.
    fn with_links(&self, mut answers: Map<String, Value>) -> Map<String, Value> {
        let mut parameters = json!({ "name": "$response.body#/metadata/name" });
        if self.kind.namespaced {
            parameters["namespace"] = "$request.path.namespace".into();
        }
        let links: Map<String, Value> = [
            ("get", "read"),
            ("update", "replace"),
            ("patch", "patch"),
            ("delete", "delete"),
        ]
        .into_iter()
        .filter(|(verb, _)| self.has(verb))
        .map(|(_, word)| {
            let link = json!({ "operationId": self.id(word, ""), "parameters": parameters });
            (word.to_owned(), link)
        })
        .collect();
        if let Some(created) = answers.get_mut("201").filter(|_| !links.is_empty()) {
            created["links"] = links.into();
        }
        answers
    }

    fn draft(&self, id: String, action: &'static str, description: String) -> Draft {
        Draft {
            id,
            action,
            description,
            about: identity(self.kind),
            parameters: Vec::new(),
            body: None,
            answers: Map::new(),
            changes: true,
        }
    }

    /// LIST and WATCH.
    fn list_of(&self, id: String, what: String) -> Draft {
        let watch = self.has("watch");
        Draft {
            parameters: parameters::LIST
                .iter()
                .chain(parameters::WATCH.iter().filter(|_| watch))
                .map(query)
                .collect(),
            answers: answers(&[OK], &reference(&format!("{}List", name(identity(self.kind))))),
            changes: false,
            ..self.draft(id, "list", what)
        }
    }

    fn list_all(&self) -> Draft {
        let Self { kind, words, .. } = self;
        self.list_of(
            format!("list{words}{}ForAllNamespaces", kind.kind),
            format!("list or watch objects of kind {} of all namespaces", kind.kind),
        )
    }

    fn of_collection(&self) -> Vec<(&'static str, Draft)> {
        let Self { kind, words, scope } = self;
        let mut operations = Vec::new();
        if self.has("list") {
            let what = format!("list or watch objects of kind {}", kind.kind);
            operations.push(("get", self.list_of(self.id("list", ""), what)));
        }
        if self.has("create") {
            operations.push((
                "post",
                Draft {
                    parameters: parameters::WRITE.iter().map(query).collect(),
                    body: Some(body(BODIES, &self.schema(), true)),
                    answers: self.with_links(answers(&[OK, CREATED, ACCEPTED], &self.schema())),
                    ..self.draft(self.id("create", ""), "post", format!("create a {}", kind.kind))
                },
            ));
        }
        if self.has("deletecollection") {
            let id = format!("delete{words}Collection{scope}{}", kind.kind);
            operations.push((
                "delete",
                Draft {
                    parameters: parameters::LIST.iter().chain(parameters::DELETE).map(query).collect(),
                    body: Some(body(BODIES, &reference(DELETE_OPTIONS), false)),
                    answers: answers(&[OK], &either(&format!("{}List", name(identity(kind))))),
                    ..self.draft(id, "deletecollection", format!("delete collection of {}", kind.kind))
                },
            ));
        }
        operations
    }

    fn of_object(&self) -> Vec<(&'static str, Draft)> {
        let mut operations = self.read_and_change(self.kind.verbs, "", identity(self.kind));
        let kind = self.kind.kind;
        if self.has("delete") {
            operations.push((
                "delete",
                Draft {
                    parameters: parameters::DELETE.iter().map(query).collect(),
                    body: Some(body(BODIES, &reference(DELETE_OPTIONS), false)),
                    answers: answers(&[OK, ACCEPTED], &either(&name(identity(self.kind)))),
                    ..self.draft(self.id("delete", ""), "delete", format!("delete a {kind}"))
                },
            ));
        }
        operations
    }

    /// GET, PUT and PATCH of an object, or of its subresource `sub`.
    fn read_and_change(
        &self,
        verbs: &[&str],
        sub: &str,
        about: (&'static str, &'static str, &'static str),
    ) -> Vec<(&'static str, Draft)> {
        let schema = known(about);
        let kind = self.kind.kind;
        let part = if sub.is_empty() {
            String::new()
        } else {
            format!("{sub} of the ")
        };
        let mut operations = Vec::new();
        if verbs.contains(&"get") {
            operations.push((
                "get",
                Draft {
                    about,
                    answers: answers(&[OK], &schema),
                    changes: false,
                    ..self.draft(self.id("read", sub), "get", format!("read {part}the specified {kind}"))
                },
            ));
        }
        if verbs.contains(&"update") {
            operations.push((
                "put",
                Draft {
                    about,
                    parameters: parameters::WRITE.iter().map(query).collect(),
                    body: Some(body(BODIES, &schema, true)),
                    answers: answers(&[OK, CREATED], &schema),
                    ..self.draft(
                        self.id("replace", sub),
                        "put",
                        format!("replace {part}the specified {kind}"),
                    )
                },
            ));
        }
        if verbs.contains(&"patch") {
            operations.push((
                "patch",
                Draft {
                    about,
                    parameters: parameters::WRITE.iter().chain(parameters::PATCH).map(query).collect(),
                    body: Some(body(PATCHES, &reference(PATCH), true)),
                    answers: answers(&[OK, CREATED], &schema),
                    ..self.draft(
                        self.id("patch", sub),
                        "patch",
                        format!("partially update {part}the specified {kind}"),
                    )
                },
            ));
        }
        operations
    }

    fn of_subresource(&self, sub: Sub, with_path: bool) -> Vec<(&'static str, Draft)> {
        let kind = self.kind.kind;
        match sub.name {
            "log" => vec![(
                "get",
                Draft {
                    parameters: parameters::LOG.iter().map(query).collect(),
                    answers: Map::from_iter([(
                        "200".to_owned(),
                        json!({ "description": "OK", "content": content(&["text/plain"], &json!({ "type": "string" })) }),
                    )]),
                    changes: false,
                    ..self.draft(
                        self.id("read", sub.name),
                        "get",
                        format!("read log of the specified {kind}"),
                    )
                },
            )],
            "exec" => self.connect(sub, parameters::EXEC, &["get", "post"], ""),
            "attach" => self.connect(sub, parameters::ATTACH, &["get", "post"], ""),
            "portforward" => self.connect(sub, parameters::PORTFORWARD, &["get", "post"], ""),
            "proxy" => {
                let methods = &["delete", "get", "head", "options", "patch", "post", "put"];
                let ending = if with_path { "WithPath" } else { "" };
                self.connect(sub, parameters::PROXY, methods, ending)
            }
            _ => {
                let mut operations = self.read_and_change(sub.verbs, sub.name, sub.kind);
                if sub.verbs.contains(&"create") {
                    operations.push(("post", self.create_of(sub)));
                }
                operations
            }
        }
    }

    /// POST to a subresource: what is done, or what became of the body.
    fn create_of(&self, sub: Sub) -> Draft {
        let schema = known(sub.kind);
        // A binding and an eviction are no objects: their answer says whether they were done.
        let answer = match sub.name {
            "binding" | "eviction" => either(&name(sub.kind)),
            _ => schema.clone(),
        };
        Draft {
            about: sub.kind,
            parameters: parameters::WRITE.iter().map(query).collect(),
            body: Some(body(BODIES, &schema, true)),
            answers: answers(&[OK, CREATED, ACCEPTED], &answer),
            ..self.draft(
                self.id("create", sub.name),
                "post",
                format!("create {} of a {}", sub.name, self.kind.kind),
            )
        }
    }

    /// A stream, or whatever a pod answers.
    fn connect(
        &self,
        sub: Sub,
        params: &[parameters::Parameter],
        methods: &[&'static str],
        ending: &str,
    ) -> Vec<(&'static str, Draft)> {
        let Self { kind, words, scope } = self;
        let proxied = sub.name == "proxy";
        methods
            .iter()
            .map(|method| {
                let id = format!(
                    "connect{words}{}{scope}{}{}{ending}",
                    title(method),
                    kind.kind,
                    title(sub.name)
                );
                let description = format!(
                    "connect {} requests to {} of {}",
                    method.to_uppercase(),
                    sub.name,
                    kind.kind
                );
                let answers = if proxied {
                    Map::from_iter([(
                        "default".to_owned(),
                        json!({
                            "description": "What was answered behind the proxy",
                            "content": content(&["*/*"], &json!({ "type": "string" })),
                        }),
                    )])
                } else {
                    Map::from_iter([(
                        "101".to_owned(),
                        json!({ "description": "Switching Protocols: a WebSocket, or SPDY/3.1" }),
                    )])
                };
                let draft = Draft {
                    about: sub.kind,
                    parameters: params.iter().map(query).collect(),
                    answers,
                    ..self.draft(id, "connect", description)
                };
                (*method, draft)
            })
            .collect()
    }
}

/// An object that is known by name, or any object.
fn known(about: (&str, &str, &str)) -> Value {
    if KINDS.iter().any(|k| identity(k) == about) || of_subresource(about).is_some() {
        reference(&name(about))
    } else {
        json!({ "type": "object" })
    }
}

/// The object or list, where it is still to go; or a Status, where it is gone.
fn either(schema: &str) -> Value {
    json!({ "anyOf": [reference(schema), reference(STATUS)] })
}

#[cfg(test)]
mod tests {
    use super::super::general::general;
    use super::*;
    use crate::api::kinds::pod::POD;

    #[test]
    fn groups_are_worded_as_kubernetes_words_them() {
        assert_eq!(group_words("", "v1"), "CoreV1");
        assert_eq!(group_words("apps", "v1"), "AppsV1");
        assert_eq!(group_words("events.k8s.io", "v1"), "EventsV1");
        assert_eq!(
            group_words("rbac.authorization.k8s.io", "v1beta1"),
            "RbacAuthorizationV1beta1"
        );
    }

    #[test]
    fn every_subresource_has_a_schema() {
        for kind in KINDS {
            for sub in kind.subresources {
                let streamed = ["exec", "attach", "portforward", "proxy"].contains(&sub.name);
                assert!(
                    streamed || known(sub.kind).get("$ref").is_some(),
                    "openapi/schemas.rs does not know {:?} of {}/{}",
                    sub.kind,
                    kind.plural,
                    sub.name
                );
            }
        }
    }

    /// Method and id of each operation of a subresource of pods.
    fn of_pods(
        name: &'static str,
        kind: (&'static str, &'static str, &'static str),
        verbs: &'static [&'static str],
    ) -> String {
        let sub = Sub { name, kind, verbs };
        let operations = Of::new(&POD).of_subresource(sub, false);
        let ids: Vec<String> = operations
            .iter()
            .map(|(method, draft)| format!("{method} {}", draft.id))
            .collect();
        ids.join(", ")
    }

    #[test]
    fn subresources_have_the_ids_that_kubernetes_gives_them() {
        let pod = ("", "v1", "Pod");
        assert_eq!(
            of_pods("exec", ("", "v1", "PodExecOptions"), &["create", "get"]),
            "get connectCoreV1GetNamespacedPodExec, post connectCoreV1PostNamespacedPodExec"
        );
        assert_eq!(
            of_pods("eviction", ("policy", "v1", "Eviction"), &["create"]),
            "post createCoreV1NamespacedPodEviction"
        );
        assert_eq!(
            of_pods("binding", ("", "v1", "Binding"), &["create"]),
            "post createCoreV1NamespacedPodBinding"
        );
        assert_eq!(
            of_pods("ephemeralcontainers", pod, &["get", "patch", "update"]),
            "get readCoreV1NamespacedPodEphemeralcontainers, put replaceCoreV1NamespacedPodEphemeralcontainers, \
             patch patchCoreV1NamespacedPodEphemeralcontainers"
        );
        let proxied = of_pods("proxy", ("", "v1", "PodProxyOptions"), &["create", "get"]);
        assert!(
            proxied.starts_with("delete connectCoreV1DeleteNamespacedPodProxy"),
            "{proxied}"
        );
        assert_eq!(proxied.split(", ").count(), 7);
    }

    #[test]
    fn every_operation_id_is_there_once() {
        let mut ids: Vec<String> = KINDS
            .iter()
            .flat_map(|kind| paths(kind))
            .chain(general())
            .flat_map(|(_, item)| {
                let operations = item.as_object().unwrap().clone();
                operations
                    .into_values()
                    .filter_map(|o| Some(o.get("operationId")?.as_str()?.to_owned()))
            })
            .collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
