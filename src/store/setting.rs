//! Facts of the node, by key.

use sqlx::sqlite::SqliteConnection;

use super::StoreError;

pub(super) async fn get(connection: &mut SqliteConnection, key: &str) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar!("SELECT value FROM setting WHERE key = ?", key)
        .fetch_optional(connection)
        .await
        .map_err(StoreError::database("read a setting"))
}

pub(super) async fn put(connection: &mut SqliteConnection, key: &str, value: &str) -> Result<(), StoreError> {
    sqlx::query!("INSERT OR REPLACE INTO setting (key, value) VALUES (?, ?)", key, value)
        .execute(connection)
        .await
        .map(|_done| ())
        .map_err(StoreError::database("write a setting"))
}
