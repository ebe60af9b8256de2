//! Why an image could not be pulled, in containerd's words where it has some.
//!
//! Goes in: what the steps of a pull met. Comes out: one error, and what kind of trouble it is.
//!
//! **Invariant:** pure.

use std::path::PathBuf;

use crate::image::ResolveError;
use crate::image::content::ContentError;
use crate::image::documents::{DocumentError, architecture};
use crate::image::import::ImportError;
use crate::image::limits::{self, INDEX_DEPTH_MAX};
use crate::image::reference::ReferenceError;
use crate::image::registry::RegistryError;
use crate::store::StoreError;

/// Why an image could not be pulled. The words are containerd's where it has some.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// `InvalidImageName`.
    #[error("couldn't parse image name {name:?}")]
    Name {
        name: String,
        #[source]
        source: ReferenceError,
    },
    #[error("{name:?} is the id of an image: images are pulled by their names")]
    IsId { name: String },
    #[error("{digest:?} cannot be verified: podd knows sha256 alone")]
    DigestAlgorithm { digest: String },
    #[error("failed to pull and unpack image {image:?}: failed to resolve reference {image:?}")]
    Resolve {
        image: String,
        #[source]
        source: RegistryError,
    },
    #[error("failed to pull and unpack image {image:?}")]
    Fetch {
        image: String,
        #[source]
        source: RegistryError,
    },
    #[error("failed to pull and unpack image {image:?}: {what} is refused")]
    Document {
        image: String,
        what: String,
        #[source]
        source: DocumentError,
    },
    #[error(
        "failed to pull and unpack image {image:?}: no match for platform linux/{} in manifest: not found (only {there})",
        architecture()
    )]
    Platform { image: String, there: String },
    #[error("failed to pull and unpack image {image:?}: indexes are nested more than {INDEX_DEPTH_MAX} deep")]
    IndexDepth { image: String },
    #[error("failed to pull and unpack image {image:?}: its indexes lead to more than {limit} documents")]
    IndexTooLarge { image: String, limit: usize },
    #[error(
        "failed to pull and unpack image {image:?}: layer {digest} is a foreign layer ({media_type}), which registries do not give away: podd does not fetch it from elsewhere"
    )]
    ForeignLayer {
        image: String,
        digest: String,
        media_type: String,
    },
    #[error(
        "failed to pull and unpack image {image:?}: its layers have {size} bytes, and the limit (--max-image-size) is {limit}"
    )]
    TooLarge { image: String, size: u64, limit: u64 },
    #[error("failed to pull and unpack image {image:?}")]
    Unpack {
        image: String,
        #[source]
        source: ImportError,
    },
    /// The disk is what is in the way, wherever the pull met it.
    #[error("no space left on the disk that holds {directory}")]
    DiskFull {
        directory: PathBuf,
        #[source]
        source: Box<Self>,
    },
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("cannot look up the recorded images")]
    Lookup(#[from] ResolveError),
    #[error("cannot read the recorded images")]
    Store(#[from] StoreError),
    #[error("the pull was given up: nobody waits for it any more")]
    Unwanted,
    #[error("the pull was broken off by a fault of podd's own")]
    Panicked(#[source] tokio::task::JoinError),
}

impl PullError {
    /// Kubernetes' `RegistryUnavailable`: not the image, its registry is the trouble.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Resolve { source, .. } | Self::Fetch { source, .. } => source.is_unavailable(),
            Self::Name { .. }
            | Self::IsId { .. }
            | Self::DigestAlgorithm { .. }
            | Self::Document { .. }
            | Self::Platform { .. }
            | Self::IndexDepth { .. }
            | Self::IndexTooLarge { .. }
            | Self::ForeignLayer { .. }
            | Self::TooLarge { .. }
            | Self::Unpack { .. }
            | Self::DiskFull { .. }
            | Self::Content(_)
            | Self::Lookup(_)
            | Self::Store(_)
            | Self::Unwanted
            | Self::Panicked(_) => false,
        }
    }

    /// Whether there was no room for what was to be written.
    pub(super) fn is_of_space(&self) -> bool {
        match self {
            Self::Unpack { source, .. } => source.is_of_space(),
            Self::Content(error) => limits::is_of_space(&error.source),
            Self::Store(error) => error.is_disk_full(),
            Self::Name { .. }
            | Self::IsId { .. }
            | Self::DigestAlgorithm { .. }
            | Self::Resolve { .. }
            | Self::Fetch { .. }
            | Self::Document { .. }
            | Self::Platform { .. }
            | Self::IndexDepth { .. }
            | Self::IndexTooLarge { .. }
            | Self::ForeignLayer { .. }
            | Self::TooLarge { .. }
            | Self::DiskFull { .. }
            | Self::Lookup(_)
            | Self::Unwanted
            | Self::Panicked(_) => false,
        }
    }
}
