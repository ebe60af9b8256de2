//! Service accounts as of this very moment, most of the time without asking the store.
//!
//! Goes in: accounts of the store, read when any has changed. Comes out: an account by its name.
//!
//! **Invariant:** a change of an account that was answered holds for every question that comes after: the store tells of a
//! change before it is answered, and is asked before anything that was read earlier is believed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use serde::Deserialize;
use tokio::sync::{Mutex, broadcast};

use crate::model::{Timestamp, Uid};
use crate::store::{Store, StoreError, StoredObject};

pub(super) const KIND: &str = "ServiceAccount";

/// Accounts remembered at most.
const REMEMBERED: usize = 1024;

/// How long a pod waits for an account that is about to be made: that of a namespace which is there since a moment ago
/// (`plugin/pkg/admission/serviceaccount`, three tries).
const PATIENCE: Duration = Duration::from_millis(400);

/// An account that is there.
#[derive(Debug, Clone)]
pub struct Account {
    pub uid: Uid,
    /// When it is to be gone, if it is being deleted.
    pub deletion: Option<Timestamp>,
    pub object: ServiceAccount,
}

impl Account {
    fn of(stored: &StoredObject) -> Option<Self> {
        Some(Self {
            uid: stored.uid.clone(),
            deletion: deletion_of(stored),
            object: ServiceAccount::deserialize(&*stored.json).ok()?,
        })
    }
}

/// `metadata.deletionTimestamp`.
pub(super) fn deletion_of(stored: &StoredObject) -> Option<Timestamp> {
    stored.json["metadata"]["deletionTimestamp"].as_str()?.parse().ok()
}

#[derive(Debug)]
pub(super) struct Directory {
    store: Store,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The newest change of an account that `accounts` has seen.
    changed: u64,
    /// By namespace and name.
    accounts: HashMap<(String, String), Arc<Account>>,
}

impl Directory {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            known: Mutex::default(),
        }
    }

    /// The account of this name; `None`: there is none.
    pub(super) async fn look_up(&self, namespace: &str, name: &str) -> Result<Option<Arc<Account>>, StoreError> {
        let mut known = self.known.lock().await;
        let changed = self.store.changed(KIND);
        if known.changed != changed {
            *known = Known {
                changed,
                accounts: HashMap::new(),
            };
        }
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(account) = known.accounts.get(&key) {
            return Ok(Some(Arc::clone(account)));
        }
        let stored = self.store.get(KIND, namespace, name).await?;
        let Some(account) = stored.as_ref().and_then(Account::of).map(Arc::new) else {
            return Ok(None);
        };
        if known.accounts.len() >= REMEMBERED {
            known.accounts.clear();
        }
        known.accounts.insert(key, Arc::clone(&account));
        Ok(Some(account))
    }

    /// The same, but one that is not there yet is waited for, a moment.
    pub(super) async fn await_one(&self, namespace: &str, name: &str) -> Result<Option<Arc<Account>>, StoreError> {
        let found = self.look_up(namespace, name).await?;
        if found.is_some() {
            return Ok(found);
        }
        let mut changes = self.store.subscribe();
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let found = self.look_up(namespace, name).await?;
                if found.is_some() {
                    return Ok(found);
                }
                // Until an account changes, or some change was missed.
                loop {
                    match changes.recv().await {
                        Ok(change) if &*change.object.kind == KIND => break,
                        Ok(_) => {}
                        Err(broadcast::error::RecvError::Lagged(_)) => break,
                        Err(broadcast::error::RecvError::Closed) => return Ok(None),
                    }
                }
            }
        });
        waited.await.unwrap_or(Ok(None))
    }
}
