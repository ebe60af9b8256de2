//! What the node and the runtime classes say about new pods, as of this very moment, without asking the store for it.
//!
//! Goes in: the store's objects, read when they have changed. Comes out: a [`NodeView`], and every [`RuntimeClass`] by its name.
//!
//! **Invariant:** a change of one of them that was answered holds for every request that comes after: the store tells of a
//! change before it is answered, and is asked before anything that was read earlier is believed.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::node::v1::RuntimeClass;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::schedule::NodeView;
use crate::store::{Store, StoreError};

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

/// Each with the newest change of its kind that it has seen.
#[derive(Debug, Default)]
struct Known {
    node: Option<(u64, Arc<NodeView>)>,
    classes: Option<(u64, Arc<Classes>)>,
}

impl NodeWatch {
    pub(crate) fn new(store: Store, name: Arc<str>) -> Self {
        Self {
            store,
            name,
            known: Mutex::default(),
        }
    }

    pub(crate) async fn look(&self) -> Result<(Arc<NodeView>, Arc<Classes>), StoreError> {
        let mut known = self.known.lock().await;
        let (node_changed, classes_changed) = (self.store.changed(NODE), self.store.changed(CLASS));
        let node = match &known.node {
            Some((changed, node)) if *changed == node_changed => Arc::clone(node),
            _ => Arc::new(self.read_node().await?),
        };
        known.node = Some((node_changed, Arc::clone(&node)));
        let classes = match &known.classes {
            Some((changed, classes)) if *changed == classes_changed => Arc::clone(classes),
            _ => Arc::new(self.read_classes().await?),
        };
        known.classes = Some((classes_changed, Arc::clone(&classes)));
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
