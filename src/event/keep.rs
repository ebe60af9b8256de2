//! The task that writes events, and removes those that are too old or too many, whoever wrote them.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::correlate::{Correlator, Entry};
use super::shelf::{Bounds, KEPT, Key, Shelf};
use super::{EVENT, Note};
use crate::model::{Timestamp, Uid};
use crate::store::{Change, ChangeType, Store, StoreError, StoredObject};

/// How long notes are gathered before they are written: a pod's start is over by then, and all of it is one transaction.
const GATHERED: Duration = Duration::from_secs(1);
/// So many are not waited with.
const MANY: usize = 256;
/// What would be too old so soon goes with what is, so that there is one write a minute at most.
const TOGETHER: Duration = Duration::from_mins(1);
/// Events removed or read at once.
const CHUNK: usize = 500;
/// The namespace of events about what has none.
const DEFAULT: &str = "default";

/// Keeps events. Made by [`super::Recorder::new`].
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    host: Arc<str>,
    clock: fn() -> Timestamp,
    notes: mpsc::Receiver<Note>,
    gathered_for: Duration,
    correlator: Correlator,
    shelf: Shelf,
    /// To be written, by namespace and name: of an event that came several times the newest.
    waiting: BTreeMap<Key, Entry>,
}

impl Keeper {
    pub(super) fn new(store: Store, host: Arc<str>, clock: fn() -> Timestamp, notes: mpsc::Receiver<Note>) -> Self {
        Self {
            store,
            host,
            clock,
            notes,
            gathered_for: GATHERED,
            correlator: Correlator::default(),
            shelf: Shelf::new(Bounds::default()),
            waiting: BTreeMap::new(),
        }
    }

    /// Other bounds, and another time to gather for.
    #[cfg(test)]
    pub(super) fn with(mut self, bounds: Bounds, gathered_for: Duration) -> Self {
        self.shelf = Shelf::new(bounds);
        self.gathered_for = gathered_for;
        self
    }

    /// Until `stop` says so, or nobody is left to tell anything. What waits is written before it ends.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.store.subscribe();
        self.read_shelf().await;
        let mut write_at: Option<Instant> = None;
        loop {
            let remove_at = self.shelf.oldest().map(|oldest| self.instant(oldest));
            let go_on = tokio::select! {
                // Cancel-safe: a watch receiver loses nothing when its future is dropped.
                told = stop.changed() => told.is_ok() && !*stop.borrow(),
                // Cancel-safe: an mpsc receiver loses nothing when its future is dropped.
                note = self.notes.recv() => match note {
                    Some(note) => {
                        self.take(note);
                        write_at.get_or_insert_with(|| Instant::now() + self.gathered_for);
                        true
                    }
                    None => false,
                },
                // Cancel-safe: a broadcast receiver keeps its place.
                change = changes.recv() => match change {
                    Ok(change) => {
                        self.saw(&change);
                        if self.shelf.is_too_full(&change.object.namespace) {
                            self.remove(&self.shelf.too_many()).await;
                        }
                        true
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.read_shelf().await;
                        true
                    }
                    Err(broadcast::error::RecvError::Closed) => false,
                },
                // Cancel-safe: it holds no state.
                () = until(write_at) => {
                    self.write().await;
                    write_at = None;
                    true
                }
                // Cancel-safe: it holds no state.
                () = until(remove_at) => {
                    self.remove_old().await;
                    true
                }
            };
            if !go_on {
                while let Ok(note) = self.notes.try_recv() {
                    self.take(note);
                }
                self.write().await;
                return;
            }
            if self.waiting.len() >= MANY {
                self.write().await;
                write_at = None;
            }
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// When an event that happened at `at` is too old.
    fn instant(&self, at: Timestamp) -> Instant {
        let age = Duration::try_from(self.now().duration_since(at)).unwrap_or(Duration::ZERO);
        Instant::now() + KEPT.saturating_sub(age)
    }

    fn take(&mut self, note: Note) {
        let uid = Uid(Uuid::new_v4().to_string());
        if let Some(entry) = self.correlator.observe(note, uid) {
            self.waiting.insert(key_of(&entry), entry);
        }
    }

    /// Whoever wrote it: the bounds hold for all events.
    fn saw(&mut self, change: &Change) {
        let object = &change.object;
        if &*object.kind != EVENT {
            return;
        }
        let key = (Arc::clone(&object.namespace), Arc::clone(&object.name));
        match change.change_type {
            ChangeType::Added | ChangeType::Modified => {
                self.put(object);
            }
            ChangeType::Deleted => {
                self.correlator.forget(&key.1);
                self.shelf.remove(&key);
            }
        }
    }

    async fn read_shelf(&mut self) {
        self.shelf.clear();
        let mut after: Option<Key> = None;
        loop {
            let place = after.as_ref().map(|(namespace, name)| (&**namespace, &**name));
            let page = match self.store.list(EVENT, None, place, Some(CHUNK)).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "cannot list the events: old ones stay for now");
                    return;
                }
            };
            for object in &page.objects {
                self.put(object);
                after = Some((Arc::clone(&object.namespace), Arc::clone(&object.name)));
            }
            if page.objects.len() < CHUNK {
                return;
            }
        }
    }

    async fn write(&mut self) {
        let entries = std::mem::take(&mut self.waiting);
        let mut open: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        for (namespace, _) in entries.keys() {
            if !open.contains_key(namespace) {
                open.insert(Arc::clone(namespace), self.takes_events(namespace).await);
            }
        }
        // What is queued together is one transaction.
        let writes = entries.iter().filter(|((namespace, _), _)| open[namespace]);
        let written = join_all(writes.map(|(key, entry)| self.write_one(key, entry))).await;
        for written in written {
            match written {
                Ok(Some(object)) => self.put(&object),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "an event could not be written"),
            }
        }
        let is_too_full = |namespace: &Arc<str>| self.shelf.is_too_full(namespace);
        if open.keys().any(is_too_full) {
            self.remove(&self.shelf.too_many()).await;
        }
    }

    fn put(&mut self, object: &StoredObject) {
        let key = (Arc::clone(&object.namespace), Arc::clone(&object.name));
        let at = happened(&object.json, self.now());
        self.shelf.put(key, at, object.resource_version);
    }

    async fn write_one(&self, key: &Key, entry: &Entry) -> Result<Option<StoredObject>, StoreError> {
        let (namespace, name) = key;
        let event = serde_json::to_value(self.event(key, entry)).unwrap_or_default();
        if entry.count > 1 {
            let known = match self.shelf.version(key) {
                Some(version) => Some(version),
                None => self
                    .store
                    .get(EVENT, namespace, name)
                    .await?
                    .map(|o| o.resource_version),
            };
            if let Some(version) = known {
                return match self.store.update(EVENT, namespace, name, version, event).await {
                    Ok(written) => Ok(Some(written)),
                    // Somebody else wrote or removed it meanwhile: the next one counts on.
                    Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                };
            }
        }
        self.store
            .create(EVENT, namespace, name, &entry.uid, event)
            .await
            .map(Some)
    }

    /// Nothing new is put into a namespace that is going or gone.
    async fn takes_events(&self, namespace: &str) -> bool {
        match self.store.get("Namespace", "", namespace).await {
            Ok(Some(object)) => object.json["metadata"]["deletionTimestamp"].is_null(),
            // Where there are no namespaces at all, none is gone.
            Ok(None) => matches!(self.store.get("Namespace", "", DEFAULT).await, Ok(None)),
            Err(_) => true,
        }
    }

    fn event(&self, key: &Key, entry: &Entry) -> Event {
        let Entry {
            name: _,
            uid,
            note,
            first,
            count,
        } = entry;
        let Note {
            source,
            subject,
            severity,
            reason,
            message,
            at,
        } = note;
        let (namespace, name) = key;
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Event {
            metadata: ObjectMeta {
                name: text(name),
                namespace: text(namespace),
                uid: Some(uid.0.clone()),
                creation_timestamp: Some(wire_time(*first)),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: text("v1"),
                kind: text(subject.kind),
                namespace: text(&subject.namespace),
                name: text(&subject.name),
                uid: text(&subject.uid),
                field_path: subject.field_path.clone(),
                resource_version: None,
            },
            type_: text(severity.as_str()),
            reason: text(reason),
            message: text(message),
            count: Some(*count),
            first_timestamp: Some(wire_time(*first)),
            last_timestamp: Some(wire_time(*at)),
            source: Some(EventSource {
                component: text(source.component()),
                host: text(&self.host),
            }),
            reporting_component: text(source.component()),
            reporting_instance: text(&self.host),
            ..Event::default()
        }
    }

    async fn remove_old(&mut self) {
        let before = self.now().checked_sub(KEPT.saturating_sub(TOGETHER));
        let old = before.map(|before| self.shelf.older(before)).unwrap_or_default();
        self.remove(&old).await;
    }

    async fn remove(&mut self, keys: &[Key]) {
        for keys in keys.chunks(CHUNK) {
            let removals = keys.iter().map(|key| {
                let version = self.shelf.version(key).unwrap_or_default();
                self.store.delete(EVENT, &key.0, &key.1, version)
            });
            let removed = join_all(removals).await;
            for (key, removed) in keys.iter().zip(removed) {
                match removed {
                    // What was written meanwhile is not old any more: its change is on its way to the shelf.
                    Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                    Err(error) => tracing::warn!(%error, name = %key.1, "an old event could not be removed"),
                }
                // Else this would be tried again at once, for ever; what is still there is found at the next start.
                self.shelf.remove(key);
                self.correlator.forget(&key.1);
            }
        }
    }
}

fn key_of(entry: &Entry) -> Key {
    let namespace = entry.note.subject.namespace.as_str();
    let namespace = if namespace.is_empty() { DEFAULT } else { namespace };
    (Arc::from(namespace), Arc::from(entry.name.as_str()))
}

/// When it happened last, as far as it says; never in the future.
fn happened(event: &Value, now: Timestamp) -> Timestamp {
    let said = [
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let at = said
        .iter()
        .find_map(|said| said.as_str())
        .and_then(|said| said.parse().ok());
    at.unwrap_or(now).min(now)
}

/// Kubernetes' times have whole seconds on the wire.
fn wire_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}
