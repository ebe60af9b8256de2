//! The kinds podd serves: each is one value, made in one short file. Handlers, discovery, tables and the `OpenAPI`
//! document are made from these values alone, so that a new kind is a new file here and one line in [`KINDS`].

mod config_map;
mod empty;
mod endpoint;
mod event;
mod lease;
mod namespace;
mod node;
pub mod pod;
mod pod_template;
pub mod review;
mod rules;
mod runtime_class;
pub(crate) mod secret;
mod service;
pub(crate) mod service_account;
pub mod token_review;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::node::v1::RuntimeClass;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::auth::Identity;
use super::error::ApiError;
use super::table::human_duration;
use crate::account::Account;
use crate::admit::{Decoded, Encoding, FieldValidation};
use crate::model::{Timestamp, Uid};
use crate::schedule::NodeView;

pub(crate) use namespace::{NAMESPACE, check_mortal};
pub(crate) use node::NODE;
pub(crate) use pod_template::POD_TEMPLATE;

/// Every kind served.
pub static KINDS: &[&Kind] = &[
    &pod::POD,
    &namespace::NAMESPACE,
    &config_map::CONFIG_MAP,
    &secret::SECRET,
    &service_account::SERVICE_ACCOUNT,
    &event::EVENT,
    &node::NODE,
    &pod_template::POD_TEMPLATE,
    &service::SERVICE,
    &endpoint::ENDPOINTS,
    &empty::REPLICATION_CONTROLLER,
    &empty::DAEMON_SET,
    &empty::DEPLOYMENT,
    &empty::REPLICA_SET,
    &empty::STATEFUL_SET,
    &empty::JOB,
    &lease::LEASE,
    &endpoint::ENDPOINT_SLICE,
    &event::EVENT_V1,
    &runtime_class::RUNTIME_CLASS,
    &review::SELF_SUBJECT_REVIEW,
    &token_review::TOKEN_REVIEW,
    &review::SELF_SUBJECT_REVIEW_BETA,
    &review::SELF_SUBJECT_ACCESS_REVIEW,
    &review::SELF_SUBJECT_RULES_REVIEW,
];

/// What can be done with the objects of most kinds.
pub(crate) const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// What can be done where clients only read.
pub(crate) const READ_VERBS: &[&str] = &["get", "list", "watch"];

/// Reads the bytes of a body.
pub type ReadBody = fn(&[u8], Encoding, FieldValidation) -> Result<Decoded<Value>, ApiError>;

/// The stored object, and what a PUT or PATCH made of it as the kind shows it → what is to be stored instead.
pub type Amend = fn(&Value, Value, FieldValidation) -> Result<Amended, ApiError>;

/// One kind: its names, its table, and the functions that admit its objects.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// In camel case.
    pub kind: &'static str,
    /// The key under which the store keeps its objects. Two kinds may be two views of the same objects.
    pub stored_as: &'static str,
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
    /// The cells of an object's row, as many as there are columns.
    pub row: fn(&Value, Timestamp) -> Row,
    /// Bytes from a client → an object of this kind, its fields known and of their types, and warnings.
    pub read: ReadBody,
    /// Bytes from a client → an object to be stored.
    pub admit: fn(&Draft<'_>) -> Result<Admitted, ApiError>,
    pub amend: Amend,
    /// What every answer warns of, where another kind is to be used in its stead.
    pub deprecated: Option<&'static str>,
    /// How a stored object looks as this kind; `None`: as it is stored.
    pub view: Option<fn(&Value) -> Value>,
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
    /// What a PUT or PATCH of it does; `None`: another room serves it, or it is only read.
    pub amend: Option<Amend>,
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

/// A field that a selector may name.
#[derive(Debug)]
pub struct Selectable {
    pub path: &'static str,
    /// Where it stands in the stored object.
    pub stored: &'static str,
    /// Where it is looked for when it does not stand there; empty: nowhere.
    pub instead: &'static str,
    /// What it counts as where an object lacks it.
    pub absent: &'static str,
}

/// The row of a table.
#[derive(Debug)]
pub struct Row {
    pub cells: Vec<Value>,
    /// `metav1.TableRowCondition`s.
    pub conditions: Vec<Value>,
}

/// A request to make an object.
#[derive(Clone)]
pub struct Draft<'a> {
    pub bytes: &'a [u8],
    pub encoding: Encoding,
    pub validation: FieldValidation,
    /// Of the path; empty for kinds without one.
    pub namespace: &'a str,
    /// Where a pod may be bound to.
    pub node: &'a NodeView,
    /// What a pod's runtime class may be.
    pub classes: &'a BTreeMap<String, RuntimeClass>,
    /// What a pod's service account may be.
    pub accounts: &'a Accounts,
    /// Who asks; `None` where no listener said.
    pub asker: Option<&'a Identity>,
    pub now: Timestamp,
    /// The new object's.
    pub uid: Uid,
    /// What `metadata.generateName` is made a name with.
    pub suffix: &'a str,
    /// What the name of a pod's volume with a token ends in.
    pub volume_suffix: &'a str,
}

/// Service accounts of the request's namespace by name, as far as they were looked up; `None`: there is none.
pub type Accounts = BTreeMap<String, Option<Arc<Account>>>;

impl fmt::Debug for Draft<'_> {
    /// Without its bytes: they may be a Secret's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("namespace", &self.namespace)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// An object that may be stored.
pub struct Admitted {
    pub name: String,
    /// Whole, without resource version; a status in it is the one that it begins with, never one that a client sent.
    pub object: Value,
    /// What its status begins with.
    pub status: Option<Value>,
    /// Its name was made up, so another one may be tried should it be taken.
    pub generated: bool,
    pub warnings: Vec<String>,
}

impl fmt::Debug for Admitted {
    /// Without its object: it may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A changed object that may be stored.
pub struct Amended {
    /// Whole, with the status it is to have, at the resource version it was made from.
    pub object: Value,
    pub warnings: Vec<String>,
}

impl fmt::Debug for Amended {
    /// Without its object: it may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amended")
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
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

    /// `pods`, `leases.coordination.k8s.io`: how messages name its objects.
    pub fn resource(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// A stored object as this kind shows it.
    pub fn shown<'a>(&self, stored: &'a Value) -> Cow<'a, Value> {
        self.view.map_or(Cow::Borrowed(stored), |view| Cow::Owned(view(stored)))
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
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

/// `schema.GroupResource.String()` and `schema.GroupKind.String()`.
pub(crate) fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

const fn column(
    name: &'static str,
    cell_type: &'static str,
    format: &'static str,
    description: &'static str,
    priority: u8,
) -> Column {
    Column {
        name,
        cell_type,
        format,
        description,
        priority,
    }
}

/// A column of text that is always shown.
const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, "string", "", description, 0)
}

/// A column of text that only `-o wide` shows.
const fn wide(name: &'static str, description: &'static str) -> Column {
    column(name, "string", "", description, 1)
}

const NAME: Column = column(
    "Name",
    "string",
    "name",
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    0,
);

const AGE: Column = text(
    "Age",
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
);

const fn selectable(path: &'static str) -> Selectable {
    Selectable {
        path,
        stored: path,
        instead: "",
        absent: "",
    }
}

const METADATA_NAME: Selectable = selectable("metadata.name");
const METADATA_NAMESPACE: Selectable = selectable("metadata.namespace");

/// What most kinds can be selected by.
const BY_NAME: &[Selectable] = &[METADATA_NAME];
const BY_NAMESPACE_AND_NAME: &[Selectable] = &[METADATA_NAME, METADATA_NAMESPACE];

/// The text of a field, empty where there is none.
fn at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn name_cell(object: &Value) -> Value {
    at(object, "/metadata/name").into()
}

fn age_cell(object: &Value, now: Timestamp) -> Value {
    since(object, "/metadata/creationTimestamp", now).into()
}

/// How long ago a time was, as `translateTimestampSince` says it.
fn since(object: &Value, pointer: &str, now: Timestamp) -> String {
    at(object, pointer)
        .parse()
        .map_or_else(|_| "<unknown>".to_owned(), |then| human_duration(then, now))
}

/// How many entries a list or a map has.
fn entries(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn row(cells: Vec<Value>) -> Row {
    Row {
        cells,
        conditions: Vec::new(),
    }
}
