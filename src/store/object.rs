//! Objects of the API. Nothing here knows one kind from another.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use super::owner;
use super::row::{Text, json, to_i64, to_u64};
use super::writer::Transaction;
use super::{ChangeType, Origin, Page, RowError, StoreError, StoredObject};
use crate::model::Uid;

const OBJECT: &str = "object";

/// The name of an object among its like.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) kind: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Key {
    pub(super) fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn not_found(&self) -> StoreError {
        let (kind, namespace, name) = self.owned();
        StoreError::NotFound { kind, namespace, name }
    }

    fn conflict(&self, expected: u64, found: u64) -> StoreError {
        let (kind, namespace, name) = self.owned();
        StoreError::Conflict {
            kind,
            namespace,
            name,
            expected,
            found,
        }
    }

    fn owned(&self) -> (String, String, String) {
        (
            self.kind.as_ref().into(),
            self.namespace.as_ref().into(),
            self.name.as_ref().into(),
        )
    }
}

/// A row of `object`, its text not looked at yet: one that is spoilt must not spoil the others of the same query.
struct ObjectRow {
    kind: Text,
    namespace: Text,
    name: Text,
    uid: Text,
    resource_version: i64,
    desired: Text,
    status: Option<Text>,
}

/// A row of `object`, taken apart.
struct Stored {
    key: Key,
    uid: Uid,
    version: u64,
    desired: Map<String, Value>,
    status: Option<Value>,
}

impl Stored {
    /// The whole object as a client gets it.
    fn whole(&self) -> Value {
        whole(self.desired.clone(), self.status.clone(), self.version)
    }
}

impl TryFrom<ObjectRow> for Stored {
    type Error = StoreError;

    fn try_from(row: ObjectRow) -> Result<Self, StoreError> {
        let ObjectRow {
            kind,
            namespace,
            name,
            uid,
            resource_version,
            desired,
            status,
        } = row;
        let key = format!("{kind} {namespace}/{name}");
        let read = || {
            Ok(Self {
                key: Key {
                    kind: kind.str("kind")?.into(),
                    namespace: namespace.str("namespace")?.into(),
                    name: name.str("name")?.into(),
                },
                uid: Uid(uid.str("uid")?.to_owned()),
                version: to_u64("resource_version", resource_version)?,
                desired: with_metadata(json("desired", &desired)?)
                    .ok_or(RowError::NotAnObject { column: "desired" })?,
                status: status.as_ref().map(|status| json("status", status)).transpose()?,
            })
        };
        read().map_err(|source| StoreError::Unreadable {
            table: OBJECT,
            key,
            source,
        })
    }
}

impl From<Stored> for StoredObject {
    fn from(stored: Stored) -> Self {
        let Stored {
            key: Key { kind, namespace, name },
            uid,
            version,
            desired,
            status,
        } = stored;
        let json = Arc::new(whole(desired, status, version));
        Self {
            kind,
            namespace,
            name,
            uid,
            resource_version: version,
            json,
        }
    }
}

/// A JSON object that has an object `metadata`, or nothing.
fn with_metadata(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) if object.get("metadata").is_some_and(Value::is_object) => Some(object),
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// The whole object of a row's columns.
pub(super) fn whole_object(desired: &Text, status: Option<&Text>, version: u64) -> Result<Value, RowError> {
    let desired = with_metadata(json("desired", desired)?).ok_or(RowError::NotAnObject { column: "desired" })?;
    let status = status.map(|status| json("status", status)).transpose()?;
    Ok(whole(desired, status, version))
}

/// Put the halves together.
fn whole(mut desired: Map<String, Value>, status: Option<Value>, version: u64) -> Value {
    if let Some(Value::Object(metadata)) = desired.get_mut("metadata") {
        metadata.insert("resourceVersion".into(), Value::String(version.to_string()));
    }
    if let Some(status) = status {
        desired.insert("status".into(), status);
    }
    Value::Object(desired)
}

/// The half that is stored as desired, without what the store itself fills in.
fn desired_half(key: &Key, object: Value) -> Result<Map<String, Value>, StoreError> {
    let Some(mut desired) = with_metadata(object) else {
        let (kind, namespace, name) = key.owned();
        return Err(StoreError::NotAnObject { kind, namespace, name });
    };
    desired.remove("status");
    if let Some(Value::Object(metadata)) = desired.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    Ok(desired)
}

/// What stands for an object that was removed and could not be read: enough for a watch to forget it.
fn tombstone(key: &Key, uid: &Uid) -> Map<String, Value> {
    let value = serde_json::json!({
        "kind": &*key.kind,
        "metadata": { "name": &*key.name, "namespace": &*key.namespace, "uid": uid.as_str() },
    });
    match value {
        Value::Object(object) => object,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

// ---- writing, inside the writer's transaction ----

/// What of an object is given to be written: a half that is `None` stays as it is. Its `Debug` says nothing, since it
/// may be a Secret.
pub(super) struct Halves {
    desired: Option<Value>,
    status: Option<Value>,
}

impl Halves {
    /// Of a whole object. A status in it is passed over.
    pub(super) fn desired(object: Value) -> Self {
        Self::both(object, None)
    }

    /// The same with a status of its own.
    pub(super) fn both(object: Value, status: Option<Value>) -> Self {
        Self {
            status,
            ..Self::whole(object)
        }
    }

    pub(super) fn status(status: Value) -> Self {
        Self {
            desired: None,
            status: Some(status),
        }
    }

    /// Of an object and, should it be there, the status in it.
    pub(super) fn whole(mut object: Value) -> Self {
        let status = object.as_object_mut().and_then(|fields| fields.remove("status"));
        Self {
            desired: Some(object),
            status,
        }
    }
}

impl fmt::Debug for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halves").finish_non_exhaustive()
    }
}

/// With `in_namespace`, its namespace must be there and must not be on its way out.
pub(super) async fn create(
    transaction: &mut Transaction<'_>,
    key: Key,
    uid: Uid,
    halves: Halves,
    in_namespace: bool,
) -> Result<StoredObject, StoreError> {
    let Halves { desired, status } = halves;
    let desired = desired_half(&key, desired.unwrap_or_default())?;
    if in_namespace && !key.namespace.is_empty() {
        check_namespace(transaction.connection, &key.namespace).await?;
    }
    let version = transaction.next_version();
    let (kind, namespace, name, uid_text) = (&*key.kind, &*key.namespace, &*key.name, uid.as_str());
    let (row_version, text) = (to_i64(OBJECT, "resource_version", version)?, object_text(&desired));
    let status_text = status.as_ref().map(Value::to_string);
    let made = sqlx::query!(
        "INSERT INTO object (kind, namespace, name, uid, resource_version, desired, status) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (kind, namespace, name) DO NOTHING",
        kind,
        namespace,
        name,
        uid_text,
        row_version,
        text,
        status_text,
    )
    .execute(&mut *transaction.connection)
    .await
    .map_err(StoreError::database("create an object"))?;
    if made.rows_affected() == 0 {
        let (kind, namespace, name) = key.owned();
        return Err(StoreError::AlreadyExists { kind, namespace, name });
    }
    owner::write(transaction.connection, &uid, &[], &owner::owners(&desired)).await?;
    let object = StoredObject::from(Stored {
        key,
        uid,
        version,
        desired,
        status,
    });
    transaction
        .record(ChangeType::Added, Origin::Desired, object, None)
        .await
}

/// In the same transaction as what is made in it: nothing gets into a namespace behind the back of its end.
async fn check_namespace(connection: &mut SqliteConnection, namespace: &str) -> Result<(), StoreError> {
    let missing = || StoreError::NoNamespace {
        namespace: namespace.to_owned(),
    };
    let row = by_name(connection, &Key::new("Namespace", "", namespace))
        .await?
        .ok_or_else(missing)?;
    let ending = Stored::try_from(row)?
        .desired
        .get("metadata")
        .and_then(|metadata| metadata.get("deletionTimestamp"))
        .is_some_and(|at| !at.is_null());
    if ending {
        return Err(StoreError::EndingNamespace {
            namespace: namespace.to_owned(),
        });
    }
    Ok(())
}

pub(super) async fn update(
    transaction: &mut Transaction<'_>,
    key: &Key,
    expected: u64,
    halves: Halves,
) -> Result<StoredObject, StoreError> {
    let Halves { desired, status } = halves;
    let desired = desired.map(|desired| desired_half(key, desired)).transpose()?;
    let mut stored = Stored::try_from(
        by_name(transaction.connection, key)
            .await?
            .ok_or_else(|| key.not_found())?,
    )?;
    if stored.version != expected {
        return Err(key.conflict(expected, stored.version));
    }
    let desired = desired.filter(|desired| stored.desired != *desired);
    let status = status.filter(|status| stored.status.as_ref() != Some(status));
    if desired.is_none() && status.is_none() {
        return Ok(stored.into());
    }
    let previous = stored.whole();
    if let Some(desired) = &desired {
        owner::write(
            transaction.connection,
            &stored.uid,
            &owner::owners(&stored.desired),
            &owner::owners(desired),
        )
        .await?;
    }
    // A half that stays is not written again.
    let text = desired.as_ref().map(object_text);
    let status_text = status.as_ref().map(Value::to_string);
    stored.desired = desired.unwrap_or(stored.desired);
    stored.status = status.or(stored.status);
    stored.version = transaction.next_version();
    let (version, uid) = (to_i64(OBJECT, "resource_version", stored.version)?, stored.uid.as_str());
    sqlx::query!(
        "UPDATE object SET resource_version = ?, desired = coalesce(?, desired), status = coalesce(?, status)
         WHERE uid = ?",
        version,
        text,
        status_text,
        uid
    )
    .execute(&mut *transaction.connection)
    .await
    .map_err(StoreError::database("update an object"))?;
    transaction
        .record(ChangeType::Modified, Origin::Desired, stored.into(), Some(previous))
        .await
}

/// True when it was written.
pub(super) async fn set_status(
    transaction: &mut Transaction<'_>,
    uid: &Uid,
    expected: Option<u64>,
    status: Value,
) -> Result<bool, StoreError> {
    let row = by_uid(transaction.connection, uid)
        .await?
        .ok_or_else(|| StoreError::NotFound {
            kind: "Pod".into(),
            namespace: String::new(),
            name: uid.to_string(),
        })?;
    let mut stored = Stored::try_from(row)?;
    if let Some(expected) = expected
        && stored.version != expected
    {
        return Err(stored.key.conflict(expected, stored.version));
    }
    if stored.status.as_ref() == Some(&status) {
        return Ok(false);
    }
    let previous = stored.whole();
    stored.version = transaction.next_version();
    let (version, text, uid) = (
        to_i64(OBJECT, "resource_version", stored.version)?,
        status.to_string(),
        uid.as_str(),
    );
    stored.status = Some(status);
    sqlx::query!(
        "UPDATE object SET resource_version = ?, status = ? WHERE uid = ?",
        version,
        text,
        uid
    )
    .execute(&mut *transaction.connection)
    .await
    .map_err(StoreError::database("write a status"))?;
    transaction
        .record(ChangeType::Modified, Origin::Status, stored.into(), Some(previous))
        .await?;
    Ok(true)
}

pub(super) async fn delete(
    transaction: &mut Transaction<'_>,
    key: &Key,
    expected: u64,
) -> Result<StoredObject, StoreError> {
    let row = by_name(transaction.connection, key)
        .await?
        .ok_or_else(|| key.not_found())?;
    let found = row.resource_version.unsigned_abs();
    if found != expected {
        return Err(key.conflict(expected, found));
    }
    remove(transaction, row, Origin::Desired).await
}

/// Remove the object with this uid, if there is one. False: it is held by finalizers.
pub(super) async fn forget(transaction: &mut Transaction<'_>, uid: &Uid) -> Result<bool, StoreError> {
    let Some(row) = by_uid(transaction.connection, uid).await? else {
        return Ok(true);
    };
    let held = json("desired", &row.desired).is_ok_and(|desired: Value| {
        desired["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|finalizers| !finalizers.is_empty())
    });
    if held {
        return Ok(false);
    }
    remove(transaction, row, Origin::Status).await.map(|_removed| true)
}

async fn remove(transaction: &mut Transaction<'_>, row: ObjectRow, origin: Origin) -> Result<StoredObject, StoreError> {
    // Even what cannot be read can be removed.
    let key = Key {
        kind: row.kind.to_string().into(),
        namespace: row.namespace.to_string().into(),
        name: row.name.to_string().into(),
    };
    let uid = Uid(row.uid.to_string());
    let uid_text = row.uid.clone();
    let uid_bytes = uid_text.bytes();
    let found = row.resource_version.unsigned_abs();
    let mut stored = Stored::try_from(row).unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "an object that cannot be read is removed"
        );
        let desired = tombstone(&key, &uid);
        Stored {
            key,
            uid,
            version: found,
            desired,
            status: None,
        }
    });
    sqlx::query!("DELETE FROM object WHERE uid = CAST(? AS TEXT)", uid_bytes)
        .execute(&mut *transaction.connection)
        .await
        .map_err(StoreError::database("remove an object"))?;
    let previous = stored.whole();
    stored.version = transaction.next_version();
    transaction
        .record(ChangeType::Deleted, origin, stored.into(), Some(previous))
        .await
}

fn object_text(object: &Map<String, Value>) -> String {
    serde_json::to_string(object).expect("a map with text as its keys is always JSON")
}

// ---- reading ----

async fn by_name(connection: &mut SqliteConnection, key: &Key) -> Result<Option<ObjectRow>, StoreError> {
    let Key { kind, namespace, name } = key;
    let (kind, namespace, name) = (&**kind, &**namespace, &**name);
    sqlx::query_as!(
        ObjectRow,
        r#"SELECT kind AS "kind: Text", namespace AS "namespace: Text", name AS "name: Text", uid AS "uid: Text",
                  resource_version, desired AS "desired: Text", status AS "status: Text"
           FROM object WHERE kind = ? AND namespace = ? AND name = ?"#,
        kind,
        namespace,
        name,
    )
    .fetch_optional(connection)
    .await
    .map_err(StoreError::database("read an object"))
}

async fn by_uid(connection: &mut SqliteConnection, uid: &Uid) -> Result<Option<ObjectRow>, StoreError> {
    let uid = uid.as_str();
    sqlx::query_as!(
        ObjectRow,
        r#"SELECT kind AS "kind: Text", namespace AS "namespace: Text", name AS "name: Text", uid AS "uid: Text",
                  resource_version, desired AS "desired: Text", status AS "status: Text"
           FROM object WHERE uid = ?"#,
        uid,
    )
    .fetch_optional(connection)
    .await
    .map_err(StoreError::database("read an object"))
}

pub(super) async fn get(connection: &mut SqliteConnection, key: &Key) -> Result<Option<StoredObject>, StoreError> {
    by_name(connection, key)
        .await?
        .map(|row| Stored::try_from(row).map(Into::into))
        .transpose()
}

pub(super) async fn get_by_uid(
    connection: &mut SqliteConnection,
    kind: &str,
    uid: &Uid,
) -> Result<Option<StoredObject>, StoreError> {
    let row = by_uid(connection, uid)
        .await?
        .filter(|row| row.kind.to_string() == kind);
    row.map(|row| Stored::try_from(row).map(Into::into)).transpose()
}

pub(super) async fn get_any(connection: &mut SqliteConnection, uid: &Uid) -> Result<Option<StoredObject>, StoreError> {
    let row = by_uid(connection, uid).await?;
    row.map(|row| Stored::try_from(row).map(Into::into)).transpose()
}

/// The newest resource version that is committed.
pub(super) async fn version(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let version = sqlx::query_scalar!(r#"SELECT max(seq) AS "seq!: i64" FROM sqlite_sequence WHERE name = 'change'"#)
        .fetch_one(connection)
        .await
        .map_err(StoreError::database("read the resource version"))?;
    Ok(version.unsigned_abs())
}

/// See [`super::Store::list`].
pub(super) async fn list(
    readers: &SqlitePool,
    kind: &str,
    namespace: Option<&str>,
    after: Option<(&str, &str)>,
    limit: Option<usize>,
) -> Result<Page, StoreError> {
    let failed = || StoreError::database("list objects");
    // One transaction, so that objects and resource version are of one moment.
    let mut transaction = readers.begin().await.map_err(failed())?;
    let resource_version = version(&mut transaction).await?;
    let mut page = Page {
        objects: Vec::new(),
        resource_version,
        unreadable: Vec::new(),
    };
    let mut after = after.map(|(namespace, name)| (Text::from(namespace), Text::from(name)));
    // Once around, unless rows were unreadable: their places in the page are for others.
    loop {
        let wanted = limit.map(|limit| limit - page.objects.len());
        let row_limit = wanted.map_or(-1, |wanted| i64::try_from(wanted).unwrap_or(i64::MAX));
        let (after_namespace, after_name) = after
            .as_ref()
            .map_or((&[][..], &[][..]), |(n, m)| (n.bytes(), m.bytes()));
        let rows = match namespace {
            Some(namespace) => {
                sqlx::query_as!(
                    ObjectRow,
                    r#"SELECT kind AS "kind: Text", namespace AS "namespace: Text", name AS "name: Text",
                              uid AS "uid: Text", resource_version, desired AS "desired: Text", status AS "status: Text"
                       FROM object WHERE kind = ? AND namespace = ? AND (namespace, name) > (CAST(? AS TEXT), CAST(? AS TEXT))
                       ORDER BY namespace, name LIMIT ?"#,
                    kind,
                    namespace,
                    after_namespace,
                    after_name,
                    row_limit,
                )
                .fetch_all(&mut *transaction)
                .await
            }
            None => {
                sqlx::query_as!(
                    ObjectRow,
                    r#"SELECT kind AS "kind: Text", namespace AS "namespace: Text", name AS "name: Text",
                              uid AS "uid: Text", resource_version, desired AS "desired: Text", status AS "status: Text"
                       FROM object WHERE kind = ? AND (namespace, name) > (CAST(? AS TEXT), CAST(? AS TEXT))
                       ORDER BY namespace, name LIMIT ?"#,
                    kind,
                    after_namespace,
                    after_name,
                    row_limit,
                )
                .fetch_all(&mut *transaction)
                .await
            }
        }
        .map_err(failed())?;
        after = rows.last().map(|row| (row.namespace.clone(), row.name.clone()));
        let complete = wanted.is_none_or(|wanted| rows.len() < wanted);
        for row in rows {
            match Stored::try_from(row) {
                Ok(stored) => page.objects.push(stored.into()),
                Err(error) => page.unreadable.push(Arc::new(error)),
            }
        }
        if complete || limit == Some(page.objects.len()) {
            break;
        }
    }
    transaction.commit().await.map_err(failed())?;
    Ok(page)
}
