//! The shape of a kind, compiled once from its JSON schema, and the walk of a document along it.
//!
//! The walk finds every field that the kind does not have and every value of a wrong type, each with its path, and
//! leaves out what is `null`, which in Kubernetes means absent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use super::bounded::Bounded;
use super::suggest;

/// What a value may be.
#[derive(Debug)]
enum Shape {
    Object {
        fields: BTreeMap<String, ShapeId>,
        type_name: String,
    },
    Map(ShapeId),
    List(ShapeId),
    Text,
    Time,
    Boolean,
    Integer {
        low: i64,
        high: i64,
    },
    Number,
    Quantity,
    IntOrText,
    Any,
}

#[derive(Debug, Clone, Copy)]
struct ShapeId(usize);

/// The shape of one kind. Types refer to each other by number, so a type may contain itself.
#[derive(Debug)]
pub(super) struct Schema {
    shapes: Vec<Shape>,
    root: ShapeId,
}

/// What the walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// `path: expected ..., found ...`
    pub(super) type_errors: Bounded,
    /// `unknown field "path"[, did you mean "name"?]`
    pub(super) unknown: Bounded,
    /// What is legal and seldom meant; worth saying beside a refusal.
    pub(super) remarks: Bounded,
}

impl Schema {
    /// The shape of `K`, made once in the life of the process: generating a pod's schema costs milliseconds.
    pub(super) fn of<K: JsonSchema + k8s_openapi::Resource>() -> Arc<Self> {
        static MADE: Mutex<BTreeMap<(&str, &str), Arc<Schema>>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let schema = made.entry((K::API_VERSION, K::KIND)).or_insert_with(|| {
            let schema = SchemaGenerator::default().into_root_schema_for::<K>();
            Arc::new(Self::compile(schema.as_value()))
        });
        Arc::clone(schema)
    }

    fn compile(schema: &Value) -> Self {
        let empty = Map::new();
        let mut compiler = Compiler {
            definitions: schema.get("$defs").and_then(Value::as_object).unwrap_or(&empty),
            shapes: Vec::new(),
            named: BTreeMap::new(),
        };
        let root = compiler.shape(schema, "");
        Self {
            shapes: compiler.shapes,
            root,
        }
    }

    /// Walks a document; what remains of it holds no nulls, but still its unknown fields.
    pub(super) fn walk(&self, value: Value) -> (Value, Walked) {
        let mut walk = Walk {
            schema: self,
            path: String::new(),
            found: Walked::default(),
        };
        let value = walk.value(value, self.root);
        (value, walk.found)
    }
}

struct Compiler<'a> {
    definitions: &'a Map<String, Value>,
    shapes: Vec<Shape>,
    named: BTreeMap<&'a str, ShapeId>,
}

impl<'a> Compiler<'a> {
    fn shape(&mut self, schema: &'a Value, type_name: &str) -> ShapeId {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = reference.rsplit('/').next().unwrap_or(reference);
            if let Some(id) = self.named.get(name) {
                return *id;
            }
            let Some((name, definition)) = self.definitions.get_key_value(name) else {
                return self.push(Shape::Any);
            };
            // Reserved before its fields are compiled, so that a type may refer to itself.
            let id = self.push(Shape::Any);
            self.named.insert(name, id);
            self.shapes[id.0] = self.build(definition, name);
            return id;
        }
        let id = self.push(Shape::Any);
        self.shapes[id.0] = self.build(schema, type_name);
        id
    }

    fn push(&mut self, shape: Shape) -> ShapeId {
        self.shapes.push(shape);
        ShapeId(self.shapes.len() - 1)
    }

    fn build(&mut self, schema: &'a Value, type_name: &str) -> Shape {
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return if type_name.ends_with(".Quantity") {
                Shape::Quantity
            } else {
                Shape::IntOrText
            };
        }
        let format = schema.get("format").and_then(Value::as_str);
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => {
                if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                    let fields = properties
                        .iter()
                        .map(|(name, field)| (name.clone(), self.shape(field, "")))
                        .collect();
                    Shape::Object {
                        fields,
                        type_name: type_name.to_owned(),
                    }
                } else if let Some(values) = schema.get("additionalProperties") {
                    Shape::Map(self.shape(values, ""))
                } else {
                    Shape::Any
                }
            }
            Some("array") => match schema.get("items") {
                Some(items) => Shape::List(self.shape(items, "")),
                None => Shape::Any,
            },
            Some("string") if format == Some("date-time") => Shape::Time,
            Some("string") => Shape::Text,
            Some("boolean") => Shape::Boolean,
            Some("integer") if format == Some("int32") => Shape::Integer {
                low: i32::MIN.into(),
                high: i32::MAX.into(),
            },
            Some("integer") => Shape::Integer {
                low: i64::MIN,
                high: i64::MAX,
            },
            Some("number") => Shape::Number,
            _ => Shape::Any,
        }
    }
}

struct Walk<'a> {
    schema: &'a Schema,
    path: String,
    found: Walked,
}

impl Walk<'_> {
    fn value(&mut self, value: Value, id: ShapeId) -> Value {
        let schema = self.schema;
        match (&schema.shapes[id.0], value) {
            (Shape::Object { fields, type_name }, Value::Object(object)) => self.object(object, fields, type_name),
            (Shape::Map(values), Value::Object(object)) => self.map(object, *values),
            (Shape::List(items), Value::Array(list)) => Value::Array(
                list.into_iter()
                    .enumerate()
                    .map(|(i, item)| self.at(format_args!("[{i}]"), |walk| walk.value(item, *items)))
                    .collect(),
            ),
            (Shape::Text | Shape::Quantity | Shape::IntOrText, value @ Value::String(_))
            | (Shape::Number | Shape::Quantity, value @ Value::Number(_))
            | (Shape::Boolean, value @ Value::Bool(_))
            | (Shape::Any, value) => value,
            (Shape::Time, Value::String(text)) => {
                if text.parse::<jiff::Timestamp>().is_err() {
                    self.wrong("a time such as 2006-01-02T15:04:05Z", &Value::String(text.clone()), "");
                }
                Value::String(text)
            }
            (Shape::Integer { low, high }, Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|n| *low <= n && n <= *high);
                if !fits {
                    let whole = number.as_i64().is_some() || number.as_u64().is_some();
                    let expected = if whole {
                        format!("an integer between {low} and {high}")
                    } else {
                        "an integer".to_owned()
                    };
                    self.wrong(&expected, &Value::Number(number.clone()), "");
                }
                Value::Number(number)
            }
            (Shape::IntOrText, Value::Number(number)) => {
                if number.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
                    self.wrong("a 32-bit integer or a string", &Value::Number(number.clone()), "");
                }
                Value::Number(number)
            }
            (shape, value) => {
                // The commonest slip in YAML: an unquoted number or boolean where text belongs.
                let hint = match (shape, &value) {
                    (Shape::Text, Value::Number(_) | Value::Bool(_)) => format!("; write it in quotes: \"{value}\""),
                    _ => String::new(),
                };
                self.wrong(shape.expected(), &value, &hint);
                value
            }
        }
    }

    fn object(&mut self, object: Map<String, Value>, fields: &BTreeMap<String, ShapeId>, type_name: &str) -> Value {
        let mut kept = Map::new();
        for (key, value) in object {
            let dot = if self.path.is_empty() { "" } else { "." };
            let value = self.at(format_args!("{dot}{key}"), |walk| match fields.get(&key) {
                None => {
                    let Self { path, found, .. } = walk;
                    found.unknown.push(|| {
                        let question = suggest::question(&key, fields.keys().map(String::as_str));
                        format!("unknown field {path:?}{question}")
                    });
                    value
                }
                Some(_) if value.is_null() => value,
                Some(field) => {
                    if is_mount_path(type_name, &key)
                        && let Some(remark) = value.as_str().and_then(wildcard_remark)
                    {
                        walk.found.remarks.push(|| format!("{}: {remark}", walk.path));
                    }
                    walk.value(value, *field)
                }
            });
            if !value.is_null() {
                kept.insert(key, value);
            }
        }
        Value::Object(kept)
    }

    /// In a map a null is the zero value of its type, as Go reads it; only text has one that means anything here.
    fn map(&mut self, object: Map<String, Value>, values: ShapeId) -> Value {
        let schema = self.schema;
        let text = matches!(schema.shapes[values.0], Shape::Text);
        let mut kept = Map::new();
        for (key, value) in object {
            let value = if value.is_null() {
                if !text {
                    continue;
                }
                Value::String(String::new())
            } else {
                let dot = if self.path.is_empty() { "" } else { "." };
                self.at(format_args!("{dot}{key}"), |walk| walk.value(value, values))
            };
            kept.insert(key, value);
        }
        Value::Object(kept)
    }

    fn at<T>(&mut self, segment: fmt::Arguments<'_>, walk: impl FnOnce(&mut Self) -> T) -> T {
        use fmt::Write as _;
        let before = self.path.len();
        // Writing to a String does not fail.
        let _ = self.path.write_fmt(segment);
        let result = walk(self);
        self.path.truncate(before);
        result
    }

    fn wrong(&mut self, expected: &str, found: &Value, hint: &str) {
        let path = if self.path.is_empty() {
            "the document"
        } else {
            &self.path
        };
        self.found
            .type_errors
            .push(|| format!("{path}: expected {expected}, found {}{hint}", describe(found)));
    }
}

impl Shape {
    fn expected(&self) -> &'static str {
        match self {
            Self::Object { .. } | Self::Map(_) => "an object",
            Self::List(_) => "a list",
            Self::Text => "a string",
            Self::Time => "a time such as 2006-01-02T15:04:05Z",
            Self::Boolean => "a boolean",
            Self::Integer { .. } => "an integer",
            Self::Number => "a number",
            Self::Quantity => "a quantity (a number or a string)",
            Self::IntOrText => "an integer or a string",
            Self::Any => "any value",
        }
    }
}

fn is_mount_path(type_name: &str, field: &str) -> bool {
    field == "mountPath" && type_name.ends_with(".v1.VolumeMount")
}

/// A path that looks like a pattern: legal, taken as it stands, and almost never meant so.
pub(super) fn wildcard_remark(path: &str) -> Option<String> {
    path.contains(['*', '?'])
        .then(|| format!("{path:?} is taken as it stands: podd does not expand wildcards in a mountPath"))
}

/// `the string "http"`, `the integer 5`, `a list`.
fn describe(value: &Value) -> String {
    const SHOWN: usize = 64;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) if number.is_f64() => format!("the number {number}"),
        Value::Number(number) => format!("the integer {number}"),
        Value::String(text) => match text.char_indices().nth(SHOWN) {
            Some((cut, _)) => format!("the string {:?}...", &text[..cut]),
            None => format!("the string {text:?}"),
        },
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
