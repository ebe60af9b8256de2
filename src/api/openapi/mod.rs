//! The `OpenAPI` documents: `/openapi.json` for people and generators, `/openapi/v3` and `/openapi/v2` in the shape that
//! kubectl reads.
//!
//! Goes in: the kinds. Comes out: documents. Paths and operations are made from the kinds (`operations`), the schemas are
//! k8s-openapi's own with Kubernetes' extensions (`schemas`, `lists`). Written down in `openapi/podd.json` (3.1) and
//! `openapi/podd-3.0.json` (`podd openapi`), and a test compares.
//!
//! **Invariant:** no document is ever held whole but while it is written: paths and schemas are written one by one, and
//! what is kept afterwards is compressed (`serve`).

mod general;
mod gnostic;
mod lists;
mod operations;
mod parameters;
mod schemas;
mod serve;
mod swagger;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::kinds::{KINDS, Kind};
pub(crate) use serve::{matches_tag, router};

/// Which `OpenAPI` a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.0: what kubectl and many generators read.
    V3_0,
    V3_1,
}

/// The whole document.
///
/// # Errors
/// None that a client could cause: the document is written into memory.
pub fn document(version: Version) -> io::Result<Value> {
    let mut text = Vec::new();
    write(&mut text, version, None)?;
    Ok(serde_json::from_slice(&text)?)
}

fn info(version: Version) -> Value {
    let mut info = json!({
        "title": "podd",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "A pod host for one Linux machine: Kubernetes pods over HTTP, without a cluster.",
        "license": { "name": "Apache-2.0" },
    });
    match version {
        Version::V3_0 => info["license"]["url"] = "https://www.apache.org/licenses/LICENSE-2.0".into(),
        Version::V3_1 => info["license"]["identifier"] = "Apache-2.0".into(),
    }
    info
}

/// The kinds of a group and version; all of them for none.
fn kinds_of(part: Option<(&str, &str)>) -> Vec<&'static Kind> {
    KINDS
        .iter()
        .copied()
        .filter(|kind| part.is_none_or(|part| part == (kind.group, kind.version)))
        .collect()
}

/// The paths of these kinds, sorted, each as its JSON: less than half of what it would be as a value.
fn path_texts(
    kinds: &[&'static Kind],
    general: bool,
    change: impl Fn(&mut Value),
) -> serde_json::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    let mut keep = |(path, mut item): (String, Value)| {
        change(&mut item);
        serde_json::to_string(&item).map(|text| texts.push((path, text)))
    };
    for kind in kinds {
        operations::paths(kind).into_iter().try_for_each(&mut keep)?;
    }
    if general {
        general::general().into_iter().try_for_each(&mut keep)?;
    }
    texts.sort();
    Ok(texts)
}

/// The schemas that these kinds need, those of operations among them.
fn all_schemas(kinds: &[&Kind], general: bool) -> Map<String, Value> {
    let mut schemas = schemas::of(kinds, general);
    if general {
        schemas.extend(general::own_schemas().map(|(name, schema)| (name.to_owned(), schema)));
    }
    schemas.extend(operations::own_schemas().map(|(name, schema)| (name.to_owned(), schema)));
    schemas
}

/// Writes a document: of one group and version as `/openapi/v3` has it, or whole for none.
fn write(out: &mut impl Write, version: Version, part: Option<(&str, &str)>) -> io::Result<()> {
    let kinds = kinds_of(part);
    let number = match version {
        Version::V3_0 => "3.0.0",
        Version::V3_1 => "3.1.0",
    };
    let whole = part.is_none();
    write!(out, r#"{{"openapi":"{number}","info":{},"paths":{{"#, info(version))?;
    let texts = path_texts(&kinds, whole, |item| {
        if !whole {
            only_what_works(item);
        }
    })?;
    for (index, (path, text)) in texts.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        write!(out, "{separator}{}:{text}", Value::from(path.as_str()))?;
    }
    drop(texts);
    write!(out, r#"}},"components":{{"#)?;
    if whole {
        write!(out, r#""responses":{},"#, operations::error_responses())?;
        write!(
            out,
            r#""securitySchemes":{},"#,
            json!({ "BearerToken": { "type": "http", "scheme": "bearer" } })
        )?;
    }
    write!(out, r#""schemas":{{"#)?;
    for (index, (name, schema)) in all_schemas(&kinds, whole).into_iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        write!(out, "{separator}{}:{schema}", Value::from(name))?;
    }
    // Nothing of it is asked of those who bring a certificate.
    let security = if whole {
        r#","security":[{},{"BearerToken":[]}]"#
    } else {
        ""
    };
    write!(out, "}}}}{security}}}")
}

/// kubectl reads what works; what may go wrong, or be done next, would only make the parts longer. As in Kubernetes, 401
/// stays.
fn only_what_works(item: &mut Value) {
    for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(answers) = operation.get_mut("responses").and_then(Value::as_object_mut) {
            answers.retain(|code, _| code.starts_with(['1', '2', 'd']));
            for answer in answers.values_mut().filter_map(Value::as_object_mut) {
                answer.remove("links");
            }
            answers.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
        }
    }
}
