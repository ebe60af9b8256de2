//! Garbage collection: what ends with its owner, and what lives and ends with its namespace.
//!
//! Goes in: the store's stream of changes. Comes out: dependants deleted or orphaned, finalizers taken away, namespaces
//! emptied and removed; and in every namespace what must be there from its first moment on.
//!
//! Level-triggered: a change only says what to look at, and each look reads anew what is stored. At the start, and after
//! changes were missed, everything that could be in need of a look gets one; so a deletion that an agent was stopped in
//! goes on where it was.
//!
//! **Invariant:** what finalizers hold, a pod and a namespace are only marked here, in the words of `admit::deletion`. An
//! object is never removed because its owner is of a kind that podd does not know.

mod bootstrap;
mod namespace;
mod owners;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::admit::deletion::{self, Deletion, FOREGROUND, Manner, ORPHAN, Propagation};
use crate::model::{Timestamp, Uid};
use crate::store::{Change, ChangeType, Store, StoreError, StoredObject};

pub use bootstrap::bootstrap;

/// Looks at once. Each waits for the store most of the time, and those that wait together share a commit.
const CONCURRENCY: usize = 16;

/// How soon a look that failed is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// How often a change is tried anew when the object changes under it, before the look is repeated as a whole.
const ATTEMPTS: u32 = 16;

pub(crate) const NAMESPACE: &str = "Namespace";

/// A kind whose objects can be owners.
#[derive(Debug, Clone)]
pub struct OwnerKind {
    /// Empty for the core group.
    pub group: String,
    pub kind: String,
    /// The store's key of its objects.
    pub stored_as: String,
    pub namespaced: bool,
}

/// What this room is given.
#[derive(Debug, Clone)]
pub struct Settings {
    /// podd's authority, as PEM: each namespace's `kube-root-ca.crt`.
    pub ca: String,
    /// Where the API is reached: the service `default/kubernetes`.
    pub api: SocketAddr,
    /// Every kind that podd serves.
    pub kinds: Vec<OwnerKind>,
    pub clock: fn() -> Timestamp,
}

/// The driver.
#[derive(Debug)]
pub struct Garbage {
    pub store: Store,
    pub settings: Settings,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Look {
    Namespace(String),
    Object(Uid),
    /// What referred to an object that is gone.
    Dependants(Uid),
}

type Looked = Result<Vec<Look>, StoreError>;

impl Garbage {
    /// Run until `stop` says so. Looks that have begun are finished first.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.store.subscribe();
        let room = Arc::new(self);
        let mut queue = Queue::default();
        room.look_at_everything(&mut queue).await;
        let mut looks: JoinSet<Looked> = JoinSet::new();
        let mut stopping = false;
        loop {
            while !stopping && looks.len() < CONCURRENCY {
                let Some(look) = queue.pop() else { break };
                let room = Arc::clone(&room);
                let of = look.clone();
                let handle = looks.spawn(async move { room.look(&of).await });
                queue.running.insert(handle.id(), look);
            }
            if stopping && looks.is_empty() {
                return;
            }
            let due = queue.next_retry().filter(|_| !stopping);
            tokio::select! {
                // Cancel-safe: a watch receiver loses nothing when its future is dropped.
                told = stop.changed(), if !stopping => stopping = told.is_err() || *stop.borrow(),
                // Cancel-safe: JoinSet keeps a finished task until it is joined.
                Some(joined) = looks.join_next_with_id() => {
                    let (id, looked) = match joined {
                        Ok((id, looked)) => (id, looked.map_err(|error| error.to_string())),
                        Err(error) => (error.id(), Err(format!("the look panicked: {error}"))),
                    };
                    queue.done(id, looked);
                }
                // Cancel-safe: a broadcast receiver keeps its place.
                change = changes.recv(), if !stopping => match change {
                    Ok(change) => queue.wake_for(&change),
                    Err(broadcast::error::RecvError::Lagged(_)) => room.look_at_everything(&mut queue).await,
                    Err(broadcast::error::RecvError::Closed) => stopping = true,
                },
                // Cancel-safe: it holds no state.
                () = until(due) => queue.retry(),
            }
        }
    }

    /// Wake everything that may need a look: for the start, and for when changes were missed.
    async fn look_at_everything(&self, queue: &mut Queue) {
        match self.store.list(NAMESPACE, None, None, None).await {
            Ok(page) => {
                queue.namespaces.clear();
                for namespace in page.objects {
                    queue.know_namespace(&namespace);
                    queue.wake(Look::Namespace(namespace.name.as_ref().to_owned()));
                }
            }
            Err(error) => tracing::error!(%error, "cannot list the namespaces"),
        }
        match self.store.owners().await {
            Ok(uids) => queue.owners = uids.into_iter().collect(),
            Err(error) => tracing::error!(%error, "cannot tell which objects are owners"),
        }
        match self.store.unsettled().await {
            Ok(uids) => uids.into_iter().for_each(|uid| queue.wake(Look::Object(uid))),
            Err(error) => tracing::error!(%error, "cannot tell which objects have owners"),
        }
    }

    async fn look(&self, look: &Look) -> Looked {
        match look {
            Look::Namespace(name) => self.namespace(name).await.map(|()| Vec::new()),
            Look::Object(uid) => self.object(uid).await,
            Look::Dependants(owner) => Ok(self
                .store
                .dependants(owner)
                .await?
                .into_iter()
                .map(|dependant| Look::Object(dependant.uid))
                .collect()),
        }
    }

    fn now(&self) -> Timestamp {
        (self.settings.clock)()
    }

    /// Delete an object as a client would.
    async fn delete(&self, uid: &Uid, propagation: Propagation) -> Result<(), StoreError> {
        for attempt in 1.. {
            let Some(object) = self.store.get_any(uid).await? else {
                return Ok(());
            };
            let manner = Manner::of(&object.kind);
            let done = match deletion::delete(manner, &object.json, None, Some(propagation), self.now()) {
                Deletion::Unchanged => return Ok(()),
                Deletion::Mark(marked) => self.put(&object, marked).await,
                Deletion::Remove => self.remove(&object).await,
            };
            match done {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => {}
                Ok(()) | Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Change an object, unless `change` says that there is nothing to be changed; one that nothing holds any more goes.
    async fn change(&self, uid: &Uid, change: impl Fn(&mut Value) -> bool) -> Result<(), StoreError> {
        for attempt in 1.. {
            let Some(object) = self.store.get_any(uid).await? else {
                return Ok(());
            };
            let mut changed = object.json.as_ref().clone();
            if !change(&mut changed) {
                return Ok(());
            }
            let done = if deletion::is_over(Manner::of(&object.kind), &changed) {
                self.remove(&object).await
            } else {
                self.put(&object, changed).await
            };
            match done {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => {}
                Ok(()) | Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn put(&self, object: &StoredObject, changed: Value) -> Result<(), StoreError> {
        let status = changed.get("status").cloned();
        let (kind, namespace, name) = (&object.kind, &object.namespace, &object.name);
        self.store
            .update_halves(kind, namespace, name, object.resource_version, changed, status)
            .await
            .map(|_stored| ())
    }

    async fn remove(&self, object: &StoredObject) -> Result<(), StoreError> {
        let (kind, namespace, name) = (&object.kind, &object.namespace, &object.name);
        self.store
            .delete(kind, namespace, name, object.resource_version)
            .await
            .map(|_gone| ())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => pending().await,
    }
}

/// What is to be looked at, each thing once, and none by two looks at a time.
#[derive(Debug, Default)]
struct Queue {
    /// Namespaces come first: someone waits for what is in a new one.
    namespaces_waiting: VecDeque<Look>,
    waiting: VecDeque<Look>,
    /// Everything that was referred to as an owner: most objects never are, and are not looked at when they go.
    owners: HashSet<Uid>,
    queued: HashSet<Look>,
    running: HashMap<Id, Look>,
    /// Looks that failed, and when they are repeated; in the order of time.
    failed: VecDeque<(Instant, Look)>,
    /// The namespaces there are; true: one that is being deleted.
    namespaces: HashMap<String, bool>,
}

impl Queue {
    fn wake(&mut self, look: Look) {
        if self.queued.insert(look.clone()) {
            match look {
                Look::Namespace(_) => self.namespaces_waiting.push_back(look),
                Look::Object(_) | Look::Dependants(_) => self.waiting.push_back(look),
            }
        }
    }

    /// The next one that is not being looked at.
    fn pop(&mut self) -> Option<Look> {
        let running = &self.running;
        let idle = |look: &Look| !running.values().any(|running| running == look);
        let take = |waiting: &mut VecDeque<Look>| {
            let at = waiting.iter().position(idle)?;
            waiting.remove(at)
        };
        let look = take(&mut self.namespaces_waiting).or_else(|| take(&mut self.waiting))?;
        self.queued.remove(&look);
        Some(look)
    }

    fn done(&mut self, id: Id, looked: Result<Vec<Look>, String>) {
        let Some(look) = self.running.remove(&id) else { return };
        match looked {
            Ok(more) => more.into_iter().for_each(|look| self.wake(look)),
            Err(error) => {
                tracing::error!(
                    ?look,
                    error,
                    "cannot look after the garbage: trying again in {} s",
                    RETRY.as_secs()
                );
                self.failed.push_back((Instant::now() + RETRY, look));
            }
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        self.failed.front().map(|(at, _)| *at)
    }

    fn retry(&mut self) {
        let now = Instant::now();
        while self.failed.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, look)) = self.failed.pop_front() {
                self.wake(look);
            }
        }
    }

    fn know_namespace(&mut self, namespace: &StoredObject) {
        let ending = is_ending(&namespace.json);
        self.namespaces.insert(namespace.name.as_ref().to_owned(), ending);
    }

    /// What a change means to this room.
    fn wake_for(&mut self, change: &Change) {
        let object = &change.object;
        let gone = change.change_type == ChangeType::Deleted;
        if &*object.kind == NAMESPACE {
            if gone {
                self.namespaces.remove(&*object.name);
            } else {
                self.know_namespace(object);
                let same_end = change
                    .previous
                    .as_deref()
                    .is_some_and(|before| is_ending(before) == is_ending(&object.json));
                if !same_end || is_ending(&object.json) {
                    self.wake(Look::Namespace(object.name.as_ref().to_owned()));
                }
            }
        } else if !object.namespace.is_empty() {
            self.wake_namespace_of(change);
        }
        if gone && self.owners.remove(&object.uid) {
            self.wake(Look::Dependants(object.uid.clone()));
        }
        self.wake_owners_and_dependants(change);
    }

    /// The namespace of an object may have waited for its end, or miss it, or not be there at all.
    fn wake_namespace_of(&mut self, change: &Change) {
        let object = &change.object;
        let gone = change.change_type == ChangeType::Deleted;
        let wanted = match self.namespaces.get(&*object.namespace) {
            // Something was put into a namespace that is not there: nothing else would ever remove it.
            None => !gone,
            Some(true) => gone || change.change_type == ChangeType::Added,
            Some(false) => change.change_type != ChangeType::Added && namespace::is_default(&object.kind, &object.name),
        };
        if wanted {
            self.wake(Look::Namespace(object.namespace.as_ref().to_owned()));
        }
    }

    fn wake_owners_and_dependants(&mut self, change: &Change) {
        let object = &change.object;
        let now = &object.json["metadata"]["ownerReferences"];
        let before = change
            .previous
            .as_deref()
            .map(|before| &before["metadata"]["ownerReferences"]);
        let gone = change.change_type == ChangeType::Deleted;
        if gone || before.is_some_and(|before| before != now) {
            // They may wait for this one; what is not being deleted is looked at in vain.
            for owner in owners::uids(before.unwrap_or(now)) {
                self.wake(Look::Object(owner));
            }
        }
        if gone {
            return;
        }
        let referred_anew = now.is_array() && before != Some(now);
        if referred_anew {
            self.owners.extend(owners::uids(now));
        }
        let finalizers = deletion::finalizers(&object.json);
        let collecting = is_ending(&object.json) && (finalizers.contains(&ORPHAN) || finalizers.contains(&FOREGROUND));
        if referred_anew || collecting {
            self.wake(Look::Object(object.uid.clone()));
        }
    }
}

fn is_ending(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}
