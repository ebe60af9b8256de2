//! Opening the database: files, settings of each connection, migrations.
//!
//! Goes in: a path. Comes out: the one connection that writes, and a pool of those that only read.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::StoreError;
use super::writer::{SQLITE_FULL, has_code};

/// The oldest `SQLite` without the WAL reset bug, which can corrupt a database (sqlite.org/wal.html, "The WAL reset bug").
pub(super) const OLDEST_SQLITE: &str = "3.51.3";

/// Readers at most; each is a thread and a page cache of its own.
const READERS: u32 = 4;

/// Nobody but this process writes; only somebody's `sqlite3` shell can make the writer wait.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reclaim the write-ahead log's file down to this many bytes after a burst.
const JOURNAL_SIZE_LIMIT: &str = "4194304";

/// Open or make the database, and bring it up to date.
pub(super) async fn open(path: &Path) -> Result<(SqliteConnection, SqlitePool), StoreError> {
    private_file(path).map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })?;
    let failed = |source| StoreError::Open {
        path: path.to_owned(),
        source,
    };

    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // Every commit is on the disk before it is acknowledged.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(64)
        .pragma("temp_store", "memory")
        .pragma("journal_size_limit", JOURNAL_SIZE_LIMIT)
        .pragma("trusted_schema", "off")
        .pragma("mmap_size", "0");

    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(
            options
                .clone()
                // KiB, as `SQLite` takes negative numbers.
                .pragma("cache_size", "-2048")
                .thread_name(|_| "podd-db-write".to_owned()),
        )
        .await
        .map_err(failed)?;

    let found = sqlx::query_scalar!(r#"SELECT sqlite_version() AS "version!: String""#)
        .fetch_one(&writer)
        .await
        .map_err(failed)?;
    if version(&found) < version(OLDEST_SQLITE) {
        return Err(StoreError::OldSqlite { found });
    }

    sqlx::migrate!()
        .run(&writer)
        .await
        .map_err(|source| StoreError::Migrate {
            path: path.to_owned(),
            source,
        })?;
    // The one connection of that pool, which was only there to be migrated, on its own.
    let mut writer = writer.acquire().await.map_err(failed)?.detach();

    // Whatever the last process left in the log is written into the database again and synced: after an fsync that
    // failed, the kernel may hold pages that it says are clean and that never reached the disk.
    match sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut writer)
        .await
    {
        Ok(_done) => {}
        // On a full disk the log stays as it is, and pods can be looked at and deleted all the same.
        Err(error) if has_code(&error, SQLITE_FULL) => {
            tracing::warn!(path = %path.display(), "the disk is full: the database's log could not be written back");
        }
        Err(error) => return Err(failed(error)),
    }

    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        // A connection that is opened anew has to read the schema and prepare its statements again.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(
            options
                .pragma("cache_size", "-512")
                .pragma("query_only", "on")
                .thread_name(|n| format!("podd-db-read-{n}")),
        )
        .await
        .map_err(failed)?;
    Ok((writer, readers))
}

/// Make the file if it is not there, for its owner alone. `SQLite` gives `-wal` and `-shm` the mode of the database.
///
/// A file that is there is not opened here: closing it would drop the locks that `SQLite` holds on it in this process.
fn private_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_new) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, Permissions::from_mode(0o600))
        }
        Err(error) => Err(error),
    }
}

/// `3.51.3` as something that can be compared. What is no number counts as 0.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("3.51.2") < version(OLDEST_SQLITE));
        assert!(version("3.9.99") < version(OLDEST_SQLITE));
        assert!(version("3.51.3") >= version(OLDEST_SQLITE));
        assert!(version("3.51.10") >= version(OLDEST_SQLITE));
        assert!(version("3.100.0") >= version(OLDEST_SQLITE));
        assert!(version("4.0") >= version(OLDEST_SQLITE));
    }
}
