//! The ids of pods' user namespaces, given out by the store from the range that the agent was told.

use futures_util::future::BoxFuture;

use crate::model::Uid;
use crate::runtime::{LookupError, UserIds};
use crate::store::{Store, UserRange};

/// See [`UserIds`].
#[derive(Debug)]
pub(super) struct StoredUserIds {
    pub(super) store: Store,
    pub(super) range: UserRange,
}

impl UserIds for StoredUserIds {
    fn first<'a>(&'a self, pod: &'a Uid) -> BoxFuture<'a, Result<u32, LookupError>> {
        Box::pin(async move {
            let first = self.store.user_ids(pod, self.range).await;
            first.map_err(|error| LookupError(Box::new(error)))
        })
    }
}
