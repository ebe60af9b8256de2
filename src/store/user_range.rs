//! Which pod's user namespace has which ids of the machine.

use sqlx::sqlite::SqliteConnection;

use super::StoreError;
use crate::model::{IDS_PER_POD, Uid};

/// The ids of the machine that pods' user namespaces may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRange {
    /// A multiple of [`IDS_PER_POD`], and not 0.
    pub first: u32,
    /// How many pods find room in it.
    pub pods: u32,
}

/// See [`super::Store::user_ids`].
pub(super) async fn take(connection: &mut SqliteConnection, uid: &Uid, range: UserRange) -> Result<u32, StoreError> {
    let uid = uid.as_str();
    // What it has it keeps, from whatever range it came: files and processes may have these ids.
    let taken = sqlx::query_scalar!(r#"SELECT first AS "first!: u32" FROM user_ids WHERE uid = ?"#, uid)
        .fetch_optional(&mut *connection)
        .await
        .map_err(StoreError::database("read the ids of a pod"))?;
    if let Some(first) = taken {
        return Ok(first);
    }
    let (low, step) = (i64::from(range.first), i64::from(IDS_PER_POD));
    let end = low + step * i64::from(range.pods);
    // The first ones, or those after the first taken ones that have none after them.
    let free = sqlx::query_scalar!(
        r#"SELECT ?1 AS "first!: u32" WHERE ?1 < ?2 AND NOT EXISTS (SELECT 1 FROM user_ids WHERE first = ?1)
           UNION ALL
           SELECT * FROM (
               SELECT first + ?3 FROM user_ids AS taken
               WHERE first >= ?1 AND first + ?3 < ?2
                   AND NOT EXISTS (SELECT 1 FROM user_ids WHERE first = taken.first + ?3)
               ORDER BY first LIMIT 1)
           LIMIT 1"#,
        low,
        end,
        step
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::database("find free ids"))?
    .ok_or(StoreError::NoUserIds { pods: range.pods })?;
    sqlx::query!("INSERT INTO user_ids (first, uid) VALUES (?, ?)", free, uid)
        .execute(connection)
        .await
        .map_err(StoreError::database("take ids"))?;
    Ok(free)
}

pub(super) async fn release(connection: &mut SqliteConnection, uid: &Uid) -> Result<(), StoreError> {
    let uid = uid.as_str();
    sqlx::query!("DELETE FROM user_ids WHERE uid = ?", uid)
        .execute(connection)
        .await
        .map(|_done| ())
        .map_err(StoreError::database("release ids"))
}
