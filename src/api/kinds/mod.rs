//! The kinds podd serves: each is one value, made in one short file. Handlers, discovery, tables and the `OpenAPI`
//! document are made from these values alone, so that a new kind is a new file here and one line in [`KINDS`].

pub mod pod;
pub mod review;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::auth::Identity;
use super::error::ApiError;
use crate::admit::{Decoded, Encoding, FieldValidation};
use crate::model::{Timestamp, Uid};

/// Every kind served.
pub static KINDS: &[&Kind] = &[
    &pod::POD,
    &review::SELF_SUBJECT_REVIEW,
    &review::SELF_SUBJECT_REVIEW_BETA,
    &review::SELF_SUBJECT_ACCESS_REVIEW,
    &review::SELF_SUBJECT_RULES_REVIEW,
];

/// Reads the bytes of a body.
pub type ReadBody = fn(&[u8], Encoding, FieldValidation) -> Result<Decoded<Value>, ApiError>;

/// One kind: its names, its table, and the functions that admit its objects.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// In camel case; also the key under which the store keeps its objects.
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    pub columns: &'static [Column],
    /// The fields that a field selector may name.
    pub selectable: &'static [Selectable],
    pub deletion: Deletion,
    /// The cells of an object's row, as many as there are columns.
    pub row: fn(&Value, Timestamp) -> Row,
    /// Bytes from a client → an object of this kind, its fields known and of their types, and warnings.
    pub read: ReadBody,
    /// Bytes from a client → an object to be stored.
    pub admit: fn(&Draft<'_>) -> Result<Admitted, ApiError>,
    /// The stored object and what a PUT or PATCH made of it → what is to be stored instead.
    pub amend: fn(&Value, Value, FieldValidation) -> Result<Amended, ApiError>,
    /// The kind's schema, its parts left in the generator.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

/// A path beneath an object, as discovery lists it.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of what it answers.
    pub kind: (&'static str, &'static str, &'static str),
    pub verbs: &'static [&'static str],
}

/// `metav1.TableColumnDefinition`.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`.
    pub cell_type: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 always shown, 1 only by `-o wide`.
    pub priority: u8,
}

/// A field that a selector may name, and what it counts as where an object lacks it.
#[derive(Debug)]
pub struct Selectable {
    pub path: &'static str,
    pub absent: &'static str,
}

/// What a DELETE does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The object is marked, and removed by the controller once nothing of it is left on the machine.
    Graceful,
    /// The object is removed at once.
    AtOnce,
}

/// The row of a table.
#[derive(Debug)]
pub struct Row {
    pub cells: Vec<Value>,
    /// `metav1.TableRowCondition`s.
    pub conditions: Vec<Value>,
}

/// A request to make an object.
#[derive(Debug)]
pub struct Draft<'a> {
    pub bytes: &'a [u8],
    pub encoding: Encoding,
    pub validation: FieldValidation,
    /// Of the path; empty for kinds without one.
    pub namespace: &'a str,
    pub node_name: &'a str,
    /// Who asks; `None` where no listener said.
    pub asker: Option<&'a Identity>,
    pub now: Timestamp,
    /// The new object's.
    pub uid: Uid,
    /// What `metadata.generateName` is made a name with.
    pub suffix: &'a str,
}

/// An object that may be stored.
#[derive(Debug)]
pub struct Admitted {
    pub name: String,
    /// Whole, without status and resource version.
    pub object: Value,
    /// Its name was made up, so another one may be tried should it be taken.
    pub generated: bool,
    pub warnings: Vec<String>,
}

/// A changed object that may be stored.
#[derive(Debug)]
pub struct Amended {
    /// Whole, without status and resource version.
    pub object: Value,
    pub warnings: Vec<String>,
}

impl Kind {
    /// Whether its objects are kept; else they are questions, and creating one is asking it.
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&"get")
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path its collections are beneath: `/api/v1`, `/apis/apps/v1`.
    pub fn base_path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    /// `io.k8s.api.core.v1.Pod`: its name among the schemas of the `OpenAPI` document.
    pub fn schema_name(&self) -> String {
        let group = match self.group.split('.').next() {
            None | Some("") => "core",
            Some(group) => group,
        };
        format!("io.k8s.api.{group}.{}.{}", self.version, self.kind)
    }

    /// The path of its objects with `{namespace}` in it.
    pub fn collection_path(&self) -> String {
        let base = self.base_path();
        if self.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", self.plural)
        } else {
            format!("{base}/{}", self.plural)
        }
    }
}
