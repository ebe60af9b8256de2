//! The document of 2.0 in protobuf, as kubectl before 1.29 asks for it.
//!
//! Goes in: paths and schemas of 2.0 as JSON. Comes out: bytes of gnostic's `openapi.v2.Document` (`OpenAPIv2.proto`,
//! whose field numbers stand here beside the names). Fields that the documents of podd do not have are not written.

use serde_json::{Map, Value};

/// A message being written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or(0));
    }

    /// A field of bytes: text or a message.
    fn bytes(&mut self, field: usize, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: usize, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn flag(&mut self, field: usize, flag: bool) {
        self.varint(field << 3);
        self.0.push(u8::from(flag));
    }

    fn message(&mut self, field: usize, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// `fields[name]`, where it is text.
    fn text_of(&mut self, field: usize, fields: &Map<String, Value>, name: &str) {
        if let Some(text) = fields.get(name).and_then(Value::as_str) {
            self.text(field, text);
        }
    }

    /// `fields[name]`, where it is a list of texts.
    fn texts_of(&mut self, field: usize, fields: &Map<String, Value>, name: &str) {
        for text in items(fields.get(name)).filter_map(Value::as_str) {
            self.text(field, text);
        }
    }

    /// Every `x-...`, as YAML, of which JSON is a part.
    fn extensions(&mut self, field: usize, fields: &Map<String, Value>) {
        for (name, value) in fields.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, &named(name, &any(value)));
        }
    }
}

fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

/// `NamedX { name = 1, value = 2 }`
fn named(name: &str, value: &Message) -> Message {
    let mut message = Message::default();
    message.text(1, name);
    message.message(2, value);
    message
}

/// `Any { yaml = 2 }`
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(2, &value.to_string());
    message
}

/// A message with one message in it.
fn with(field: usize, inner: &Message) -> Message {
    let mut message = Message::default();
    message.message(field, inner);
    message
}

/// The beginning of a `Document`; [`add_path`] and [`add_definition`] go on.
pub(super) fn begin(info: &Value) -> Message {
    let mut document = Message::default();
    document.text(1, "2.0");
    let mut of_info = Message::default();
    if let Some(fields) = info.as_object() {
        of_info.text_of(1, fields, "title");
        of_info.text_of(2, fields, "version");
        of_info.text_of(3, fields, "description");
    }
    document.message(2, &of_info);
    document
}

/// `Document.paths = 8`, a `NamedPathItem` of `Paths.path = 2`. Given several times, protobuf merges them into one.
pub(super) fn add_path(document: &mut Message, path: &str, item: &Value) {
    document.message(8, &with(2, &named(path, &path_item(item))));
}

/// `Document.definitions = 9`, a `NamedSchema` of `Definitions.additional_properties = 1`.
pub(super) fn add_definition(document: &mut Message, name: &str, of: &Value) {
    document.message(9, &with(1, &named(name, &schema(of))));
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    let methods = [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("options", 6),
        ("head", 7),
        ("patch", 8),
    ];
    for (method, field) in methods {
        if let Some(fields) = item.get(method).and_then(Value::as_object) {
            message.message(field, &operation(fields));
        }
    }
    for of_path in items(item.get("parameters")) {
        message.message(9, &parameter(of_path));
    }
    message
}

fn operation(fields: &Map<String, Value>) -> Message {
    let mut message = Message::default();
    message.texts_of(1, fields, "tags");
    message.text_of(3, fields, "description");
    message.text_of(5, fields, "operationId");
    message.texts_of(6, fields, "produces");
    message.texts_of(7, fields, "consumes");
    for of_operation in items(fields.get("parameters")) {
        message.message(8, &parameter(of_operation));
    }
    let mut responses = Message::default();
    for (code, response) in entries(fields.get("responses")) {
        let mut of_code = Message::default();
        if let Some(fields) = response.as_object() {
            of_code.text_of(1, fields, "description");
            if let Some(of_response) = fields.get("schema") {
                of_code.message(2, &with(1, &schema(of_response)));
            }
        }
        responses.message(1, &named(code, &with(1, &of_code)));
    }
    message.message(9, &responses);
    message.extensions(13, fields);
    message
}

/// `ParametersItem`
fn parameter(parameter: &Value) -> Message {
    let mut message = Message::default();
    let Some(fields) = parameter.as_object() else {
        return message;
    };
    let required = fields.get("required").and_then(Value::as_bool).unwrap_or(false);
    if fields.get("in").is_some_and(|place| place == "body") {
        message.text_of(2, fields, "name");
        message.text_of(3, fields, "in");
        message.flag(4, required);
        if let Some(of_body) = fields.get("schema") {
            message.message(5, &schema(of_body));
        }
        return with(1, &with(1, &message));
    }
    let in_path = fields.get("in").is_some_and(|place| place == "path");
    // Query parameters have `allow_empty_value = 5` between the name and the type.
    let shift = usize::from(!in_path);
    message.flag(1, required);
    message.text_of(2, fields, "in");
    message.text_of(3, fields, "description");
    message.text_of(4, fields, "name");
    message.text_of(5 + shift, fields, "type");
    message.text_of(6 + shift, fields, "format");
    if let Some(of_list) = fields.get("items").and_then(Value::as_object) {
        let mut primitive = Message::default();
        primitive.text_of(1, of_list, "type");
        message.message(7 + shift, &primitive);
    }
    message.text_of(8 + shift, fields, "collectionFormat");
    with(1, &with(2, &with(if in_path { 4 } else { 3 }, &message)))
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    let Some(fields) = value.as_object() else {
        return message;
    };
    message.text_of(1, fields, "$ref");
    message.text_of(2, fields, "format");
    message.text_of(4, fields, "description");
    if let Some(default) = fields.get("default") {
        message.message(5, &any(default));
    }
    message.texts_of(19, fields, "required");
    for value in items(fields.get("enum")) {
        message.message(20, &any(value));
    }
    match fields.get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut boolean = Message::default();
            boolean.flag(2, *allowed);
            message.message(21, &boolean);
        }
        Some(of_values) => message.message(21, &with(1, &schema(of_values))),
        None => {}
    }
    if let Some(name) = fields.get("type").and_then(Value::as_str) {
        let mut types = Message::default();
        types.text(1, name);
        message.message(22, &types);
    }
    if let Some(of_items) = fields.get("items") {
        message.message(23, &with(1, &schema(of_items)));
    }
    if fields.contains_key("properties") {
        let mut properties = Message::default();
        for (name, property) in entries(fields.get("properties")) {
            properties.message(1, &named(name, &schema(property)));
        }
        message.message(25, &properties);
    }
    message.extensions(31, fields);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lengths_are_varints_and_fields_are_tagged() {
        let mut message = Message::default();
        message.text(1, &"x".repeat(300));
        assert_eq!(message.0[..3], [0x0a, 0xac, 0x02]);
        let mut flags = Message::default();
        flags.flag(27, true);
        assert_eq!(flags.0, [0xd8, 0x01, 1]);
    }

    #[test]
    fn a_schema_is_written_with_the_numbers_of_gnostic() {
        let written = schema(&json!({ "type": "string", "x-a": [1] }));
        let mut expected = vec![0xb2, 0x01, 8, 0x0a, 6];
        expected.extend_from_slice(b"string");
        expected.extend_from_slice(&[0xfa, 0x01, 12, 0x0a, 3]);
        expected.extend_from_slice(b"x-a");
        expected.extend_from_slice(&[0x12, 5, 0x12, 3]);
        expected.extend_from_slice(b"[1]");
        assert_eq!(written.0, expected);
    }
}
