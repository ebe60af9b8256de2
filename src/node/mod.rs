//! The node: its object, its Lease, and the binding of pods that could not be bound when they were made.
//!
//! Goes in: what the machine is, how much of it is left, which images it has, and the changes of Nodes and Pods that the
//! store tells of. Comes out: the objects `Node` and `Lease`, pods bound to the node or driven off it, and events about all.
//!
//! ## Heartbeats
//!
//! A kubelet renews its Lease every 10 s and its status every 5 minutes. podd writes neither: an idle machine writes
//! nothing to its disk. The API and the node are one process here, so that whoever can read the Node reads it from the
//! living agent: the API puts `renewTime` and `lastHeartbeatTime` in as it answers (`src/api/heartbeat.rs`), to the beat
//! that a kubelet would have kept. The stored times are those of the last real change, and a watch shows no beats.
//!
//! ## Binding
//!
//! A new pod is bound by the API in the very write that makes it. Those that do not fit wait without a node; here they are
//! looked at again when they or the node change. A pod with another scheduler's name waits for that one's `Binding`.
//!
//! ## Pressure
//!
//! What is left of memory, disks and processes is measured every ten seconds, and held against a kubelet's thresholds. A
//! pressure is a condition of the Node and a taint that holds new pods off; what runs is let be. Nothing is written while
//! the conditions stay as they are.
//!
//! **Invariants:** but for that measuring, everything here is caused by a change, or by a pod's time. What users wrote on the
//! Node (labels, annotations, taints, `unschedulable`) outlives every restart. A Node that is deleted comes back.

mod binder;
mod facts;
mod measure;
mod object;
mod pressure;
mod supply;
mod taint_eviction;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

pub use facts::Facts;
pub use measure::{Gauge, Places};
pub use pressure::{Least, Pressure, Reading, Readings, Signal, Thresholds};
pub use supply::{Amounts, Supply};

use crate::event::{Recorder, Severity, Source, Subject};
use crate::model::{Timestamp, Uid};
use crate::schedule::NodeView;
use crate::store::{Change, ChangeType, Origin, Store, StoreError, StoredObject};
use taint_eviction::Departures;

/// The kind under which the node is stored.
pub const NODE: &str = "Node";
/// The kind under which its Lease is stored, and the namespace of Leases of nodes.
pub const LEASE: &str = "Lease";
pub const LEASES: &str = "kube-node-lease";

/// How often a write is tried anew when somebody else was faster.
const ATTEMPTS: u32 = 8;

/// The node could not be told of.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot read how much memory this machine has")]
    Memory(#[source] std::io::Error),
    #[error("cannot tell how large the disk of {path} is")]
    Disk {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the node could not be written as JSON")]
    Json(#[source] serde_json::Error),
    #[error("{what} kept changing while it was written")]
    Busy { what: &'static str },
}

/// What the node is called and where it is, as the agent was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// The machine's own addresses, the preferred one first.
    pub host_ips: Vec<IpAddr>,
    /// Addresses of pods.
    pub pod_cidr: String,
    /// What `/version` says too.
    pub version: String,
    /// podd's own runtime, and the programs that make containers in its stead.
    pub handlers: Vec<Handler>,
}

/// A runtime that pods can ask for, and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Empty: that of pods which ask for none.
    pub name: String,
    pub recursive_read_only: bool,
    pub user_namespaces: bool,
}

/// Keeps the node, its Lease and what waits for it.
#[derive(Debug)]
pub struct NodeKeeper {
    pub store: Store,
    pub recorder: Recorder,
    pub identity: Identity,
    pub facts: Facts,
    pub supply: Supply,
    pub gauge: Gauge,
    /// Marked as changed whenever an image comes, goes or gets another name.
    pub images: watch::Receiver<()>,
    pub clock: fn() -> Timestamp,
}

impl NodeKeeper {
    /// Write Node and Lease, before anything asks for them.
    pub async fn register(&self) -> Result<(), NodeError> {
        self.tell(Severity::Normal, "Starting", "Starting podd.".to_owned());
        self.remove_old_names().await?;
        self.gauge.look(self.now());
        let boot_id = |node: &Node| Some(node.status.as_ref()?.node_info.as_ref()?.boot_id.clone());
        let before = self.write_node(None).await?;
        let before = before.as_ref().and_then(boot_id);
        if before.is_some_and(|before| before != self.facts.boot_id) {
            let message = format!(
                "Node {} has been rebooted, boot id: {}",
                self.identity.name, self.facts.boot_id
            );
            self.tell(Severity::Warning, "Rebooted", message);
        }
        Ok(())
    }

    /// There is one node: what it was called before is not another one.
    async fn remove_old_names(&self) -> Result<(), NodeError> {
        for old in self.store.list(NODE, None, None, None).await?.objects {
            let runtime = &old.json["status"]["nodeInfo"]["containerRuntimeVersion"];
            let is_own = runtime
                .as_str()
                .is_some_and(|runtime| runtime.starts_with(object::RUNTIME));
            if !is_own || *old.name == *self.identity.name {
                continue;
            }
            tracing::info!(old = %old.name, new = %self.identity.name, "the node has another name now");
            self.store.delete(NODE, "", &old.name, old.resource_version).await?;
            if let Some(lease) = self.store.get(LEASE, LEASES, &old.name).await? {
                self.store
                    .delete(LEASE, LEASES, &old.name, lease.resource_version)
                    .await?;
            }
        }
        Ok(())
    }

    /// Until `stop` says so. `ready` is the agent's readiness.
    pub async fn run(self, mut ready: watch::Receiver<bool>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.store.subscribe();
        let mut images = self.images.clone();
        let mut images_change = true;
        let mut waits_to_be_ready = true;
        let mut departures = Departures::default();
        let mut measurings = tokio::time::interval(self.gauge.every);
        measurings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.log(self.bind_all().await);
        self.log(self.drive_off_all(&mut departures).await);
        loop {
            let leaves = departures.next().map(|at| self.instant(at));
            tokio::select! {
                // Cancel-safe: a watch receiver loses nothing when its future is dropped.
                told = stop.changed() => if told.is_err() || *stop.borrow() { return },
                // Cancel-safe: the word stays said.
                is_ready = is_ready(&mut ready), if waits_to_be_ready => {
                    waits_to_be_ready = false;
                    if is_ready {
                        self.log(self.become_ready().await);
                    }
                }
                // Cancel-safe: a watch receiver loses nothing when its future is dropped.
                told = images.changed(), if images_change => match told {
                    Ok(()) => self.log(self.write_node((!waits_to_be_ready).then_some(true)).await.map(drop)),
                    Err(_gone) => images_change = false,
                },
                // Cancel-safe: a tick that was not taken stays due.
                _ = measurings.tick() => if self.gauge.look(self.now()) {
                    self.log(self.write_node((!waits_to_be_ready).then_some(true)).await.map(drop));
                },
                // Cancel-safe: it holds no state.
                () = until(leaves) => self.log(self.drive_off_all(&mut departures).await),
                // Cancel-safe: a broadcast receiver keeps its place.
                change = changes.recv() => match change {
                    Ok(change) => self.log(self.saw(&change, !waits_to_be_ready, &mut departures).await),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.log(self.bind_all().await);
                        self.log(self.drive_off_all(&mut departures).await);
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            }
        }
    }

    fn log(&self, done: Result<(), NodeError>) {
        if let Err(error) = done {
            tracing::error!(error = &error as &dyn std::error::Error, node = %self.identity.name, "cannot look after the node");
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// When the timers say that it is `at`.
    fn instant(&self, at: Timestamp) -> Instant {
        let left = Duration::try_from(at.duration_since(self.now())).unwrap_or_default();
        Instant::now() + left
    }

    fn tell(&self, severity: Severity, reason: &'static str, message: String) {
        let subject = Subject::node(&self.identity.name);
        self.recorder.tell(Source::Kubelet, subject, severity, reason, message);
    }

    fn tell_status(&self, reason: &'static str) {
        let message = format!("Node {} status is now: {reason}", self.identity.name);
        self.tell(Severity::Normal, reason, message);
    }

    async fn become_ready(&self) -> Result<(), NodeError> {
        let before = self.write_node(Some(true)).await?;
        if !before.as_ref().is_some_and(object::is_ready) {
            self.tell_status("NodeReady");
        }
        Ok(())
    }

    /// Write the Node, and its Lease, where they are not what they should be. Returns the Node as it was.
    async fn write_node(&self, ready: Option<bool>) -> Result<Option<Node>, NodeError> {
        let name = self.identity.name.as_str();
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let stored = self.store.get(NODE, "", name).await?;
            let before: Option<Node> = stored.as_ref().and_then(read);
            let uid = stored.as_ref().map_or_else(new_uid, |stored| stored.uid.clone());
            let images = self.store.images().await?;
            let found = self.gauge.found();
            let machine = object::Machine {
                identity: &self.identity,
                facts: &self.facts,
                supply: &self.supply,
                found: &found,
            };
            let wanted = object::node(now, machine, before.clone(), &uid, ready, images);
            match self.put(NODE, "", stored.as_ref(), &uid, &wanted).await {
                Ok(()) => {}
                Err(NodeError::Busy { .. }) => continue,
                Err(error) => return Err(error),
            }
            self.gauge.told(found);
            for pressure in Pressure::ALL {
                let told = |node: &Node| object::told(node, pressure.condition());
                if let Some(holds) = told(&wanted).filter(|now| before.as_ref().and_then(told) != Some(*now)) {
                    self.tell_status(pressure.event(holds));
                }
            }
            self.write_lease(&uid).await?;
            return Ok(before);
        }
        Err(NodeError::Busy { what: "the node" })
    }

    async fn write_lease(&self, node: &Uid) -> Result<(), NodeError> {
        for _ in 0..ATTEMPTS {
            let stored = self.store.get(LEASE, LEASES, &self.identity.name).await?;
            let uid = stored.as_ref().map_or_else(new_uid, |stored| stored.uid.clone());
            let before: Option<Lease> = stored.as_ref().and_then(read);
            let wanted = object::lease(self.now(), &self.identity, node, before, &uid);
            match self.put(LEASE, LEASES, stored.as_ref(), &uid, &wanted).await {
                Err(NodeError::Busy { .. }) => {}
                done => return done,
            }
        }
        Err(NodeError::Busy { what: "the lease" })
    }

    /// Make an object, or write it over the one that was read. An equal one is not written.
    async fn put<K: serde::Serialize + Sync>(
        &self,
        kind: &str,
        namespace: &str,
        stored: Option<&StoredObject>,
        uid: &Uid,
        wanted: &K,
    ) -> Result<(), NodeError> {
        let name = self.identity.name.as_str();
        let wanted = serde_json::to_value(wanted).map_err(NodeError::Json)?;
        let done = match stored {
            None => self.store.create(kind, namespace, name, uid, wanted).await,
            Some(stored) => {
                let version = stored.resource_version;
                self.store.update_whole(kind, namespace, name, version, wanted).await
            }
        };
        match done {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. } | StoreError::AlreadyExists { .. } | StoreError::NotFound { .. }) => {
                Err(NodeError::Busy { what: "the node" })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn saw(&self, change: &Change, is_ready: bool, departures: &mut Departures) -> Result<(), NodeError> {
        let object = &change.object;
        match &*object.kind {
            NODE if *object.name == *self.identity.name => match change.change_type {
                ChangeType::Added => {
                    self.bind_all().await?;
                    self.drive_off_all(departures).await
                }
                ChangeType::Modified if change.origin == Origin::Desired => {
                    self.node_changed(change.previous.as_deref(), object, departures).await
                }
                ChangeType::Modified => Ok(()),
                ChangeType::Deleted => self.write_node(is_ready.then_some(true)).await.map(drop),
            },
            binder::POD => {
                self.pod_changed(change).await?;
                match change.change_type {
                    ChangeType::Deleted => departures.forget(&object.uid),
                    ChangeType::Added | ChangeType::Modified if change.origin == Origin::Desired => {
                        self.drive_off(object, departures).await?;
                    }
                    ChangeType::Added | ChangeType::Modified => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn node_changed(
        &self,
        previous: Option<&Value>,
        object: &StoredObject,
        departures: &mut Departures,
    ) -> Result<(), NodeError> {
        let is_cordoned = |node: &Value| node["spec"]["unschedulable"] == true;
        match (previous.is_some_and(is_cordoned), is_cordoned(&object.json)) {
            (false, true) => self.tell_status("NodeNotSchedulable"),
            (true, false) => self.tell_status("NodeSchedulable"),
            (true, true) | (false, false) => {}
        }
        if let Some(mut node) = read::<Node>(object)
            && object::taint(self.now(), &mut node)
        {
            return match self.put(NODE, "", Some(object), &object.uid, &node).await {
                // What is newer than this change is seen next.
                Ok(()) | Err(NodeError::Busy { .. }) => Ok(()),
                Err(error) => Err(error),
            };
        }
        let counts = |node: &Value| NodeView::of(&self.identity.name, node);
        if previous.map(counts) == Some(counts(&object.json)) {
            return Ok(());
        }
        self.bind_all().await?;
        self.drive_off_all(departures).await
    }
}

/// For ever, if never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// False: nobody will ever say it.
async fn is_ready(ready: &mut watch::Receiver<bool>) -> bool {
    ready.wait_for(|ready| *ready).await.is_ok()
}

/// A stored object as its kind; one that is spoilt counts as none, and is written anew.
fn read<K: DeserializeOwned>(object: &StoredObject) -> Option<K> {
    K::deserialize(&*object.json).ok()
}

fn new_uid() -> Uid {
    Uid(Uuid::new_v4().to_string())
}

/// What decides about pods, of the node as it is stored now.
async fn view(store: &Store, name: &str) -> Result<Arc<NodeView>, StoreError> {
    let stored = store.get(NODE, "", name).await?;
    Ok(Arc::new(stored.map_or_else(
        || NodeView::bare(name),
        |stored| NodeView::of(name, &stored.json),
    )))
}
