//! What each pod takes of the machine: its share, its ports and its address, taken all at once or not at all.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use sqlx::sqlite::SqliteConnection;

use super::{StoreError, address};
use crate::model::{Allocatable, Amount, Claim, ClaimedPort, Lack, Protocol, Uid};

/// A column holds at most this much, so that no sum of a thousand claims is more than `SQLite` can count.
const MOST: u64 = 1 << 50;

/// A place that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) claim: Claim,
    /// What there is for all pods together; `None`: the pod is there already and is not turned away.
    pub(super) room: Option<Allocatable>,
    /// The first and the last address it may have; `None`: it needs none.
    pub(super) pool: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// The answer to a pod that wants a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is the pod's, with this address if it asked for one.
    Taken(Option<Ipv4Addr>),
    /// Nothing was taken.
    Refused(Lack),
}

/// What all claims together take, and whether one of them is the pod's own.
struct Used {
    pods: u64,
    cpu_milli: u64,
    memory: u64,
    storage: u64,
    has_claim: bool,
}

/// See [`super::Store::take_place`].
pub(super) async fn take(connection: &mut SqliteConnection, uid: &Uid, wanted: &Wanted) -> Result<Place, StoreError> {
    let used = used(connection, uid).await?;
    if !used.has_claim {
        if let Some(room) = &wanted.room
            && let Some(first) = lack(connection, uid, &wanted.claim, room, &used).await?
        {
            if release_over(connection).await? == 0 {
                return Ok(Place::Refused(first));
            }
            let used = self::used(connection, uid).await?;
            if let Some(lack) = lack(connection, uid, &wanted.claim, room, &used).await? {
                return Ok(Place::Refused(lack));
            }
        }
        write(connection, uid, &wanted.claim).await?;
    }
    let Some((first, last)) = wanted.pool else {
        return Ok(Place::Taken(None));
    };
    let ip = address::take(connection, uid, first, last).await?;
    Ok(Place::Taken(Some(ip)))
}

/// See [`super::Store::raise_place`].
pub(super) async fn raise(
    connection: &mut SqliteConnection,
    uid: &Uid,
    claim: &Claim,
    room: &Allocatable,
) -> Result<Option<Lack>, StoreError> {
    let key = uid.as_str();
    let own = sqlx::query!(
        r#"SELECT cpu_milli AS "cpu_milli!: u64", memory AS "memory!: u64", storage AS "storage!: u64" FROM claim WHERE uid = ?"#,
        key
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::database("read a claim"))?;
    let Some(own) = own else {
        // Nothing of it was counted so far: then it is what it says.
        write(connection, uid, claim).await?;
        return Ok(None);
    };
    let mut used = used(connection, uid).await?;
    used.cpu_milli = used.cpu_milli.saturating_sub(own.cpu_milli);
    used.memory = used.memory.saturating_sub(own.memory);
    used.storage = used.storage.saturating_sub(own.storage);
    // Who asks for no more than it has is never held up.
    let more = |wanted: u64, has: u64| if wanted > has { wanted } else { 0 };
    let asked = [
        (
            Amount::Cpu,
            more(claim.cpu_milli, own.cpu_milli),
            used.cpu_milli,
            room.cpu_milli,
        ),
        (Amount::Memory, more(claim.memory, own.memory), used.memory, room.memory),
        (
            Amount::Storage,
            more(claim.storage, own.storage),
            used.storage,
            room.storage,
        ),
    ];
    if let Some(lack) = asked
        .into_iter()
        .find_map(|(of, requested, used, capacity)| exceeds(of, requested, used, capacity))
    {
        return Ok(Some(lack));
    }
    let (cpu_milli, memory, storage) = (
        column(claim.cpu_milli.max(own.cpu_milli)),
        column(claim.memory.max(own.memory)),
        column(claim.storage.max(own.storage)),
    );
    set(connection, key, cpu_milli, memory, storage).await?;
    Ok(None)
}

/// See [`super::Store::settle_place`].
pub(super) async fn settle(connection: &mut SqliteConnection, uid: &Uid, claim: &Claim) -> Result<(), StoreError> {
    let (cpu_milli, memory, storage) = (column(claim.cpu_milli), column(claim.memory), column(claim.storage));
    set(connection, uid.as_str(), cpu_milli, memory, storage).await
}

/// Of a claim that is there; one that is the same already is not written.
async fn set(
    connection: &mut SqliteConnection,
    uid: &str,
    cpu_milli: i64,
    memory: i64,
    storage: i64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE claim SET cpu_milli = ?2, memory = ?3, storage = ?4
         WHERE uid = ?1 AND (cpu_milli <> ?2 OR memory <> ?3 OR storage <> ?4)",
        uid,
        cpu_milli,
        memory,
        storage
    )
    .execute(connection)
    .await
    .map(|_done| ())
    .map_err(StoreError::database("change a claim"))
}

/// See [`super::Store::release_place`].
pub(super) async fn release(connection: &mut SqliteConnection, uid: &Uid) -> Result<(), StoreError> {
    address::release(connection, uid).await?;
    let uid = uid.as_str();
    sqlx::query!("DELETE FROM claim WHERE uid = ?", uid)
        .execute(connection)
        .await
        .map(|_done| ())
        .map_err(StoreError::database("release a claim"))
}

/// Release the claims of pods that are told to be over and in which nothing lives any more: their own end, which is on its
/// way, would do it in a moment, but nobody shall be turned away for them. How many there were.
async fn release_over(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    sqlx::query!(
        "DELETE FROM claim WHERE uid IN (
            SELECT object.uid FROM object JOIN claim USING (uid)
            WHERE kind = 'Pod' AND json_extract(status, '$.phase') IN ('Succeeded', 'Failed')
                AND NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.uid = object.uid AND state <> 'Exited'))"
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected())
    .map_err(StoreError::database("release the claims of pods that are over"))
}

/// See [`super::Store::unclaimed`].
pub(super) async fn unclaimed(connection: &mut SqliteConnection) -> Result<Vec<Uid>, StoreError> {
    let uids = sqlx::query_scalar!(
        "SELECT sandbox.uid FROM sandbox JOIN pod USING (uid)
         WHERE pod.torn_down = 0 AND NOT EXISTS (SELECT 1 FROM claim WHERE claim.uid = sandbox.uid)"
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::database("find pods without a claim"))?;
    Ok(uids.into_iter().map(Uid).collect())
}

async fn used(connection: &mut SqliteConnection, uid: &Uid) -> Result<Used, StoreError> {
    let uid = uid.as_str();
    let row = sqlx::query!(
        r#"SELECT count(*) AS "pods!: u64", coalesce(sum(cpu_milli), 0) AS "cpu_milli!: u64",
                  coalesce(sum(memory), 0) AS "memory!: u64", coalesce(sum(storage), 0) AS "storage!: u64",
                  coalesce(max(uid = ?), 0) AS "own!: u64"
           FROM claim"#,
        uid
    )
    .fetch_one(connection)
    .await
    .map_err(StoreError::database("add the claims up"))?;
    Ok(Used {
        pods: row.pods,
        cpu_milli: row.cpu_milli,
        memory: row.memory,
        storage: row.storage,
        has_claim: row.own != 0,
    })
}

/// The first thing that there is not enough of, in the order in which a kubelet looks.
async fn lack(
    connection: &mut SqliteConnection,
    uid: &Uid,
    claim: &Claim,
    room: &Allocatable,
    used: &Used,
) -> Result<Option<Lack>, StoreError> {
    let Claim {
        cpu_milli,
        memory,
        storage,
        hugepages,
        ports,
    } = claim;
    let asked = [
        (Amount::Pods, 1, used.pods, room.pods),
        (Amount::Cpu, *cpu_milli, used.cpu_milli, room.cpu_milli),
        (Amount::Memory, *memory, used.memory, room.memory),
        (Amount::Storage, *storage, used.storage, room.storage),
    ];
    let lack = asked
        .into_iter()
        .find_map(|(of, requested, used, capacity)| exceeds(of, requested, used, capacity));
    if lack.is_some() {
        return Ok(lack);
    }
    if !hugepages.is_empty() {
        let taken = taken_hugepages(connection, uid).await?;
        for (size, bytes) in hugepages {
            let used = taken.get(size).copied().unwrap_or_default();
            let capacity = room.hugepages.get(size).copied().unwrap_or_default();
            let lack = exceeds(Amount::Hugepages(*size), *bytes, used, capacity);
            if lack.is_some() {
                return Ok(lack);
            }
        }
    }
    for port in ports {
        if is_port_taken(connection, uid, port).await? {
            return Ok(Some(Lack::HostPorts));
        }
    }
    Ok(None)
}

/// Who asks for nothing of it fits always.
fn exceeds(of: Amount, requested: u64, used: u64, capacity: u64) -> Option<Lack> {
    let exceeds = requested > 0 && requested > capacity.saturating_sub(used);
    exceeds.then_some(Lack::Amount {
        of,
        requested,
        used,
        capacity,
    })
}

/// By the size of a page.
async fn taken_hugepages(connection: &mut SqliteConnection, uid: &Uid) -> Result<BTreeMap<u64, u64>, StoreError> {
    let uid = uid.as_str();
    let rows = sqlx::query!(
        r#"SELECT page_size AS "page_size!: u64", sum(bytes) AS "bytes!: u64" FROM claim_hugepages WHERE uid <> ?
           GROUP BY page_size"#,
        uid
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::database("add the huge pages up"))?;
    Ok(rows.into_iter().map(|row| (row.page_size, row.bytes)).collect())
}

/// Every address and one address of the machine are in each other's way (Kubernetes `HostPortInfo.CheckConflict`).
async fn is_port_taken(connection: &mut SqliteConnection, uid: &Uid, port: &ClaimedPort) -> Result<bool, StoreError> {
    let (uid, (protocol, number, ip)) = (uid.as_str(), words(port));
    let taken = sqlx::query_scalar!(
        r#"SELECT count(*) AS "taken!: u64" FROM claim_port
           WHERE port = ? AND protocol = ? AND uid <> ? AND (ip = '' OR ?4 = '' OR ip = ?4)"#,
        number,
        protocol,
        uid,
        ip
    )
    .fetch_one(connection)
    .await
    .map_err(StoreError::database("look for a port"))?;
    Ok(taken > 0)
}

async fn write(connection: &mut SqliteConnection, uid: &Uid, claim: &Claim) -> Result<(), StoreError> {
    let Claim {
        cpu_milli,
        memory,
        storage,
        hugepages,
        ports,
    } = claim;
    let uid = uid.as_str();
    let (cpu_milli, memory, storage) = (column(*cpu_milli), column(*memory), column(*storage));
    sqlx::query!(
        "INSERT INTO claim (uid, cpu_milli, memory, storage) VALUES (?, ?, ?, ?)",
        uid,
        cpu_milli,
        memory,
        storage
    )
    .execute(&mut *connection)
    .await
    .map_err(StoreError::database("write a claim"))?;
    for (size, bytes) in hugepages {
        let (size, bytes) = (column(*size), column(*bytes));
        sqlx::query!(
            "INSERT INTO claim_hugepages (uid, page_size, bytes) VALUES (?, ?, ?)",
            uid,
            size,
            bytes
        )
        .execute(&mut *connection)
        .await
        .map_err(StoreError::database("claim huge pages"))?;
    }
    for port in ports {
        let (protocol, number, ip) = words(port);
        sqlx::query!(
            "INSERT INTO claim_port (uid, protocol, port, ip) VALUES (?, ?, ?, ?)",
            uid,
            protocol,
            number,
            ip
        )
        .execute(&mut *connection)
        .await
        .map_err(StoreError::database("claim a port"))?;
    }
    Ok(())
}

fn column(amount: u64) -> i64 {
    i64::try_from(amount.min(MOST)).unwrap_or(i64::MAX)
}

/// The columns of a port.
fn words(port: &ClaimedPort) -> (&'static str, u16, String) {
    let protocol = match port.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    (
        protocol,
        port.port,
        port.ip.map(|ip| ip.to_string()).unwrap_or_default(),
    )
}
