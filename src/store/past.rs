//! Lists as they were at an earlier resource version: what makes the pages of a list fit together.
//!
//! An object that was not changed since then is still as it was. Of one that was, the log of changes has what it was
//! before the first of those changes. Beyond the log nobody knows: [`StoreError::TooOld`].

use std::sync::Arc;

use serde_json::Value;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use super::object::{version, whole_object};
use super::row::{Text, json, to_u64};
use super::{Page, RowError, StoreError, StoredObject};
use crate::model::Uid;

/// No namespace comes after this one.
const LAST: &str = "\u{10ffff}";

/// A row of `object`, or what a row of `change` says an object was.
struct PastRow {
    namespace: Text,
    name: Text,
    uid: Text,
    resource_version: i64,
    desired: Option<Text>,
    status: Option<Text>,
    previous: Option<Text>,
}

/// Where a list goes on, and the last namespace of it.
struct Range {
    after: (Text, Text),
    last: Text,
}

impl Range {
    fn new(namespace: Option<&str>, after: Option<(&str, &str)>) -> Self {
        let (after_namespace, after_name) = after.unwrap_or((namespace.unwrap_or(""), ""));
        Self {
            after: (after_namespace.into(), after_name.into()),
            last: namespace.unwrap_or(LAST).into(),
        }
    }
}

/// See [`super::Store::list_at`].
pub(super) async fn list(
    readers: &SqlitePool,
    kind: &str,
    namespace: Option<&str>,
    after: Option<(&str, &str)>,
    limit: Option<usize>,
    at: u64,
) -> Result<Page, StoreError> {
    let failed = || StoreError::database("list objects of an earlier version");
    // One transaction, so that objects and log are of one moment.
    let mut transaction = readers.begin().await.map_err(failed())?;
    check_kept(&mut transaction, kind, at).await?;
    let row_at = i64::try_from(at).unwrap_or(i64::MAX);
    let mut range = Range::new(namespace, after);
    let mut page = Page {
        objects: Vec::new(),
        resource_version: at.min(version(&mut transaction).await?),
        unreadable: Vec::new(),
    };
    // Once around, unless rows were unreadable: their places in the page are for others.
    loop {
        let wanted = limit.map(|limit| limit - page.objects.len());
        let row_limit = wanted.map_or(-1, |wanted| i64::try_from(wanted).unwrap_or(i64::MAX));
        let (after_namespace, after_name, last) = (range.after.0.bytes(), range.after.1.bytes(), range.last.bytes());
        let rows = sqlx::query_as!(
            PastRow,
            r#"SELECT namespace AS "namespace!: Text", name AS "name!: Text", uid AS "uid!: Text",
                      resource_version AS "resource_version!: i64",
                      desired AS "desired?: Text", status AS "status?: Text", NULL AS "previous?: Text"
               FROM object
               WHERE kind = ?1 AND resource_version <= ?2
                     AND (namespace, name) > (CAST(?3 AS TEXT), CAST(?4 AS TEXT)) AND namespace <= CAST(?5 AS TEXT)
               UNION ALL
               SELECT namespace, name, uid, resource_version, NULL, NULL, previous
               FROM change
               WHERE previous IS NOT NULL AND resource_version IN (
                   SELECT min(resource_version) FROM change
                   WHERE kind = ?1 AND resource_version > ?2
                         AND (namespace, name) > (CAST(?3 AS TEXT), CAST(?4 AS TEXT)) AND namespace <= CAST(?5 AS TEXT)
                   GROUP BY namespace, name)
               ORDER BY 1, 2 LIMIT ?6"#,
            kind,
            row_at,
            after_namespace,
            after_name,
            last,
            row_limit,
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed())?;
        if let Some(row) = rows.last() {
            range.after = (row.namespace.clone(), row.name.clone());
        }
        let complete = wanted.is_none_or(|wanted| rows.len() < wanted);
        for row in rows {
            match past_object(kind, &row) {
                Ok(object) => page.objects.push(object),
                Err(source) => page.unreadable.push(Arc::new(StoreError::Unreadable {
                    table: "object",
                    key: format!("{kind} {}/{}", row.namespace, row.name),
                    source,
                })),
            }
        }
        if complete || limit == Some(page.objects.len()) {
            break;
        }
    }
    transaction.commit().await.map_err(failed())?;
    Ok(page)
}

fn past_object(kind: &str, row: &PastRow) -> Result<StoredObject, RowError> {
    let PastRow {
        namespace,
        name,
        uid,
        resource_version,
        desired,
        status,
        previous,
    } = row;
    let (object, resource_version) = match (desired, previous) {
        (Some(desired), _) => {
            let version = to_u64("resource_version", *resource_version)?;
            (whole_object(desired, status.as_ref(), version)?, version)
        }
        (None, Some(previous)) => {
            let object: Value = json("previous", previous)?;
            let version = object["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or(RowError::NotAnObject { column: "previous" })?;
            (object, version)
        }
        (None, None) => return Err(RowError::Missing { column: "desired" }),
    };
    Ok(StoredObject {
        kind: kind.into(),
        namespace: namespace.str("namespace")?.into(),
        name: name.str("name")?.into(),
        uid: Uid(uid.str("uid")?.to_owned()),
        resource_version,
        json: Arc::new(object),
    })
}

/// See [`super::Store::count_at`].
pub(super) async fn count(
    readers: &SqlitePool,
    kind: &str,
    namespace: Option<&str>,
    after: (&str, &str),
    at: u64,
) -> Result<u64, StoreError> {
    let row_at = i64::try_from(at).unwrap_or(i64::MAX);
    let range = Range::new(namespace, Some(after));
    let (after_namespace, after_name, last) = (range.after.0.bytes(), range.after.1.bytes(), range.last.bytes());
    // What there is, without what was changed since, and with what was there before the first of those changes.
    let counted = sqlx::query_scalar!(
        r#"WITH first AS (
               SELECT namespace, name, min(resource_version) AS version FROM change
               WHERE kind = ?1 AND resource_version > ?2
                     AND (namespace, name) > (CAST(?3 AS TEXT), CAST(?4 AS TEXT)) AND namespace <= CAST(?5 AS TEXT)
               GROUP BY namespace, name)
           SELECT
               (SELECT count(*) FROM object
                WHERE kind = ?1
                      AND (namespace, name) > (CAST(?3 AS TEXT), CAST(?4 AS TEXT)) AND namespace <= CAST(?5 AS TEXT))
               - (SELECT count(*) FROM first JOIN object USING (namespace, name) WHERE kind = ?1)
               + (SELECT count(*) FROM first JOIN change ON resource_version = version WHERE previous IS NOT NULL)
               AS "count!: i64""#,
        kind,
        row_at,
        after_namespace,
        after_name,
        last,
    )
    .fetch_one(readers)
    .await
    .map_err(StoreError::database("count objects"))?;
    Ok(counted.unsigned_abs())
}

/// Whether every change of the kind after `at` is still there.
async fn check_kept(connection: &mut SqliteConnection, kind: &str, at: u64) -> Result<(), StoreError> {
    let dropped = sqlx::query_scalar!("SELECT dropped FROM history WHERE kind = ?", kind)
        .fetch_optional(connection)
        .await
        .map_err(StoreError::database("read what changes were dropped"))?
        .map_or(0, i64::unsigned_abs);
    if at < dropped {
        return Err(StoreError::TooOld {
            asked: at,
            oldest: dropped,
        });
    }
    Ok(())
}
