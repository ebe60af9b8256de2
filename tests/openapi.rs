//! The documents that are checked in are the ones podd makes.

use std::path::Path;

use podd::api::openapi::{Version, document};

#[test]
fn the_checked_in_documents_are_the_generated_ones() {
    for (version, name, command) in [
        (Version::V3_1, "podd.json", "podd openapi"),
        (Version::V3_0, "podd-3.0.json", "podd openapi --format 3.0"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi").join(name);
        let generated = format!("{:#}\n", document(version).unwrap());
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            checked_in == generated,
            "openapi/{name} is not what podd makes any more; regenerate it: {command} > openapi/{name}"
        );
    }
}

#[test]
fn every_reference_leads_somewhere() {
    for version in [Version::V3_0, Version::V3_1] {
        let document = document(version).unwrap();
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 100);
        for reference in references {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }
}

fn collect(value: &serde_json::Value, references: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if name == "$ref" => references.push(text.to_owned()),
                    Some(_) | None => collect(field, references),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}
