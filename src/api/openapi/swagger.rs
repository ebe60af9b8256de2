//! The document as `OpenAPI` 2.0 ("Swagger") says it, which kubectl before 1.29 checks manifests by.
//!
//! Goes in: paths and schemas of 3.0. Comes out: the same in the words of 2.0; what 2.0 cannot say is left out.

use serde_json::{Map, Value, json};

/// A path with its operations.
pub(super) fn path(item: Value) -> Value {
    let Value::Object(fields) = item else {
        return item;
    };
    fields
        .into_iter()
        .map(|(name, value)| {
            let value = match name.as_str() {
                "parameters" => list(value).into_iter().map(parameter).collect(),
                _ => operation(value),
            };
            (name, value)
        })
        .collect::<Map<String, Value>>()
        .into()
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
    }
}

fn parameter(mut parameter: Value) -> Value {
    let schema = parameter["schema"].take();
    let Value::Object(fields) = &mut parameter else {
        return parameter;
    };
    fields.remove("schema");
    if let Value::Object(schema) = schema {
        if schema.get("type").is_some_and(|t| t == "array") {
            fields.insert("collectionFormat".to_owned(), "multi".into());
        }
        fields.extend(schema);
    }
    parameter
}

/// The media types of a `content`, and the schema of the first.
fn content(content: Value) -> (Vec<String>, Option<Value>) {
    let Value::Object(media) = content else {
        return (Vec::new(), None);
    };
    let names = media.keys().cloned().collect();
    let first = media.into_iter().next().map(|(_, mut of)| schema(of["schema"].take()));
    (names, first)
}

fn operation(mut operation: Value) -> Value {
    let Value::Object(fields) = &mut operation else {
        return operation;
    };
    let mut parameters: Vec<Value> = fields
        .remove("parameters")
        .map(list)
        .unwrap_or_default()
        .into_iter()
        .map(parameter)
        .collect();
    if let Some(mut body) = fields.remove("requestBody") {
        let (consumes, schema) = content(body["content"].take());
        fields.insert("consumes".to_owned(), json!(consumes));
        parameters.push(json!({
            "name": "body", "in": "body", "required": body["required"] == true, "schema": schema
        }));
    }
    if !parameters.is_empty() {
        fields.insert("parameters".to_owned(), parameters.into());
    }
    let mut produces: Vec<String> = Vec::new();
    for answer in fields
        .get_mut("responses")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(Map::values_mut)
    {
        let Some(answer) = answer.as_object_mut() else {
            continue;
        };
        if let Some(of_answer) = answer.remove("content") {
            let (media, schema) = content(of_answer);
            produces.extend(media);
            if let Some(schema) = schema {
                answer.insert("schema".to_owned(), schema);
            }
        }
    }
    produces.sort();
    produces.dedup();
    if !produces.is_empty() {
        fields.insert("produces".to_owned(), json!(produces));
    }
    operation
}

/// Each field's schema; the names may be any.
fn properties(mut value: Value) -> Value {
    for property in value.as_object_mut().into_iter().flat_map(Map::values_mut) {
        *property = schema(property.take());
    }
    value
}

/// A schema: references lead to `definitions`, and a choice between types is the type that can hold all of them.
pub(super) fn schema(value: Value) -> Value {
    let Value::Object(mut fields) = value else {
        return value;
    };
    if let Some(mut choice) = fields.remove("anyOf").map(list) {
        // The object comes first: what else may be answered cannot be said.
        return choice.drain(..).next().map_or_else(|| json!({}), schema);
    }
    if fields.remove("oneOf").is_some() {
        fields.insert("type".to_owned(), "string".into());
    }
    if let Some(all) = fields.remove("allOf").map(list) {
        for part in all {
            if let Value::Object(part) = part {
                fields.extend(part);
            }
        }
    }
    fields
        .into_iter()
        .map(|(name, value)| {
            let value = match name.as_str() {
                "$ref" => value
                    .as_str()
                    .unwrap_or_default()
                    .replace("#/components/schemas/", "#/definitions/")
                    .into(),
                "items" | "additionalProperties" => schema(value),
                "properties" => properties(value),
                _ => value,
            };
            (name, value)
        })
        .collect::<Map<String, Value>>()
        .into()
}
