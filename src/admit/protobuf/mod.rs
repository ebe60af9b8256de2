//! Protobuf request bodies: the bytes that client-go's typed clients send become the same tree that JSON would have been.
//!
//! A body is the prefix `k8s\0` and a `runtime.Unknown` that holds the object's bytes. Those are read along the table of
//! wire types (`wire`); answers are never written this way. What the table does not know is reported as an unknown field.
//!
//! **Invariant:** total and bounded: any bytes give a document or an error, messages nest at most
//! [`MAX_DEPTH`](super::tree::MAX_DEPTH) deep, and no more than [`MAX_VALUES`](super::tree::MAX_VALUES) values come of them.

mod reader;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use self::reader::{Part, Reader};
use super::bounded::Bounded;
use super::tree::{self, Document, MAX_DEPTH, MAX_VALUES};
use super::wire::{Count, Field, Kind, Message};
use crate::model::Timestamp;

/// What every body begins with.
const PREFIX: &[u8] = b"k8s\0";

const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why bytes are no document.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix {PREFIX:?}")]
    Prefix,
    #[error("the message ends in the middle of {0}")]
    Short(&'static str),
    #[error("{0} is no varint of 64 bits")]
    Varint(&'static str),
    #[error("a field has the wire type {0}, which does not exist")]
    WireType(u8),
    #[error("a field has the number {0}")]
    FieldNumber(u64),
    #[error("{path}: expected {expected}")]
    Type { path: String, expected: &'static str },
    #[error("{path}: {reason}")]
    Value { path: String, reason: String },
    #[error("{path}: nested deeper than {MAX_DEPTH} levels")]
    TooDeep { path: String },
    #[error("more than {MAX_VALUES} keys and values")]
    TooManyValues,
    #[error("the body is encoded as {0}, which is not understood here")]
    Encoded(String),
}

/// The outer message, read; the object in it not yet.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) api_version: String,
    pub(super) kind: String,
    raw: &'a [u8],
}

/// Reads the outer message.
pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let body = bytes.strip_prefix(PREFIX).ok_or(ProtobufError::Prefix)?;
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    let mut reader = Reader::new(body);
    while let Some((number, part)) = reader.next()? {
        match (number, part) {
            (1, Part::Bytes(type_meta)) => {
                let mut reader = Reader::new(type_meta);
                while let Some((number, part)) = reader.next()? {
                    match (number, part) {
                        (1, Part::Bytes(text)) => envelope.api_version = plain_text("apiVersion", text)?,
                        (2, Part::Bytes(text)) => envelope.kind = plain_text("kind", text)?,
                        (_, Part::Bytes(_) | Part::Varint(_) | Part::Fixed) => {}
                    }
                }
            }
            (2, Part::Bytes(raw)) => envelope.raw = raw,
            (3, Part::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(ProtobufError::Encoded(plain_text("contentEncoding", encoding)?));
            }
            (4, Part::Bytes(media)) if !media.is_empty() && media != MEDIA_TYPE.as_bytes() => {
                return Err(ProtobufError::Encoded(plain_text("contentType", media)?));
            }
            (_, Part::Bytes(_) | Part::Varint(_) | Part::Fixed) => {}
        }
    }
    Ok(envelope)
}

/// Reads the object, along the fields of `message`. Unknown fields are among the complaints, each by its number.
pub(super) fn document(envelope: &Envelope<'_>, message: &'static Message) -> Result<Document, ProtobufError> {
    let mut decoder = Decoder {
        path: String::new(),
        values: MAX_VALUES,
        unknown: Bounded::default(),
    };
    let mut object = Map::new();
    for (name, text) in [("apiVersion", &envelope.api_version), ("kind", &envelope.kind)] {
        if !text.is_empty() {
            object.insert(name.to_owned(), text.as_str().into());
        }
    }
    decoder.message(envelope.raw, message, &mut object, 0)?;
    Ok(Document {
        value: Value::Object(object),
        complaints: decoder.unknown.into_lines(),
    })
}

fn plain_text(name: &str, bytes: &[u8]) -> Result<String, ProtobufError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(ProtobufError::Type {
            path: name.to_owned(),
            expected: "text in UTF-8",
        }),
    }
}

struct Decoder {
    path: String,
    /// How many more values may come.
    values: usize,
    unknown: Bounded,
}

impl Decoder {
    fn spend(&mut self) -> Result<(), ProtobufError> {
        self.values = self.values.checked_sub(1).ok_or(ProtobufError::TooManyValues)?;
        Ok(())
    }

    fn wrong(&self, expected: &'static str) -> ProtobufError {
        ProtobufError::Type {
            path: self.path.clone(),
            expected,
        }
    }

    fn invalid(&self, reason: impl Into<String>) -> ProtobufError {
        ProtobufError::Value {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// Runs `read` with the path lengthened by one segment.
    fn at<T>(&mut self, segment: std::fmt::Arguments<'_>, read: impl FnOnce(&mut Self) -> T) -> T {
        use std::fmt::Write as _;
        let before = self.path.len();
        // Writing to a String does not fail.
        let _ = self.path.write_fmt(segment);
        let result = read(self);
        self.path.truncate(before);
        result
    }

    fn dot(&self) -> &'static str {
        if self.path.is_empty() { "" } else { "." }
    }

    /// The fields of a message, into the object that stands for it. A message that comes in several pieces is one.
    fn message(
        &mut self,
        bytes: &[u8],
        message: &'static Message,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if depth >= MAX_DEPTH {
            return Err(ProtobufError::TooDeep {
                path: self.path.clone(),
            });
        }
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            let field = message.fields.iter().find(|f| f.number == number);
            let Some(field) = field else {
                let path = &self.path;
                self.unknown.push(|| match path.as_str() {
                    "" => format!("unknown field number {number}"),
                    path => format!("unknown field number {number} in {path:?}"),
                });
                continue;
            };
            if let Kind::Inline(inner) = field.kind {
                let Part::Bytes(bytes) = part else {
                    return Err(self.wrong("a message"));
                };
                self.message(bytes, inner, into, depth + 1)?;
                continue;
            }
            let dot = self.dot();
            self.at(format_args!("{dot}{}", field.name), |decoder| {
                decoder.field(part, field, into, depth)
            })?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        part: Part<'_>,
        field: &'static Field,
        into: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        match field.count {
            Count::One => {
                let before = into.remove(field.name);
                if let Some(value) = self
                    .value(part, &field.kind, before, depth)?
                    .filter(|value| !is_absent(field, value))
                {
                    into.insert(field.name.to_owned(), value);
                }
            }
            Count::Many => {
                let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else {
                    return Err(self.wrong("a list"));
                };
                match (part, &field.kind) {
                    // Numbers may come packed together.
                    (Part::Bytes(packed), Kind::Integer | Kind::Boolean) => {
                        let mut reader = Reader::new(packed);
                        while let Some(number) = reader.packed()? {
                            list.extend(self.value(Part::Varint(number), &field.kind, None, depth)?);
                        }
                    }
                    (part, kind) => {
                        let index = list.len();
                        let value = self.at(format_args!("[{index}]"), |d| d.value(part, kind, None, depth))?;
                        list.push(value.unwrap_or(Value::Null));
                    }
                }
            }
            Count::Map => {
                let Part::Bytes(entry) = part else {
                    return Err(self.wrong("an entry of a map"));
                };
                let (key, value) = self.entry(entry, &field.kind, depth)?;
                let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = map else {
                    return Err(self.wrong("a map"));
                };
                map.insert(key, value);
            }
        }
        Ok(())
    }

    fn entry(&mut self, bytes: &[u8], kind: &'static Kind, depth: usize) -> Result<(String, Value), ProtobufError> {
        self.spend()?;
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            match (number, part) {
                (1, Part::Bytes(text)) => key = self.text(text)?,
                (1, Part::Varint(_) | Part::Fixed) => return Err(self.wrong("a key that is text")),
                (2, part) => {
                    let dot = self.dot();
                    let name = key.clone();
                    value = self.at(format_args!("{dot}{name}"), |d| d.value(part, kind, None, depth))?;
                }
                (_, Part::Bytes(_) | Part::Varint(_) | Part::Fixed) => return Err(self.wrong("an entry of a map")),
            }
        }
        // A value that was left out is the zero of its type.
        let zero = match kind {
            Kind::Text | Kind::Bytes => Value::String(String::new()),
            Kind::Quantity => Value::String("0".to_owned()),
            Kind::Texts => Value::Array(Vec::new()),
            Kind::Message(_) | Kind::Inline(_) => Value::Object(Map::new()),
            Kind::Boolean => Value::Bool(false),
            Kind::Integer | Kind::IntOrText => 0.into(),
            Kind::Time | Kind::MicroTime | Kind::Json => Value::Null,
        };
        Ok((key, value.unwrap_or(zero)))
    }

    /// One value; `None` for what JSON leaves out. `before` is what an earlier piece of the same message gave.
    fn value(
        &mut self,
        part: Part<'_>,
        kind: &'static Kind,
        before: Option<Value>,
        depth: usize,
    ) -> Result<Option<Value>, ProtobufError> {
        self.spend()?;
        let value = match (kind, part) {
            (Kind::Boolean, Part::Varint(number)) => Value::Bool(number != 0),
            (Kind::Integer, Part::Varint(number)) => number.cast_signed().into(),
            (Kind::Text, Part::Bytes(bytes)) => self.text(bytes)?.into(),
            (Kind::Bytes, Part::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Kind::Time, Part::Bytes(bytes)) => return self.time(bytes, 0),
            (Kind::MicroTime, Part::Bytes(bytes)) => return self.time(bytes, 6),
            (Kind::Quantity, Part::Bytes(bytes)) => self.quantity(bytes)?,
            (Kind::IntOrText, Part::Bytes(bytes)) => self.int_or_text(bytes)?,
            (Kind::Json, Part::Bytes(bytes)) => return self.json(bytes),
            (Kind::Texts, Part::Bytes(bytes)) => {
                let mut texts = Vec::new();
                let mut reader = Reader::new(bytes);
                while let Some((number, part)) = reader.next()? {
                    let (1, Part::Bytes(text)) = (number, part) else {
                        return Err(self.wrong("a list of texts"));
                    };
                    self.spend()?;
                    texts.push(self.text(text)?.into());
                }
                Value::Array(texts)
            }
            (Kind::Message(message) | Kind::Inline(message), Part::Bytes(bytes)) => {
                let mut object = match before {
                    Some(Value::Object(object)) => object,
                    Some(_) | None => Map::new(),
                };
                self.message(bytes, message, &mut object, depth + 1)?;
                Value::Object(object)
            }
            (Kind::Boolean, Part::Bytes(_) | Part::Fixed) => return Err(self.wrong("a boolean")),
            (Kind::Integer, Part::Bytes(_) | Part::Fixed) => return Err(self.wrong("an integer")),
            (Kind::Text, Part::Varint(_) | Part::Fixed) => return Err(self.wrong("text")),
            (Kind::Bytes, Part::Varint(_) | Part::Fixed) => return Err(self.wrong("bytes")),
            (
                Kind::Time
                | Kind::MicroTime
                | Kind::Quantity
                | Kind::IntOrText
                | Kind::Json
                | Kind::Texts
                | Kind::Message(_)
                | Kind::Inline(_),
                Part::Varint(_) | Part::Fixed,
            ) => return Err(self.wrong("a message")),
        };
        Ok(Some(value))
    }

    fn text(&self, bytes: &[u8]) -> Result<String, ProtobufError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.wrong("text in UTF-8")),
        }
    }

    /// Seconds and nanoseconds. An empty message is Go's zero time: none at all.
    fn time(&self, bytes: &[u8], digits: usize) -> Result<Option<Value>, ProtobufError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (mut seconds, mut nanoseconds) = (0, 0);
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            match (number, part) {
                (1, Part::Varint(value)) => seconds = value.cast_signed(),
                (2, Part::Varint(value)) => nanoseconds = value.cast_signed(),
                (_, Part::Varint(_) | Part::Bytes(_) | Part::Fixed) => return Err(self.wrong("a time")),
            }
        }
        let out_of_range = || self.invalid("a time that no calendar has");
        let nanoseconds = i32::try_from(nanoseconds)
            .ok()
            .filter(|n| (0..1_000_000_000).contains(n))
            .ok_or_else(out_of_range)?;
        // The wire has nanoseconds; JSON cuts them off, as `metav1.Time` and `metav1.MicroTime` do.
        let kept = if digits == 0 { 0 } else { nanoseconds / 1000 * 1000 };
        let time = Timestamp::new(seconds, kept).map_err(|_| out_of_range())?;
        let text = if digits == 0 {
            time.to_string()
        } else {
            format!("{time:.6}")
        };
        Ok(Some(text.into()))
    }

    fn quantity(&self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut text = String::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            let (1, Part::Bytes(bytes)) = (number, part) else {
                return Err(self.wrong("a quantity"));
            };
            text = self.text(bytes)?;
        }
        // The zero of the type in Go.
        if text.is_empty() {
            "0".clone_into(&mut text);
        }
        Ok(text.into())
    }

    fn int_or_text(&self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let (mut is_text, mut number, mut text) = (false, 0, String::new());
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next()? {
            match field {
                (1, Part::Varint(value)) if value <= 1 => is_text = value == 1,
                (2, Part::Varint(value)) => number = value.cast_signed(),
                (3, Part::Bytes(bytes)) => text = self.text(bytes)?,
                (_, Part::Varint(_) | Part::Bytes(_) | Part::Fixed) => return Err(self.wrong("an integer or a string")),
            }
        }
        Ok(if is_text { text.into() } else { number.into() })
    }

    fn json(&self, bytes: &[u8]) -> Result<Option<Value>, ProtobufError> {
        let mut raw = &[][..];
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            let (1, Part::Bytes(bytes)) = (number, part) else {
                return Err(self.wrong("JSON"));
            };
            raw = bytes;
        }
        if raw.is_empty() {
            return Ok(None);
        }
        let document = tree::json(raw).map_err(|error| self.invalid(error.to_string()))?;
        Ok(Some(document.value))
    }
}

/// What Go sends of a field that JSON would leave out.
fn is_absent(field: &Field, value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty() && matches!(field.kind, Kind::Text),
        Value::Bool(value) => field.plain && !value,
        Value::Number(number) => field.plain && number.as_i64() == Some(0),
        Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    }
}
