//! Makes the client from the document that `PODD_OPENAPI` names, in the view of it that progenitor takes.
//!
//! What is left out: bodies and answers other than JSON (but for the log), the second type of an answer that may be
//! either of two, and dates (text here, so that no crate for them is needed).

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

/// The paths of the story that `main.rs` tells.
const PATHS: [&str; 3] = [
    "/api/v1/namespaces/{namespace}/pods",
    "/api/v1/namespaces/{namespace}/pods/{name}",
    "/api/v1/namespaces/{namespace}/pods/{name}/log",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=PODD_OPENAPI");
    let path = env::var("PODD_OPENAPI")?;
    println!("cargo::rerun-if-changed={path}");
    let mut document: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    view(&mut document);
    let mut generator = progenitor_impl::Generator::default();
    let tokens = generator.generate_tokens(&serde_json::from_value(document)?)?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("podd.rs"), tokens.to_string())?;
    Ok(())
}

fn view(document: &mut Value) {
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.retain(|path, _| PATHS.contains(&path.as_str()));
        for item in paths.values_mut() {
            for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
                if let Some(content) = operation.pointer_mut("/requestBody/content") {
                    json_alone(content);
                }
                let answers = operation.get_mut("responses").and_then(Value::as_object_mut);
                for answer in answers.into_iter().flat_map(Map::values_mut) {
                    if let Some(content) = answer.get_mut("content").filter(|c| c.get("text/plain").is_none()) {
                        json_alone(content);
                    }
                }
            }
        }
    }
    let mut wanted = Vec::new();
    references(&document["paths"], document, &mut wanted);
    references(&document["components"]["responses"], document, &mut wanted);
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| wanted.contains(name));
    }
    without_dates(document);
}

/// The names of schemas that something leads to.
fn references(value: &Value, document: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str);
            if let Some(name) = name.and_then(|name| name.strip_prefix("#/components/schemas/"))
                && !found.iter().any(|known| known == name)
            {
                found.push(name.to_owned());
                references(&document["components"]["schemas"][name], document, found);
            }
            fields.values().for_each(|field| references(field, document, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, document, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One media type: JSON, or the first one under JSON's name.
fn json_alone(content: &mut Value) {
    let Some(media) = content.as_object_mut() else {
        return;
    };
    let name = ["application/json", "application/merge-patch+json"]
        .into_iter()
        .find(|name| media.contains_key(*name))
        .unwrap_or("application/json");
    let mut of_json = media.remove(name).unwrap_or_default();
    if let Some(first) = of_json.pointer_mut("/schema/anyOf/0").map(Value::take) {
        of_json["schema"] = first;
    }
    media.clear();
    media.insert("application/json".to_owned(), of_json);
}

fn without_dates(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").is_some_and(|format| format == "date-time") {
                fields.remove("format");
            }
            fields.values_mut().for_each(without_dates);
        }
        Value::Array(items) => items.iter_mut().for_each(without_dates),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
