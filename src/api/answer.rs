//! Answers: an object or a list, written in the form that was negotiated.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::kinds::Kind;
use super::negotiate::{Form, Format, View};
use super::table::{Include, table};
use crate::model::Timestamp;

/// JSON with its content type. Writing a value into memory cannot fail; should it, the client is told so.
pub(crate) fn json_response<T: Serialize + ?Sized>(code: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => response(code, "application/json", bytes),
        Err(_) => response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain; charset=utf-8",
            Vec::new(),
        ),
    }
}

pub(crate) fn response(code: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").unwrap_or(&Value::Null),
    })
}

#[derive(Serialize)]
struct List<'a, T: Serialize> {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    metadata: &'a Value,
    items: Vec<T>,
}

/// How to answer one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) kind: &'static Kind,
    pub(crate) form: Form,
    pub(crate) include: Include,
    pub(crate) now: Timestamp,
}

impl Answer {
    fn write<T: Serialize>(self, code: StatusCode, value: &T) -> Result<Response, ApiError> {
        match self.form.format {
            Format::Json => Ok(json_response(code, value)),
            Format::Yaml => serde_yaml_ng::to_string(value)
                .map(|text| response(code, "application/yaml", text))
                .map_err(|e| ApiError::internal("the answer cannot be written as YAML", e)),
        }
    }

    /// One object, in the negotiated view; `None`: as it is stored.
    pub(crate) fn view(self, object: &Value, headed: bool) -> Option<Value> {
        match self.form.view {
            View::Object => self.kind.view.map(|view| view(object)),
            View::Partial(version) => Some(partial(object, version)),
            View::Table(version) => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let one = std::iter::once(object);
                Some(table(
                    self.kind,
                    version,
                    &metadata,
                    one,
                    self.include,
                    headed,
                    self.now,
                ))
            }
        }
    }

    pub(crate) fn object(self, code: StatusCode, object: &Value, warnings: &[String]) -> Result<Response, ApiError> {
        let mut response = match self.view(object, true) {
            None => self.write(code, object)?,
            Some(viewed) => self.write(code, &viewed)?,
        };
        for warning in warnings {
            response = with_warning(response, warning);
        }
        Ok(response)
    }

    /// A list with its metadata (`resourceVersion`, `continue`).
    pub(crate) fn list<'a>(
        self,
        metadata: &Value,
        objects: impl Iterator<Item = &'a Value>,
    ) -> Result<Response, ApiError> {
        match self.form.view {
            View::Object => {
                let list = List {
                    kind: format!("{}List", self.kind.kind),
                    api_version: self.kind.api_version(),
                    metadata,
                    items: objects.map(|object| self.kind.shown(object)).collect(),
                };
                self.write(StatusCode::OK, &list)
            }
            View::Partial(version) => {
                let list = List {
                    kind: "PartialObjectMetadataList".to_owned(),
                    api_version: format!("meta.k8s.io/{version}"),
                    metadata,
                    items: objects.map(|o| partial(o, version)).collect(),
                };
                self.write(StatusCode::OK, &list)
            }
            View::Table(version) => {
                let table = table(self.kind, version, metadata, objects, self.include, true, self.now);
                self.write(StatusCode::OK, &table)
            }
        }
    }
}

/// An answer with one warning more.
pub(crate) fn with_warning(mut answer: Response, warning: &str) -> Response {
    if let Some(value) = warning_header(warning) {
        answer.headers_mut().append(header::WARNING, value);
    }
    answer
}

/// `299 - "text"` (RFC 7234, 5.5): quotes and backslashes escaped, what a header may not carry left out.
fn warning_header(text: &str) -> Option<HeaderValue> {
    let mut quoted = String::with_capacity(text.len() + 16);
    for c in text.chars().take(1024) {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_for_their_header() {
        assert_eq!(
            warning_header("unknown field \"spec.bogus\"\nx").unwrap(),
            "299 - \"unknown field \\\"spec.bogus\\\" x\""
        );
    }
}
