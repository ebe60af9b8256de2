//! An image that is present, as the runtime needs it.

use std::path::PathBuf;

/// The image's id: the digest of its config, `sha256:<64 hex>` (OCI image spec, `ImageID`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(pub String);

/// The part of an image's config that decides how its containers run (OCI image spec, config.md).
///
/// It comes from whoever made the image and is not to be trusted: only read, never interpreted beyond these fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid` ..., resolved at start in the container's own /etc/passwd.
    pub user: String,
    pub working_dir: String,
    /// `SIGTERM`, `TERM`, `15` or `RTMIN+3`; empty: SIGTERM.
    pub stop_signal: String,
}

/// An image in the content store, ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    pub id: ImageId,
    /// The image by the digest of its manifest, in the repository that it was asked for from: `repository@sha256:<hex>`.
    pub repo_digest: Option<String>,
    pub config: ImageConfig,
    /// Unpacked layer directories, **topmost first**, as overlay's `lowerdir` wants them. Never empty.
    pub layers: Vec<PathBuf>,
}
