//! ALL the SQL.
//!
//! Goes in: wire objects as JSON, what was observed as values of the model. Comes out: the same, and a stream of changes.
//! Nothing else of podd knows a table; rows are a third kind of type beside those of the wire and of the model.
//!
//! ## What do we store?
//!
//! | table | what is in it | written by | why it is stored |
//! | --- | --- | --- | --- |
//! | `object` | each object of the API: desired half and status, both JSON, and its resource version | desired: the API, and garbage collection in its manner; status, and the end of a pod: the controller; a Node, its Lease and Events: whoever tells of them | it is what people asked for; nobody else knows it |
//! | `change` | the newest changes of objects, each with the object after and before | the writer, with the change itself | a watch that was cut goes on where it was, also after the agent was restarted; its key is the global resource version, never used twice |
//! | `owner` | the owner references of each object | the writer, with the object | dependants are found without reading every object |
//! | `history` | for each kind the newest version dropped from `change` | the writer, when it drops | a watch from before it is told so (410), never left with a gap |
//! | `pod` | first seen, torn down, given up and why | the controller | `status.startTime`; that nothing is left to be torn down; a pod that was active too long stays `Failed` |
//! | `sandbox` | the newest sandbox of each pod | the controller | counts sandboxes over restarts of agent and machine; its boot id says whether anything of it can be alive |
//! | `attempt` | the newest lives of each container (three at least, and the newest that has ended) | the controller | restart counts, back-off, exit codes, `lastState`, what its probes and hooks came to, why it is stopped: decisions rest on these rows alone, and a new agent forgets no count |
//! | `failure` | steps that failed and have not succeeded since | the controller | their back-off goes on after a restart |
//! | `address` | which pod has which address | the controller, through the network | an address is never given to two pods, and a pod keeps its own over sandboxes |
//! | `user_ids` | which pod's user namespace has which ids | the agent, for the runtime | no two pods have an id in common, and a pod keeps its own over sandboxes |
//! | `claim`, `claim_hugepages`, `claim_port` | what each pod takes of the machine, from before its first sandbox to its end | the controller | two pods never get the same last place, and a new agent counts as the one before it |
//! | `image`, `image_name`, `image_layer` | images whose every blob and layer is durable on the disk | the image room | what is not here is not there: an unfinished import leaves nothing |
//! | `image_use` | when each image was last used, to the hour | the image room | garbage collection takes the oldest first, also after a restart |
//! | `image_volume` | the image that each image volume of a pod means | the image room | a pod's volume stays what it was, whatever its tag means today, and its image is kept |
//! | `layer_seal` | a digest of each unpacked layer | the image room | what the disk spoils later can be found |
//! | `setting` | facts of the node, by key | their owners | |
//!
//! Not stored: anything the kernel knows better (which process lives), and anything that can be worked out from these.
//!
//! ## How is it written?
//!
//! One task owns the one connection that writes (`writer`); what waits in its queue shares a transaction, and nothing is
//! answered or published before the commit is on the disk (`synchronous=FULL`). Readers have connections of their own
//! and see whole transactions, never wait for the writer and never make it wait. Nothing is written when nothing
//! changes: an equal status, an equal record or an equal object is found out and let be, and there are no timers here.
//!
//! **Invariants:** resource versions are published in ascending order, after their commit, without a gap. A request is
//! carried out whole or not at all, whoever waits for it or no longer does. A row that cannot be read harms whoever needs
//! that row, and nobody else.

mod address;
mod change;
mod error;
mod history;
mod image;
mod object;
mod observed;
mod open;
mod owner;
mod past;
mod place;
mod recent;
mod row;
mod setting;
#[cfg(test)]
mod tests;
mod user_range;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use sqlx::SqlitePool;
use sqlx::pool::PoolConnection;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::model::{Allocatable, Claim, Lack, Observed, Uid};
use history::History;
use object::{Halves, Key};
use observed::Difference;
use recent::Recent;
use writer::{Failure, Reply, Request, Writer};

pub use error::{RowError, StoreError};
pub use history::Limits;
pub use place::Place;
pub use user_range::UserRange;

/// Changes a subscriber may be behind before it misses some (and is told so: `RecvError::Lagged`). Each may hold two
/// whole objects in memory, so it is not many: whoever is further behind reads on with [`Store::changes`].
const BEHIND: usize = 128;

/// The one handle to the database: cheap to clone.
///
/// A future that is dropped does no harm: its request is carried out whole if it was queued already, else not at all.
#[derive(Debug, Clone)]
pub struct Store {
    readers: SqlitePool,
    requests: mpsc::Sender<Request>,
    changes: broadcast::Sender<Arc<Change>>,
    failure: Failure,
    recent: Recent,
}

/// An object as it is stored. `json` is the whole object as a client gets it: `metadata.resourceVersion` and `status` filled in.
///
/// Its `Debug` leaves `json` out, since that may be a Secret.
#[derive(Clone)]
pub struct StoredObject {
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Uid,
    pub resource_version: u64,
    pub json: Arc<serde_json::Value>,
}

impl fmt::Debug for StoredObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
            uid,
            resource_version,
            json: _,
        } = self;
        f.debug_struct("StoredObject")
            .field("kind", kind)
            .field("namespace", namespace)
            .field("name", name)
            .field("uid", uid)
            .field("resource_version", resource_version)
            .finish_non_exhaustive()
    }
}

/// An object that refers to another as its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependant {
    pub uid: Uid,
    /// A foreground deletion of the owner waits for it.
    pub blocking: bool,
}

/// A committed change, in the order of resource versions. Its `Debug` leaves the objects' content out.
#[derive(Clone)]
pub struct Change {
    pub change_type: ChangeType,
    /// What wrote it: the controller listens to `Desired` alone.
    pub origin: Origin,
    pub object: StoredObject,
    /// The object before (labels and fields may have left a selector). `None` for `Added`.
    pub previous: Option<Arc<serde_json::Value>>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            change_type,
            origin,
            object,
            previous: _,
        } = self;
        f.debug_struct("Change")
            .field("change_type", change_type)
            .field("origin", origin)
            .field("object", object)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    Added,
    Modified,
    Deleted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// What somebody wants: a desired half, or a status that a client wrote.
    Desired,
    /// What podd itself saw.
    Status,
}

/// A page of a list, ordered by (namespace, name).
#[derive(Debug, Clone)]
pub struct Page {
    pub objects: Vec<StoredObject>,
    /// The global resource version at the moment of reading.
    pub resource_version: u64,
    /// Rows that cannot be read, each as a [`StoreError::Unreadable`]: the objects are there, only nobody can say
    /// what they are.
    pub unreadable: Vec<Arc<StoreError>>,
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

impl ImageRow {
    /// The image in each repository that it has a name of: `docker.io/library/busybox@sha256:<hex>`. That is the digest by
    /// which it was pulled or, where it never was, the one of its manifest.
    pub fn repo_digests(&self) -> Vec<String> {
        let mut digests: Vec<String> = self.names.iter().filter(|name| name.contains('@')).cloned().collect();
        for name in self.tags() {
            // Normalised: what follows the last colon is the tag.
            let repository = name.rsplit_once(':').map_or(name, |(repository, _tag)| repository);
            let is_there = |digest: &String| digest.split('@').next() == Some(repository);
            if !digests.iter().any(is_there) {
                digests.push(format!("{repository}@{}", self.manifest_digest));
            }
        }
        digests
    }

    /// Its names with a tag.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| !name.contains('@'))
    }
}

impl Store {
    /// Open or make the database, migrate it, and start the writer. Refuses `SQLite` older than 3.51.3.
    ///
    /// The writer is a task of the runtime this is called in; it ends with the last handle.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Limits::default()).await
    }

    /// [`Store::open`] with another length of history.
    pub async fn open_with(path: &Path, limits: Limits) -> Result<Self, StoreError> {
        let (mut connection, readers) = open::open(path).await?;
        let version = object::version(&mut connection).await?;
        let history = History::read(&mut connection, limits).await?;
        let (changes, _nobody_yet) = broadcast::channel(BEHIND);
        let recent = Recent::default();
        let (writer, requests, failure) = Writer::new(connection, version, history, changes.clone(), recent.clone());
        // It ends with the last `requests`, that is with the last handle.
        drop(tokio::spawn(writer.run()));
        Ok(Self {
            readers,
            requests,
            changes,
            failure,
            recent,
        })
    }

    /// Waits until nothing can be written any more: a commit failed ([`StoreError::Failed`]; the process must end, and
    /// its successor will read what is truly on the disk) or the writer is gone ([`StoreError::Closed`]).
    pub async fn failure(&self) -> StoreError {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(source) => source.as_ref().map_or(StoreError::Closed, |source| StoreError::Failed {
                source: Arc::clone(source),
            }),
            Err(_gone) => StoreError::Closed,
        }
    }

    // ---- objects: written by the API, and by garbage collection ----

    /// Make an object; its metadata.uid is `uid`. A status in it is the one it begins with; a resourceVersion in it is
    /// taken out.
    pub async fn create(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        uid: &Uid,
        desired: serde_json::Value,
    ) -> Result<StoredObject, StoreError> {
        let (key, uid) = (Key::new(kind, namespace, name), uid.clone());
        let halves = Halves::whole(desired);
        self.write(|reply| Request::Create {
            key,
            uid,
            halves,
            in_namespace: false,
            reply,
        })
        .await
    }

    /// [`Store::create`] with a first status, and only in a namespace that is there ([`StoreError::NoNamespace`]) and is
    /// not being deleted ([`StoreError::EndingNamespace`]). An empty `namespace` is that of kinds without one.
    pub async fn create_in_namespace(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        uid: &Uid,
        desired: serde_json::Value,
        status: Option<serde_json::Value>,
    ) -> Result<StoredObject, StoreError> {
        let (key, uid) = (Key::new(kind, namespace, name), uid.clone());
        let halves = Halves::both(desired, status);
        self.write(|reply| Request::Create {
            key,
            uid,
            halves,
            in_namespace: true,
            reply,
        })
        .await
    }

    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<StoredObject>, StoreError> {
        object::get(&mut *self.reader().await?, &Key::new(kind, namespace, name)).await
    }

    pub async fn get_by_uid(&self, kind: &str, uid: &Uid) -> Result<Option<StoredObject>, StoreError> {
        if let Some(object) = self.recent.object(uid).filter(|object| &*object.kind == kind) {
            return Ok(Some(object));
        }
        object::get_by_uid(&mut *self.reader().await?, kind, uid).await
    }

    /// The object with this uid, of whatever kind it is.
    pub async fn get_any(&self, uid: &Uid) -> Result<Option<StoredObject>, StoreError> {
        object::get_any(&mut *self.reader().await?, uid).await
    }

    /// Objects after `after` (namespace, name), at most `limit` (all when `None`), of one namespace or of all.
    ///
    /// Never fails because of single rows: see [`Page::unreadable`].
    pub async fn list(
        &self,
        kind: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
    ) -> Result<Page, StoreError> {
        object::list(&self.readers, kind, namespace, after, limit).await
    }

    /// [`Store::list`] as it was at resource version `at`: the state that every page of one list shows.
    ///
    /// `TooOld` when changes since then were dropped.
    pub async fn list_at(
        &self,
        kind: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        at: u64,
    ) -> Result<Page, StoreError> {
        past::list(&self.readers, kind, namespace, after, limit, at).await
    }

    /// How many objects [`Store::list_at`] would still give after `after`. Right as long as it would not say `TooOld`.
    pub async fn count_at(
        &self,
        kind: &str,
        namespace: Option<&str>,
        after: (&str, &str),
        at: u64,
    ) -> Result<u64, StoreError> {
        past::count(&self.readers, kind, namespace, after, at).await
    }

    /// Replace the desired part (metadata and spec) if the object still has resource version `expected`; else `Conflict`.
    ///
    /// An equal desired part is no change: the object comes back as it is, under its old resource version. The status
    /// stays; `metadata.generation` is the caller's.
    pub async fn update(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        expected: u64,
        desired: serde_json::Value,
    ) -> Result<StoredObject, StoreError> {
        self.change(kind, namespace, name, expected, Halves::desired(desired))
            .await
    }

    /// [`Store::update`] of the status alone: for what clients write into it. What podd itself sees goes through
    /// [`Store::set_status`], which does not wake the controller.
    pub async fn update_status(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        expected: u64,
        status: serde_json::Value,
    ) -> Result<StoredObject, StoreError> {
        self.change(kind, namespace, name, expected, Halves::status(status))
            .await
    }

    /// [`Store::update`] of both halves at once: the object with its status. Without one in it, that stays as it is.
    pub async fn update_whole(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        expected: u64,
        object: serde_json::Value,
    ) -> Result<StoredObject, StoreError> {
        self.change(kind, namespace, name, expected, Halves::whole(object))
            .await
    }

    /// [`Store::update`] of both halves at once; without a `status`, that stays as it is.
    pub async fn update_halves(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        expected: u64,
        desired: serde_json::Value,
        status: Option<serde_json::Value>,
    ) -> Result<StoredObject, StoreError> {
        self.change(kind, namespace, name, expected, Halves::both(desired, status))
            .await
    }

    async fn change(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        expected: u64,
        halves: Halves,
    ) -> Result<StoredObject, StoreError> {
        let key = Key::new(kind, namespace, name);
        self.write(|reply| Request::Update {
            key,
            expected,
            halves,
            reply,
        })
        .await
    }

    /// Remove an object that has nothing on the machine (not a pod that ever ran: see `forget_pod`).
    ///
    /// What comes back is its last state, with the resource version of the removal.
    pub async fn delete(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        expected: u64,
    ) -> Result<StoredObject, StoreError> {
        let key = Key::new(kind, namespace, name);
        self.write(|reply| Request::Delete { key, expected, reply }).await
    }

    // ---- what belongs to what ----

    /// The objects that refer to `owner` as their owner, ascending by uid.
    pub async fn dependants(&self, owner: &Uid) -> Result<Vec<Dependant>, StoreError> {
        owner::dependants(&mut *self.reader().await?, owner).await
    }

    /// Everything that is referred to as an owner, whether it is there or not, ascending.
    pub async fn owners(&self) -> Result<Vec<Uid>, StoreError> {
        owner::all(&mut *self.reader().await?).await
    }

    /// Everything in a namespace, by kind and name.
    pub async fn contents(&self, namespace: &str) -> Result<Vec<Uid>, StoreError> {
        owner::contents(&mut *self.reader().await?, namespace).await
    }

    /// Every object that has an owner and every object that is being deleted: what garbage collection looks at when it
    /// knows nothing yet. It may hold more, and one twice.
    pub async fn unsettled(&self) -> Result<Vec<Uid>, StoreError> {
        owner::unsettled(&mut *self.reader().await?).await
    }

    /// The namespaces that pods are in and that are no objects themselves.
    pub async fn unknown_namespaces(&self) -> Result<Vec<String>, StoreError> {
        owner::unknown_namespaces(&mut *self.reader().await?).await
    }

    // ---- changes ----

    /// Changes committed from now on, of all kinds, in ascending order of resource version.
    ///
    /// To miss nothing: subscribe first, then read (`list` or `changes`), then skip what is not newer than what was read.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    /// The resource version of the newest change of any object of a kind since this store was opened; 0: there was none.
    ///
    /// For who keeps what was read: ask this, then read; it is still so for as long as this answers the same. A
    /// subscription that is looked at only now and then would hold on to every object that was changed meanwhile.
    pub fn changed(&self, kind: &str) -> u64 {
        self.recent.changed(kind)
    }

    /// Changes of a kind after `since`, oldest first, at most `limit`. `TooOld` when some of them were dropped.
    pub async fn changes(&self, kind: &str, since: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        change::changes(&mut *self.reader().await?, kind, since, limit).await
    }

    /// The newest resource version there is; 1 before the first change.
    pub async fn resource_version(&self) -> Result<u64, StoreError> {
        object::version(&mut *self.reader().await?).await
    }

    // ---- pods: written by the controller alone ----

    /// Every pod that anything is stored of, be it only a place, ascending.
    pub async fn pod_uids(&self) -> Result<Vec<Uid>, StoreError> {
        observed::uids(&mut *self.reader().await?).await
    }

    /// What is recorded of a pod: attempts ascending by (container, attempt), failures by (step's name, container).
    /// `Observed::default()` for a pod that nothing is recorded of.
    pub async fn observed(&self, uid: &Uid) -> Result<Observed, StoreError> {
        if let Some(record) = self.recent.record(uid) {
            return Ok(record.as_ref().clone());
        }
        observed::observed(&self.readers, uid).await
    }

    /// Write what differs between `before` (what is stored) and `after`, in one transaction; nothing when they are equal.
    ///
    /// Of each container the newest three attempts stay, the newest one that has ended and those that live; older ones
    /// are dropped. Once `torn_down` is written, the pod's place is free.
    pub async fn save_observed(&self, uid: &Uid, before: &Observed, after: &Observed) -> Result<(), StoreError> {
        let Some(difference) = Difference::between(before, after)? else {
            return Ok(());
        };
        let (uid, difference) = (uid.clone(), Box::new(difference));
        let after = Arc::new(observed::as_stored(after));
        self.write(|reply| Request::SaveObserved {
            uid,
            difference,
            after,
            reply,
        })
        .await
    }

    /// Replace the status; false (and nothing written, no new resource version) when it is equal to the one stored.
    /// `NotFound`, with the uid for a name, when the pod is gone.
    pub async fn set_status(&self, uid: &Uid, status: serde_json::Value) -> Result<bool, StoreError> {
        self.write_status(uid, None, status).await
    }

    /// [`Store::set_status`] if the object still has resource version `expected`; else `Conflict`. Whoever keeps parts
    /// of the status before must not overwrite what was written to them meanwhile.
    pub async fn set_status_over(
        &self,
        uid: &Uid,
        expected: u64,
        status: serde_json::Value,
    ) -> Result<bool, StoreError> {
        self.write_status(uid, Some(expected), status).await
    }

    async fn write_status(
        &self,
        uid: &Uid,
        expected: Option<u64>,
        status: serde_json::Value,
    ) -> Result<bool, StoreError> {
        let uid = uid.clone();
        self.write(|reply| Request::SetStatus {
            uid,
            expected,
            status,
            reply,
        })
        .await
    }

    /// Remove the pod's object and every row about it, its place too. Not there: nothing happens. False, and nothing
    /// happens either: the object has finalizers.
    pub async fn forget_pod(&self, uid: &Uid) -> Result<bool, StoreError> {
        let uid = uid.clone();
        self.write(|reply| Request::ForgetPod { uid, reply }).await
    }

    /// Take a place for a pod: what it claims, its ports, and an address if there is a `pool` (the first and the last
    /// one); durable before it is returned. A pod that has a place keeps it: the claim that was written first stays.
    ///
    /// With `room` all pods together must not take more than that, else it is refused and nothing of it is taken;
    /// without, the pod is there already and is counted, whatever there is.
    ///
    /// The address is the one that the pod has, else the lowest free one of the pool; one from outside the pool (the
    /// agent was given another CIDR) is exchanged.
    ///
    /// # Errors
    /// `NoAddress`: every address is taken; then nothing of the place is taken.
    pub async fn take_place(
        &self,
        uid: &Uid,
        claim: Claim,
        room: Option<Allocatable>,
        pool: Option<(Ipv4Addr, Ipv4Addr)>,
    ) -> Result<Place, StoreError> {
        let (uid, wanted) = (uid.clone(), Box::new(place::Wanted { claim, room, pool }));
        self.write(|reply| Request::TakePlace { uid, wanted, reply }).await
    }

    /// Before a pod is given other resources: from now on it counts with the greater of what it has and what it is to
    /// have, if there is room for that. Of its ports and huge pages nothing changes.
    pub async fn raise_place(&self, uid: &Uid, claim: Claim, room: Allocatable) -> Result<Option<Lack>, StoreError> {
        let uid = uid.clone();
        let wanted = Box::new((claim, room));
        self.write(|reply| Request::RaisePlace { uid, wanted, reply }).await
    }

    /// After a pod was given other resources: it counts with these alone. Nothing happens to one without a place.
    pub async fn settle_place(&self, uid: &Uid, claim: Claim) -> Result<(), StoreError> {
        let (uid, claim) = (uid.clone(), Box::new(claim));
        self.write(|reply| Request::SettlePlace { uid, claim, reply }).await
    }

    /// The pod needs no place any more: its claim, its ports and its address are free.
    pub async fn release_place(&self, uid: &Uid) -> Result<(), StoreError> {
        let uid = uid.clone();
        self.write(|reply| Request::ReleasePlace { uid, reply }).await
    }

    /// Pods with a sandbox that were never counted: what a podd before claims has left.
    pub async fn unclaimed(&self) -> Result<Vec<Uid>, StoreError> {
        place::unclaimed(&mut *self.reader().await?).await
    }

    /// The first of the ids of the pod's user namespace: those it has, else the lowest free ones of the range, durable
    /// before they are returned. They are free again when the pod's address is.
    pub async fn user_ids(&self, uid: &Uid, range: UserRange) -> Result<u32, StoreError> {
        let uid = uid.clone();
        self.write(|reply| Request::UserIds { uid, range, reply }).await
    }

    // ---- images: written by the image room alone ----

    /// Write an image, or write it anew. Its names are added to those it has; one that meant another image means this
    /// one from now on. An image that loses its last name this way stays, nameless (see [`Store::remove_image`]).
    pub async fn put_image(&self, image: &ImageRow) -> Result<(), StoreError> {
        let image = Box::new(image.clone());
        self.write(|reply| Request::PutImage { image, reply }).await
    }

    pub async fn image_by_name(&self, name: &str) -> Result<Option<ImageRow>, StoreError> {
        image::by_name(&self.readers, name).await
    }

    pub async fn image_by_id(&self, id: &str) -> Result<Option<ImageRow>, StoreError> {
        image::by_id(&self.readers, id).await
    }

    /// All images, ascending by id; also those without a name.
    pub async fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        image::all(&self.readers).await
    }

    /// Drop one name; the image row goes with its last name. Returns the row as it was, `None` when there is no such name.
    pub async fn remove_image_name(&self, name: &str) -> Result<Option<ImageRow>, StoreError> {
        let name = name.to_owned();
        self.write(|reply| Request::RemoveImageName { name, reply }).await
    }

    /// Drop an image with all its names. Returns the row as it was, `None` when there is no such image.
    pub async fn remove_image(&self, id: &str) -> Result<Option<ImageRow>, StoreError> {
        let id = id.to_owned();
        self.write(|reply| Request::RemoveImage { id, reply }).await
    }

    /// An image was used.
    pub async fn note_image_use(&self, image: &str, at: crate::model::Timestamp) -> Result<(), StoreError> {
        let image = image.to_owned();
        self.note_image(image::Note::Use { image, at }).await
    }

    /// When each image was last used, by its id. One that never was is not in it.
    pub async fn image_uses(&self) -> Result<HashMap<String, crate::model::Timestamp>, StoreError> {
        image::uses(&self.readers).await
    }

    /// From now on this volume of a pod means this image. The pod must have been seen by the controller.
    pub async fn bind_image_volume(&self, uid: &Uid, volume: &str, image: &str) -> Result<(), StoreError> {
        let (uid, volume, image) = (uid.clone(), volume.to_owned(), image.to_owned());
        self.note_image(image::Note::Volume { uid, volume, image }).await
    }

    /// The id of the image that a volume of a pod means, once it was bound.
    pub async fn image_volume(&self, uid: &Uid, volume: &str) -> Result<Option<String>, StoreError> {
        image::volume(&self.readers, uid, volume).await
    }

    /// Ids of the images that the volumes of a pod mean.
    pub async fn image_volumes(&self, uid: &Uid) -> Result<Vec<String>, StoreError> {
        image::volumes(&self.readers, uid).await
    }

    /// Keep the seal of a layer; seals of layers that no image has go.
    pub async fn seal_layer(&self, diff_id: &str, seal: &str) -> Result<(), StoreError> {
        let (diff_id, seal) = (diff_id.to_owned(), seal.to_owned());
        self.note_image(image::Note::Seal { diff_id, seal }).await
    }

    /// Forget the seal of a layer that is taken away.
    pub async fn unseal_layer(&self, diff_id: &str) -> Result<(), StoreError> {
        let diff_id = diff_id.to_owned();
        self.note_image(image::Note::Unseal { diff_id }).await
    }

    /// The seals of layers, by their diff ids.
    pub async fn layer_seals(&self) -> Result<HashMap<String, String>, StoreError> {
        image::seals(&self.readers).await
    }

    async fn note_image(&self, note: image::Note) -> Result<(), StoreError> {
        self.write(|reply| Request::NoteImage { note, reply }).await
    }

    // ---- the node ----

    pub async fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        setting::get(&mut *self.reader().await?, key).await
    }

    pub async fn put_setting(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.write(|reply| Request::PutSetting { key, value, reply }).await
    }

    async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>, StoreError> {
        self.readers
            .acquire()
            .await
            .map_err(StoreError::database("get a connection to read with"))
    }

    /// Queue a request and wait for its answer, which comes after the commit.
    async fn write<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        // The writer is gone only when it panicked or its runtime ended.
        self.requests
            .send(request(reply))
            .await
            .map_err(|_gone| StoreError::Closed)?;
        answer.await.map_err(|_gone| StoreError::Closed)?
    }
}
