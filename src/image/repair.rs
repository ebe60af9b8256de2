//! What is damaged is brought anew.
//!
//! Goes in: an image that was found damaged. Comes out: the same image, whole; or why it cannot be had again.
//!
//! **Invariant:** nothing that a pod uses is touched.

use std::sync::Arc;

use super::registry::{Credentials, Registry, RegistryError};
use super::seal::{Damage, Verified};
use super::stream::Digest;
use super::{ContentError, ImageStore, PullError, RemoveError, blocking};

/// Why an image could not be repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Discard(#[from] RemoveError),
    #[error("image {name:?} came from no registry: import it again")]
    NotPulled { name: String },
    #[error("cannot pull it again")]
    Pull(#[source] Arc<PullError>),
    #[error("cannot fetch its manifest again")]
    Registry(#[from] RegistryError),
    #[error("cannot keep its documents")]
    Content(#[from] ContentError),
}

impl ImageStore {
    /// Bring anew what is damaged of an image, from the registry that it was pulled from. Whole already: nothing happens.
    ///
    /// # Errors
    /// A pod uses it, it was imported, or its registry does not give it.
    pub async fn repair(&self, verified: &Verified, credentials: &Credentials) -> Result<(), RepairError> {
        let Verified { image, damage } = verified;
        if damage.is_empty() {
            return Ok(());
        }
        self.discard(verified).await?;
        let is_document =
            |damage: &&Damage| matches!(damage, Damage::DocumentMissing { .. } | Damage::DocumentChanged { .. });
        let config_is_good = Digest::of(image.config.as_bytes()).to_string() == image.id;
        if config_is_good && damage.iter().any(|damage| is_document(&damage)) {
            self.keep_document(image.config.clone().into_bytes()).await?;
        }
        let left = damage.iter().filter(|damage| match damage {
            Damage::DocumentMissing { digest } | Damage::DocumentChanged { digest } => *digest != image.id,
            Damage::LayerMissing { .. }
            | Damage::LayerChanged { .. }
            | Damage::LayerUnreadable { .. }
            | Damage::RecordChanged => true,
        });
        let left: Vec<&Damage> = left.collect();
        if left.is_empty() {
            return Ok(());
        }
        // The name by which it was pulled, whatever its tag means today.
        let name = image.names.iter().find(|name| name.contains('@'));
        let name = name.ok_or_else(|| RepairError::NotPulled {
            name: image.tags().next().unwrap_or(&image.id).to_owned(),
        })?;
        if left.iter().any(is_document) {
            let reference = self
                .reference(name)
                .map_err(|error| RepairError::Pull(Arc::new(error)))?;
            let registry = Registry::open(&self.registries, &reference, credentials).await?;
            if let Some(digest) = Digest::parse(&image.manifest_digest) {
                let manifest = registry.manifest(&digest, self.inner.limits.manifest).await?;
                self.keep_document(manifest.bytes).await?;
            }
        }
        if left.iter().any(|damage| !is_document(damage)) {
            self.pull(name, credentials.clone(), |_step| {})
                .await
                .map_err(RepairError::Pull)?;
        }
        Ok(())
    }

    async fn keep_document(&self, bytes: Vec<u8>) -> Result<(), ContentError> {
        let content = Arc::clone(&self.inner.content);
        blocking(move || {
            let scratch = content.scratch()?;
            content.put_blob(&scratch, &bytes).map(drop)
        })
        .await
    }
}
