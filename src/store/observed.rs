//! What was observed of pods: sandbox, attempts, failures.
//!
//! Only the difference between two records is written, worked out before the request gets to the writer.

mod life;
mod rows;

use std::collections::BTreeMap;

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnection;

use super::row::{Text, reading, unreadable};
use super::{StoreError, place, user_range};
use crate::model::{Attempt, Failure, Observed, Sandbox, Uid};
use rows::{ATTEMPT, AttemptRow, FAILURE, FailureRow, POD, PodRow, SANDBOX, SandboxRow, step_words};

/// Attempts of a container that are kept, at least.
const ATTEMPTS: usize = 3;

// ---- reading ----

/// Every pod that anything is stored of, ascending. A spoilt uid is passed over, and said so.
pub(super) async fn uids(connection: &mut SqliteConnection) -> Result<Vec<Uid>, StoreError> {
    let rows = sqlx::query_scalar!(
        r#"SELECT uid AS "uid!: Text" FROM object WHERE kind = 'Pod'
           UNION SELECT uid FROM pod UNION SELECT uid FROM address UNION SELECT uid FROM claim
           UNION SELECT uid FROM user_ids
           ORDER BY 1"#
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::database("list the pods"))?;
    let mut uids = Vec::with_capacity(rows.len());
    for row in rows {
        match row.str("uid") {
            Ok(uid) => uids.push(Uid(uid.to_owned())),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, pod.uid = %row, "a pod's uid is unreadable");
            }
        }
    }
    Ok(uids)
}

pub(super) async fn observed(readers: &SqlitePool, uid: &Uid) -> Result<Observed, StoreError> {
    let failed = || StoreError::database("read what was observed of a pod");
    let key = uid.as_str();
    // One transaction: what is read is of one moment.
    let mut transaction = readers.begin().await.map_err(failed())?;
    let pod = sqlx::query_as!(
        PodRow,
        "SELECT started_at, torn_down, given_up_at, given_up_reason, given_up_message FROM pod WHERE uid = ?",
        key
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(reading(POD, uid))?;
    let Some(pod) = pod else {
        return Ok(Observed::default());
    };
    let sandbox = sqlx::query_as!(
        SandboxRow,
        "SELECT attempt, state, ready_at, ended_at, cause, ip, created_at, boot_id FROM sandbox WHERE uid = ?",
        key
    )
    .fetch_optional(&mut *transaction)
    .await
    .map_err(reading(SANDBOX, uid))?;
    let attempts = sqlx::query_as!(
        AttemptRow,
        "SELECT container, attempt, sandbox, image, image_id, state, started_at, exit_status, exit_number, oom_killed,
                finished_at, message, backoff_delay, backoff_set_at, stop_signalled_at, killed_at, life
         FROM attempt WHERE uid = ? ORDER BY container, attempt",
        key
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(reading(ATTEMPT, uid))?;
    let failures = sqlx::query_as!(
        FailureRow,
        r#"SELECT step, container, reason, message, count, "at" FROM failure WHERE uid = ? ORDER BY step, container"#,
        key
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(reading(FAILURE, uid))?;
    transaction.commit().await.map_err(failed())?;

    let attempt = |row: AttemptRow| {
        let key = format!("{uid} {} {}", row.container, row.attempt);
        Attempt::try_from(row).map_err(|source| unreadable(ATTEMPT, key, source))
    };
    let failure = |row: FailureRow| {
        let key = format!("{uid} {} {}", row.step, row.container);
        Failure::try_from(row).map_err(|source| unreadable(FAILURE, key, source))
    };
    Ok(Observed {
        sandbox: sandbox
            .map(|row| Sandbox::try_from(row).map_err(|source| unreadable(SANDBOX, uid, source)))
            .transpose()?,
        attempts: attempts.into_iter().map(attempt).collect::<Result<_, _>>()?,
        failures: failures.into_iter().map(failure).collect::<Result<_, _>>()?,
        ..pod.observed().map_err(|source| unreadable(POD, uid, source))?
    })
}

// ---- writing ----

/// Rows to be written, so that what is stored becomes equal to `after`.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pod: Option<PodRow>,
    sandbox: Option<SandboxRow>,
    no_sandbox: bool,
    attempts: Vec<AttemptRow>,
    no_attempts: Vec<(String, i64)>,
    failures: Vec<FailureRow>,
    no_failures: Vec<(&'static str, String)>,
}

impl Difference {
    /// `None` when there is nothing to write.
    pub(super) fn between(before: &Observed, after: &Observed) -> Result<Option<Self>, StoreError> {
        if before == after {
            return Ok(None);
        }
        let Observed {
            sandbox,
            attempts,
            failures,
            started_at,
            torn_down,
            given_up,
        } = after;
        let mut difference = Self::default();

        // The rows of a pod's first record need the pod's own row to hang on.
        let is_same =
            before.started_at == *started_at && before.torn_down == *torn_down && before.given_up == *given_up;
        if *before == Observed::default() || !is_same {
            difference.pod = Some(PodRow::new(after)?);
        }
        if before.sandbox != *sandbox {
            difference.sandbox = sandbox.as_ref().map(SandboxRow::new).transpose()?;
            difference.no_sandbox = sandbox.is_none();
        }

        let (old, new) = (kept(&before.attempts), kept(attempts));
        for (key, attempt) in &new {
            if old.get(key) != Some(attempt) {
                difference.attempts.push(AttemptRow::new(attempt)?);
            }
        }
        for (container, attempt) in old.into_keys().filter(|key| !new.contains_key(key)) {
            difference.no_attempts.push((container.to_owned(), attempt.into()));
        }

        for failure in failures
            .iter()
            .filter(|failure| before.failure(&failure.step) != Some(failure))
        {
            difference.failures.push(FailureRow::new(failure)?);
        }
        for gone in before
            .failures
            .iter()
            .filter(|failure| after.failure(&failure.step).is_none())
        {
            let (step, container) = step_words(&gone.step);
            difference.no_failures.push((step, container.to_owned()));
        }
        Ok(Some(difference))
    }
}

/// Those attempts that are stored: of each container the newest [`ATTEMPTS`], those that live, the newest one before the
/// newest that has ended (what `lastState` reports), and all between these.
fn kept(attempts: &[Attempt]) -> BTreeMap<(&str, u32), &Attempt> {
    let mut containers: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in attempts {
        containers.entry(&attempt.container).or_default().push(attempt);
    }
    let mut kept = BTreeMap::new();
    for (container, mut attempts) in containers {
        attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.attempt));
        let last = attempts
            .iter()
            .skip(1)
            .position(|attempt| !attempt.is_live())
            .map_or(0, |position| position + 2);
        let live = attempts
            .iter()
            .rposition(|attempt| attempt.is_live())
            .map_or(0, |position| position + 1);
        let count = ATTEMPTS.max(last).max(live);
        kept.extend(
            attempts
                .into_iter()
                .take(count)
                .map(|attempt| ((container, attempt.attempt), attempt)),
        );
    }
    kept
}

/// What reading this back after it was saved gives.
pub(super) fn as_stored(after: &Observed) -> Observed {
    let Observed {
        sandbox,
        attempts,
        failures,
        started_at,
        torn_down,
        given_up,
    } = after;
    let mut failures = failures.clone();
    failures.sort_by(|a, b| step_words(&a.step).cmp(&step_words(&b.step)));
    Observed {
        sandbox: sandbox.clone(),
        attempts: kept(attempts).into_values().cloned().collect(),
        failures,
        started_at: *started_at,
        torn_down: *torn_down,
        given_up: given_up.clone(),
    }
}

pub(super) async fn save(
    connection: &mut SqliteConnection,
    uid: &Uid,
    difference: Difference,
) -> Result<(), StoreError> {
    let Difference {
        pod,
        sandbox,
        no_sandbox,
        attempts,
        no_attempts,
        failures,
        no_failures,
    } = difference;
    if let Some(row) = pod {
        let torn_down = row.torn_down != 0;
        save_pod(connection, uid, row)
            .await
            .map_err(StoreError::database("save a pod"))?;
        // Nothing of the pod is left on the machine, so nothing has its place or its ids any more.
        if torn_down {
            place::release(connection, uid).await?;
            user_range::release(connection, uid).await?;
        }
    }
    let uid = uid.as_str();
    if let Some(row) = sandbox {
        save_sandbox(connection, uid, row)
            .await
            .map_err(StoreError::database("save a sandbox"))?;
    }
    if no_sandbox {
        sqlx::query!("DELETE FROM sandbox WHERE uid = ?", uid)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::database("remove a sandbox"))?;
    }
    for row in attempts {
        save_attempt(connection, uid, row)
            .await
            .map_err(StoreError::database("save an attempt"))?;
    }
    for (container, attempt) in no_attempts {
        sqlx::query!(
            "DELETE FROM attempt WHERE uid = ? AND container = ? AND attempt = ?",
            uid,
            container,
            attempt
        )
        .execute(&mut *connection)
        .await
        .map_err(StoreError::database("remove an attempt"))?;
    }
    for row in failures {
        save_failure(connection, uid, row)
            .await
            .map_err(StoreError::database("save a failure"))?;
    }
    for (step, container) in no_failures {
        sqlx::query!(
            "DELETE FROM failure WHERE uid = ? AND step = ? AND container = ?",
            uid,
            step,
            container
        )
        .execute(&mut *connection)
        .await
        .map_err(StoreError::database("remove a failure"))?;
    }
    Ok(())
}

async fn save_pod(connection: &mut SqliteConnection, uid: &Uid, row: PodRow) -> Result<(), sqlx::Error> {
    let uid = uid.as_str();
    let PodRow {
        started_at,
        torn_down,
        given_up_at,
        given_up_reason,
        given_up_message,
    } = row;
    sqlx::query!(
        "INSERT INTO pod (uid, started_at, torn_down, given_up_at, given_up_reason, given_up_message)
         VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (uid) DO UPDATE SET started_at = excluded.started_at, torn_down = excluded.torn_down,
             given_up_at = excluded.given_up_at, given_up_reason = excluded.given_up_reason,
             given_up_message = excluded.given_up_message",
        uid,
        started_at,
        torn_down,
        given_up_at,
        given_up_reason,
        given_up_message,
    )
    .execute(connection)
    .await
    .map(|_done| ())
}

async fn save_sandbox(connection: &mut SqliteConnection, uid: &str, row: SandboxRow) -> Result<(), sqlx::Error> {
    let SandboxRow {
        attempt,
        state,
        ready_at,
        ended_at,
        cause,
        ip,
        created_at,
        boot_id,
    } = row;
    sqlx::query!(
        "INSERT OR REPLACE INTO sandbox (uid, attempt, state, ready_at, ended_at, cause, ip, created_at, boot_id)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        uid,
        attempt,
        state,
        ready_at,
        ended_at,
        cause,
        ip,
        created_at,
        boot_id,
    )
    .execute(connection)
    .await
    .map(|_done| ())
}

async fn save_attempt(connection: &mut SqliteConnection, uid: &str, row: AttemptRow) -> Result<(), sqlx::Error> {
    let AttemptRow {
        container,
        attempt,
        sandbox,
        image,
        image_id,
        state,
        started_at,
        exit_status,
        exit_number,
        oom_killed,
        finished_at,
        message,
        backoff_delay,
        backoff_set_at,
        stop_signalled_at,
        killed_at,
        life,
    } = row;
    sqlx::query!(
        "INSERT OR REPLACE INTO attempt (uid, container, attempt, sandbox, image, image_id, state, started_at,
             exit_status, exit_number, oom_killed, finished_at, message, backoff_delay, backoff_set_at,
             stop_signalled_at, killed_at, life)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        uid,
        container,
        attempt,
        sandbox,
        image,
        image_id,
        state,
        started_at,
        exit_status,
        exit_number,
        oom_killed,
        finished_at,
        message,
        backoff_delay,
        backoff_set_at,
        stop_signalled_at,
        killed_at,
        life,
    )
    .execute(connection)
    .await
    .map(|_done| ())
}

async fn save_failure(connection: &mut SqliteConnection, uid: &str, row: FailureRow) -> Result<(), sqlx::Error> {
    let FailureRow {
        step,
        container,
        reason,
        message,
        count,
        at,
    } = row;
    sqlx::query!(
        r#"INSERT OR REPLACE INTO failure (uid, step, container, reason, message, count, "at")
           VALUES (?, ?, ?, ?, ?, ?, ?)"#,
        uid,
        step,
        container,
        reason,
        message,
        count,
        at,
    )
    .execute(connection)
    .await
    .map(|_done| ())
}

/// Remove every row about the pod.
pub(super) async fn forget(connection: &mut SqliteConnection, uid: &Uid) -> Result<(), StoreError> {
    let uid = uid.as_str();
    // Sandbox, attempts and failures go with it.
    sqlx::query!("DELETE FROM pod WHERE uid = ?", uid)
        .execute(connection)
        .await
        .map(|_done| ())
        .map_err(StoreError::database("forget a pod"))
}
