//! Pulls: an image from a registry to the content store.
//!
//! Goes in: a name, credentials. Comes out: the recorded image; on the way, how far it is.
//!
//! ```text
//! name ── one pull however many ask ── resolve (tag ── digest) ── manifest for this machine ── config
//!   └─ each layer that is missing: blob (resumed, hashed) ── inflate, hash ── unpack in tmp/ ── both digests ── syncfs
//!        └─ rename to layers/
//!        └─ Store::put_image, as tag and as repository@digest
//! ```
//!
//! Layers of one image come side by side ([`LAYERS`] at a time); a layer that two pulls need is fetched by one of them.
//! What a failed pull has finished stays until the next sweep, so that the next try goes on from there.
//!
//! A layer is unpacked as it comes, in `tmp/`; its blob is never on the disk. Three threads work on it: the runtime's, which
//! reads the connection; one that hashes the blob, inflates it and hashes the tar; one that makes the files. Side by
//! side, layers fill what one of them leaves idle: inflating and hashing take most of the time, then making files. The disk's
//! part (`syncfs`) runs while other layers still come: only the last one's is waited for by itself.
//!
//! **Invariant:** as for imports, an image is recorded only when all its layers are whole and durable. A pull that
//! nobody waits for any more goes on to its end: the next one who asks has it.

mod error;
mod layer;
mod under_way;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::{broadcast, mpsc};
use tracing::{info, warn};

use super::ImageStore;
use super::content::ContentError;
use super::documents::{Config, Descriptor, Document, DocumentError, Platform, architecture};
use super::import::Prepared;
use super::limits::{Budget, INDEX_DEPTH_MAX, MANIFESTS_MAX};
use super::reference::Reference;
use super::registry::{Credentials, Manifest, Registry};
use super::stream::Digest;
use crate::store::ImageRow;
pub use error::PullError;
use layer::{Ground, Wanted};
pub(super) use under_way::Pulls;
use under_way::{Teller, Waiting};

/// Layers of one image at a time (containerd's `max_concurrent_downloads`).
const LAYERS: usize = 3;

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The registry is asked what the name means. Said once, when the pull's turn has come.
    Resolving,
    /// Bytes of a layer's blob that have arrived. A layer that was there already has all of them at once.
    Layer { digest: String, done: u64, total: u64 },
    /// A blob is whole, and its files are made.
    Unpacking { digest: String },
    /// The image is recorded.
    Done,
}

type Result<T, E = PullError> = std::result::Result<T, E>;

/// The manifest that was chosen for this machine.
struct Chosen {
    digest: Digest,
    bytes: Vec<u8>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What a registry says of a name.
enum Found {
    /// The image is here already, and has the name now.
    Present(ImageRow),
    Chosen {
        registry: Registry,
        chosen: Chosen,
        /// Which it will have.
        names: Vec<String>,
    },
}

impl ImageStore {
    /// A name as it is to be pulled: short names are the default registry's.
    ///
    /// # Errors
    /// It is no name of an image ([`PullError::Name`], [`PullError::IsId`]).
    pub fn reference(&self, name: &str) -> Result<Reference> {
        if Digest::parse(name).is_some() {
            return Err(PullError::IsId { name: name.to_owned() });
        }
        let default = &self.registries.default_registry;
        Reference::parse_within(name, default).map_err(|source| PullError::Name {
            name: name.to_owned(),
            source,
        })
    }

    /// Pull an image, whether it is there or not: its tag is asked for anew, what is there already is not fetched again.
    /// Several who ask for the same with the same credentials wait for one pull. `credentials` are tried before the
    /// node's own. Gives the image with the name that was asked for first. Dropped, it is given up, if nobody else waits
    /// for it.
    ///
    /// # Errors
    /// Shared by all who waited for the pull.
    pub async fn pull(
        &self,
        name: &str,
        credentials: Credentials,
        progress: impl Fn(Progress) + Send,
    ) -> Result<ImageRow, Arc<PullError>> {
        let reference = self.reference(name)?;
        let Waiting {
            steps: mut coming,
            mut outcome,
        } = self.join(reference, credentials);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a broadcast receiver keeps its place.
                step = coming.recv() => match step {
                    Ok(step) => progress(step),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                // Cancel-safe: it only waits for a word that stays said.
                _ = outcome.wait_for(Option::is_some) => break,
            }
        }
        while let Ok(step) = coming.try_recv() {
            progress(step);
        }
        let mut row = match outcome.wait_for(Option::is_some).await {
            Ok(said) => said.clone().unwrap_or_else(|| unreachable!("it was waited for"))?,
            Err(_gone) => unreachable!("the outcome of a pull is said before its sender goes"),
        };
        if let Some(place) = self
            .name_of(&row, name)
            .and_then(|own| row.names.iter().position(|it| *it == own))
        {
            row.names[..=place].rotate_right(1);
        }
        Ok(row)
    }

    async fn pull_in_turn(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        teller: &Teller,
    ) -> Result<ImageRow> {
        // It is never closed, so there is always a permit in the end.
        let _place = teller.while_wanted(self.pulls.places.acquire()).await?.ok();
        teller.tell(Progress::Resolving);
        let pulled = self.pull_now(reference, credentials, teller).await;
        let row = pulled.map_err(|error| {
            if error.is_of_space() {
                PullError::DiskFull {
                    directory: self.inner.content.root().to_owned(),
                    source: Box::new(error),
                }
            } else {
                error
            }
        })?;
        teller.tell(Progress::Done);
        Ok(row)
    }

    async fn pull_now(&self, reference: &Reference, credentials: &Credentials, teller: &Teller) -> Result<ImageRow> {
        let image = if reference.digest().is_some() {
            reference.to_string()
        } else {
            reference.tagged()
        };
        let found = teller.while_wanted(self.ask(&image, reference, credentials));
        let row = match found.await?? {
            Found::Present(row) => row,
            Found::Chosen {
                registry,
                chosen,
                names,
            } => {
                let prepared = self.fetch(&image, &registry, chosen, names, teller).await?;
                let mut rows = self.record(vec![prepared]).await.map_err(|source| PullError::Unpack {
                    image: image.clone(),
                    source,
                })?;
                let row = rows.remove(0);
                info!(image, id = row.id, "image pulled");
                row
            }
        };
        Ok(self.inner.store.image_by_id(&row.id).await?.unwrap_or(row))
    }

    /// What a name means at its registry, and whether it is here already. The registry is asked for what is here too:
    /// not everybody may have it.
    async fn ask(&self, image: &str, reference: &Reference, credentials: &Credentials) -> Result<Found> {
        let unresolved = |source| PullError::Resolve {
            image: image.to_owned(),
            source,
        };
        let manifest_limit = self.inner.limits.manifest;
        let registry = Registry::open(&self.registries, reference, credentials)
            .await
            .map_err(unresolved)?;
        let (top, body) = if let Some(digest) = reference.digest() {
            let known = Digest::parse(digest).ok_or_else(|| PullError::DigestAlgorithm {
                digest: digest.to_owned(),
            })?;
            let body = registry.manifest(&known, manifest_limit).await.map_err(unresolved)?;
            (known, Some(body))
        } else {
            let tag = reference.tag().unwrap_or("latest");
            let found = registry.resolve(tag, manifest_limit).await.map_err(unresolved)?;
            (found.digest, found.body)
        };
        let mut names = vec![format!("{}@{top}", reference.repository())];
        if reference.digest().is_none() {
            names.push(reference.tagged());
        }
        if let Some(mut row) = self.present(&names[0]).await? {
            row.names = names;
            self.rename(&row).await?;
            return Ok(Found::Present(row));
        }
        let body = match body {
            Some(body) => body,
            None => registry.manifest(&top, manifest_limit).await.map_err(unresolved)?,
        };
        let chosen = self.choose(image, &registry, top, body).await?;
        Ok(Found::Chosen {
            registry,
            chosen,
            names,
        })
    }

    /// The image of this name, if it is recorded and whole.
    async fn present(&self, name: &str) -> Result<Option<ImageRow>> {
        let Some(row) = self.inner.store.image_by_name(name).await? else {
            return Ok(None);
        };
        let whole = self.resolve(&row.id).await?.is_some();
        Ok(Some(row).filter(|_| whole))
    }

    async fn rename(&self, row: &ImageRow) -> Result<()> {
        let _rows = self.inner.rows.lock().await;
        // It may have been removed meanwhile: then this brings back no more than its row, and the layers are looked for
        // again before anything is started from them.
        self.inner.store.put_image(row).await?;
        self.changed();
        Ok(())
    }

    /// The manifest for this machine: the one that the name means, or one of the index that it means.
    async fn choose(&self, image: &str, registry: &Registry, top: Digest, body: Manifest) -> Result<Chosen> {
        let mut others = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut pending = vec![(top, Some(body), String::new(), 0)];
        while let Some((digest, body, referred, depth)) = pending.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            if seen.len() > MANIFESTS_MAX {
                return Err(PullError::IndexTooLarge {
                    image: image.to_owned(),
                    limit: MANIFESTS_MAX,
                });
            }
            let Manifest { media_type, bytes } = match body {
                Some(body) => body,
                None => registry
                    .manifest(&digest, self.inner.limits.manifest)
                    .await
                    .map_err(|source| PullError::Fetch {
                        image: image.to_owned(),
                        source,
                    })?,
            };
            // What refers to it knows better than what serves it.
            let referred = if referred.is_empty() { media_type } else { referred };
            let document = Document::parse(&bytes, &referred).map_err(|source| PullError::Document {
                image: image.to_owned(),
                what: format!("manifest {digest}"),
                source,
            })?;
            match document {
                Document::Manifest { config, layers } => {
                    return Ok(Chosen {
                        digest,
                        bytes,
                        config,
                        layers,
                    });
                }
                Document::Index(descriptors) => {
                    if depth == INDEX_DEPTH_MAX {
                        return Err(PullError::IndexDepth {
                            image: image.to_owned(),
                        });
                    }
                    let mut fitting = Vec::new();
                    for descriptor in descriptors {
                        match &descriptor.platform {
                            Some(platform) if !platform.is_this_machine() => {
                                // Attestations of builds say `unknown/unknown`.
                                if platform.os != "unknown" {
                                    others.insert(platform.to_string());
                                }
                            }
                            Some(_) | None => {
                                let level = descriptor.platform.as_ref().map(Platform::level);
                                fitting.push((level, (descriptor.digest, None, descriptor.media_type, depth + 1)));
                            }
                        }
                    }
                    // The first of the best is looked at first.
                    fitting.sort_by_key(|(level, _)| Reverse(*level));
                    pending.extend(fitting.into_iter().map(|(_, wanted)| wanted).rev());
                }
            }
        }
        Err(PullError::Platform {
            image: image.to_owned(),
            there: if others.is_empty() {
                "no platform at all".to_owned()
            } else {
                others.into_iter().collect::<Vec<_>>().join(", ")
            },
        })
    }

    async fn fetch(
        &self,
        image: &str,
        registry: &Registry,
        chosen: Chosen,
        names: Vec<String>,
        teller: &Teller,
    ) -> Result<Prepared> {
        let Chosen {
            digest: manifest,
            bytes: manifest_bytes,
            config,
            layers,
        } = chosen;
        let limits = &self.inner.limits;
        if let Some(foreign) = layers.iter().find(|layer| is_foreign(&layer.media_type)) {
            return Err(PullError::ForeignLayer {
                image: image.to_owned(),
                digest: foreign.digest.to_string(),
                media_type: foreign.media_type.clone(),
            });
        }
        let total = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        if total > limits.unpacked {
            return Err(PullError::TooLarge {
                image: image.to_owned(),
                size: total,
                limit: limits.unpacked,
            });
        }
        let config_json = teller
            .while_wanted(registry.small_blob(&config.digest, limits.config))
            .await?
            .map_err(|source| PullError::Fetch {
                image: image.to_owned(),
                source,
            })?;
        let refused = |source| PullError::Document {
            image: image.to_owned(),
            what: format!("config {}", config.digest),
            source,
        };
        let parsed = Config::parse(&config_json, limits.layers).map_err(refused)?;
        if parsed.diff_ids.len() != layers.len() {
            return Err(refused(DocumentError::LayerCount {
                layers: layers.len(),
                diff_ids: parsed.diff_ids.len(),
            }));
        }
        if !matches!(parsed.architecture.as_str(), "" | "amd64" | "386") && parsed.architecture != architecture() {
            warn!(
                image,
                architecture = parsed.architecture,
                "the image is made for another architecture"
            );
        }
        let content = &self.inner.content;
        let distinct: BTreeMap<&Digest, &Descriptor> = parsed.diff_ids.iter().zip(&layers).collect();
        let pins = distinct.keys().map(|layer| content.pin(layer)).collect();
        let scratch = {
            let content = Arc::clone(content);
            Arc::new(super::blocking(move || content.scratch()).await?)
        };
        let budget = Budget::new(limits);
        // The lowest first: it is the largest, as images go.
        let mut seen = HashSet::new();
        let wanted: Vec<Wanted> = parsed
            .diff_ids
            .iter()
            .zip(&layers)
            .filter(|(diff_id, _)| seen.insert(*diff_id))
            .enumerate()
            .map(|(index, (diff_id, blob))| Wanted {
                index,
                diff_id: diff_id.clone(),
                blob: blob.digest.clone(),
                size: blob.size,
            })
            .collect();
        let (working, mut all_done) = mpsc::channel(1);
        let ground = Ground {
            scratch: Arc::clone(&scratch),
            budget,
            _working: working,
        };
        let layers = futures_util::stream::iter(wanted.into_iter().map(Ok))
            .map(move |wanted: Result<Wanted>| {
                let ground = ground.clone();
                async move { self.layer(image, registry, &wanted?, ground, teller).await }
            })
            .buffer_unordered(LAYERS)
            .try_fold(0_u64, async |sum, size| Ok(sum.saturating_add(size)));
        // Kept as long as the layers are pinned.
        let documents = {
            let (content, scratch) = (Arc::clone(content), Arc::clone(&scratch));
            async move {
                super::blocking(move || {
                    content.put_blob(&scratch, &manifest_bytes)?;
                    let id = content.put_blob(&scratch, &config_json)?;
                    Ok::<_, ContentError>((id, config_json))
                })
                .await
            }
        };
        // Both to their ends: what still wrote here would keep the directory of a pull that has failed.
        let (layers, documents) = tokio::join!(teller.while_wanted(layers), documents);
        // Layers beside one that failed are given up, but not in the middle of a step.
        let None = all_done.recv().await;
        let (size, (id, config_json)) = (layers??, documents?);
        let config = String::from_utf8(config_json).expect("it was parsed as JSON, so it is UTF-8");
        Ok(Prepared {
            id,
            manifest,
            config,
            layers: parsed.diff_ids,
            size,
            names,
            pins,
        })
    }
}

/// Layers that may not be handed on, which registries therefore do not hold.
fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

#[cfg(test)]
mod tests;
