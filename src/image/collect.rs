//! What nobody uses goes: at a word of the user, or because the disk is full.
//!
//! Goes in: how much is to be freed, and how young an image must not be. Comes out: the images that went.
//!
//! **Invariant:** no image in use by a pod goes, none that somebody asked for a moment ago, and no layer that another
//! image or a running import or pull has. Which goes first is decided by a pure function.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stream::Digest;
use super::usage::{SETTLING, age};
use super::{ImageStore, RemoveError, blocking};
use crate::model::{ImageId, Timestamp};
use crate::store::{ImageRow, StoreError};

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// As it was.
    pub image: ImageRow,
    /// Bytes of those of its layers that no other image has.
    pub freed: u64,
}

/// The images that may go, the one least recently used first, those never used by when they came (kubelet
/// `image_gc_manager.go`, `byLastUsedAndDetected`).
fn candidates(
    rows: Vec<ImageRow>,
    uses: &HashMap<String, Timestamp>,
    in_use: &HashSet<ImageId>,
    now: Timestamp,
    minimum_age: Duration,
) -> Vec<ImageRow> {
    let mut rows: Vec<_> = rows
        .into_iter()
        .filter(|row| !in_use.contains(&ImageId(row.id.clone())))
        .filter(|row| uses.get(&row.id).is_none_or(|last| age(now, *last) >= SETTLING))
        .filter(|row| age(now, row.created_at) >= minimum_age)
        .collect();
    rows.sort_by_key(|row| (uses.get(&row.id).copied(), row.created_at));
    rows
}

/// What went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freed {
    /// Bytes of layers that no image had: what pulls have left that failed.
    pub leftovers: u64,
    pub images: Vec<Collected>,
}

impl Freed {
    /// Bytes.
    pub fn total(&self) -> u64 {
        self.images
            .iter()
            .map(|one| one.freed)
            .fold(self.leftovers, u64::saturating_add)
    }
}

impl ImageStore {
    /// Remove images that no pod uses, the least recently used first, until `wanted` bytes are free that were not.
    ///
    /// # Errors
    /// The records cannot be read or written; what went before that is gone.
    pub async fn free(&self, wanted: u64, minimum_age: Duration) -> Result<Freed, RemoveError> {
        // What pulls that failed have left goes before any image does.
        let leftovers = self.sweep_out().await?;
        let mut images: Vec<Collected> = Vec::new();
        {
            let _rows = self.inner.rows.lock().await;
            let store = &self.inner.store;
            let rows = store.images().await?;
            let mut holders: HashMap<String, usize> = HashMap::new();
            for layer in rows.iter().flat_map(|row| row.layers.iter().collect::<HashSet<_>>()) {
                *holders.entry(layer.clone()).or_default() += 1;
            }
            let mut uses = store.image_uses().await?;
            for row in &rows {
                uses.extend(
                    self.inner
                        .usage
                        .last(&ImageId(row.id.clone()))
                        .map(|at| (row.id.clone(), at)),
                );
            }
            let now = (self.inner.clock)();
            let looked = Instant::now();
            let in_use = self.in_use().await?;
            let mut total = leftovers;
            for row in candidates(rows, &uses, &in_use, now, minimum_age) {
                if total >= wanted {
                    break;
                }
                let layers: HashSet<_> = row.layers.iter().collect();
                let is_own = |layer: &&&String| holders.get(**layer).is_none_or(|holders| *holders == 1);
                let own = layers.iter().filter(is_own).filter_map(|layer| Digest::parse(layer));
                let own: Vec<_> = own.collect();
                let content = Arc::clone(&self.inner.content);
                // One that is missing frees nothing.
                let sizes = move || {
                    own.iter()
                        .filter_map(|layer| content.layer_size(layer).ok())
                        .sum::<u64>()
                };
                let freed = blocking(sizes).await;
                if !self.remove_unless_asked_for(&row, looked).await? {
                    continue;
                }
                for layer in layers {
                    holders.entry(layer.clone()).and_modify(|holders| *holders -= 1);
                }
                total = total.saturating_add(freed);
                images.push(Collected { image: row, freed });
            }
        }
        if !images.is_empty() {
            self.sweep_out().await?;
        }
        Ok(Freed { leftovers, images })
    }

    /// False: since `looked` somebody asked for it to run it, or did so just before.
    pub(super) async fn remove_unless_asked_for(&self, row: &ImageRow, looked: Instant) -> Result<bool, StoreError> {
        let id = ImageId(row.id.clone());
        let _nobody_asks = self.inner.asking.write().await;
        let asked = self.inner.usage.asked(&id);
        if asked.is_some_and(|asked| asked >= looked || asked.elapsed() < SETTLING) {
            return Ok(false);
        }
        self.inner.store.remove_image(&row.id).await?;
        self.inner.usage.forget(&id);
        self.changed();
        Ok(true)
    }

    /// Remove every image that no pod uses.
    ///
    /// # Errors
    /// As of [`Self::free`].
    pub async fn prune(&self) -> Result<Freed, RemoveError> {
        self.free(u64::MAX, Duration::ZERO).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn row(id: &str, created: i64) -> ImageRow {
        ImageRow {
            id: id.to_owned(),
            manifest_digest: String::new(),
            config: String::new(),
            layers: Vec::new(),
            size: 1,
            created_at: at(created),
            names: Vec::new(),
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_needed_or_new_stays() {
        let now = at(1_000_000);
        let rows = ["used", "asked", "new", "old", "older", "never"].map(|id| row(id, 10));
        let mut rows = Vec::from(rows);
        rows[2].created_at = at(999_950);
        rows.push(row("never-and-later", 20));
        let uses = [("asked", 999_995), ("old", 900_000), ("older", 800_000), ("used", 1)];
        let uses = uses.map(|(id, second)| (id.to_owned(), at(second))).into();
        let in_use = [ImageId("used".to_owned())].into();
        let order = |minimum_age| -> Vec<String> {
            candidates(rows.clone(), &uses, &in_use, now, minimum_age)
                .into_iter()
                .map(|row| row.id)
                .collect()
        };
        assert_eq!(
            order(Duration::from_mins(2)),
            ["never", "never-and-later", "older", "old"]
        );
        assert_eq!(
            order(Duration::ZERO),
            ["never", "never-and-later", "new", "older", "old"]
        );
    }
}
