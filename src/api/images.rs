//! Images over HTTP: podd's own endpoints, since Kubernetes has none.
//!
//! Goes in: an archive as the body of `POST /podd/v1/images/import?name=REF` (no limit but the image store's own),
//! `GET /podd/v1/images`, `DELETE /podd/v1/images?name=REF`. Comes out: JSON; errors are Kubernetes' `Status` objects.
//!
//! **Invariant:** nothing is decided here: the image store is asked, and its answer is put into words.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio_util::io::StreamReader;
use tracing::error;

use crate::image::{Fault, ImageStore, ImportError, RemoveError, ResolveError};
use crate::store::{ImageRow, StoreError};

/// Where images are listed and removed.
pub const IMAGES: &str = "/podd/v1/images";
/// Where archives are sent.
pub const IMPORT: &str = "/podd/v1/images/import";

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

/// The image endpoints. An import's body may be as large as the image store takes: put no body limit and no timeout
/// around these.
pub fn router(images: ImageStore) -> Router {
    Router::new()
        .route(IMAGES, get(list).delete(remove))
        .route(IMPORT, post(import))
        .with_state(images)
}

#[derive(Deserialize)]
struct ImportQuery {
    name: Option<String>,
}

#[derive(Deserialize)]
struct RemoveQuery {
    name: String,
}

async fn import(
    State(images): State<ImageStore>,
    Query(ImportQuery { name }): Query<ImportQuery>,
    body: Body,
) -> Result<(StatusCode, Json<ImageList>), Status> {
    let reader = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let rows = images.import(reader, name.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(rows.into())))
}

async fn list(State(images): State<ImageStore>) -> Result<Json<ImageList>, Status> {
    Ok(Json(images.list().await?.into()))
}

async fn remove(
    State(images): State<ImageStore>,
    Query(RemoveQuery { name }): Query<RemoveQuery>,
) -> Result<Json<ImageList>, Status> {
    let in_use = images.in_use().await?;
    let row = images.remove(&name, &in_use).await?;
    Ok(Json(vec![row].into()))
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
        if code.is_server_error() {
            error!(message, "an image request failed");
        }
        Self { code, reason, message }
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

impl From<RemoveError> for Status {
    fn from(error: RemoveError) -> Self {
        match &error {
            RemoveError::NotFound { .. } => Self::of(StatusCode::NOT_FOUND, "NotFound", &error),
            RemoveError::InUse { .. } => Self::of(StatusCode::CONFLICT, "Conflict", &error),
            RemoveError::Resolve(ResolveError::InvalidName { .. } | ResolveError::AmbiguousId { .. }) => {
                Self::of(StatusCode::BAD_REQUEST, "BadRequest", &error)
            }
            RemoveError::Resolve(ResolveError::Damaged { .. } | ResolveError::Store(_) | ResolveError::Content(_))
            | RemoveError::Store(_)
            | RemoveError::Content(_) => Self::internal(&error),
        }
    }
}
