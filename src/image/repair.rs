//! What is damaged is brought anew.
//!
//! Goes in: an image that was found damaged. Comes out: the same image, whole; or why it cannot be had again.
//!
//! **Invariant:** nothing that a pod uses is touched.

use std::sync::Arc;

use super::registry::{Credentials, Registry, RegistryError};
use super::seal::{Damage, Verified, VerifyError};
use super::stream::Digest;
use super::{ContentError, ImageStore, PullError, RemoveError, blocking};
use crate::store::ImageRow;

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
    #[error("cannot look through it")]
    Verify(#[from] VerifyError),
    #[error("it is damaged still: {}", damage.iter().map(Damage::to_string).collect::<Vec<_>>().join(", "))]
    Damaged { damage: Vec<Damage> },
}

impl ImageStore {
    /// Bring anew what is damaged of images that were looked through, from the registries they were pulled from. `told` is
    /// told of each that was damaged what came of it.
    pub async fn repair(
        &self,
        verified: Vec<Verified>,
        credentials: &Credentials,
        told: impl Fn(ImageRow, Result<(), RepairError>),
    ) {
        let mut damaged: Vec<ImageRow> = verified
            .into_iter()
            .filter(|verified| !verified.damage.is_empty())
            .map(|verified| verified.image)
            .collect();
        // What was imported may share layers with what was pulled, and is whole when that is.
        damaged.sort_by_key(|image| pulled_as(image).is_none());
        for image in damaged {
            let repaired = self.repair_one(&image, credentials).await;
            told(image, repaired);
        }
    }

    async fn repair_one(&self, image: &ImageRow, credentials: &Credentials) -> Result<(), RepairError> {
        let damage = self.damage_of(image).await?;
        if damage.is_empty() {
            return Ok(());
        }
        self.bring_anew(image, &damage, credentials).await?;
        let damage = self.damage_of(image).await?;
        if damage.is_empty() {
            Ok(())
        } else {
            Err(RepairError::Damaged { damage })
        }
    }

    /// As it is now: the repair of another image may have changed it. One that is gone has none.
    async fn damage_of(&self, image: &ImageRow) -> Result<Vec<Damage>, RepairError> {
        match self.verify(Some(&image.id)).await {
            Ok(verified) => Ok(verified.into_iter().flat_map(|verified| verified.damage).collect()),
            Err(VerifyError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    async fn bring_anew(
        &self,
        image: &ImageRow,
        damage: &[Damage],
        credentials: &Credentials,
    ) -> Result<(), RepairError> {
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
        // Before anything is removed: what cannot be had again stays as it is.
        let name = pulled_as(image).ok_or_else(|| RepairError::NotPulled {
            name: image.tags().next().unwrap_or(&image.id).to_owned(),
        })?;
        let reference = self
            .reference(name)
            .map_err(|error| RepairError::Pull(Arc::new(error)))?;
        let registry = Registry::open(&self.registries, &reference, credentials).await?;
        if let Some(digest) = Digest::parse(&image.manifest_digest) {
            let manifest = registry.manifest(&digest, self.inner.limits.manifest).await?;
            if left.iter().any(is_document) {
                self.keep_document(manifest.bytes).await?;
            }
        }
        self.discard(damage).await?;
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

/// The name by which it was pulled, whatever its tag means today.
fn pulled_as(image: &ImageRow) -> Option<&String> {
    image.names.iter().find(|name| name.contains('@'))
}
