//! What the node says about new pods, as of this very moment, without asking the store for it.
//!
//! Goes in: the store's changes. Comes out: a [`NodeView`].
//!
//! **Invariant:** a change of the node that was answered holds for every request that comes after: changes are published
//! before they are answered, and all that was published is looked at before the node is.

use std::sync::Arc;

use tokio::sync::{Mutex, broadcast};

use crate::schedule::NodeView;
use crate::store::{Change, ChangeType, Store, StoreError};

const NODE: &str = "Node";

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
}

impl NodeWatch {
    pub(crate) fn new(store: Store, name: Arc<str>) -> Self {
        let known = Mutex::new(Known {
            changes: store.subscribe(),
            node: None,
        });
        Self { store, name, known }
    }

    pub(crate) async fn node(&self) -> Result<Arc<NodeView>, StoreError> {
        let mut known = self.known.lock().await;
        loop {
            match known.changes.try_recv() {
                Ok(change) if &*change.object.kind == NODE && *change.object.name == *self.name => {
                    known.node = Some(Arc::new(match change.change_type {
                        ChangeType::Added | ChangeType::Modified => NodeView::of(&self.name, &change.object.json),
                        ChangeType::Deleted => NodeView::bare(&self.name),
                    }));
                }
                Ok(_) => {}
                // Some were missed: the store knows.
                Err(broadcast::error::TryRecvError::Lagged(_)) => known.node = None,
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => break,
            }
        }
        if let Some(node) = &known.node {
            return Ok(Arc::clone(node));
        }
        // What changes from here on is in `changes` still.
        let stored = self.store.get(NODE, "", &self.name).await?;
        let node = Arc::new(stored.map_or_else(
            || NodeView::bare(&self.name),
            |stored| NodeView::of(&self.name, &stored.json),
        ));
        known.node = Some(Arc::clone(&node));
        Ok(node)
    }
}
