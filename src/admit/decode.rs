//! From the bytes of a request to a wire object of one kind.
//!
//! Three passes: bytes to a tree (`tree.rs`: syntax, depth, doubled keys; `protobuf`: the same from protobuf), the tree
//! along the kind's schema (`schema.rs`: unknown fields, wrong types), and only then serde. Every complaint is collected
//! before any is made.

use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::bounded::Bounded;
use super::protobuf;
use super::schema::{Schema, Walked};
use super::tree::{self, Document};
use super::wire::Message;

/// What becomes of unknown and doubled fields: the query parameter `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are an error.
    Strict,
    /// They are dropped with a warning.
    Warn,
    /// They are dropped.
    Ignore,
}

/// How the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    /// Kubernetes' own: the prefix `k8s\0` and a `runtime.Unknown`.
    Protobuf,
}

/// An object as it was sent, unchecked but for its types.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<K> {
    pub object: K,
    pub warnings: Vec<String>,
}

/// Why a body is no object of the kind: 400 `BadRequest`. The message is for the client and says all there is to say.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; {reason}")]
    Unreadable { expected: &'static str, reason: String },
    #[error(
        "{found} cannot be handled as a {expected}: the API version in the data ({api_version}) does not match the \
         expected API version ({expected_api_version})"
    )]
    WrongVersion {
        found: Identity,
        api_version: String,
        expected: &'static str,
        expected_api_version: &'static str,
    },
    #[error("{found} cannot be handled as a {expected}: the kind in the data does not match the expected kind")]
    WrongKind { found: Identity, expected: &'static str },
    #[error("{found} cannot be handled as a {expected}: {complaints}")]
    Fields {
        found: Identity,
        expected: &'static str,
        complaints: Box<Complaints>,
    },
}

/// `Pod in version "v1"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub kind: String,
    pub version: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in version {:?}", self.kind, self.version)
    }
}

/// Everything that is wrong with the fields of a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Complaints {
    /// Values of a wrong type.
    pub types: Vec<String>,
    /// Unknown and doubled fields, where they are an error.
    pub strict: Vec<String>,
    /// No errors, but worth saying beside one.
    pub remarks: Vec<String>,
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("", &self.types),
            ("strict decoding error: ", &self.strict),
            ("note: ", &self.remarks),
        ];
        let mut separator = "";
        for (heading, list) in parts.into_iter().filter(|(_, list)| !list.is_empty()) {
            write!(f, "{separator}{heading}{}", list.join(", "))?;
            separator = "; ";
        }
        Ok(())
    }
}

/// Reads one object of kind `K`.
///
/// `apiVersion` and `kind` may be left out, as Kubernetes allows on a path that says both; where they are given they
/// must be `K`'s. Field names are matched exactly; `null` is the same as absent.
///
/// # Errors
/// [`DecodeError`], worded as Kubernetes words it, naming everything that is wrong at once.
pub fn decode<K: DeserializeOwned + JsonSchema + k8s_openapi::Resource>(
    bytes: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
) -> Result<Decoded<K>, DecodeError> {
    let (found, document) = identified::<K>(bytes, encoding)?;

    let (mut value, walked) = Schema::of::<K>().walk(document.value);
    let Walked {
        type_errors,
        unknown,
        remarks,
    } = walked;
    let (type_errors, remarks) = (type_errors.into_lines(), remarks.into_lines());
    let dropped: Vec<String> = unknown.into_lines().into_iter().chain(document.complaints).collect();
    let (strict, warnings) = match validation {
        FieldValidation::Strict => (dropped, Vec::new()),
        FieldValidation::Warn => (Vec::new(), dropped),
        FieldValidation::Ignore => (Vec::new(), Vec::new()),
    };
    let complain = |types: Vec<String>, strict: Vec<String>, remarks: Vec<String>| DecodeError::Fields {
        found: found.clone(),
        expected: K::KIND,
        complaints: Box::new(Complaints { types, strict, remarks }),
    };
    if !type_errors.is_empty() || !strict.is_empty() {
        return Err(complain(type_errors, strict, remarks));
    }
    // Checked above; an empty one would offend serde, which an absent one does not.
    if let Some(object) = value.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
    }
    // What the schema does not say (a base64 text, say) is left for serde to find.
    let object = serde_json::from_value(value).map_err(|error| complain(vec![error.to_string()], vec![], vec![]))?;
    Ok(Decoded { object, warnings })
}

/// The tree of a body that says it is a `K`, or does not say what it is.
fn identified<K: k8s_openapi::Resource>(bytes: &[u8], encoding: Encoding) -> Result<(Identity, Document), DecodeError> {
    let unreadable = |reason: String| DecodeError::Unreadable {
        expected: K::KIND,
        reason,
    };
    let document = match encoding {
        Encoding::Json => tree::json(bytes).map_err(|error| unreadable(error.to_string()))?,
        Encoding::Yaml => tree::yaml(bytes).map_err(|error| unreadable(error.to_string()))?,
        Encoding::Protobuf => {
            let failed = |error: protobuf::ProtobufError| unreadable(format!("protobuf parse error: {error}"));
            let envelope = protobuf::envelope(bytes).map_err(failed)?;
            // Before the fields are: those of another kind would be nothing but faults.
            let found = identify::<K>(&json!({ "apiVersion": envelope.api_version, "kind": envelope.kind }))?;
            let message = Message::of_kind(K::API_VERSION, K::KIND)
                .ok_or_else(|| unreadable("podd does not read it from protobuf: send JSON".to_owned()))?;
            return Ok((found, protobuf::document(&envelope, message).map_err(failed)?));
        }
    };
    if !document.value.is_object() {
        return Err(unreadable("the body must hold one object".to_owned()));
    }
    Ok((identify::<K>(&document.value)?, document))
}

/// Reads JSON that is no object of a kind: a patch. Doubled keys follow `validation` as those of an object do.
///
/// # Errors
/// Why it is no JSON, or the doubled keys where they are an error.
pub fn decode_json(bytes: &[u8], validation: FieldValidation) -> Result<Decoded<Value>, String> {
    let Document { value, complaints } = tree::json(bytes).map_err(|error| error.to_string())?;
    let warnings = match validation {
        FieldValidation::Strict if !complaints.is_empty() => {
            return Err(Complaints {
                strict: complaints,
                ..Complaints::default()
            }
            .to_string());
        }
        FieldValidation::Strict | FieldValidation::Warn => complaints,
        FieldValidation::Ignore => Vec::new(),
    };
    Ok(Decoded {
        object: value,
        warnings,
    })
}

/// Reads the options of a request that come as its body (`DeleteOptions`), in whatever group they claim to be: client-go
/// registers them in each.
///
/// # Errors
/// [`DecodeError`] when the bytes are no such object. What it does not know is only warned of, as there is nothing that
/// says otherwise.
pub fn decode_options(bytes: &[u8], encoding: Encoding, expected: &'static str) -> Result<Decoded<Value>, DecodeError> {
    let unreadable = |reason: String| DecodeError::Unreadable { expected, reason };
    let message = Message::of_kind("v1", expected).ok_or_else(|| unreadable("podd does not know it".to_owned()))?;
    let mut document = match encoding {
        Encoding::Json => tree::json(bytes).map_err(|error| unreadable(error.to_string()))?,
        Encoding::Yaml => tree::yaml(bytes).map_err(|error| unreadable(error.to_string()))?,
        Encoding::Protobuf => {
            let failed = |error: protobuf::ProtobufError| unreadable(format!("protobuf parse error: {error}"));
            protobuf::document(&protobuf::envelope(bytes).map_err(failed)?, message).map_err(failed)?
        }
    };
    let Value::Object(object) = &mut document.value else {
        return Err(unreadable("the body must hold one object".to_owned()));
    };
    let version = object.remove("apiVersion");
    if let Some(kind) = object.remove("kind").as_ref().and_then(Value::as_str)
        && !kind.is_empty()
        && kind != expected
    {
        let version = version.as_ref().and_then(Value::as_str).unwrap_or_default();
        return Err(DecodeError::WrongKind {
            found: Identity {
                kind: kind.to_owned(),
                version: version.rsplit('/').next().unwrap_or(version).to_owned(),
            },
            expected,
        });
    }
    let mut complaints = Bounded::default();
    for name in object.keys().filter(|name| message.field(name).is_none()) {
        complaints.push(|| format!("unknown field {name:?}"));
    }
    let warnings = document.complaints.into_iter().chain(complaints.into_lines()).collect();
    Ok(Decoded {
        object: document.value,
        warnings,
    })
}

/// Checks `apiVersion` and `kind`.
fn identify<K: k8s_openapi::Resource>(value: &Value) -> Result<Identity, DecodeError> {
    let text = |field: &str| match value.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(DecodeError::Unreadable {
            expected: K::KIND,
            reason: format!("{field} must be a string"),
        }),
    };
    let (api_version, kind) = (
        text("apiVersion")?.unwrap_or(K::API_VERSION),
        text("kind")?.unwrap_or(K::KIND),
    );
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    let found = Identity {
        kind: kind.to_owned(),
        version: version.to_owned(),
    };
    if api_version != K::API_VERSION {
        return Err(DecodeError::WrongVersion {
            found,
            api_version: api_version.to_owned(),
            expected: K::KIND,
            expected_api_version: K::API_VERSION,
        });
    }
    if kind != K::KIND {
        return Err(DecodeError::WrongKind {
            found,
            expected: K::KIND,
        });
    }
    Ok(found)
}
