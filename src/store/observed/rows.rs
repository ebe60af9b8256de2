//! Rows of what was observed, and the values of the model they stand for.

use std::net::IpAddr;

use super::super::row::{
    from_duration, from_optional_time, from_time, to_duration, to_i32, to_optional_time, to_required_time, to_time,
    to_u32,
};
use super::super::{RowError, StoreError};
use super::life;
use crate::model::{
    Attempt, AttemptState, Backoff, Exit, ExitStatus, FailedStep, Failure, FailureReason, GivenUp, GivenUpReason,
    ImageId, Observed, Sandbox, SandboxEnd, SandboxState,
};

pub(super) const POD: &str = "pod";
pub(super) const SANDBOX: &str = "sandbox";
pub(super) const ATTEMPT: &str = "attempt";
pub(super) const FAILURE: &str = "failure";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PodRow {
    pub(super) started_at: Option<i64>,
    pub(super) torn_down: i64,
    pub(super) given_up_at: Option<i64>,
    pub(super) given_up_reason: Option<String>,
    pub(super) given_up_message: Option<String>,
}

#[derive(Debug)]
pub(super) struct SandboxRow {
    pub(super) attempt: i64,
    pub(super) state: String,
    pub(super) ready_at: Option<i64>,
    pub(super) ended_at: Option<i64>,
    pub(super) cause: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) created_at: i64,
    pub(super) boot_id: String,
}

#[derive(Debug)]
pub(super) struct AttemptRow {
    pub(super) container: String,
    pub(super) attempt: i64,
    pub(super) sandbox: i64,
    pub(super) image: String,
    pub(super) image_id: Option<String>,
    pub(super) state: String,
    pub(super) started_at: Option<i64>,
    pub(super) exit_status: Option<String>,
    pub(super) exit_number: Option<i64>,
    pub(super) oom_killed: i64,
    pub(super) finished_at: Option<i64>,
    pub(super) message: Option<String>,
    pub(super) backoff_delay: i64,
    pub(super) backoff_set_at: Option<i64>,
    pub(super) stop_signalled_at: Option<i64>,
    pub(super) killed_at: Option<i64>,
    pub(super) life: Option<String>,
}

#[derive(Debug)]
pub(super) struct FailureRow {
    pub(super) step: String,
    pub(super) container: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) count: i64,
    pub(super) at: i64,
}

fn meaningless(column: &'static str, value: &str) -> RowError {
    RowError::Value {
        column,
        value: value.to_owned(),
    }
}

impl PodRow {
    /// What is stored of the pod itself.
    pub(super) fn new(observed: &Observed) -> Result<Self, StoreError> {
        let Observed {
            sandbox: _,
            attempts: _,
            failures: _,
            started_at,
            torn_down,
            given_up,
        } = observed;
        let mut row = Self {
            started_at: from_optional_time(POD, "started_at", *started_at)?,
            torn_down: (*torn_down).into(),
            given_up_at: None,
            given_up_reason: None,
            given_up_message: None,
        };
        if let Some(GivenUp { at, reason, message }) = given_up {
            row.given_up_at = Some(from_time(POD, "given_up_at", *at)?);
            row.given_up_reason = Some(reason.as_str().to_owned());
            row.given_up_message = Some(message.clone());
        }
        Ok(row)
    }

    /// A record of the pod without anything else of it.
    pub(super) fn observed(self) -> Result<Observed, RowError> {
        let Self {
            started_at,
            torn_down,
            given_up_at,
            given_up_reason,
            given_up_message,
        } = self;
        let given_up = given_up_at.map(|at| {
            let word = given_up_reason.ok_or(RowError::Missing {
                column: "given_up_reason",
            })?;
            let reason = given_up_reason_from(&word).ok_or_else(|| meaningless("given_up_reason", &word))?;
            let message = given_up_message.ok_or(RowError::Missing {
                column: "given_up_message",
            })?;
            Ok(GivenUp {
                at: to_time("given_up_at", at)?,
                reason,
                message,
            })
        });
        Ok(Observed {
            started_at: to_optional_time("started_at", started_at)?,
            torn_down: torn_down != 0,
            given_up: given_up.transpose()?,
            ..Observed::default()
        })
    }
}

impl SandboxRow {
    pub(super) fn new(sandbox: &Sandbox) -> Result<Self, StoreError> {
        let Sandbox {
            attempt,
            state,
            ip,
            created_at,
            boot_id,
        } = sandbox;
        let time = |column, time| from_time(SANDBOX, column, time);
        let (state, ready_at, ended_at, cause) = match state {
            SandboxState::Creating => ("Creating", None, None, None),
            SandboxState::Ready { ready_at } => ("Ready", Some(time("ready_at", *ready_at)?), None, None),
            SandboxState::Dead { at, end } => ("Dead", None, Some(time("ended_at", *at)?), Some(end_word(*end))),
            SandboxState::Stopped { at } => ("Stopped", None, Some(time("ended_at", *at)?), None),
        };
        Ok(Self {
            attempt: (*attempt).into(),
            state: state.to_owned(),
            ready_at,
            ended_at,
            cause: cause.map(str::to_owned),
            ip: ip.map(|ip| ip.to_string()),
            created_at: time("created_at", *created_at)?,
            boot_id: boot_id.clone(),
        })
    }
}

impl TryFrom<SandboxRow> for Sandbox {
    type Error = RowError;

    fn try_from(row: SandboxRow) -> Result<Self, RowError> {
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
        let state = match state.as_str() {
            "Creating" => SandboxState::Creating,
            "Ready" => SandboxState::Ready {
                ready_at: to_required_time("ready_at", ready_at)?,
            },
            "Dead" => {
                let word = cause.ok_or(RowError::Missing { column: "cause" })?;
                let end = end_from_word(&word).ok_or_else(|| meaningless("cause", &word))?;
                SandboxState::Dead {
                    at: to_required_time("ended_at", ended_at)?,
                    end,
                }
            }
            "Stopped" => SandboxState::Stopped {
                at: to_required_time("ended_at", ended_at)?,
            },
            other => return Err(meaningless("state", other)),
        };
        let ip = ip
            .map(|ip| ip.parse::<IpAddr>().map_err(|_source| meaningless("ip", &ip)))
            .transpose()?;
        Ok(Self {
            attempt: to_u32("attempt", attempt)?,
            state,
            ip,
            created_at: to_time("created_at", created_at)?,
            boot_id,
        })
    }
}

impl AttemptRow {
    pub(super) fn new(attempt: &Attempt) -> Result<Self, StoreError> {
        let Attempt {
            container,
            attempt,
            sandbox,
            image,
            image_id,
            state,
            backoff: Backoff { delay, set_at },
            stop_signalled_at,
            killed_at,
            life,
        } = attempt;
        let time = |column, time| from_time(ATTEMPT, column, time);
        let optional_time = |column, time| from_optional_time(ATTEMPT, column, time);
        let mut row = Self {
            container: container.clone(),
            attempt: (*attempt).into(),
            sandbox: (*sandbox).into(),
            image: image.clone(),
            image_id: image_id.as_ref().map(|ImageId(id)| id.clone()),
            state: String::new(),
            started_at: None,
            exit_status: None,
            exit_number: None,
            oom_killed: 0,
            finished_at: None,
            message: None,
            backoff_delay: from_duration(ATTEMPT, "backoff_delay", *delay)?,
            backoff_set_at: optional_time("backoff_set_at", *set_at)?,
            stop_signalled_at: optional_time("stop_signalled_at", *stop_signalled_at)?,
            killed_at: optional_time("killed_at", *killed_at)?,
            life: life::to_column(life)?,
        };
        let state = match state {
            AttemptState::Starting => "Starting",
            AttemptState::Running { started_at } => {
                row.started_at = Some(time("started_at", *started_at)?);
                "Running"
            }
            AttemptState::Exited(Exit {
                status,
                started_at,
                finished_at,
                message,
            }) => {
                let (word, number, oom_killed) = match status {
                    ExitStatus::Code(code) => ("Code", Some(*code), false),
                    ExitStatus::Signal(signal) => ("Signal", Some(*signal), false),
                    ExitStatus::OomCode(code) => ("Code", Some(*code), true),
                    ExitStatus::OomSignal(signal) => ("Signal", Some(*signal), true),
                    ExitStatus::StartError => ("StartError", None, false),
                    ExitStatus::Lost => ("Lost", None, false),
                };
                row.oom_killed = oom_killed.into();
                row.exit_status = Some(word.to_owned());
                row.exit_number = number.map(i64::from);
                row.started_at = optional_time("started_at", *started_at)?;
                row.finished_at = Some(time("finished_at", *finished_at)?);
                row.message = Some(message.clone());
                "Exited"
            }
        };
        state.clone_into(&mut row.state);
        Ok(row)
    }
}

impl TryFrom<AttemptRow> for Attempt {
    type Error = RowError;

    fn try_from(row: AttemptRow) -> Result<Self, RowError> {
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
        let state = match state.as_str() {
            "Starting" => AttemptState::Starting,
            "Running" => AttemptState::Running {
                started_at: to_required_time("started_at", started_at)?,
            },
            "Exited" => AttemptState::Exited(Exit {
                status: exit_status_from(exit_status, exit_number, oom_killed != 0)?,
                started_at: to_optional_time("started_at", started_at)?,
                finished_at: to_required_time("finished_at", finished_at)?,
                message: message.ok_or(RowError::Missing { column: "message" })?,
            }),
            other => return Err(meaningless("state", other)),
        };
        Ok(Self {
            container,
            attempt: to_u32("attempt", attempt)?,
            sandbox: to_u32("sandbox", sandbox)?,
            image,
            image_id: image_id.map(ImageId),
            state,
            backoff: Backoff {
                delay: to_duration("backoff_delay", backoff_delay)?,
                set_at: to_optional_time("backoff_set_at", backoff_set_at)?,
            },
            stop_signalled_at: to_optional_time("stop_signalled_at", stop_signalled_at)?,
            killed_at: to_optional_time("killed_at", killed_at)?,
            life: life::from_column(life)?,
        })
    }
}

fn exit_status_from(word: Option<String>, number: Option<i64>, oom_killed: bool) -> Result<ExitStatus, RowError> {
    let number = || {
        to_i32(
            "exit_number",
            number.ok_or(RowError::Missing { column: "exit_number" })?,
        )
    };
    match word.ok_or(RowError::Missing { column: "exit_status" })?.as_str() {
        "Code" if oom_killed => number().map(ExitStatus::OomCode),
        "Code" => number().map(ExitStatus::Code),
        "Signal" if oom_killed => number().map(ExitStatus::OomSignal),
        "Signal" => number().map(ExitStatus::Signal),
        "StartError" => Ok(ExitStatus::StartError),
        "Lost" => Ok(ExitStatus::Lost),
        other => Err(meaningless("exit_status", other)),
    }
}

impl FailureRow {
    pub(super) fn new(failure: &Failure) -> Result<Self, StoreError> {
        let Failure {
            step,
            reason,
            message,
            count,
            at,
        } = failure;
        let (step, container) = step_words(step);
        Ok(Self {
            step: step.to_owned(),
            container: container.to_owned(),
            reason: reason.as_str().to_owned(),
            message: message.clone(),
            count: (*count).into(),
            at: from_time(FAILURE, "at", *at)?,
        })
    }
}

impl TryFrom<FailureRow> for Failure {
    type Error = RowError;

    fn try_from(row: FailureRow) -> Result<Self, RowError> {
        let FailureRow {
            step,
            container,
            reason,
            message,
            count,
            at,
        } = row;
        let step = match step.as_str() {
            "Sandbox" => FailedStep::Sandbox,
            "Container" => FailedStep::Container(container),
            "Teardown" => FailedStep::Teardown,
            "Resize" => FailedStep::Resize,
            other => return Err(meaningless("step", other)),
        };
        Ok(Self {
            step,
            reason: reason_from_word(&reason).ok_or_else(|| meaningless("reason", &reason))?,
            message,
            count: to_u32("count", count)?,
            at: to_time("at", at)?,
        })
    }
}

/// `step` and `container` of a row.
pub(super) fn step_words(step: &FailedStep) -> (&'static str, &str) {
    match step {
        FailedStep::Sandbox => ("Sandbox", ""),
        FailedStep::Container(container) => ("Container", container),
        FailedStep::Teardown => ("Teardown", ""),
        FailedStep::Resize => ("Resize", ""),
    }
}

fn end_word(end: SandboxEnd) -> &'static str {
    match end {
        SandboxEnd::InfraExited => "InfraExited",
        SandboxEnd::ShimLost => "ShimLost",
        SandboxEnd::Rebooted => "Rebooted",
    }
}

fn given_up_reason_from(word: &str) -> Option<GivenUpReason> {
    GivenUpReason::ALL.into_iter().find(|reason| reason.as_str() == word)
}

fn end_from_word(word: &str) -> Option<SandboxEnd> {
    [SandboxEnd::InfraExited, SandboxEnd::ShimLost, SandboxEnd::Rebooted]
        .into_iter()
        .find(|end| end_word(*end) == word)
}

fn reason_from_word(word: &str) -> Option<FailureReason> {
    [
        FailureReason::CreatePodSandboxError,
        FailureReason::FailedMount,
        FailureReason::ErrImagePull,
        FailureReason::ErrImageNeverPull,
        FailureReason::InvalidImageName,
        FailureReason::RegistryUnavailable,
        FailureReason::CreateContainerConfigError,
        FailureReason::CreateContainerError,
        FailureReason::RunContainerError,
        FailureReason::KillPodSandboxError,
        FailureReason::Deferred,
    ]
    .into_iter()
    .find(|reason| reason.as_str() == word)
}
