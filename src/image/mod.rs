//! Images: their names, the content store they live in, and their way into it.
//!
//! Goes in: archives, names of images, and what registries have. Comes out: [`ResolvedImage`]s, whose layers can be
//! mounted; users and groups as an image's files know them.
//!
//! ```text
//! upload ── spool (tmp/, decompressed) ── archive (which images?) ── unpack, per layer (tmp/) ── verify digests
//!        ── syncfs ── rename to layers/ ── Store::put_image
//! pull ── registry (hosts, credentials) ── manifest ── blobs, unpacked as they come ── verify digests, and on as above
//! ```
//!
//! **Invariant:** an image is recorded only when all its layers are whole and durable, so a recorded image can be
//! mounted; and nothing an image says is believed before it was verified.

mod archive;
mod collect;
mod content;
mod documents;
mod frames;
mod import;
mod limits;
mod member;
mod pack;
mod pull;
mod push;
mod recent;
mod reference;
pub mod registry;
mod repair;
mod seal;
mod secrets;
mod shelves;
mod stream;
#[cfg(test)]
mod tape;
mod unpack;
mod usage;
pub mod user;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Mutex, RwLock, Semaphore, mpsc, watch};
use tracing::{info, warn};

pub use archive::ArchiveError;
pub use collect::{Collected, Freed};
pub use content::ContentError;
pub use documents::DocumentError;
pub use import::{Fault, ImportError};
pub use limits::{LimitError, Limits};
pub use member::TarError;
pub use pack::{PackError, Packed};
pub use pull::{Progress, PullError};
pub use push::{PushError, PushProgress};
pub use reference::{Reference, ReferenceError};
pub use repair::RepairError;
pub use seal::{Damage, Verified, VerifyError};
pub use secrets::PodCredentials;
pub use unpack::{Fault as LayerFault, UnpackError};
pub use user::{UserError, UserIds};

use content::Content;
use documents::Config;
use import::{Piece, Prepared, Upload};
use pull::Pulls;
use recent::Recent;
use registry::RegistrySettings;
use stream::Digest;
use usage::Usage;

use crate::model::{ImageConfig, ImageId, ResolvedImage, Timestamp};
use crate::store::{ImageRow, Store, StoreError};

/// Pieces of an upload that wait to be spooled, and bytes in each.
const PIECES_WAITING: usize = 8;
const PIECE: usize = 256 * 1024;

/// Imports at a time; more wait.
const IMPORTS: usize = 4;

/// The fewest digits by which an image's id may be cut short.
const ID_PREFIX_MIN: usize = 12;

/// The images of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
    registries: Arc<RegistrySettings>,
    pulls: Arc<Pulls>,
}

#[derive(Debug)]
struct Inner {
    content: Arc<Content>,
    store: Store,
    limits: Limits,
    clock: fn() -> Timestamp,
    /// Held while rows change, and while layers are removed that no row knows: between reading the rows and removing
    /// layers no row may come.
    rows: Mutex<()>,
    /// Read by whoever asks for an image to run it, until that it was asked for is noted; written by whoever takes an
    /// image or its layers away: between the last look at what is needed and the removal nobody asks.
    asking: RwLock<()>,
    recent: Recent,
    usage: Usage,
    changes: watch::Sender<()>,
    /// Held while layers are sealed.
    sealing: Mutex<()>,
    /// Each import holds one of the few threads that may block.
    imports: Semaphore,
}

/// The image store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("cannot read the recorded images")]
    Store(#[from] StoreError),
}

/// An image's name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// `InvalidImageName`.
    #[error("Failed to apply default image tag {name:?}: couldn't parse image name {name:?}")]
    InvalidName {
        name: String,
        #[source]
        source: ReferenceError,
    },
    #[error("more than one image has an id that begins with {prefix:?}")]
    AmbiguousId { prefix: String },
    #[error("the record of image {id} is damaged")]
    Damaged {
        id: String,
        #[source]
        source: DocumentError,
    },
    #[error("cannot read the recorded images")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// An image could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("image {name:?} is not there")]
    NotFound { name: String },
    #[error("image {name:?} is in use by a pod")]
    InUse { name: String },
    #[error("layer {layer} is being brought or read just now: try again")]
    Busy { layer: String },
    #[error("cannot change the recorded images")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// An image could not be given a name.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    #[error(transparent)]
    Name(#[from] ImportError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("image {name:?} is not there")]
    NotFound { name: String },
    #[error("cannot change the recorded images")]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Open or make the images in `root` (ROOT/images). What unfinished imports left is removed, and so are layers that
    /// no recorded image has.
    pub async fn open(root: &Path, store: Store, limits: Limits, clock: fn() -> Timestamp) -> Result<Self, OpenError> {
        let path = root.to_owned();
        let content = Arc::new(blocking(move || Content::open(&path)).await?);
        let images = Self {
            inner: Arc::new(Inner {
                content,
                store,
                asking: RwLock::new(()),
                recent: Recent::default(),
                usage: Usage::default(),
                changes: watch::Sender::new(()),
                sealing: Mutex::new(()),
                limits,
                clock,
                rows: Mutex::new(()),
                imports: Semaphore::new(IMPORTS),
            }),
            registries: Arc::default(),
            pulls: Arc::default(),
        };
        images.sweep().await?;
        images.seal_later();
        Ok(images)
    }

    /// Pull from registries as `settings` say. Those that were not told otherwise pull as [`RegistrySettings::default`]
    /// says.
    #[must_use]
    pub fn with_registries(self, settings: RegistrySettings) -> Self {
        Self {
            registries: Arc::new(settings),
            ..self
        }
    }

    /// Import an archive. `name` names its one image; without, the archive names its images itself. Gives the images with
    /// the names that this import gave them. Once all bytes have arrived the import runs to its end, whether anybody
    /// still waits for it or not.
    pub async fn import(
        &self,
        reader: impl AsyncRead + Send,
        name: Option<&str>,
    ) -> Result<Vec<ImageRow>, ImportError> {
        let name = name.map(import::given_name).transpose()?;
        let (pieces, upload) = mpsc::channel(PIECES_WAITING);
        let upload = Upload::new(upload, self.inner.limits.upload);
        let images = self.clone();
        let work = tokio::spawn(async move {
            let done = images.work(upload, name).await;
            if done.is_err() {
                // Some of its images may have been whole already.
                images.sweep_after_failure().await;
            }
            done
        });
        let mut reader = std::pin::pin!(reader);
        let mut ended = false;
        while !ended {
            let mut data = BytesMut::with_capacity(PIECE);
            let piece = match tokio::time::timeout(self.inner.limits.silence, reader.read_buf(&mut data)).await {
                Ok(Ok(0)) => Piece::End,
                Ok(Ok(_)) => Piece::Data(data.freeze()),
                Ok(Err(error)) => Piece::Failed(error),
                Err(_elapsed) => Piece::Failed(std::io::ErrorKind::TimedOut.into()),
            };
            ended = !matches!(piece, Piece::Data(_));
            // Nobody takes it any more: the import has failed, and says why.
            ended |= pieces.send(piece).await.is_err();
        }
        work.await.map_err(ImportError::Panicked)?
    }

    async fn work(&self, upload: Upload, name: Option<Reference>) -> Result<Vec<ImageRow>, ImportError> {
        // It is never closed, so there is always a permit in the end.
        let _one_of_few = self.inner.imports.acquire().await.ok();
        let (content, limits) = (Arc::clone(&self.inner.content), self.inner.limits.clone());
        let prepared = tokio::task::spawn_blocking(move || import::prepare(&content, &limits, upload, name.as_ref()))
            .await
            .map_err(ImportError::Panicked)??;
        self.record(prepared).await
    }

    async fn sweep_after_failure(&self) {
        if let Err(error) = self.sweep().await {
            warn!(
                error = &error as &dyn std::error::Error,
                "what a failed import left is not removed before the next start"
            );
        }
    }

    async fn record(&self, prepared: Vec<Prepared>) -> Result<Vec<ImageRow>, ImportError> {
        let _rows = self.inner.rows.lock().await;
        let mut recorded = Vec::new();
        for Prepared {
            id,
            manifest,
            config,
            layers,
            size,
            names,
            pins,
        } in prepared
        {
            let id = id.to_string();
            let mut row = ImageRow {
                manifest_digest: manifest.to_string(),
                config,
                layers: layers.iter().map(Digest::to_string).collect(),
                size,
                created_at: (self.inner.clock)(),
                names,
                id,
            };
            info!(id = row.id, names = ?row.names, size, "image imported");
            if let Some(before) = self.inner.store.image_by_id(&row.id).await? {
                row.created_at = before.created_at;
            }
            // Names that the image has already stay.
            self.inner.store.put_image(&row).await?;
            self.changed();
            drop(pins);
            recorded.push(row);
        }
        self.seal_later();
        Ok(recorded)
    }

    /// The image that a name means: a name, a name with a digest, an image's id, or at least 12 digits of an id.
    /// `None`: it is not there, or not whole.
    pub async fn resolve(&self, image: &str) -> Result<Option<ResolvedImage>, ResolveError> {
        let now = (self.inner.clock)();
        let asking = self.inner.asking.read().await;
        let Some(resolved) = self.look_up(image).await? else {
            return Ok(None);
        };
        let is_to_be_written = self.inner.usage.touch(&resolved.id, now);
        drop(asking);
        if is_to_be_written {
            self.note_use(&resolved.id, now).await;
        }
        Ok(Some(resolved))
    }

    /// As [`resolve`](Self::resolve), for an image that is known by its id: `name` is what it was asked for by, and decides
    /// which of its repositories is told.
    pub async fn resolve_as(&self, id: &str, name: &str) -> Result<Option<ResolvedImage>, ResolveError> {
        let Some(mut image) = self.resolve(id).await? else {
            return Ok(None);
        };
        if let Some(row) = self.inner.store.image_by_id(id).await? {
            image.repo_digest = self.repo_digest_in(&row, name);
        }
        Ok(Some(image))
    }

    async fn look_up(&self, image: &str) -> Result<Option<ResolvedImage>, ResolveError> {
        if let Some(known) = self
            .inner
            .recent
            .get(image)
            .filter(|known| known.layers.iter().all(|path| path.is_dir()))
        {
            return Ok(Some(known));
        }
        let changes = self.inner.recent.changes();
        let Some(row) = self.find(image).await? else {
            return Ok(None);
        };
        let damaged = |source| ResolveError::Damaged {
            id: row.id.clone(),
            source,
        };
        let Config {
            image: config,
            diff_ids,
            architecture: _,
        } = Config::parse(row.config.as_bytes(), usize::MAX).map_err(damaged)?;
        let mut layers = Vec::new();
        let mut seen = HashSet::new();
        for layer in diff_ids.iter().rev() {
            if !self.inner.content.has_layer(layer)? {
                warn!(image, id = row.id, %layer, "a layer of a recorded image is missing: import it again");
                return Ok(None);
            }
            // Overlay takes no directory twice. The upper one hides all that the lower one could show.
            if seen.insert(layer) {
                layers.push(self.inner.content.layer_path(layer));
            }
        }
        let repo_digest = self.repo_digest_in(&row, image);
        let resolved = ResolvedImage {
            id: ImageId(row.id),
            repo_digest,
            config,
            layers,
        };
        self.inner.recent.put(changes, image, resolved.clone());
        Ok(Some(resolved))
    }

    async fn find(&self, image: &str) -> Result<Option<ImageRow>, ResolveError> {
        let store = &self.inner.store;
        if let Some(id) = Digest::parse(image).or_else(|| Digest::from_hex(image)) {
            return Ok(store.image_by_id(&id.to_string()).await?);
        }
        let reference = match Reference::parse_within(image, &self.registries.default_registry) {
            Ok(reference) => reference,
            Err(source) => {
                return match id_prefix(image) {
                    Some(prefix) => self.by_id_prefix(prefix).await,
                    None => Err(ResolveError::InvalidName {
                        name: image.to_owned(),
                        source,
                    }),
                };
            }
        };
        if let Some(digest) = reference.digest() {
            let repository = reference.repository();
            // What a pull asked for, which may be the index that the manifest stands in.
            if let Some(row) = store.image_by_name(&format!("{repository}@{digest}")).await? {
                return Ok(Some(row));
            }
            let has_name = |row: &ImageRow| {
                row.names
                    .iter()
                    .filter_map(|name| Reference::parse(name).ok())
                    .any(|name| name.repository() == repository)
            };
            let rows = store.images().await?;
            return Ok(rows
                .into_iter()
                .find(|row| row.manifest_digest == digest && has_name(row)));
        }
        if let Some(row) = store.image_by_name(&reference.tagged()).await? {
            return Ok(Some(row));
        }
        // What was imported under a short name is found by it, whatever registry short names are pulled from.
        if let Ok(imported) = Reference::parse(image)
            && imported != reference
            && let Some(row) = store.image_by_name(&imported.tagged()).await?
        {
            return Ok(Some(row));
        }
        match id_prefix(image) {
            Some(prefix) => self.by_id_prefix(prefix).await,
            None => Ok(None),
        }
    }

    async fn by_id_prefix(&self, prefix: &str) -> Result<Option<ImageRow>, ResolveError> {
        let rows = self.inner.store.images().await?;
        let mut matching = rows.into_iter().filter(|row| {
            row.id
                .strip_prefix("sha256:")
                .is_some_and(|hex| hex.starts_with(prefix))
        });
        let first = matching.next();
        if matching.next().is_some() {
            return Err(ResolveError::AmbiguousId {
                prefix: prefix.to_owned(),
            });
        }
        Ok(first)
    }

    /// Marked as changed whenever an image came, went, or got another name.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes.subscribe()
    }

    fn changed(&self) {
        self.inner.recent.forget();
        self.inner.changes.send_replace(());
    }

    /// The record of an image: by a name, an id, or at least 12 digits of an id.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn get(&self, name: &str) -> Result<Option<ImageRow>, ResolveError> {
        self.find(name).await
    }

    /// When an image was last used by a container, to the hour.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn last_use(&self, id: &ImageId) -> Result<Option<Timestamp>, StoreError> {
        match self.inner.usage.last(id) {
            Some(at) => Ok(Some(at)),
            None => Ok(self.inner.store.image_uses().await?.remove(&id.0)),
        }
    }

    /// Give an image one more name; an image that had it has it no more. Gives the image as it is now.
    ///
    /// # Errors
    /// The image is not there, or the name is none.
    pub async fn tag(&self, image: &str, name: &str) -> Result<ImageRow, TagError> {
        let new = import::given_name(name)?.tagged();
        let _rows = self.inner.rows.lock().await;
        let row = self.find(image).await?;
        let mut row = row.ok_or_else(|| TagError::NotFound { name: image.to_owned() })?;
        if !row.names.contains(&new) {
            row.names.push(new);
            self.inner.store.put_image(&row).await?;
            self.changed();
        }
        Ok(row)
    }

    /// Every image, by its first name.
    pub async fn list(&self) -> Result<Vec<ImageRow>, StoreError> {
        let mut rows = self.inner.store.images().await?;
        rows.sort_by(|a, b| (&a.names, &a.id).cmp(&(&b.names, &b.id)));
        Ok(rows)
    }

    /// Take a name from its image; with its last name goes the image, unless a pod needs it. An id means all its names.
    /// Gives the image as it was.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, name: &str) -> Result<ImageRow, RemoveError> {
        let not_found = || RemoveError::NotFound { name: name.to_owned() };
        let asked_for = self.find(name).await?.ok_or_else(not_found)?;
        self.settled(&ImageId(asked_for.id)).await;
        let row = {
            let _rows = self.inner.rows.lock().await;
            let _nobody_asks = self.inner.asking.write().await;
            let row = self.find(name).await?.ok_or_else(not_found)?;
            let one_name = self.name_of(&row, name);
            // Names with a digest are no reason to stay: they came with the tags.
            let is_digest = |name: &String| name.contains('@');
            let others = |one: &String| {
                row.names
                    .iter()
                    .any(|name| name != one && (!is_digest(name) || is_digest(one)))
            };
            let goes = !one_name.as_ref().is_some_and(others);
            let id = ImageId(row.id.clone());
            if goes && (self.is_starting(&id) || self.in_use().await?.contains(&id)) {
                return Err(RemoveError::InUse { name: name.to_owned() });
            }
            match one_name {
                Some(name) if !goes => self.inner.store.remove_image_name(&name).await?,
                Some(_) | None => self.inner.store.remove_image(&row.id).await?,
            };
            self.changed();
            row
        };
        self.sweep_out().await?;
        Ok(row)
    }

    /// [`sweep`](Self::sweep), for those who remove images.
    async fn sweep_out(&self) -> Result<u64, RemoveError> {
        self.sweep().await.map_err(|error| match error {
            OpenError::Content(error) => RemoveError::Content(error),
            OpenError::Store(error) => RemoveError::Store(error),
        })
    }

    /// Which of its names an image was called by, if by one of them.
    fn name_of(&self, row: &ImageRow, name: &str) -> Option<String> {
        let full = |reference: Reference| match reference.digest() {
            Some(digest) => format!("{}@{digest}", reference.repository()),
            None => reference.tagged(),
        };
        [
            Reference::parse_within(name, &self.registries.default_registry),
            Reference::parse(name),
        ]
        .into_iter()
        .filter_map(|parsed| parsed.ok().map(full))
        .find(|name| row.names.contains(name))
    }

    /// The image by its digest in the repository that the name means; for an id, in the first that it is known in.
    fn repo_digest_in(&self, row: &ImageRow, name: &str) -> Option<String> {
        let digests = row.repo_digests();
        let repositories = [
            Reference::parse_within(name, &self.registries.default_registry),
            Reference::parse(name),
        ]
        .map(|parsed| parsed.ok().map(|reference| reference.repository()));
        let in_repository = |repository: &Option<String>| {
            let found = digests
                .iter()
                .find(|digest| digest.split('@').next() == repository.as_deref());
            found.filter(|_| repository.is_some())
        };
        let named = repositories.iter().find_map(in_repository);
        named.or(digests.first()).cloned()
    }

    /// Remove the layers and blobs that no recorded image has. The bytes of those layers.
    async fn sweep(&self) -> Result<u64, OpenError> {
        let _rows = self.inner.rows.lock().await;
        let rows = self.inner.store.images().await?;
        let layers = rows
            .iter()
            .flat_map(|row| &row.layers)
            .filter_map(|layer| Digest::parse(layer))
            .collect();
        let blobs = rows
            .iter()
            .flat_map(|row| [&row.id, &row.manifest_digest])
            .filter_map(|blob| Digest::parse(blob));
        let blobs = blobs.collect();
        let content = Arc::clone(&self.inner.content);
        Ok(blocking(move || content.retain(&layers, &blobs)).await?)
    }
}

/// `sha256:` or nothing, and digits enough.
fn id_prefix(image: &str) -> Option<&str> {
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    let fits = (ID_PREFIX_MIN..64).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fits.then_some(hex)
}

/// The part of a recorded image's config that decides how it runs.
pub fn config_of(row: &ImageRow) -> Result<ImageConfig, DocumentError> {
    Config::parse(row.config.as_bytes(), usize::MAX).map(|config| config.image)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("work that began cannot be cancelled: {error}"),
        },
    }
}

#[cfg(test)]
mod tests;
