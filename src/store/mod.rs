//! ALL the SQL.
//!
//! ## What do we store?
//! (to be said here: tables, writers, why)

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::model::{Observed, Uid};

/// The one handle to the database: cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {}

/// An object as it is stored. `json` is the whole object as a client gets it: `metadata.resourceVersion` and `status` filled in.
#[derive(Debug, Clone)]
pub struct StoredObject {
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Uid,
    pub resource_version: u64,
    pub json: Arc<serde_json::Value>,
}

/// A committed change, in the order of resource versions.
#[derive(Debug, Clone)]
pub struct Change {
    pub change_type: ChangeType,
    /// What wrote it: the controller listens to `Desired` alone.
    pub origin: Origin,
    pub object: StoredObject,
    /// The object before (labels and fields may have left a selector). `None` for `Added`.
    pub previous: Option<Arc<serde_json::Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    Added,
    Modified,
    Deleted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Desired,
    Status,
}

/// A page of a list, ordered by (namespace, name).
#[derive(Debug, Clone)]
pub struct Page {
    pub objects: Vec<StoredObject>,
    /// The global resource version at the moment of reading.
    pub resource_version: u64,
}

/// What the store says of an image. Everything in it was verified at import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// `sha256:<hex>` of the config.
    pub id: String,
    /// `sha256:<hex>` of the manifest (repo digest).
    pub manifest_digest: String,
    /// The config, as JSON text.
    pub config: String,
    /// Diff ids (`sha256:<hex>`), bottom first.
    pub layers: Vec<String>,
    /// Bytes of the unpacked layers.
    pub size: u64,
    pub created_at: crate::model::Timestamp,
    /// Normalised names (`docker.io/library/busybox:latest`) that mean this image.
    pub names: Vec<String>,
}

impl Store {
    /// Open or make the database, migrate it, and start the writer. Refuses SQLite older than 3.51.3.
    pub async fn open(_path: &Path) -> Result<Self, StoreError> {
        todo!()
    }
    // ---- objects: written by the API alone ----
    /// Make an object. `desired` has no status and no resourceVersion; its metadata.uid is set.
    pub async fn create(
        &self,
        _kind: &str,
        _namespace: &str,
        _name: &str,
        _uid: &Uid,
        _desired: serde_json::Value,
    ) -> Result<StoredObject, StoreError> {
        todo!()
    }
    pub async fn get(&self, _kind: &str, _namespace: &str, _name: &str) -> Result<Option<StoredObject>, StoreError> {
        todo!()
    }
    pub async fn get_by_uid(&self, _kind: &str, _uid: &Uid) -> Result<Option<StoredObject>, StoreError> {
        todo!()
    }
    /// Objects after `after` (namespace, name), at most `limit` (all when `None`), of one namespace or of all.
    pub async fn list(
        &self,
        _kind: &str,
        _namespace: Option<&str>,
        _after: Option<(&str, &str)>,
        _limit: Option<usize>,
    ) -> Result<Page, StoreError> {
        todo!()
    }
    /// Replace the desired part (metadata and spec) if the object still has resource version `expected`; else `Conflict`.
    pub async fn update(
        &self,
        _kind: &str,
        _namespace: &str,
        _name: &str,
        _expected: u64,
        _desired: serde_json::Value,
    ) -> Result<StoredObject, StoreError> {
        todo!()
    }
    /// Remove an object that has nothing on the machine (not a pod that ever ran: see `forget_pod`).
    pub async fn delete(
        &self,
        _kind: &str,
        _namespace: &str,
        _name: &str,
        _expected: u64,
    ) -> Result<StoredObject, StoreError> {
        todo!()
    }
    // ---- changes ----
    /// Changes committed from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        todo!()
    }
    /// Changes of a kind after `since`, oldest first, at most `limit`. `TooOld` when some of them were dropped.
    pub async fn changes(&self, _kind: &str, _since: u64, _limit: usize) -> Result<Vec<Change>, StoreError> {
        todo!()
    }
    pub async fn resource_version(&self) -> Result<u64, StoreError> {
        todo!()
    }
    // ---- pods: written by the controller alone ----
    pub async fn pod_uids(&self) -> Result<Vec<Uid>, StoreError> {
        todo!()
    }
    pub async fn observed(&self, _uid: &Uid) -> Result<Observed, StoreError> {
        todo!()
    }
    /// Write what differs between `before` and `after`, in one transaction.
    pub async fn save_observed(&self, _uid: &Uid, _before: &Observed, _after: &Observed) -> Result<(), StoreError> {
        todo!()
    }
    /// Replace the status; false (and nothing written, no new resource version) when it is equal to the one stored.
    pub async fn set_status(&self, _uid: &Uid, _status: serde_json::Value) -> Result<bool, StoreError> {
        todo!()
    }
    /// Remove the pod's object and every row about it, its address too. Not there: nothing happens.
    pub async fn forget_pod(&self, _uid: &Uid) -> Result<(), StoreError> {
        todo!()
    }
    /// The pod's address: the one it has, else the lowest free one of `first..=last`, durable before it is returned.
    pub async fn address(&self, _uid: &Uid, _first: Ipv4Addr, _last: Ipv4Addr) -> Result<Ipv4Addr, StoreError> {
        todo!()
    }
    pub async fn release_address(&self, _uid: &Uid) -> Result<(), StoreError> {
        todo!()
    }
    // ---- images: written by the image room alone ----
    pub async fn put_image(&self, _image: &ImageRow) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn image_by_name(&self, _name: &str) -> Result<Option<ImageRow>, StoreError> {
        todo!()
    }
    pub async fn image_by_id(&self, _id: &str) -> Result<Option<ImageRow>, StoreError> {
        todo!()
    }
    pub async fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        todo!()
    }
    /// Drop one name; the image row goes with its last name. Returns the row as it was, `None` when there is no such name.
    pub async fn remove_image_name(&self, _name: &str) -> Result<Option<ImageRow>, StoreError> {
        todo!()
    }
    // ---- the node ----
    pub async fn setting(&self, _key: &str) -> Result<Option<String>, StoreError> {
        todo!()
    }
    pub async fn put_setting(&self, _key: &str, _value: &str) -> Result<(), StoreError> {
        todo!()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{kind} {namespace}/{name} exists already")]
    AlreadyExists {
        kind: String,
        namespace: String,
        name: String,
    },
    #[error("{kind} {namespace}/{name} does not exist")]
    NotFound {
        kind: String,
        namespace: String,
        name: String,
    },
    #[error("{kind} {namespace}/{name} was changed meanwhile: expected resource version {expected}, found {found}")]
    Conflict {
        kind: String,
        namespace: String,
        name: String,
        expected: u64,
        found: u64,
    },
    #[error("resource version {asked} is too old: the oldest kept is {oldest}")]
    TooOld { asked: u64, oldest: u64 },
    #[error("no free address between {first} and {last}")]
    NoAddress { first: Ipv4Addr, last: Ipv4Addr },
}
