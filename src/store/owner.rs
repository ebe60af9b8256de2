//! Which objects belong to which: by owner reference, and by namespace.
//!
//! The table `owner` follows `metadata.ownerReferences` inside the transaction that writes an object, so that the two
//! never differ. Nothing here knows what belonging means.

use serde_json::{Map, Value};
use sqlx::sqlite::SqliteConnection;

use super::row::Text;
use super::{Dependant, StoreError};
use crate::model::Uid;

/// Owner references as rows: uid of the owner, and whether it waits. Of a uid given twice the first counts.
pub(super) fn owners(desired: &Map<String, Value>) -> Vec<(&str, bool)> {
    let references = desired
        .get("metadata")
        .and_then(|metadata| metadata.get("ownerReferences"))
        .and_then(Value::as_array);
    let mut found: Vec<(&str, bool)> = Vec::new();
    for reference in references.into_iter().flatten() {
        let Some(owner) = reference.get("uid").and_then(Value::as_str) else {
            continue;
        };
        let blocking = reference
            .get("blockOwnerDeletion")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        if found.iter().all(|(other, _)| *other != owner) {
            found.push((owner, blocking));
        }
    }
    found
}

/// Make the rows of an object those of `after`.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    uid: &Uid,
    before: &[(&str, bool)],
    after: &[(&str, bool)],
) -> Result<(), StoreError> {
    if before == after {
        return Ok(());
    }
    let uid = uid.as_str();
    let failed = || StoreError::database("write the owners of an object");
    if !before.is_empty() {
        sqlx::query!("DELETE FROM owner WHERE uid = ?", uid)
            .execute(&mut *connection)
            .await
            .map_err(failed())?;
    }
    for (owner, blocking) in after {
        sqlx::query!(
            "INSERT INTO owner (uid, owner, blocking) VALUES (?, ?, ?)",
            uid,
            owner,
            blocking
        )
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    }
    Ok(())
}

fn uid(text: &Text) -> Uid {
    Uid(text.to_string())
}

/// See [`super::Store::dependants`].
pub(super) async fn dependants(connection: &mut SqliteConnection, owner: &Uid) -> Result<Vec<Dependant>, StoreError> {
    let owner = owner.as_str();
    let rows = sqlx::query!(
        r#"SELECT uid AS "uid: Text", blocking AS "blocking: bool" FROM owner WHERE owner = ? ORDER BY uid"#,
        owner
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::database("read the dependants of an object"))?;
    Ok(rows
        .into_iter()
        .map(|row| Dependant {
            uid: uid(&row.uid),
            blocking: row.blocking,
        })
        .collect())
}

/// See [`super::Store::owners`].
pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<Uid>, StoreError> {
    let rows = sqlx::query!(r#"SELECT DISTINCT owner AS "owner: Text" FROM owner ORDER BY owner"#)
        .fetch_all(connection)
        .await
        .map_err(StoreError::database("read which objects are owners"))?;
    Ok(rows.iter().map(|row| uid(&row.owner)).collect())
}

/// See [`super::Store::contents`].
pub(super) async fn contents(connection: &mut SqliteConnection, namespace: &str) -> Result<Vec<Uid>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT uid AS "uid: Text" FROM object WHERE namespace = ? ORDER BY kind, name"#,
        namespace
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::database("read what is in a namespace"))?;
    Ok(rows.iter().map(|row| uid(&row.uid)).collect())
}

/// See [`super::Store::unsettled`].
pub(super) async fn unsettled(connection: &mut SqliteConnection) -> Result<Vec<Uid>, StoreError> {
    let failed = || StoreError::database("read which objects are to be looked after");
    let dependants = sqlx::query!(r#"SELECT DISTINCT uid AS "uid: Text" FROM owner ORDER BY uid"#)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed())?;
    // As podd writes it; a text that only mentions the word is looked at in vain.
    let ending = sqlx::query!(
        r#"SELECT uid AS "uid: Text" FROM object WHERE instr(desired, '"deletionTimestamp"') > 0 ORDER BY uid"#
    )
    .fetch_all(connection)
    .await
    .map_err(failed())?;
    Ok(dependants
        .iter()
        .map(|row| uid(&row.uid))
        .chain(ending.iter().map(|row| uid(&row.uid)))
        .collect())
}

/// The namespaces that pods are in and that are no objects themselves: from before podd kept namespaces.
pub(super) async fn unknown_namespaces(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT DISTINCT namespace AS "namespace: Text" FROM object AS pod
           WHERE kind = 'Pod' AND NOT EXISTS (
               SELECT 1 FROM object WHERE kind = 'Namespace' AND namespace = '' AND name = pod.namespace)"#
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::database("read the namespaces of pods"))?;
    Ok(rows.iter().map(|row| row.namespace.to_string()).collect())
}
