//! Between columns and values.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Sqlite;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteTypeInfo, SqliteValueRef};

use super::{RowError, StoreError};
use crate::model::Timestamp;

/// A TEXT column as its bytes. Reading it always succeeds, so that one spoilt row does not fail a whole query.
#[derive(Debug, Clone, Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    pub(super) fn str(&self, column: &'static str) -> Result<&str, RowError> {
        std::str::from_utf8(&self.0).map_err(|_source| RowError::Text { column })
    }

    /// To be bound as `CAST(? AS TEXT)`: the very bytes of the row, be they UTF-8 or not.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The error of a word that means nothing.
    pub(super) fn value(&self, column: &'static str) -> RowError {
        RowError::Value {
            column,
            value: self.to_string(),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl sqlx::Type<Sqlite> for Text {
    fn type_info() -> SqliteTypeInfo {
        <str as sqlx::Type<Sqlite>>::type_info()
    }
}

impl<'r> sqlx::Decode<'r, Sqlite> for Text {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <Vec<u8> as sqlx::Decode<'r, Sqlite>>::decode(value).map(Self)
    }
}

pub(super) fn json(column: &'static str, text: &Text) -> Result<serde_json::Value, RowError> {
    serde_json::from_slice(&text.0).map_err(|source| RowError::Json { column, source })
}

pub(super) fn unreadable(table: &'static str, key: impl fmt::Display, source: RowError) -> StoreError {
    StoreError::Unreadable {
        table,
        key: key.to_string(),
        source,
    }
}

/// For `map_err` of a query about one key: a column that cannot be read is the fault of its row, not of the database.
pub(super) fn reading(table: &'static str, key: impl fmt::Display) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| {
        let source = Arc::new(source);
        if matches!(&*source, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
            unreadable(table, key, RowError::Column(source))
        } else {
            StoreError::Database {
                operation: "read a row",
                source,
            }
        }
    }
}

pub(super) fn to_u64(column: &'static str, value: i64) -> Result<u64, RowError> {
    u64::try_from(value).map_err(|_source| out_of_range(column, value))
}

pub(super) fn to_u32(column: &'static str, value: i64) -> Result<u32, RowError> {
    u32::try_from(value).map_err(|_source| out_of_range(column, value))
}

pub(super) fn to_i32(column: &'static str, value: i64) -> Result<i32, RowError> {
    i32::try_from(value).map_err(|_source| out_of_range(column, value))
}

fn out_of_range(column: &'static str, value: impl fmt::Display) -> RowError {
    RowError::Value {
        column,
        value: value.to_string(),
    }
}

pub(super) fn to_i64(table: &'static str, column: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_source| StoreError::DoesNotFit {
        table,
        column,
        value: value.to_string(),
    })
}

/// Nanoseconds since the epoch: the precision of [`Timestamp`].
pub(super) fn from_time(table: &'static str, column: &'static str, time: Timestamp) -> Result<i64, StoreError> {
    i64::try_from(time.as_nanosecond()).map_err(|_source| StoreError::DoesNotFit {
        table,
        column,
        value: time.to_string(),
    })
}

pub(super) fn from_optional_time(
    table: &'static str,
    column: &'static str,
    time: Option<Timestamp>,
) -> Result<Option<i64>, StoreError> {
    time.map(|time| from_time(table, column, time)).transpose()
}

pub(super) fn to_time(column: &'static str, nanoseconds: i64) -> Result<Timestamp, RowError> {
    Timestamp::from_nanosecond(nanoseconds.into()).map_err(|_source| out_of_range(column, nanoseconds))
}

pub(super) fn to_optional_time(column: &'static str, nanoseconds: Option<i64>) -> Result<Option<Timestamp>, RowError> {
    nanoseconds.map(|nanoseconds| to_time(column, nanoseconds)).transpose()
}

/// A time that the state of its row calls for.
pub(super) fn to_required_time(column: &'static str, nanoseconds: Option<i64>) -> Result<Timestamp, RowError> {
    to_time(column, nanoseconds.ok_or(RowError::Missing { column })?)
}

/// Nanoseconds.
pub(super) fn from_duration(table: &'static str, column: &'static str, duration: Duration) -> Result<i64, StoreError> {
    i64::try_from(duration.as_nanos()).map_err(|_source| StoreError::DoesNotFit {
        table,
        column,
        value: format!("{duration:?}"),
    })
}

pub(super) fn to_duration(column: &'static str, nanoseconds: i64) -> Result<Duration, RowError> {
    to_u64(column, nanoseconds).map(Duration::from_nanos)
}
