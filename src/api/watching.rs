//! WATCH: every change of a kind after a resource version, in order, without gap or repetition.
//!
//! Goes in: the store's broadcast of changes and its log of them. Comes out: one JSON object a line, or a message of a
//! WebSocket (`socket`). Who watches the same in the same form shares its bytes (`lines`).
//!
//! A watcher pulls: while its client does not read, nothing is done for it. What the broadcast then drops for it is read
//! from the store's log later. **Invariant:** memory per watcher is bounded by the first list and one page of the log.

mod lines;
mod socket;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Api;
use super::answer::{Answer, response};
use super::error::ApiError;
use super::guard::stopped;
use super::kinds::Kind;
use super::negotiate::{self, View};
use super::params::{Head, Params};
use super::read;
use super::selector::Selector;
use lines::Line;

pub(crate) use lines::Lines;
pub(crate) use socket::Upgrade;

use crate::store::{Change, ChangeType, StoreError, StoredObject};

/// Changes read from the store's log at once.
const PAGE: usize = 128;
/// How long a watch lives when its client does not say (Kubernetes: 30 to 60 minutes): no half-dead client holds one for ever.
const LIFETIME: Duration = Duration::from_mins(45);

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// With everything there is, as ADDED; a bookmark tells its end if it is wanted. What there is must not be older than
    /// this version.
    Everything {
        announce_end: bool,
        not_before: Option<u64>,
    },
    /// After this version.
    After(u64),
    /// With whatever happens next.
    Now,
}

impl Start {
    fn parse(params: &Params) -> Result<Self, ApiError> {
        params.check_watch()?;
        let version = params.resource_version()?;
        Ok(match (params.flag("sendInitialEvents"), version) {
            (None | Some(false), Some(version)) => Self::After(version),
            (None, None) => Self::Everything {
                announce_end: false,
                not_before: None,
            },
            (Some(true), not_before) => Self::Everything {
                announce_end: true,
                not_before,
            },
            (Some(false), None) => Self::Now,
        })
    }
}

pub(crate) async fn watch(
    state: &Api,
    kind: &'static Kind,
    head: &Head,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let answer = Answer {
        form: negotiate::stream(&head.headers)?,
        ..read::answer(state, kind, head)?
    };
    let params = &head.params;
    let start = Start::parse(params)?;
    if let Start::Everything {
        not_before: Some(asked),
        ..
    } = start
    {
        read::check_not_ahead(state, kind, asked).await?;
    }
    let selector = params.selector(kind)?;
    let lifetime = params
        .number("timeoutSeconds")?
        .and_then(|s| u64::try_from(s).ok())
        .filter(|s| *s > 0)
        .map_or(LIFETIME, |s| Duration::from_secs(s.min(24 * 3600)));
    let permit = state.stream_permit()?;
    // Subscribed before anything is read: between the log and the broadcast nothing can fall through.
    let receiver = state.store.subscribe();
    let bookmarks = params.flag("allowWatchBookmarks").unwrap_or(false).then(|| {
        let mut interval = tokio::time::interval_at(
            Instant::now() + state.limits.bookmark_every,
            state.limits.bookmark_every,
        );
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        interval
    });
    let mut watcher = Watcher {
        state: state.clone(),
        filter: Filter {
            namespace: head.namespace.clone(),
            selector,
        },
        answer,
        headed: true,
        receiver,
        queue: VecDeque::new(),
        cursor: 0,
        phase: Phase::Replay,
        bookmarks,
        deadline: Instant::now() + lifetime,
        stopping: head.stopping.clone(),
        _permit: permit,
    };
    // Begun before the answer is: whatever happens once the client has that is in the stream.
    watcher.begin(start).await;
    if socket::is_asked_for(&head.headers) {
        return socket::accept(upgrade, &head.headers, watcher);
    }
    let stream = futures_util::stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok::<_, Infallible>(bytes), watcher))
    });
    Ok(response(StatusCode::OK, "application/json", Body::from_stream(stream)))
}

/// Which objects a watch is about.
#[derive(Debug)]
struct Filter {
    namespace: Option<String>,
    selector: Selector,
}

impl Filter {
    fn matches(&self, namespace: &str, object: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|ns| ns == namespace) && self.selector.matches(object)
    }

    /// What a change is to this watch: an object that comes to match is added to it, one that ceases to is deleted from it
    /// (with its last matching state, at the new version).
    fn event(&self, change: &Change) -> Option<Event> {
        let object = &change.object;
        let matches = |json: &Value| self.matches(&object.namespace, json);
        let before = change.previous.as_deref().filter(|previous| matches(previous));
        let now_matches = change.change_type != ChangeType::Deleted && matches(&object.json);
        match (before, now_matches) {
            (_, _) if change.change_type == ChangeType::Deleted => {
                // Of the last state too: a store that keeps no previous one for deletions still tells what is gone.
                (before.is_some() || matches(&object.json))
                    .then(|| Event::changed("DELETED", change, at_version(&object.json, object.resource_version)))
            }
            (None, true) => Some(Event::changed("ADDED", change, Arc::clone(&object.json))),
            (Some(_), true) => Some(Event::changed("MODIFIED", change, Arc::clone(&object.json))),
            (Some(previous), false) => Some(Event::changed(
                "DELETED",
                change,
                at_version(&Arc::new(previous.clone()), object.resource_version),
            )),
            (None, false) => None,
        }
    }
}

/// The object with its `metadata.resourceVersion` set.
fn at_version(object: &Arc<Value>, version: u64) -> Arc<Value> {
    let version = version.to_string();
    if object["metadata"]["resourceVersion"] == version.as_str() {
        return Arc::clone(object);
    }
    let mut copy = object.as_ref().clone();
    copy["metadata"]["resourceVersion"] = version.into();
    Arc::new(copy)
}

#[derive(Debug, PartialEq)]
enum Event {
    Object {
        event_type: &'static str,
        object: Arc<Value>,
        /// The version of the change that it tells; `None` for what was there before.
        version: Option<u64>,
    },
    /// Everything up to this version was sent. `end_of_list`: and with it the first list.
    Bookmark {
        version: u64,
        end_of_list: bool,
    },
    Error(Value),
}

impl Event {
    fn there(object: Arc<Value>) -> Self {
        Self::Object {
            event_type: "ADDED",
            object,
            version: None,
        }
    }

    fn changed(event_type: &'static str, change: &Change, object: Arc<Value>) -> Self {
        Self::Object {
            event_type,
            object,
            version: Some(change.object.resource_version),
        }
    }
}

#[derive(Debug)]
enum Phase {
    /// Reading the store's log after `cursor`.
    Replay,
    /// Following the broadcast.
    Live,
    /// Nothing follows what is queued.
    End,
}

struct Watcher {
    state: Api,
    filter: Filter,
    answer: Answer,
    /// The next table describes its columns.
    headed: bool,
    receiver: Receiver<Arc<Change>>,
    queue: VecDeque<Event>,
    /// Every change up to this version was looked at.
    cursor: u64,
    phase: Phase,
    bookmarks: Option<Interval>,
    deadline: Instant,
    stopping: Option<watch::Receiver<bool>>,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(self.encode(&event));
            }
            // What a long first list took is given back: most watches then say nothing for hours.
            self.queue = VecDeque::new();
            match self.phase {
                // Boxed, since a watch that waits would carry the room for reading the log around with it.
                Phase::Replay => Box::pin(self.replay()).await,
                Phase::Live => self.follow().await,
                Phase::End => return None,
            }
        }
    }

    async fn begin(&mut self, start: Start) {
        let begun = match start {
            Start::Everything { announce_end, .. } => self.list(announce_end).await,
            Start::After(version) => self.state.store.resource_version().await.map(|current| {
                if version > current {
                    // A version from another life of the database: the client has to list anew.
                    self.end_with(&ApiError::too_old(version, current));
                } else {
                    self.cursor = version;
                    self.phase = Phase::Replay;
                }
            }),
            Start::Now => self.state.store.resource_version().await.map(|current| {
                self.cursor = current;
                self.phase = Phase::Live;
            }),
        };
        if let Err(error) = begun {
            self.end_with(&ApiError::from_store(error, self.answer.kind, ""));
        }
    }

    async fn list(&mut self, announce_end: bool) -> Result<(), StoreError> {
        let page = self
            .state
            .store
            .list(self.answer.kind.stored_as, self.filter.namespace.as_deref(), None, None)
            .await?;
        let added = |o: StoredObject| Event::there(o.json);
        self.queue.extend(
            page.objects
                .into_iter()
                .filter(|o| self.filter.matches(&o.namespace, &o.json))
                .map(added),
        );
        self.cursor = page.resource_version;
        if announce_end && self.bookmarks.is_some() {
            self.queue.push_back(Event::Bookmark {
                version: self.cursor,
                end_of_list: true,
            });
        }
        self.phase = Phase::Replay;
        Ok(())
    }

    async fn replay(&mut self) {
        match self
            .state
            .store
            .changes(self.answer.kind.stored_as, self.cursor, PAGE)
            .await
        {
            Ok(changes) if changes.is_empty() => self.phase = Phase::Live,
            Ok(changes) => changes.iter().for_each(|change| self.take(change)),
            Err(error) => self.end_with(&ApiError::from_store(error, self.answer.kind, "")),
        }
    }

    async fn follow(&mut self) {
        // Cancel-safe, all four: recv, tick, sleep_until and wait_for lose nothing when another arm is taken.
        tokio::select! {
            biased;
            () = stopped(&mut self.stopping) => self.phase = Phase::End,
            () = tokio::time::sleep_until(self.deadline) => {
                if self.bookmarks.is_some() {
                    self.queue.push_back(Event::Bookmark { version: self.cursor, end_of_list: false });
                }
                self.phase = Phase::End;
            }
            received = self.receiver.recv() => match received {
                Ok(change) => self.take(&change),
                // The client was slow: the log has what the broadcast dropped.
                Err(RecvError::Lagged(_)) => self.phase = Phase::Replay,
                Err(RecvError::Closed) => self.phase = Phase::End,
            },
            () = next_tick(self.bookmarks.as_mut()) => {
                self.queue.push_back(Event::Bookmark { version: self.cursor, end_of_list: false });
            }
        }
    }

    fn take(&mut self, change: &Change) {
        if change.object.resource_version <= self.cursor {
            return;
        }
        self.cursor = change.object.resource_version;
        if *change.object.kind == *self.answer.kind.stored_as {
            self.queue.extend(self.filter.event(change));
        }
    }

    fn end_with(&mut self, error: &ApiError) {
        if let ApiError::Internal { source, .. } = error {
            tracing::error!(error = %source, "a watch failed inside podd");
        }
        self.queue.push_back(Event::Error(error.status()));
        self.phase = Phase::End;
    }

    fn encode(&mut self, event: &Event) -> Bytes {
        let line = match event {
            Event::Error(status) => json!({ "type": "ERROR", "object": status }).to_string(),
            Event::Object {
                event_type,
                object,
                version,
            } => return self.object_line(event_type, object, *version),
            Event::Bookmark { version, end_of_list } => {
                json!({ "type": "BOOKMARK", "object": self.bookmark(*version, *end_of_list) }).to_string()
            }
        };
        Bytes::from(line + "\n")
    }

    fn object_line(&mut self, event_type: &'static str, object: &Value, version: Option<u64>) -> Bytes {
        let answer = Answer {
            now: self.state.now(),
            ..self.answer
        };
        let headed = std::mem::take(&mut self.headed);
        let write = || {
            let viewed = answer.view(object, headed);
            let object = viewed.as_ref().unwrap_or(object);
            Bytes::from(format!("{{\"type\":\"{event_type}\",\"object\":{object}}}\n"))
        };
        let Some(version) = version else { return write() };
        let Answer {
            kind, form, include, ..
        } = answer;
        let is_table = matches!(form.view, View::Table(_));
        let line = Line {
            version,
            event_type,
            kind: (kind.group, kind.plural),
            view: form.view,
            include,
            headed: is_table && headed,
            second: if is_table { answer.now.as_second() } else { 0 },
        };
        self.state.lines.get(line, write)
    }

    fn bookmark(&self, version: u64, end_of_list: bool) -> Value {
        let mut metadata = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
        if end_of_list {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let kind = self.answer.kind;
        match self.answer.form.view {
            View::Object => json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata }),
            View::Partial(v) => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{v}"), "metadata": metadata })
            }
            View::Table(v) => json!({
                "kind": "Table", "apiVersion": format!("meta.k8s.io/{v}"), "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
        }
    }
}

/// The next tick, or never where no bookmarks are wanted.
async fn next_tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::pod::POD;
    use crate::model::Uid;
    use crate::store::Origin;

    fn change(change_type: ChangeType, before: Option<&str>, after: &str) -> Change {
        let object = |app: &str, version: u64| json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": app}, "resourceVersion": version.to_string()}});
        Change {
            change_type,
            origin: Origin::Desired,
            object: StoredObject {
                kind: "Pod".into(),
                namespace: "n".into(),
                name: "p".into(),
                uid: Uid("u".to_owned()),
                resource_version: 9,
                json: Arc::new(object(after, 9)),
            },
            previous: before.map(|app| Arc::new(object(app, 8))),
        }
    }

    fn seen(change: &Change, namespace: Option<&str>) -> Option<(&'static str, Value)> {
        let selector = Selector::parse(&POD, "app=web", "").unwrap();
        let filter = Filter {
            namespace: namespace.map(str::to_owned),
            selector,
        };
        match filter.event(change)? {
            Event::Object { event_type, object, .. } => Some((event_type, object.as_ref().clone())),
            Event::Bookmark { .. } | Event::Error(_) => None,
        }
    }

    #[test]
    fn entering_and_leaving_a_selector_are_additions_and_deletions() {
        let kinds = |c: &Change| seen(c, Some("n")).map(|(t, _)| t);
        assert_eq!(kinds(&change(ChangeType::Added, None, "web")), Some("ADDED"));
        assert_eq!(kinds(&change(ChangeType::Added, None, "db")), None);
        assert_eq!(kinds(&change(ChangeType::Modified, Some("db"), "web")), Some("ADDED"));
        assert_eq!(
            kinds(&change(ChangeType::Modified, Some("web"), "web")),
            Some("MODIFIED")
        );
        assert_eq!(kinds(&change(ChangeType::Modified, Some("db"), "db")), None);
        assert_eq!(kinds(&change(ChangeType::Deleted, Some("web"), "web")), Some("DELETED"));
        assert_eq!(kinds(&change(ChangeType::Deleted, Some("db"), "db")), None);
    }

    #[test]
    fn what_leaves_is_shown_as_it_was_at_the_new_version() {
        let (event_type, object) = seen(&change(ChangeType::Modified, Some("web"), "db"), None).unwrap();
        assert_eq!(event_type, "DELETED");
        assert_eq!(object["metadata"]["labels"]["app"], "web");
        assert_eq!(object["metadata"]["resourceVersion"], "9");
    }

    #[test]
    fn other_namespaces_are_not_seen() {
        assert_eq!(seen(&change(ChangeType::Added, None, "web"), Some("m")), None);
        assert!(seen(&change(ChangeType::Added, None, "web"), None).is_some());
    }
}
