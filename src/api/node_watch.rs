//! What the node and the runtime classes say about new pods, as of this very moment, without asking the store for it.
//!
//! Goes in: the store's changes. Comes out: a [`NodeView`], and every [`RuntimeClass`] by its name.
//!
//! **Invariant:** a change of one of them that was answered holds for every request that comes after: changes are published
//! before they are answered, and all that was published is looked at before the node is.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::node::v1::RuntimeClass;
use serde::Deserialize;
use tokio::sync::{Mutex, broadcast};

use crate::schedule::NodeView;
use crate::store::{Change, ChangeType, Store, StoreError};

const NODE: &str = "Node";
const CLASS: &str = "RuntimeClass";

/// Every runtime class by its name.
pub(crate) type Classes = BTreeMap<String, RuntimeClass>;

#[derive(Debug)]
pub(crate) struct NodeWatch {
    store: Store,
    name: Arc<str>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    changes: broadcast::Receiver<Arc<Change>>,
    node: Option<Arc<NodeView>>,
    classes: Option<Arc<Classes>>,
}

impl NodeWatch {
    pub(crate) fn new(store: Store, name: Arc<str>) -> Self {
        let known = Mutex::new(Known {
            changes: store.subscribe(),
            node: None,
            classes: None,
        });
        Self { store, name, known }
    }

    pub(crate) async fn look(&self) -> Result<(Arc<NodeView>, Arc<Classes>), StoreError> {
        let mut known = self.known.lock().await;
        loop {
            match known.changes.try_recv() {
                Ok(change) if &*change.object.kind == NODE && *change.object.name == *self.name => {
                    known.node = Some(Arc::new(match change.change_type {
                        ChangeType::Added | ChangeType::Modified => NodeView::of(&self.name, &change.object.json),
                        ChangeType::Deleted => NodeView::bare(&self.name),
                    }));
                }
                // They change seldom: they are read anew.
                Ok(change) if &*change.object.kind == CLASS => known.classes = None,
                Ok(_) => {}
                // Some were missed: the store knows.
                Err(broadcast::error::TryRecvError::Lagged(_)) => {
                    known.node = None;
                    known.classes = None;
                }
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => break,
            }
        }
        // What changes from here on is in `changes` still.
        let node = match &known.node {
            Some(node) => Arc::clone(node),
            None => Arc::new(self.read_node().await?),
        };
        let classes = match &known.classes {
            Some(classes) => Arc::clone(classes),
            None => Arc::new(self.read_classes().await?),
        };
        known.node = Some(Arc::clone(&node));
        known.classes = Some(Arc::clone(&classes));
        Ok((node, classes))
    }

    async fn read_node(&self) -> Result<NodeView, StoreError> {
        let stored = self.store.get(NODE, "", &self.name).await?;
        Ok(stored.map_or_else(
            || NodeView::bare(&self.name),
            |stored| NodeView::of(&self.name, &stored.json),
        ))
    }

    async fn read_classes(&self) -> Result<Classes, StoreError> {
        let page = self.store.list(CLASS, None, None, None).await?;
        let read = page.objects.iter().filter_map(|stored| {
            let class = RuntimeClass::deserialize(&*stored.json).ok()?;
            Some((stored.name.as_ref().to_owned(), class))
        });
        Ok(read.collect())
    }
}
