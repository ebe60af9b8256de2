//! An image is given to a registry.
//!
//! Goes in: an image, packed anew (see `pack`), and the name it shall have there. Comes out: its digest there, and how far
//! it is meanwhile.
//!
//! **Invariant:** the manifest goes last: what can be pulled by name is whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::unfold;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tracing::info;

use super::pack::PackError;
use super::registry::{Body, Credentials, Registry, RegistryError};
use super::stream::Digest;
use super::{ImageStore, PullError};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes read at a time.
const CHUNK: u64 = 256 * 1024;

/// How far a push is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushProgress {
    /// The layers are packed.
    Packing,
    /// Bytes of a layer that were sent. One that the registry has already has all of them at once.
    Layer { digest: String, done: u64, total: u64 },
}

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("cannot push to {name:?}")]
    Name {
        name: String,
        #[source]
        source: Box<PullError>,
    },
    #[error("cannot push to {name:?}: a name to push to holds no digest")]
    NameWithDigest { name: String },
    #[error("failed to push {image:?}")]
    Registry {
        image: String,
        #[source]
        source: RegistryError,
    },
}

impl ImageStore {
    /// Give an image to a registry as `to`. Gives its digest there. `credentials` are tried before the node's own.
    ///
    /// # Errors
    /// The image is not there or not whole, or the registry does not take it.
    pub async fn push(
        &self,
        name: &str,
        to: &str,
        credentials: &Credentials,
        progress: mpsc::UnboundedSender<PushProgress>,
    ) -> Result<String, PushError> {
        let reference = self.reference(to).map_err(|source| PushError::Name {
            name: to.to_owned(),
            source: Box::new(source),
        })?;
        if reference.digest().is_some() {
            return Err(PushError::NameWithDigest { name: to.to_owned() });
        }
        let image = reference.tagged();
        let failed = |source| PushError::Registry {
            image: image.clone(),
            source,
        };
        let tell = |step| {
            // Nobody may be listening.
            let _ = progress.send(step);
        };
        tell(PushProgress::Packing);
        let packed = self.pack(name).await?;
        let digest = packed.digest();
        let (layers, config, manifest) = packed.into_parts();
        let registry = Registry::open(&self.registries, &reference, credentials)
            .await
            .map_err(failed)?;
        for blob in layers.blobs {
            let (total, file) = (blob.size, Arc::new(blob.file));
            if !registry.has_blob(&blob.digest).await.map_err(failed)? {
                let body = || sent(Arc::clone(&file), total, blob.digest.to_string(), progress.clone());
                registry.upload(&blob.digest, total, body).await.map_err(failed)?;
            }
            tell(PushProgress::Layer {
                digest: blob.digest.to_string(),
                done: total,
                total,
            });
        }
        let config_digest = Digest::of(&config);
        if !registry.has_blob(&config_digest).await.map_err(failed)? {
            let bytes = Bytes::from(config);
            let body = || Full::new(bytes.clone()).map_err(|never| match never {}).boxed();
            registry
                .upload(&config_digest, bytes.len() as u64, body)
                .await
                .map_err(failed)?;
        }
        let tag = reference.tag().unwrap_or("latest");
        registry
            .put_manifest(tag, OCI_MANIFEST, &manifest)
            .await
            .map_err(failed)?;
        info!(image, digest, "image pushed");
        Ok(digest)
    }
}

/// A file as the body of a request.
fn sent(file: Arc<File>, total: u64, digest: String, progress: mpsc::UnboundedSender<PushProgress>) -> Body {
    let pieces = unfold(0_u64, move |done| {
        let (file, digest, progress) = (Arc::clone(&file), digest.clone(), progress.clone());
        async move {
            if done == total {
                return None;
            }
            let piece = tokio::task::spawn_blocking(move || read(&file, done, total)).await;
            let piece = piece.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            let done = done + piece.as_ref().map_or(0, |piece| piece.len() as u64);
            // Nobody may be listening.
            let _ = progress.send(PushProgress::Layer { digest, done, total });
            Some((piece, done))
        }
    });
    StreamBody::new(pieces.map_ok(Frame::data)).boxed()
}

fn read(file: &File, at: u64, end: u64) -> io::Result<Bytes> {
    let size = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}
