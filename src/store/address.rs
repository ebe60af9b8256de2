//! Which pod has which address.

use std::net::Ipv4Addr;

use sqlx::sqlite::SqliteConnection;

use super::StoreError;
use crate::model::Uid;

/// The pod's own one, else the lowest free one of `first..=last`.
pub(super) async fn take(
    connection: &mut SqliteConnection,
    uid: &Uid,
    first: Ipv4Addr,
    last: Ipv4Addr,
) -> Result<Ipv4Addr, StoreError> {
    let uid = uid.as_str();
    let (low, high) = (i64::from(first.to_bits()), i64::from(last.to_bits()));
    let taken = sqlx::query_scalar!(r#"SELECT ip AS "ip!: u32" FROM address WHERE uid = ?"#, uid)
        .fetch_optional(&mut *connection)
        .await
        .map_err(StoreError::database("read an address"))?;
    if let Some(ip) = taken.map(Ipv4Addr::from_bits).filter(|ip| (first..=last).contains(ip)) {
        return Ok(ip);
    }
    // The first one, or the one after the first taken one that has none after it.
    let free = sqlx::query_scalar!(
        r#"SELECT ?1 AS "ip!: u32" WHERE ?1 <= ?2 AND NOT EXISTS (SELECT 1 FROM address WHERE ip = ?1)
           UNION ALL
           SELECT * FROM (
               SELECT ip + 1 FROM address AS taken
               WHERE ip >= ?1 AND ip < ?2 AND NOT EXISTS (SELECT 1 FROM address WHERE ip = taken.ip + 1)
               ORDER BY ip LIMIT 1)
           LIMIT 1"#,
        low,
        high
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::database("find a free address"))?
    .ok_or(StoreError::NoAddress { first, last })?;
    sqlx::query!("INSERT OR REPLACE INTO address (ip, uid) VALUES (?, ?)", free, uid)
        .execute(connection)
        .await
        .map_err(StoreError::database("take an address"))?;
    Ok(Ipv4Addr::from_bits(free))
}

pub(super) async fn release(connection: &mut SqliteConnection, uid: &Uid) -> Result<(), StoreError> {
    let uid = uid.as_str();
    sqlx::query!("DELETE FROM address WHERE uid = ?", uid)
        .execute(connection)
        .await
        .map(|_done| ())
        .map_err(StoreError::database("release an address"))
}
