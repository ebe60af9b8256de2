//! The life of an attempt as JSON in one column: what is there of it is seldom more than a few words.
//!
//! **Invariant:** what an older podd wrote is read for ever: fields are only ever added, and each may be missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::row::{from_duration, from_time, to_duration, to_time};
use super::super::{RowError, StoreError};
use super::rows::ATTEMPT;
use crate::model::{AttemptLife, HookRecord, ProbeRecord, Resources, Stop, StopReason, User};

const COLUMN: &str = "life";

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct LifeRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    repo_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<ResourcesRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserRow>,
    #[serde(skip_serializing_if = "ProbeRow::is_default")]
    startup: ProbeRow,
    #[serde(skip_serializing_if = "ProbeRow::is_default")]
    liveness: ProbeRow,
    #[serde(skip_serializing_if = "ProbeRow::is_default")]
    readiness: ProbeRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    post_start: Option<HookRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pre_stop: Option<HookRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<StopRow>,
}

#[derive(Serialize, Deserialize)]
struct UserRow {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// cpu in thousandths of a core, memory in bytes.
#[derive(Serialize, Deserialize)]
struct ResourcesRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_request: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_request: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_request: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_limit: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    hugepages: BTreeMap<u64, u64>,
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct ProbeRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<bool>,
    count: u32,
}

impl ProbeRow {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Times in nanoseconds.
#[derive(Serialize, Deserialize)]
enum HookRow {
    Begun { at: i64 },
    Done { at: i64 },
    Failed { at: i64, message: String },
}

/// Nanoseconds.
#[derive(Serialize, Deserialize)]
struct StopRow {
    why: StopReasonRow,
    asked_at: i64,
    grace: i64,
}

#[derive(Serialize, Deserialize)]
enum StopReasonRow {
    LivenessFailed,
    StartupFailed,
    PostStartFailed,
    SpecChanged,
    Resized,
    PodEnds,
    AllRestart,
}

/// The column's text; `None` when nothing happened yet.
pub(super) fn to_column(life: &AttemptLife) -> Result<Option<String>, StoreError> {
    if *life == AttemptLife::default() {
        return Ok(None);
    }
    let AttemptLife {
        repo_digest,
        resources,
        user,
        startup,
        liveness,
        readiness,
        post_start,
        pre_stop,
        stop,
    } = life;
    let row = LifeRow {
        repo_digest: repo_digest.clone(),
        resources: resources.as_ref().map(resources_row),
        user: user.as_ref().map(user_row),
        startup: probe_row(startup),
        liveness: probe_row(liveness),
        readiness: probe_row(readiness),
        post_start: hook_row(post_start)?,
        pre_stop: hook_row(pre_stop)?,
        stop: stop.as_ref().map(stop_row).transpose()?,
    };
    let text = serde_json::to_string(&row).map_err(|error| StoreError::DoesNotFit {
        table: ATTEMPT,
        column: COLUMN,
        value: error.to_string(),
    })?;
    Ok(Some(text))
}

pub(super) fn from_column(text: Option<String>) -> Result<AttemptLife, RowError> {
    let Some(text) = text else {
        return Ok(AttemptLife::default());
    };
    let row = serde_json::from_str(&text).map_err(|source| RowError::Json { column: COLUMN, source })?;
    let LifeRow {
        repo_digest,
        resources,
        user,
        startup,
        liveness,
        readiness,
        post_start,
        pre_stop,
        stop,
    } = row;
    Ok(AttemptLife {
        repo_digest,
        resources: resources.as_ref().map(resources_of),
        user: user.map(user_of),
        startup: probe_of(&startup),
        liveness: probe_of(&liveness),
        readiness: probe_of(&readiness),
        post_start: hook_of(post_start)?,
        pre_stop: hook_of(pre_stop)?,
        stop: stop.map(|row| stop_of(&row)).transpose()?,
    })
}

fn user_row(user: &User) -> UserRow {
    let User { uid, gid, groups, home } = user.clone();
    UserRow { uid, gid, groups, home }
}

fn user_of(row: UserRow) -> User {
    let UserRow { uid, gid, groups, home } = row;
    User { uid, gid, groups, home }
}

fn resources_row(resources: &Resources) -> ResourcesRow {
    let Resources {
        cpu_request_milli,
        cpu_limit_milli,
        memory_request,
        memory_limit,
        storage_request,
        storage_limit,
        hugepages,
    } = resources;
    ResourcesRow {
        cpu_request: *cpu_request_milli,
        cpu_limit: *cpu_limit_milli,
        memory_request: *memory_request,
        memory_limit: *memory_limit,
        storage_request: *storage_request,
        storage_limit: *storage_limit,
        hugepages: hugepages.clone(),
    }
}

fn resources_of(row: &ResourcesRow) -> Resources {
    let ResourcesRow {
        cpu_request,
        cpu_limit,
        memory_request,
        memory_limit,
        storage_request,
        storage_limit,
        hugepages,
    } = row;
    Resources {
        cpu_request_milli: *cpu_request,
        cpu_limit_milli: *cpu_limit,
        memory_request: *memory_request,
        memory_limit: *memory_limit,
        storage_request: *storage_request,
        storage_limit: *storage_limit,
        hugepages: hugepages.clone(),
    }
}

fn probe_row(record: &ProbeRecord) -> ProbeRow {
    let ProbeRecord { result, last, count } = *record;
    ProbeRow { result, last, count }
}

fn probe_of(row: &ProbeRow) -> ProbeRecord {
    let ProbeRow { result, last, count } = *row;
    ProbeRecord { result, last, count }
}

fn hook_row(record: &HookRecord) -> Result<Option<HookRow>, StoreError> {
    let time = |at| from_time(ATTEMPT, COLUMN, at);
    Ok(match record {
        HookRecord::NotRun => None,
        HookRecord::Begun { at } => Some(HookRow::Begun { at: time(*at)? }),
        HookRecord::Done { at } => Some(HookRow::Done { at: time(*at)? }),
        HookRecord::Failed { at, message } => Some(HookRow::Failed {
            at: time(*at)?,
            message: message.clone(),
        }),
    })
}

fn hook_of(row: Option<HookRow>) -> Result<HookRecord, RowError> {
    let time = |at| to_time(COLUMN, at);
    Ok(match row {
        None => HookRecord::NotRun,
        Some(HookRow::Begun { at }) => HookRecord::Begun { at: time(at)? },
        Some(HookRow::Done { at }) => HookRecord::Done { at: time(at)? },
        Some(HookRow::Failed { at, message }) => HookRecord::Failed { at: time(at)?, message },
    })
}

fn stop_row(stop: &Stop) -> Result<StopRow, StoreError> {
    let Stop { why, asked_at, grace } = stop;
    let why = match why {
        StopReason::LivenessFailed => StopReasonRow::LivenessFailed,
        StopReason::StartupFailed => StopReasonRow::StartupFailed,
        StopReason::PostStartFailed => StopReasonRow::PostStartFailed,
        StopReason::SpecChanged => StopReasonRow::SpecChanged,
        StopReason::Resized => StopReasonRow::Resized,
        StopReason::PodEnds => StopReasonRow::PodEnds,
        StopReason::AllRestart => StopReasonRow::AllRestart,
    };
    Ok(StopRow {
        why,
        asked_at: from_time(ATTEMPT, COLUMN, *asked_at)?,
        grace: from_duration(ATTEMPT, COLUMN, *grace)?,
    })
}

fn stop_of(row: &StopRow) -> Result<Stop, RowError> {
    let StopRow { why, asked_at, grace } = row;
    let why = match why {
        StopReasonRow::LivenessFailed => StopReason::LivenessFailed,
        StopReasonRow::StartupFailed => StopReason::StartupFailed,
        StopReasonRow::PostStartFailed => StopReason::PostStartFailed,
        StopReasonRow::SpecChanged => StopReason::SpecChanged,
        StopReasonRow::Resized => StopReason::Resized,
        StopReasonRow::PodEnds => StopReason::PodEnds,
        StopReasonRow::AllRestart => StopReason::AllRestart,
    };
    Ok(Stop {
        why,
        asked_at: to_time(COLUMN, *asked_at)?,
        grace: to_duration(COLUMN, *grace)?,
    })
}
