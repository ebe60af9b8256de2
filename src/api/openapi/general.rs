//! Operations that belong to no kind: discovery, health, version, the documents themselves, and images.
//!
//! Goes in: groups and versions. Comes out: paths with their operations.

use serde_json::{Map, Value, json};

use super::operations::{content, errors, group_words};
use super::schemas::{STATUS, VERSION_INFO, reference};
use crate::api::discovery::group_versions;
use crate::api::images::{IMAGES, IMPORT};

const IMAGE: &str = "dev.podd.v1.Image";
const IMAGE_LIST: &str = "dev.podd.v1.ImageList";

/// Paths that belong to no kind: discovery, health, version and the documents themselves.
pub(super) fn general() -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    let mut add = |path: &str, tag: &str, id: &str, description: &str, media: &str, schema: Value| {
        let mut answers: Map<String, Value> = errors(false).collect();
        answers.insert(
            "200".to_owned(),
            json!({ "description": "OK", "content": content(&[media], &schema) }),
        );
        if path == "/readyz" {
            let not_ready = json!({ "description": "Not ready", "content": content(&[media], &schema) });
            answers.insert("503".to_owned(), not_ready);
        }
        let operation = json!({ "operationId": id, "description": description, "tags": [tag], "responses": answers });
        paths.push((path.to_owned(), json!({ "get": operation })));
    };
    let text = || json!({ "type": "string" });
    let (document, meta) = ("application/json", |name: &str| {
        reference(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"))
    });
    add(
        "/healthz",
        "health",
        "healthz",
        "whether podd lives",
        "text/plain",
        text(),
    );
    add("/livez", "health", "livez", "whether podd lives", "text/plain", text());
    add(
        "/readyz",
        "health",
        "readyz",
        "whether podd serves pods",
        "text/plain",
        text(),
    );
    let version = reference(VERSION_INFO);
    add(
        "/version/",
        "version",
        "getCodeVersion",
        "get the version",
        document,
        version,
    );
    add(
        "/.well-known/openid-configuration/",
        "WellKnown",
        "getServiceAccountIssuerOpenIDConfiguration",
        "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
        document,
        text(),
    );
    add(
        "/openid/v1/jwks/",
        "openid",
        "getServiceAccountIssuerOpenIDKeyset",
        "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
        "application/jwk-set+json",
        text(),
    );
    let object = || json!({ "type": "object" });
    for (path, id) in [
        ("/openapi.json", "getOpenAPI"),
        ("/openapi/v2", "getOpenAPIV2"),
        ("/openapi/v3", "getOpenAPIV3"),
    ] {
        add(path, "openapi", id, "get this document", document, object());
    }
    add(
        "/api/",
        "core",
        "getCoreAPIVersions",
        "get available API versions",
        document,
        meta("APIVersions"),
    );
    add(
        "/apis/",
        "apis",
        "getAPIVersions",
        "get available API versions",
        document,
        meta("APIGroupList"),
    );
    let mut groups: Vec<&str> = Vec::new();
    for (group, version) in group_versions() {
        let words = group_words(group, "");
        let tag = words.to_ascii_lowercase();
        let path = if group.is_empty() {
            format!("/api/{version}/")
        } else {
            format!("/apis/{group}/{version}/")
        };
        let id = format!("get{}APIResources", group_words(group, version));
        add(
            &path,
            &tag,
            &id,
            "get available resources",
            document,
            meta("APIResourceList"),
        );
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
            let id = format!("get{words}APIGroup");
            let path = format!("/apis/{group}/");
            add(
                &path,
                &tag,
                &id,
                "get information of a group",
                document,
                meta("APIGroup"),
            );
        }
    }
    paths.extend(images());
    paths
}

/// The schemas that only these paths speak of.
pub(super) fn own_schemas() -> [(&'static str, Value); 2] {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let image = json!({
        "type": "object",
        "description": "An image on this machine.",
        "required": ["id", "digest", "names", "size", "imported"],
        "properties": {
            "id": text("The digest of its config."),
            "digest": text("The digest of its manifest."),
            "names": {
                "type": "array",
                "description": "May be empty: then another image took its last name.",
                "items": { "type": "string" },
            },
            "size": { "type": "integer", "format": "int64", "description": "Bytes of its files." },
            "imported": { "type": "string", "format": "date-time", "description": "When it came here." },
        },
    });
    let list = json!({
        "type": "object",
        "description": "Images on this machine.",
        "required": ["images"],
        "properties": {
            "images": { "type": "array", "description": "The images.", "items": reference(IMAGE) },
        },
    });
    [(IMAGE, image), (IMAGE_LIST, list)]
}

/// podd's own: images are listed, brought and removed.
fn images() -> [(String, Value); 2] {
    let operation = |id: &str, description: &str, code: &str, changes: bool| {
        let mut answers: Map<String, Value> = errors(changes).collect();
        let images = content(&["application/json"], &reference(IMAGE_LIST));
        answers.insert(code.to_owned(), json!({ "description": "OK", "content": images }));
        // A query that cannot be read is refused in plain words.
        let mut refused = content(&["application/json"], &reference(STATUS));
        refused["text/plain"] = json!({ "schema": { "type": "string" } });
        answers.insert(
            "400".to_owned(),
            json!({ "description": "BadRequest", "content": refused }),
        );
        json!({ "operationId": id, "description": description, "tags": ["images"], "responses": answers })
    };
    let name = |required: bool, description: &str| {
        json!([{
            "name": "name", "in": "query", "required": required, "description": description,
            "schema": { "type": "string" },
        }])
    };
    let list = operation("listImages", "list the images of this machine", "200", false);
    let mut remove = operation("removeImage", "remove a name of an image, or the image", "200", true);
    remove["parameters"] = name(true, "A name, or the beginning of an id.");
    let mut import = operation("importImage", "bring an image as an archive", "201", true);
    import["parameters"] = name(false, "What an image without a name in its archive is called.");
    import["requestBody"] = json!({
        "description": "An archive of an OCI layout, of `docker save`, or of a root file system; compressed or not.",
        "required": true,
        "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
    });
    [
        (IMAGES.to_owned(), json!({ "get": list, "delete": remove })),
        (IMPORT.to_owned(), json!({ "post": import })),
    ]
}
