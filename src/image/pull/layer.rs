//! One layer of an image that is pulled: fetched and unpacked at once, and put in its place.
//!
//! Goes in: a layer as manifest and config speak of it. Comes out: its directory under `layers/`.
//!
//! **Invariant:** a layer gets its place only when both digests, of its blob and of its tar, are right, and all of it is
//! on the disk.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::under_way::Teller;
use super::{Progress, PullError, Result};
use crate::image::ImageStore;
use crate::image::blocking;
use crate::image::content::{Content, Scratch};
use crate::image::import::{Fault, ImportError, expect, unpack_layer};
use crate::image::limits::{Budget, Limits, Share};
use crate::image::registry::{Arriving, Registry, Taken};
use crate::image::stream::{Digest, Hashed};

/// Bytes of a layer after which its progress is told anew.
const TOLD_EVERY: u64 = 512 * 1024;

impl ImageStore {
    /// Fetch and unpack one layer, unless it is there. Gives the bytes of its files.
    pub(super) async fn layer(
        &self,
        image: &str,
        registry: &Registry,
        wanted: &Wanted,
        ground: Ground,
        teller: &Teller,
    ) -> Result<u64> {
        let Wanted {
            index,
            diff_id,
            blob,
            size,
        } = wanted.clone();
        let digest = blob.to_string();
        let content = Arc::clone(&self.inner.content);
        // Another pull that needs this layer waits here, and finds it made.
        let making = self.pulls.layer(&diff_id);
        let _making = making.lock().await;
        let step = |done| Progress::Layer {
            digest: digest.clone(),
            done,
            total: size,
        };
        if content.has_layer(&diff_id)? {
            teller.tell(step(size));
            return Ok(blocking(move || content.layer_size(&diff_id)).await?);
        }
        let reader = LayerUnpacker {
            ground,
            limits: self.inner.limits.clone(),
            index,
            name: digest.clone(),
        };
        let place = reader.clone();
        let told = AtomicU64::new(0);
        let unpacked = registry
            .blob(
                &blob,
                size,
                &|done| {
                    let last = told.load(Ordering::Relaxed);
                    if done < size && done.saturating_sub(last) < TOLD_EVERY {
                        return;
                    }
                    told.store(done, Ordering::Relaxed);
                    teller.tell(step(done));
                    if done == size {
                        teller.tell(Progress::Unpacking { digest: digest.clone() });
                    }
                },
                move |blob| reader.take(blob),
            )
            .await
            .map_err(|source| PullError::Fetch {
                image: image.to_owned(),
                source,
            })?;
        let kept = match unpacked {
            Ok((found, share)) => blocking(move || place.keep(&content, &diff_id, &found, share)).await,
            Err(error) => Err(error),
        };
        kept.map_err(|source| PullError::Unpack {
            image: image.to_owned(),
            source,
        })
    }
}

/// Where the layers of one image are made, and what they may cost.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) scratch: Arc<Scratch>,
    pub(super) budget: Arc<Budget>,
    /// Held by every thread that works here, also by those whose pull has failed meanwhile: whoever has the other end
    /// learns when the last of them is done.
    pub(super) _working: mpsc::Sender<Infallible>,
}

/// Makes the files of one layer.
#[derive(Debug, Clone)]
struct LayerUnpacker {
    ground: Ground,
    limits: Limits,
    /// Names its directories in the scratch directory.
    index: usize,
    /// For errors.
    name: String,
}

impl LayerUnpacker {
    fn root(&self) -> String {
        format!("layer-{}", self.index)
    }

    /// Unpack a blob as it comes. Gives the digest of its tar, and what it has cost.
    fn take(&self, blob: &mut Hashed<Arriving>) -> Taken<Result<(Digest, Share), ImportError>> {
        match self.unpack(blob) {
            // Not the blob's fault: it need not come any further.
            Err(error) if error.fault() == Fault::Machine => Taken::GaveUp(Err(error)),
            taken => Taken::Read(taken),
        }
    }

    fn unpack(&self, blob: &mut Hashed<Arriving>) -> Result<(Digest, Share), ImportError> {
        // What is there was made of a damaged blob.
        let trash = self.ground.scratch.fresh_directory(&format!("trash-{}", self.index))?;
        let root = self.ground.scratch.fresh_directory(&self.root())?;
        let mut share = Share::of(&self.ground.budget);
        let diff_id = unpack_layer(&self.name, blob, root, &trash, &self.limits, &mut share)?;
        Ok((diff_id, share))
    }

    /// Give an unpacked layer, whose blob had the right digest, its place. Gives the bytes of its files.
    fn keep(&self, content: &Arc<Content>, wanted: &Digest, found: &Digest, share: Share) -> Result<u64, ImportError> {
        expect(&self.name, wanted, found)?;
        share.keep();
        self.ground.scratch.sync()?;
        let pin = content.pin(wanted);
        let _lock = pin.lock();
        // An import may have brought it meanwhile.
        if !content.has_layer(wanted)? {
            self.ground
                .scratch
                .keep_layers([(self.root().as_str(), wanted)].into_iter())?;
        }
        Ok(content.layer_size(wanted)?)
    }
}

/// A layer as a manifest and a config speak of it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Names its files in the scratch directory.
    pub(super) index: usize,
    pub(super) diff_id: Digest,
    pub(super) blob: Digest,
    /// Of the blob, in bytes.
    pub(super) size: u64,
}
