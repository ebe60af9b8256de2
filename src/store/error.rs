//! What can go wrong with the store.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use super::writer::{SQLITE_FULL, has_code};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{kind} {namespace}/{name} exists already")]
    AlreadyExists {
        kind: String,
        namespace: String,
        name: String,
    },
    #[error("{kind} {namespace}/{name} does not exist")]
    NotFound {
        kind: String,
        namespace: String,
        name: String,
    },
    #[error("{kind} {namespace}/{name} was changed meanwhile: expected resource version {expected}, found {found}")]
    Conflict {
        kind: String,
        namespace: String,
        name: String,
        expected: u64,
        found: u64,
    },
    #[error("the namespace {namespace} does not exist")]
    NoNamespace { namespace: String },
    #[error("the namespace {namespace} is being deleted")]
    EndingNamespace { namespace: String },
    /// `oldest` is the oldest version from which every later change of the kind is still there.
    #[error("resource version {asked} is too old: the oldest kept is {oldest}")]
    TooOld { asked: u64, oldest: u64 },
    #[error("no free address between {first} and {last}")]
    NoAddress { first: Ipv4Addr, last: Ipv4Addr },
    #[error("every one of the {pods} ranges of user ids that pods may have is taken")]
    NoUserIds { pods: u32 },
    /// The desired half of an object was no JSON object with a `metadata` object in it.
    #[error("{kind} {namespace}/{name} is not an object with metadata")]
    NotAnObject {
        kind: String,
        namespace: String,
        name: String,
    },
    /// A value that a column cannot hold (a time before 1677 or after 2262, a duration of more than 292 years).
    #[error("{value} does not fit into {table}.{column}")]
    DoesNotFit {
        table: &'static str,
        column: &'static str,
        value: String,
    },
    /// What is stored in this row makes no sense. Only whoever needs this row is harmed.
    #[error("the row of table {table} with the key {key} is unreadable")]
    Unreadable {
        table: &'static str,
        key: String,
        #[source]
        source: RowError,
    },
    /// `SQLite` refused an operation; nothing of it was done.
    #[error("the database failed to {operation}")]
    Database {
        operation: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// A commit failed once, so that nobody knows what is on the disk: nothing is written any more until the database
    /// was opened anew (see [`super::Store::failure`]). Whether this one request was carried out is not known.
    #[error("the database failed to commit and takes no more writes")]
    Failed {
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The writer has ended: the process is on its way out.
    #[error("the store is closed")]
    Closed,
    #[error("cannot prepare the database file {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the database {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    /// Also when a newer podd has written this database.
    #[error("cannot bring the database {path} up to date")]
    Migrate {
        path: PathBuf,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// Older ones can corrupt the database when the write-ahead log is reset (sqlite.org, "The WAL reset bug").
    #[error("SQLite {found} is too old: at least {} is needed", super::open::OLDEST_SQLITE)]
    OldSqlite { found: String },
}

impl StoreError {
    /// Whether the disk has no room for it. Nothing of it was done.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Database { source, .. } if has_code(source, SQLITE_FULL))
    }

    /// For `map_err`: an operation that `SQLite` refused.
    pub(super) fn database(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database {
            operation,
            source: Arc::new(source),
        }
    }
}

/// Why a row is unreadable.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("{column} is no JSON")]
    Json {
        column: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{column} is not an object with metadata")]
    NotAnObject { column: &'static str },
    #[error("{column} is no UTF-8")]
    Text { column: &'static str },
    #[error("{column} has the value {value}, which means nothing")]
    Value { column: &'static str, value: String },
    #[error("{column} is missing")]
    Missing { column: &'static str },
    #[error("a column is of the wrong type")]
    Column(#[source] Arc<sqlx::Error>),
}
