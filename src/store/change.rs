//! Changes of objects, as the store keeps them for watches.

use std::sync::Arc;

use serde_json::Value;
use sqlx::sqlite::SqliteConnection;

use super::row::{Text, json, to_i64, to_u64, unreadable};
use super::writer::{RecordedChange, Transaction};
use super::{Change, ChangeType, Origin, StoreError, StoredObject};
use crate::model::Uid;

const CHANGE: &str = "change";

impl Transaction<'_> {
    /// The resource version of the next change.
    pub(super) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Write the change down; it is published once the transaction is committed.
    pub(super) async fn record(
        &mut self,
        change_type: ChangeType,
        origin: Origin,
        object: StoredObject,
        previous: Option<Value>,
    ) -> Result<StoredObject, StoreError> {
        let StoredObject {
            kind,
            namespace,
            name,
            uid,
            resource_version,
            json,
        } = &object;
        let (kind, namespace, name, uid) = (&**kind, &**namespace, &**name, uid.as_str());
        let version = to_i64(CHANGE, "resource_version", *resource_version)?;
        let (type_word, origin_word) = (change_type.word(), origin.word());
        let after = json.to_string();
        let before = previous.as_ref().map(Value::to_string);
        let length = after.len() + before.as_ref().map_or(0, String::len);
        let bytes = i64::try_from(length).unwrap_or(i64::MAX);
        sqlx::query!(
            "INSERT INTO change (resource_version, kind, namespace, name, uid, type, origin, object, previous, bytes)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            version,
            kind,
            namespace,
            name,
            uid,
            type_word,
            origin_word,
            after,
            before,
            bytes,
        )
        .execute(&mut *self.connection)
        .await
        .map_err(StoreError::database("write a change"))?;
        let change = Change {
            change_type,
            origin,
            object: object.clone(),
            previous: previous.map(Arc::new),
        };
        self.changes.push(RecordedChange {
            change,
            bytes: bytes.unsigned_abs(),
        });
        Ok(object)
    }
}

struct ChangeRow {
    resource_version: i64,
    kind: Text,
    namespace: Text,
    name: Text,
    uid: Text,
    change_type: Text,
    origin: Text,
    object: Text,
    previous: Option<Text>,
}

impl TryFrom<ChangeRow> for Change {
    type Error = StoreError;

    fn try_from(row: ChangeRow) -> Result<Self, StoreError> {
        let ChangeRow {
            resource_version,
            kind,
            namespace,
            name,
            uid,
            change_type,
            origin,
            object,
            previous,
        } = row;
        let read = || {
            Ok(Self {
                change_type: ChangeType::from_word(change_type.str("type")?)
                    .ok_or_else(|| change_type.value("type"))?,
                origin: Origin::from_word(origin.str("origin")?).ok_or_else(|| origin.value("origin"))?,
                object: StoredObject {
                    kind: kind.str("kind")?.into(),
                    namespace: namespace.str("namespace")?.into(),
                    name: name.str("name")?.into(),
                    uid: Uid(uid.str("uid")?.to_owned()),
                    resource_version: to_u64("resource_version", resource_version)?,
                    json: Arc::new(json("object", &object)?),
                },
                previous: previous
                    .as_ref()
                    .map(|previous| json("previous", previous).map(Arc::new))
                    .transpose()?,
            })
        };
        read().map_err(|source| unreadable(CHANGE, resource_version, source))
    }
}

/// See [`super::Store::changes`].
pub(super) async fn changes(
    connection: &mut SqliteConnection,
    kind: &str,
    since: u64,
    limit: usize,
) -> Result<Vec<Change>, StoreError> {
    let row_since = i64::try_from(since).unwrap_or(i64::MAX);
    let row_limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = sqlx::query_as!(
        ChangeRow,
        r#"SELECT resource_version AS "resource_version!", kind AS "kind: Text", namespace AS "namespace: Text",
                  name AS "name: Text", uid AS "uid: Text", type AS "change_type: Text", origin AS "origin: Text",
                  object AS "object: Text", previous AS "previous: Text"
           FROM change WHERE kind = ? AND resource_version > ? ORDER BY resource_version LIMIT ?"#,
        kind,
        row_since,
        row_limit,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::database("read changes"))?;
    // Asked after the rows were read: what was dropped before that is in the answer.
    let dropped = sqlx::query_scalar!("SELECT dropped FROM history WHERE kind = ?", kind)
        .fetch_optional(connection)
        .await
        .map_err(StoreError::database("read what changes were dropped"))?
        .map_or(0, i64::unsigned_abs);
    if since < dropped {
        return Err(StoreError::TooOld {
            asked: since,
            oldest: dropped,
        });
    }
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let version = row.resource_version.unsigned_abs();
        match Change::try_from(row) {
            Ok(change) => changes.push(change),
            Err(error) => {
                // As good as dropped: the reader lists anew and goes on from there.
                tracing::error!(error = &error as &dyn std::error::Error, "a change is lost");
                return Err(StoreError::TooOld {
                    asked: since,
                    oldest: version,
                });
            }
        }
    }
    Ok(changes)
}

impl ChangeType {
    const ALL: [Self; 3] = [Self::Added, Self::Modified, Self::Deleted];

    fn word(self) -> &'static str {
        match self {
            Self::Added => "Added",
            Self::Modified => "Modified",
            Self::Deleted => "Deleted",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.word() == word)
    }
}

impl Origin {
    const ALL: [Self; 2] = [Self::Desired, Self::Status];

    fn word(self) -> &'static str {
        match self {
            Self::Desired => "Desired",
            Self::Status => "Status",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.word() == word)
    }
}
