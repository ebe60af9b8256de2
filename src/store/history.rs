//! How many changes are kept, and dropping the oldest.

use sqlx::sqlite::SqliteConnection;

use super::StoreError;

/// How much of the past is kept for watches: whichever bound is met first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Changes kept.
    pub changes: u64,
    /// Bytes of JSON in the changes kept.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            changes: 20_000,
            bytes: 64 << 20,
        }
    }
}

/// Changes dropped in one transaction at most, so that nobody waits long behind it.
const STEP: i64 = 1_000;

/// What the table `change` holds, without asking it.
#[derive(Debug)]
pub(super) struct History {
    limits: Limits,
    changes: u64,
    bytes: u64,
}

impl History {
    /// Reads the index of the changes once.
    pub(super) async fn read(connection: &mut SqliteConnection, limits: Limits) -> Result<Self, StoreError> {
        let row =
            sqlx::query!(r#"SELECT count(*) AS "changes!: i64", coalesce(sum(bytes), 0) AS "bytes!: i64" FROM change"#)
                .fetch_one(connection)
                .await
                .map_err(StoreError::database("count the changes"))?;
        Ok(Self {
            limits,
            changes: row.changes.unsigned_abs(),
            bytes: row.bytes.unsigned_abs(),
        })
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.changes += 1;
        self.bytes += bytes;
    }

    /// Dropping waits until a thirty-second too much is there, so that it is rarely done and never for one row.
    pub(super) fn is_too_long(&self) -> bool {
        let Limits { changes, bytes } = self.limits;
        self.changes > changes + changes / 32 || self.bytes > bytes + bytes / 32
    }

    /// Drop the oldest changes, at most [`STEP`] of them, and remember for each kind what was dropped. Runs inside a
    /// transaction; once that is committed, `self` becomes what is returned.
    pub(super) async fn shortened(&self, connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let oldest = sqlx::query!(
            r#"SELECT resource_version AS "version!: i64", bytes FROM change ORDER BY resource_version LIMIT ?"#,
            STEP
        )
        .fetch_all(&mut *connection)
        .await?;
        let Self {
            limits,
            mut changes,
            mut bytes,
        } = *self;
        let mut through = 0;
        for row in oldest {
            if changes <= limits.changes && bytes <= limits.bytes {
                break;
            }
            changes = changes.saturating_sub(1);
            bytes = bytes.saturating_sub(row.bytes.unsigned_abs());
            through = row.version;
        }
        sqlx::query!(
            "INSERT INTO history (kind, dropped)
             SELECT kind, max(resource_version) FROM change WHERE resource_version <= ? GROUP BY kind
             ON CONFLICT (kind) DO UPDATE SET dropped = excluded.dropped",
            through
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!("DELETE FROM change WHERE resource_version <= ?", through)
            .execute(&mut *connection)
            .await?;
        Ok(Self { limits, changes, bytes })
    }
}
