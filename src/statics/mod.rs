//! Static pods: those that a directory of manifests asks for (`--manifest-dir`), as a kubelet's `staticPodPath` does.
//!
//! Goes in: the files of one directory, and the store's changes. Comes out: pods made and deleted, in the store alone, as a
//! client would do it; whatever else they need is done by those who look after every pod.
//!
//! ```text
//! a file is added ── its pod is made          a file is changed ── its pod is deleted, and made anew once it is gone
//! a file is removed ── its pod is deleted     its pod is deleted through the API ── it is made anew once it is gone
//! ```
//!
//! Level-triggered: inotify, changes of the store and a look every 20 s only say when to look, and each look compares what
//! the files say with what is stored. Nothing is remembered outside the store: which file a pod is from, and what that file
//! said, stands in the pod's annotations, so that a new agent goes on with the pods of the old one.
//!
//! **Invariants:** a file that cannot be read or understood changes nothing: the pod that it meant before stays, as do all
//! others. Only pods that bear both the source `file` and a mirror's annotation are ever touched.

mod directory;
mod manifest;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{broadcast, watch};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::admit::deletion::{self, Deletion, Manner};
use crate::event::{Recorder, Severity, Source, Subject};
use crate::linux::inotify::{Inotify, Watch};
use crate::model::{MIRROR, Timestamp, Uid};
use crate::store::{Change, ChangeType, Store, StoreError, StoredObject};
use directory::{Files, ReadError};
use manifest::{FILE, HASH, Manifest, ManifestError, SOURCE};

const POD: &str = "Pod";
const NODE: &str = "Node";

/// How often the directory is looked at although nothing was heard of it (Kubernetes `fileCheckFrequency`).
const PERIOD: Duration = Duration::from_secs(20);
/// A file counts as written when nothing happened in the directory for so long.
const SETTLED: Duration = Duration::from_millis(100);
/// How often that is waited for, before a directory that never rests is looked at all the same.
const PATIENCE: usize = 20;
/// How often a change is tried anew when the pod changes under it.
const ATTEMPTS: u32 = 16;
/// `reason` of the events about files that mean no pod.
const INVALID: &str = "InvalidStaticPod";

/// The driver.
#[derive(Debug)]
pub struct Statics {
    pub store: Store,
    pub recorder: Recorder,
    /// Where the manifests are; it may come and go.
    pub directory: PathBuf,
    pub node_name: String,
    pub clock: fn() -> Timestamp,
}

/// Why a file's pod is not as the file says.
#[derive(Debug, thiserror::Error)]
enum StaticsError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the pod {namespace}/{name} is that of {first:?} already")]
    Twice {
        namespace: String,
        name: String,
        first: String,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the node {name} is not registered")]
    NoNode { name: String },
}

/// `(namespace, name)`
type Place = (String, String);

/// A static pod that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Present {
    place: Place,
    hash: String,
    file: String,
    is_ending: bool,
}

/// What is known between two looks. All of it can be found out again.
#[derive(Debug, Default)]
struct Known {
    /// `None`: nobody has looked yet, or changes were missed.
    present: Option<BTreeMap<Uid, Present>>,
    /// By file: the digest of its bytes, and the pod they mean. Those that mean none are read anew each time.
    understood: BTreeMap<String, ([u8; 32], Manifest)>,
    /// What was complained of last, by file: nothing is told twice.
    complaints: BTreeMap<String, String>,
}

/// The directory that is listened to, and which one that was.
#[derive(Debug)]
struct Listening {
    watch: Watch,
    identity: (u64, u64),
}

impl Statics {
    /// Until `stop` says so.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.store.subscribe();
        let mut known = Known::default();
        let inotify = Inotify::default();
        let mut listening = None;
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        period.tick().await;
        loop {
            listening = self.listen(&inotify, listening);
            let armed = listening.as_ref().map(|listening| listening.watch.armed());
            self.look(&mut known).await;
            tokio::select! {
                // Cancel-safe: a watch receiver loses nothing when its future is dropped.
                told = stop.changed() => if told.is_err() || *stop.borrow() { return },
                // Cancel-safe: whatever happens meanwhile is seen by the look that follows.
                () = settled(listening.as_ref(), armed) => {}
                // Cancel-safe: an interval keeps its place.
                _ = period.tick() => {}
                // Cancel-safe: a broadcast receiver keeps its place, and what was received is known.
                heard = self.hear(&mut changes, &mut known) => if !heard { return },
            }
        }
    }

    /// Listen to the directory that is there now. Without, there is still the look every 20 s.
    fn listen(&self, inotify: &Inotify, listening: Option<Listening>) -> Option<Listening> {
        let open = || -> io::Result<(File, (u64, u64))> {
            let directory = File::open(&self.directory)?;
            let metadata = directory.metadata()?;
            Ok((directory, (metadata.dev(), metadata.ino())))
        };
        let (directory, identity) = open().ok()?;
        if let Some(listening) = listening.filter(|listening| listening.identity == identity) {
            return Some(listening);
        }
        match inotify.watch(directory.as_fd()) {
            Ok(watch) => Some(Listening { watch, identity }),
            Err(error) => {
                tracing::warn!(%error, directory = %self.directory.display(), "cannot be told of new manifests: looking for them now and then");
                None
            }
        }
    }

    /// Wait for a change that matters; false when no more will come.
    async fn hear(&self, changes: &mut broadcast::Receiver<Arc<Change>>, known: &mut Known) -> bool {
        loop {
            match changes.recv().await {
                Ok(change) if known.note(&change) => return true,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    known.present = None;
                    return true;
                }
                Err(broadcast::error::RecvError::Closed) => return false,
            }
        }
    }

    /// Compare what the files say with what is stored, and do what follows.
    async fn look(&self, known: &mut Known) {
        if known.present.is_none() {
            match self.present().await {
                Ok(present) => known.present = Some(present),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot tell which static pods there are"
                    );
                    return;
                }
            }
        }
        let directory = self.directory.clone();
        let files = match tokio::task::spawn_blocking(move || directory::read(&directory)).await {
            Ok(Ok(files)) => files,
            Ok(Err(error)) => {
                // Unknown is not absent: nothing is deleted for this.
                let name = self.directory.to_string_lossy().into_owned();
                return self.complain(known, &name, &error.into());
            }
            Err(error) => {
                tracing::error!(%error, "the reading of manifests panicked");
                return;
            }
        };
        known.complaints.retain(|file, _| files.contains_key(file));
        let (wanted, unclear) = self.understand(known, files);
        self.remove_unwanted(known, &wanted, &unclear).await;
        self.make_missing(known, wanted).await;
    }

    /// What the files mean, and which of them mean nothing.
    fn understand(&self, known: &mut Known, files: Files) -> (BTreeMap<Place, (String, Manifest)>, BTreeSet<String>) {
        let mut wanted: BTreeMap<Place, (String, Manifest)> = BTreeMap::new();
        let mut unclear = BTreeSet::new();
        let mut before = std::mem::take(&mut known.understood);
        for (file, bytes) in files {
            let understood = bytes.map_err(StaticsError::from).and_then(|bytes| {
                let digest: [u8; 32] = Sha256::digest(&bytes).into();
                if let Some(same) = before.remove(&file).filter(|(old, _)| *old == digest) {
                    return Ok(same);
                }
                let manifest = Manifest::read(&file, &bytes, &self.node_name)?;
                known.complaints.remove(&file);
                Ok((digest, manifest))
            });
            let (digest, manifest) = match understood {
                Ok(understood) => understood,
                Err(error) => {
                    self.complain(known, &file, &error);
                    unclear.insert(file);
                    continue;
                }
            };
            let place = (manifest.namespace.clone(), manifest.name.clone());
            known.understood.insert(file.clone(), (digest, manifest.clone()));
            if let Some((first, _)) = wanted.get(&place) {
                let (namespace, name) = place;
                let first = first.clone();
                self.complain(known, &file, &StaticsError::Twice { namespace, name, first });
                continue;
            }
            wanted.insert(place, (file, manifest));
        }
        (wanted, unclear)
    }

    async fn remove_unwanted(
        &self,
        known: &mut Known,
        wanted: &BTreeMap<Place, (String, Manifest)>,
        unclear: &BTreeSet<String>,
    ) {
        let present: Vec<(Uid, Present)> = known.present.clone().unwrap_or_default().into_iter().collect();
        for (uid, pod) in present {
            let is_wanted = wanted
                .get(&pod.place)
                .is_some_and(|(_, manifest)| manifest.hash == pod.hash);
            if is_wanted || pod.is_ending || unclear.contains(&pod.file) {
                continue;
            }
            tracing::info!(pod.uid = %uid, pod.name = %pod.place.1, file = %pod.file, "the manifest of a static pod was changed or removed: deleting the pod");
            match self.delete(&uid).await {
                Ok(Some(object)) => drop(known.keep(&object)),
                Ok(None) => drop(known.present.as_mut().map(|present| present.remove(&uid))),
                Err(error) => self.complain(known, &pod.file, &error.into()),
            }
        }
    }

    async fn make_missing(&self, known: &mut Known, wanted: BTreeMap<Place, (String, Manifest)>) {
        for (place, (file, manifest)) in wanted {
            // One that is on its way out holds the name: its end is heard.
            if known
                .present
                .iter()
                .flat_map(BTreeMap::values)
                .any(|pod| pod.place == place)
            {
                continue;
            }
            match self.make(&manifest).await {
                Ok(object) => {
                    tracing::info!(pod.uid = %object.uid, pod.name = %manifest.name, file, "static pod made");
                    known.keep(&object);
                    known.complaints.remove(&file);
                }
                Err(error) => self.complain(known, &file, &error),
            }
        }
    }

    async fn make(&self, manifest: &Manifest) -> Result<StoredObject, StaticsError> {
        let node = self.store.get(NODE, "", &self.node_name).await?;
        let node = node.ok_or_else(|| StaticsError::NoNode {
            name: self.node_name.clone(),
        })?;
        let uid = Uid(Uuid::new_v4().to_string());
        let made = manifest.make((self.clock)(), &uid, &self.node_name, &node.uid)?;
        for warning in &made.warnings {
            tracing::warn!(pod.name = %manifest.name, warning, "a static pod");
        }
        let (namespace, name) = (&manifest.namespace, &manifest.name);
        let stored = self
            .store
            .create_in_namespace(POD, namespace, name, &uid, made.object, Some(made.status));
        Ok(stored.await?)
    }

    /// Delete a pod as a client would, with its own grace. `None`: it is gone.
    async fn delete(&self, uid: &Uid) -> Result<Option<StoredObject>, StoreError> {
        for attempt in 1.. {
            let Some(object) = self.store.get_by_uid(POD, uid).await? else {
                return Ok(None);
            };
            let (namespace, name, version) = (&object.namespace, &object.name, object.resource_version);
            let now = (self.clock)();
            let done = match deletion::delete(Manner::of(POD), &object.json, None, None, now) {
                Deletion::Unchanged => return Ok(Some(object)),
                Deletion::Mark(marked) => {
                    let marked = self.store.update_whole(POD, namespace, name, version, marked);
                    marked.await.map(Some)
                }
                Deletion::Remove => self.store.delete(POD, namespace, name, version).await.map(|_gone| None),
            };
            match done {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => {}
                Err(StoreError::NotFound { .. }) => return Ok(None),
                done => return done,
            }
        }
        Ok(None)
    }

    async fn present(&self) -> Result<BTreeMap<Uid, Present>, StoreError> {
        let pods = self.store.list(POD, None, None, None).await?.objects;
        let present = pods.iter().filter_map(|pod| Some((pod.uid.clone(), Present::of(pod)?)));
        Ok(present.collect())
    }

    /// Tell of a file whose pod is not as it says, once for each reason.
    fn complain(&self, known: &mut Known, file: &str, error: &StaticsError) {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        if known.complaints.get(file) == Some(&message) {
            return;
        }
        let path = Path::new(&self.directory).join(file);
        tracing::error!(file = %path.display(), error = %message, "a manifest cannot be used");
        let subject = Subject::node(&self.node_name);
        let told = format!("Cannot use manifest {}: {message}", path.display());
        self.recorder
            .tell(Source::Kubelet, subject, Severity::Warning, INVALID, told);
        known.complaints.insert(file.to_owned(), message);
    }
}

impl Present {
    /// `None`: it is no static pod.
    fn of(pod: &StoredObject) -> Option<Self> {
        let metadata = &pod.json["metadata"];
        let annotation = |name: &str| metadata["annotations"][name].as_str().map(str::to_owned);
        annotation(MIRROR)?;
        if annotation(SOURCE)? != "file" {
            return None;
        }
        Some(Self {
            place: (pod.namespace.as_ref().to_owned(), pod.name.as_ref().to_owned()),
            hash: annotation(HASH).unwrap_or_default(),
            file: annotation(FILE).unwrap_or_default(),
            is_ending: metadata["deletionTimestamp"].is_string(),
        })
    }
}

impl Known {
    /// Take a change over; true when that is a reason to look.
    fn note(&mut self, change: &Change) -> bool {
        if &*change.object.kind != POD {
            return false;
        }
        match change.change_type {
            ChangeType::Added | ChangeType::Modified => self.keep(&change.object),
            ChangeType::Deleted => self
                .present
                .as_mut()
                .is_some_and(|present| present.remove(&change.object.uid).is_some()),
        }
    }

    /// True: this is new.
    fn keep(&mut self, pod: &StoredObject) -> bool {
        let Some(present) = &mut self.present else {
            return false;
        };
        match Present::of(pod) {
            Some(now) => present.insert(pod.uid.clone(), now.clone()) != Some(now),
            None => present.remove(&pod.uid).is_some(),
        }
    }
}

/// Something happened in the directory, and then nothing for a while.
async fn settled(listening: Option<&Listening>, armed: Option<impl Future<Output = ()>>) {
    let (Some(listening), Some(armed)) = (listening, armed) else {
        return pending().await;
    };
    armed.await;
    for _ in 0..PATIENCE {
        if tokio::time::timeout(SETTLED, listening.watch.armed()).await.is_err() {
            return;
        }
    }
}
