//! Images, their names and their layers, and what is noted of them later.

use std::collections::HashMap;

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use super::row::{from_time, to_i64, to_time, to_u64, unreadable};
use super::{ImageRow, StoreError};
use crate::model::{Timestamp, Uid};

const IMAGE: &str = "image";

struct Row {
    id: String,
    manifest_digest: String,
    config: String,
    size: i64,
    created_at: i64,
}

fn image(row: Row, layers: Vec<String>, names: Vec<String>) -> Result<ImageRow, StoreError> {
    let Row {
        id,
        manifest_digest,
        config,
        size,
        created_at,
    } = row;
    let size = to_u64("size", size).map_err(|source| unreadable(IMAGE, &id, source))?;
    let created_at = to_time("created_at", created_at).map_err(|source| unreadable(IMAGE, &id, source))?;
    Ok(ImageRow {
        id,
        manifest_digest,
        config,
        layers,
        size,
        created_at,
        names,
    })
}

pub(super) async fn put(connection: &mut SqliteConnection, image: &ImageRow) -> Result<(), StoreError> {
    let failed = || StoreError::database("write an image");
    let ImageRow {
        id,
        manifest_digest,
        config,
        layers,
        size,
        created_at,
        names,
    } = image;
    let size = to_i64(IMAGE, "size", *size)?;
    let created_at = from_time(IMAGE, "created_at", *created_at)?;
    sqlx::query!(
        "INSERT INTO image (id, manifest_digest, config, size, created_at) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET manifest_digest = excluded.manifest_digest, config = excluded.config,
             size = excluded.size, created_at = excluded.created_at",
        id,
        manifest_digest,
        config,
        size,
        created_at,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed())?;
    sqlx::query!("DELETE FROM image_layer WHERE image = ?", id)
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    for (position, layer) in (0_i64..).zip(layers) {
        sqlx::query!(
            "INSERT INTO image_layer (image, position, diff_id) VALUES (?, ?, ?)",
            id,
            position,
            layer
        )
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    }
    for name in names {
        sqlx::query!(
            "INSERT OR REPLACE INTO image_name (name, image) VALUES (?, ?)",
            name,
            id
        )
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    }
    Ok(())
}

pub(super) async fn by_name(readers: &SqlitePool, name: &str) -> Result<Option<ImageRow>, StoreError> {
    let mut transaction = readers.begin().await.map_err(StoreError::database("read an image"))?;
    let Some(id) = id_of(&mut transaction, name).await? else {
        return Ok(None);
    };
    by_id_in(&mut transaction, &id).await
}

pub(super) async fn by_id(readers: &SqlitePool, id: &str) -> Result<Option<ImageRow>, StoreError> {
    let mut transaction = readers.begin().await.map_err(StoreError::database("read an image"))?;
    by_id_in(&mut transaction, id).await
}

/// All images, ordered by id.
pub(super) async fn all(readers: &SqlitePool) -> Result<Vec<ImageRow>, StoreError> {
    let failed = || StoreError::database("list the images");
    let mut transaction = readers.begin().await.map_err(failed())?;
    let ids = sqlx::query_scalar!("SELECT id FROM image ORDER BY id")
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed())?;
    let mut images = Vec::with_capacity(ids.len());
    for id in ids {
        images.extend(by_id_in(&mut transaction, &id).await?);
    }
    Ok(images)
}

async fn id_of(connection: &mut SqliteConnection, name: &str) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar!("SELECT image FROM image_name WHERE name = ?", name)
        .fetch_optional(connection)
        .await
        .map_err(StoreError::database("read an image's name"))
}

/// Several queries: the caller holds a transaction.
async fn by_id_in(connection: &mut SqliteConnection, id: &str) -> Result<Option<ImageRow>, StoreError> {
    let failed = || StoreError::database("read an image");
    let row = sqlx::query_as!(
        Row,
        "SELECT id, manifest_digest, config, size, created_at FROM image WHERE id = ?",
        id
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed())?;
    let Some(row) = row else { return Ok(None) };
    let layers = sqlx::query_scalar!("SELECT diff_id FROM image_layer WHERE image = ? ORDER BY position", id)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed())?;
    let names = sqlx::query_scalar!("SELECT name FROM image_name WHERE image = ? ORDER BY name", id)
        .fetch_all(connection)
        .await
        .map_err(failed())?;
    image(row, layers, names).map(Some)
}

pub(super) async fn remove_name(connection: &mut SqliteConnection, name: &str) -> Result<Option<ImageRow>, StoreError> {
    let Some(id) = id_of(connection, name).await? else {
        return Ok(None);
    };
    let image = by_id_in(connection, &id).await?;
    sqlx::query!("DELETE FROM image_name WHERE name = ?", name)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::database("remove an image's name"))?;
    sqlx::query!(
        "DELETE FROM image WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM image_name WHERE image = ?1)",
        id
    )
    .execute(connection)
    .await
    .map_err(StoreError::database("remove an image"))?;
    Ok(image)
}

pub(super) async fn remove(connection: &mut SqliteConnection, id: &str) -> Result<Option<ImageRow>, StoreError> {
    let image = by_id_in(connection, id).await?;
    // Names and layers go with it.
    sqlx::query!("DELETE FROM image WHERE id = ?", id)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::database("remove an image"))?;
    // What comes of the same name again is sealed anew.
    sqlx::query!("DELETE FROM layer_seal WHERE diff_id NOT IN (SELECT diff_id FROM image_layer)")
        .execute(connection)
        .await
        .map_err(StoreError::database("remove the seals of an image"))?;
    Ok(image)
}

/// Something that is noted of an image, of its use or of one of its layers.
#[derive(Debug)]
pub(super) enum Note {
    Use { image: String, at: Timestamp },
    Volume { uid: Uid, volume: String, image: String },
    Seal { diff_id: String, seal: String },
    Unseal { diff_id: String },
}

/// A note of an image that is gone, or of a pod that is, is passed over.
pub(super) async fn note(connection: &mut SqliteConnection, note: Note) -> Result<(), StoreError> {
    let failed = || StoreError::database("write a note of an image");
    match note {
        Note::Use { image, at } => {
            let at = from_time(IMAGE, "at", at)?;
            sqlx::query!(
                "INSERT INTO image_use (image, at) SELECT id, ?2 FROM image WHERE id = ?1
                 ON CONFLICT (image) DO UPDATE SET at = excluded.at",
                image,
                at,
            )
            .execute(connection)
            .await
            .map_err(failed())?;
        }
        Note::Volume { uid, volume, image } => {
            let uid = uid.0;
            sqlx::query!(
                "INSERT INTO image_volume (uid, volume, image) SELECT uid, ?2, ?3 FROM pod WHERE uid = ?1
                 ON CONFLICT (uid, volume) DO UPDATE SET image = excluded.image",
                uid,
                volume,
                image,
            )
            .execute(connection)
            .await
            .map_err(failed())?;
        }
        Note::Seal { diff_id, seal } => {
            sqlx::query!("DELETE FROM layer_seal WHERE diff_id NOT IN (SELECT diff_id FROM image_layer)")
                .execute(&mut *connection)
                .await
                .map_err(failed())?;
            sqlx::query!(
                "INSERT OR REPLACE INTO layer_seal (diff_id, seal) VALUES (?, ?)",
                diff_id,
                seal,
            )
            .execute(connection)
            .await
            .map_err(failed())?;
        }
        Note::Unseal { diff_id } => {
            sqlx::query!("DELETE FROM layer_seal WHERE diff_id = ?", diff_id)
                .execute(connection)
                .await
                .map_err(failed())?;
        }
    }
    Ok(())
}

/// When each image was last used.
pub(super) async fn uses(readers: &SqlitePool) -> Result<HashMap<String, Timestamp>, StoreError> {
    let rows = sqlx::query!("SELECT image, at FROM image_use")
        .fetch_all(readers)
        .await
        .map_err(StoreError::database("read when images were used"))?;
    rows.into_iter()
        .map(|row| {
            let at = to_time("at", row.at).map_err(|source| unreadable(IMAGE, &row.image, source))?;
            Ok((row.image, at))
        })
        .collect()
}

pub(super) async fn volume(readers: &SqlitePool, uid: &Uid, volume: &str) -> Result<Option<String>, StoreError> {
    let uid = uid.as_str();
    sqlx::query_scalar!(
        "SELECT image FROM image_volume WHERE uid = ? AND volume = ?",
        uid,
        volume
    )
    .fetch_optional(readers)
    .await
    .map_err(StoreError::database("read the image of a volume"))
}

pub(super) async fn volumes(readers: &SqlitePool, uid: &Uid) -> Result<Vec<String>, StoreError> {
    let uid = uid.as_str();
    sqlx::query_scalar!("SELECT image FROM image_volume WHERE uid = ?", uid)
        .fetch_all(readers)
        .await
        .map_err(StoreError::database("read the images of volumes"))
}

pub(super) async fn seals(readers: &SqlitePool) -> Result<HashMap<String, String>, StoreError> {
    let rows = sqlx::query!("SELECT diff_id, seal FROM layer_seal")
        .fetch_all(readers)
        .await
        .map_err(StoreError::database("read the seals of layers"))?;
    Ok(rows.into_iter().map(|row| (row.diff_id, row.seal)).collect())
}
