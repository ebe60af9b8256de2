//! Images over HTTP: podd's own endpoints, since Kubernetes has none.
//!
//! Goes in: an archive as the body of `POST /podd/v1/images/import?name=REF` (no limit but the image store's own),
//! `GET /podd/v1/images`, `DELETE /podd/v1/images?name=REF`, and beneath `/podd/v1/images/` what the constants here name.
//! Comes out: JSON; errors are Kubernetes' `Status` objects.
//!
//! **Invariant:** nothing is decided here: the image store is asked, and its answer is put into words.

mod registries;

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::io::StreamReader;
use tracing::error;

use crate::image::{
    Collected, Fault, Freed, ImageStore, ImportError, PackError, RemoveError, ResolveError, TagError, Verified,
    VerifyError,
};
use crate::model::ImageId;
use crate::store::{ImageRow, StoreError};

/// So much of an upload that has failed already is read to its end, in bytes, and for so long.
const REST_MAX: u64 = 256 << 20;
const REST_PATIENCE: Duration = Duration::from_secs(1);

pub use registries::{Login, PULL, PUSH, REPAIR, Step};

/// Where images are listed and removed.
pub const IMAGES: &str = "/podd/v1/images";
/// Where archives are sent.
pub const IMPORT: &str = "/podd/v1/images/import";

/// `GET ?name=REF`: everything that is known of one image.
pub const INSPECT: &str = "/podd/v1/images/inspect";
/// `POST ?name=REF&new=NAME`: one more name.
pub const TAG: &str = "/podd/v1/images/tag";
/// `GET ?name=REF`: an OCI archive.
pub const EXPORT: &str = "/podd/v1/images/export";
/// `POST`: remove what no pod uses.
pub const PRUNE: &str = "/podd/v1/images/prune";
/// `POST ?name=REF`, or without a name for every image: compare what is stored with what it was.
pub const VERIFY: &str = "/podd/v1/images/verify";

/// The answer to an import or a list, and to a removal (the image as it was).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageList {
    pub images: Vec<Image>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// `sha256:<hex>` of its config.
    pub id: String,
    /// `sha256:<hex>` of its manifest.
    pub digest: String,
    /// May be empty: then another image took its last name.
    pub names: Vec<String>,
    /// Bytes of its files.
    pub size: u64,
    /// RFC 3339.
    pub imported: String,
}

impl From<ImageRow> for Image {
    fn from(row: ImageRow) -> Self {
        let ImageRow {
            id,
            manifest_digest,
            config: _,
            layers: _,
            size,
            created_at,
            names,
        } = row;
        Self {
            id,
            digest: manifest_digest,
            names,
            size,
            imported: created_at.to_string(),
        }
    }
}

impl From<Vec<ImageRow>> for ImageList {
    fn from(rows: Vec<ImageRow>) -> Self {
        Self {
            images: rows.into_iter().map(Image::from).collect(),
        }
    }
}

/// An image, in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetails {
    #[serde(flatten)]
    pub image: Image,
    /// `docker.io/library/busybox@sha256:<hex>`, for each repository that it has a name of.
    pub repo_digests: Vec<String>,
    /// RFC 3339; absent: no container ever used it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
    /// Diff ids, lowest first.
    pub layers: Vec<String>,
    /// As its maker wrote it.
    pub config: Value,
}

/// The answer to a prune.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Bytes of layers that no image had, which are free now.
    pub leftovers: u64,
    pub images: Vec<PrunedImage>,
}

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedImage {
    pub image: Image,
    /// Bytes that are free now.
    pub freed: u64,
}

impl From<Collected> for PrunedImage {
    fn from(collected: Collected) -> Self {
        let Collected { image, freed } = collected;
        Self {
            image: image.into(),
            freed,
        }
    }
}

/// The answer to a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub images: Vec<VerifiedImage>,
}

/// An image that was looked through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedImage {
    pub image: Image,
    /// In words for people; empty: it is whole.
    pub damage: Vec<String>,
}

impl From<Verified> for VerifiedImage {
    fn from(verified: Verified) -> Self {
        let Verified { image, damage } = verified;
        Self {
            image: image.into(),
            damage: damage.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The image endpoints. An import's body may be as large as the image store takes: put no body limit and no timeout
/// around these.
pub fn router(images: ImageStore) -> Router {
    Router::new()
        .route(IMAGES, get(list).delete(remove))
        .route(IMPORT, post(import))
        .route(INSPECT, get(inspect))
        .route(TAG, post(tag))
        .route(EXPORT, get(export))
        .route(PRUNE, post(prune))
        .route(VERIFY, post(verify))
        .route(PULL, post(registries::pull))
        .route(PUSH, post(registries::push))
        .route(REPAIR, post(registries::repair))
        .with_state(images)
}

#[derive(Deserialize)]
struct ImportQuery {
    name: Option<String>,
}

#[derive(Deserialize)]
struct NameQuery {
    name: String,
}

#[derive(Deserialize)]
struct TagQuery {
    name: String,
    new: String,
}

async fn import(
    State(images): State<ImageStore>,
    Query(ImportQuery { name }): Query<ImportQuery>,
    body: Body,
) -> Result<(StatusCode, Json<ImageList>), Status> {
    let mut reader = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    match images.import(&mut reader, name.as_deref()).await {
        Ok(rows) => Ok((StatusCode::CREATED, Json(rows.into()))),
        Err(error) => {
            // A client that is cut off while it still writes never reads why. The rest is heard out for its sake.
            // It has its answer meanwhile, and goes.
            tokio::spawn(async move {
                let (mut rest, mut nowhere) = (reader.take(REST_MAX), tokio::io::sink());
                let heard = tokio::io::copy(&mut rest, &mut nowhere);
                let _heard_out = tokio::time::timeout(REST_PATIENCE, heard).await;
            });
            Err(error.into())
        }
    }
}

async fn list(State(images): State<ImageStore>) -> Result<Json<ImageList>, Status> {
    Ok(Json(images.list().await?.into()))
}

async fn remove(
    State(images): State<ImageStore>,
    Query(NameQuery { name }): Query<NameQuery>,
) -> Result<Json<ImageList>, Status> {
    let row = images.remove(&name).await?;
    Ok(Json(vec![row].into()))
}

async fn inspect(
    State(images): State<ImageStore>,
    Query(NameQuery { name }): Query<NameQuery>,
) -> Result<Json<ImageDetails>, Status> {
    let row = images.get(&name).await?.ok_or_else(|| Status::not_found(&name))?;
    let last_used = images.last_use(&ImageId(row.id.clone())).await?;
    Ok(Json(ImageDetails {
        repo_digests: row.repo_digests(),
        last_used: last_used.map(|at| at.to_string()),
        layers: row.layers.clone(),
        // It was read as JSON when it came.
        config: serde_json::from_str(&row.config).unwrap_or_default(),
        image: row.into(),
    }))
}

async fn tag(
    State(images): State<ImageStore>,
    Query(TagQuery { name, new }): Query<TagQuery>,
) -> Result<Json<ImageList>, Status> {
    Ok(Json(vec![images.tag(&name, &new).await?].into()))
}

/// Pieces of an archive that wait to be sent.
const PIECES_WAITING: usize = 4;
const PIECE: usize = 256 * 1024;
/// How long a reader of an export may take for a piece of it.
const EXPORT_PATIENCE: Duration = Duration::from_mins(1);
/// Exports that are written at a time: each holds one of the few threads that may block.
const EXPORTS: usize = 4;
static EXPORTING: Semaphore = Semaphore::const_new(EXPORTS);

async fn export(
    State(images): State<ImageStore>,
    Query(NameQuery { name }): Query<NameQuery>,
) -> Result<Response, Status> {
    // All that can fail in words is done before the first byte is sent.
    let exporting = EXPORTING.acquire().await.ok();
    let packed = images.pack(&name).await?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let pieces = Pieces {
            to: sender.clone(),
            runtime: runtime.clone(),
        };
        let mut writer = io::BufWriter::with_capacity(PIECE, pieces);
        let written = packed
            .write_archive(&mut writer)
            .and_then(|()| io::Write::flush(&mut writer));
        drop(exporting);
        if let Err(error) = written {
            // Breaks the answer off, so that nobody takes a part for the whole; a reader that is gone needs no answer.
            let _ = runtime.block_on(sender.send_timeout(Err(error), EXPORT_PATIENCE));
        }
    });
    let stream = unfold(receiver, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    let headers = [(axum::http::header::CONTENT_TYPE, "application/x-tar")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Hands what is written to whoever sends it.
struct Pieces {
    to: mpsc::Sender<io::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        let sent = self.runtime.block_on(self.to.send_timeout(piece, EXPORT_PATIENCE));
        sent.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => io::Error::from(io::ErrorKind::TimedOut),
            SendTimeoutError::Closed(_) => io::Error::from(io::ErrorKind::BrokenPipe),
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn prune(State(images): State<ImageStore>) -> Result<Json<Pruned>, Status> {
    let Freed { leftovers, images } = images.prune().await?;
    Ok(Json(Pruned {
        leftovers,
        images: images.into_iter().map(PrunedImage::from).collect(),
    }))
}

async fn verify(
    State(images): State<ImageStore>,
    Query(ImportQuery { name }): Query<ImportQuery>,
) -> Result<Json<Verification>, Status> {
    let verified = images.verify(name.as_deref()).await?;
    Ok(Json(Verification {
        images: verified.into_iter().map(VerifiedImage::from).collect(),
    }))
}

/// An error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // A transparent error speaks in the words of its source.
        let words = error.to_string();
        if !message.ends_with(&words) {
            message = format!("{message}: {words}");
        }
        source = error.source();
    }
    message
}

/// A Kubernetes `Status` of a failure.
#[derive(Debug)]
struct Status {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Status {
    fn of(code: StatusCode, reason: &'static str, error: &dyn std::error::Error) -> Self {
        let message = chain(error);
        if code.is_server_error() {
            error!(message, "an image request failed");
        }
        Self { code, reason, message }
    }

    fn not_found(name: &str) -> Self {
        Self {
            code: StatusCode::NOT_FOUND,
            reason: "NotFound",
            message: format!("image {name:?} is not there"),
        }
    }

    fn internal(error: &dyn std::error::Error) -> Self {
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error)
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        let Self { code, reason, message } = self;
        let status = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code.as_u16(),
        });
        (code, Json(status)).into_response()
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        Self::internal(&error)
    }
}

impl From<ImportError> for Status {
    fn from(error: ImportError) -> Self {
        match error.fault() {
            Fault::Request => Self::of(StatusCode::BAD_REQUEST, "BadRequest", &error),
            Fault::TooLarge => Self::of(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &error),
            Fault::Machine => Self::internal(&error),
        }
    }
}

impl From<ResolveError> for Status {
    fn from(error: ResolveError) -> Self {
        match &error {
            ResolveError::InvalidName { .. } | ResolveError::AmbiguousId { .. } => {
                Self::of(StatusCode::BAD_REQUEST, "BadRequest", &error)
            }
            ResolveError::Damaged { .. } | ResolveError::Store(_) | ResolveError::Content(_) => Self::internal(&error),
        }
    }
}

impl From<RemoveError> for Status {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::NotFound { name } => Self::not_found(&name),
            RemoveError::InUse { .. } | RemoveError::Busy { .. } => Self::of(StatusCode::CONFLICT, "Conflict", &error),
            RemoveError::Resolve(error) => error.into(),
            RemoveError::Store(_) | RemoveError::Content(_) => Self::internal(&error),
        }
    }
}

impl From<TagError> for Status {
    fn from(error: TagError) -> Self {
        match error {
            TagError::NotFound { name } => Self::not_found(&name),
            TagError::Name(error) => error.into(),
            TagError::Resolve(error) => error.into(),
            TagError::Store(_) => Self::internal(&error),
        }
    }
}

impl From<PackError> for Status {
    fn from(error: PackError) -> Self {
        match error {
            PackError::NotFound { name } => Self::not_found(&name),
            PackError::Resolve(error) => error.into(),
            PackError::Incomplete { .. } => Self::of(StatusCode::CONFLICT, "Conflict", &error),
            PackError::Content(_) | PackError::Layer { .. } | PackError::Config { .. } | PackError::Panicked(_) => {
                Self::internal(&error)
            }
        }
    }
}

impl From<VerifyError> for Status {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::NotFound { name } => Self::not_found(&name),
            VerifyError::Resolve(error) => error.into(),
            VerifyError::Store(_) | VerifyError::Content(_) => Self::internal(&error),
        }
    }
}
