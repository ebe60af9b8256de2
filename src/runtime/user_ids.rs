//! The ids of the user namespaces of pods with `hostUsers: false`.
//!
//! Goes in: a pod. Comes out: the first of the ids that are its own for as long as it is there.
//!
//! **Invariant:** no two pods have an id in common, and a pod keeps its ids over sandboxes, containers and agents.

use std::fmt;

use futures_util::future::BoxFuture;

use super::LookupError;
use crate::model::Uid;

/// Who gives them out.
pub trait UserIds: fmt::Debug + Send + Sync {
    /// The first of this pod's ids, given to it now if it has none yet; durable before it is returned.
    ///
    /// # Errors
    /// None is free, or it could not be written down.
    fn first<'a>(&'a self, pod: &'a Uid) -> BoxFuture<'a, Result<u32, LookupError>>;
}
