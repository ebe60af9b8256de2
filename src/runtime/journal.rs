//! A shim's journal, folded into what is true now.
//!
//! Goes in: the bytes of one journal and whether its shim lives. Comes out: a [`SandboxSnapshot`].
//!
//! **Invariant:** the fold is pure, and nothing in it guesses: a fact that was not written did not happen.

use crate::model::{ContainerPhase, ContainerSnapshot, ExitStatus, InfraSnapshot, SandboxSnapshot, Timestamp};
use crate::shim::protocol::{Entry, Fact, WaitStatus};

/// A line that is not an [`Entry`].
#[derive(Debug, thiserror::Error)]
#[error("line {line} is not a journal entry")]
pub struct JournalError {
    pub line: usize,
    #[source]
    pub source: serde_json::Error,
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Journal {
    /// The boot it was written in; `None` when the shim never came to write its first line.
    pub boot_id: Option<String>,
    /// Why infra could not be made, if so.
    pub infra_failure: Option<String>,
    /// With infra's pid and the boot, its name.
    pub infra_start_time: Option<u64>,
    pub sandbox: SandboxSnapshot,
}

/// Fold a journal. A last line without its newline is a write that was cut short: it is not believed.
pub(super) fn fold(bytes: &[u8], attempt: u32, shim_alive: bool) -> Result<Journal, JournalError> {
    let mut journal = Journal {
        boot_id: None,
        infra_failure: None,
        infra_start_time: None,
        sandbox: SandboxSnapshot {
            attempt,
            shim_alive,
            infra: InfraSnapshot::Absent,
            containers: Vec::new(),
        },
    };
    let complete = bytes
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(&bytes[..0], |end| &bytes[..end]);
    for (index, line) in complete.split(|&b| b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let entry: Entry = serde_json::from_slice(line).map_err(|source| JournalError {
            line: index + 1,
            source,
        })?;
        journal.apply(entry);
    }
    Ok(journal)
}

impl Journal {
    fn apply(&mut self, entry: Entry) {
        let at = timestamp(entry.at);
        match entry.fact {
            Fact::Shim {
                protocol: _,
                pid: _,
                boot_id,
            } => self.boot_id = Some(boot_id),
            Fact::InfraStarted { pid, start_time } => {
                self.infra_start_time = Some(start_time);
                self.sandbox.infra = InfraSnapshot::Running { pid, since: at };
            }
            Fact::InfraFailed { message } => {
                self.infra_failure = Some(message);
                self.sandbox.infra = InfraSnapshot::Exited { at };
            }
            Fact::InfraExited { status: _ } => self.sandbox.infra = InfraSnapshot::Exited { at },
            Fact::Starting { container, attempt } => {
                if self.find(&container, attempt).is_none() {
                    self.sandbox.containers.push(ContainerSnapshot {
                        container,
                        attempt,
                        phase: ContainerPhase::Starting,
                        stop_signalled_at: None,
                        killed_at: None,
                    });
                }
            }
            Fact::Started {
                container,
                attempt,
                pid,
                start_time: _,
            } => {
                if let Some(found) = self.find(&container, attempt) {
                    found.phase = ContainerPhase::Running { pid, started_at: at };
                }
            }
            Fact::StartFailed {
                container,
                attempt,
                message,
            } => {
                if let Some(found) = self.find(&container, attempt) {
                    found.phase = ContainerPhase::StartFailed { message, at };
                }
            }
            Fact::Signalled {
                container,
                attempt,
                signal,
            } => {
                if let Some(found) = self.find(&container, attempt) {
                    if signal == crate::linux::host::SIGKILL {
                        found.killed_at.get_or_insert(at);
                    } else {
                        found.stop_signalled_at.get_or_insert(at);
                    }
                }
            }
            Fact::Exited {
                container,
                attempt,
                status,
                oom_killed,
            } => {
                if let Some(found) = self.find(&container, attempt) {
                    let started_at = match &found.phase {
                        ContainerPhase::Running { pid: _, started_at } => *started_at,
                        ContainerPhase::Starting
                        | ContainerPhase::StartFailed { .. }
                        | ContainerPhase::Exited { .. } => at,
                    };
                    let status = match (status, oom_killed) {
                        (WaitStatus::Code(code), false) => ExitStatus::Code(code),
                        (WaitStatus::Signal(signal), false) => ExitStatus::Signal(signal),
                        (WaitStatus::Code(code), true) => ExitStatus::OomCode(code),
                        (WaitStatus::Signal(signal), true) => ExitStatus::OomSignal(signal),
                    };
                    found.phase = ContainerPhase::Exited {
                        status,
                        started_at,
                        finished_at: at,
                    };
                }
            }
            // Lost output is told in the log itself; it decides nothing.
            Fact::LogLost {
                container: _,
                attempt: _,
                bytes: _,
            } => {}
        }
    }

    fn find(&mut self, container: &str, attempt: u32) -> Option<&mut ContainerSnapshot> {
        self.sandbox
            .containers
            .iter_mut()
            .find(|c| c.container == container && c.attempt == attempt)
    }
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).expect("an i64 of nanoseconds lies between 1677 and 2262")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64, fact: Fact) -> String {
        format!("{}\n", serde_json::to_string(&Entry { at, fact }).unwrap())
    }

    fn started() -> String {
        [
            line(
                1,
                Fact::Shim {
                    protocol: 1,
                    pid: 10,
                    boot_id: "boot".to_owned(),
                },
            ),
            line(2, Fact::InfraStarted { pid: 11, start_time: 5 }),
            line(
                3,
                Fact::Starting {
                    container: "a".to_owned(),
                    attempt: 0,
                },
            ),
            line(
                4,
                Fact::Started {
                    container: "a".to_owned(),
                    attempt: 0,
                    pid: 12,
                    start_time: 6,
                },
            ),
        ]
        .concat()
    }

    #[test]
    fn a_life_is_told_from_start_to_end() {
        let mut text = started();
        text += &line(
            5,
            Fact::Signalled {
                container: "a".to_owned(),
                attempt: 0,
                signal: 15,
            },
        );
        text += &line(
            6,
            Fact::Exited {
                container: "a".to_owned(),
                attempt: 0,
                status: WaitStatus::Code(3),
                oom_killed: false,
            },
        );
        let journal = fold(text.as_bytes(), 7, true).unwrap();
        assert_eq!(journal.boot_id.as_deref(), Some("boot"));
        assert_eq!(journal.sandbox.attempt, 7);
        assert_eq!(
            journal.sandbox.infra,
            InfraSnapshot::Running {
                pid: 11,
                since: timestamp(2)
            }
        );
        assert_eq!(
            journal.sandbox.containers,
            [ContainerSnapshot {
                container: "a".to_owned(),
                attempt: 0,
                phase: ContainerPhase::Exited {
                    status: ExitStatus::Code(3),
                    started_at: timestamp(4),
                    finished_at: timestamp(6)
                },
                stop_signalled_at: Some(timestamp(5)),
                killed_at: None,
            }]
        );
    }

    #[test]
    fn a_line_cut_short_is_not_believed() {
        let mut text = started();
        text += line(
            9,
            Fact::Exited {
                container: "a".to_owned(),
                attempt: 0,
                status: WaitStatus::Code(0),
                oom_killed: false,
            },
        )
        .trim_end();
        let journal = fold(text.as_bytes(), 0, false).unwrap();
        assert!(matches!(
            journal.sandbox.containers[0].phase,
            ContainerPhase::Running { pid: 12, .. }
        ));
    }

    #[test]
    fn an_oom_kill_is_told_beside_how_the_first_process_ended() {
        for (end, expected) in [
            (WaitStatus::Signal(9), ExitStatus::OomSignal(9)),
            (WaitStatus::Code(0), ExitStatus::OomCode(0)),
            (WaitStatus::Code(3), ExitStatus::OomCode(3)),
        ] {
            let text = started()
                + &line(
                    6,
                    Fact::Exited {
                        container: "a".to_owned(),
                        attempt: 0,
                        status: end,
                        oom_killed: true,
                    },
                );
            let journal = fold(text.as_bytes(), 0, true).unwrap();
            let ContainerPhase::Exited { status, .. } = journal.sandbox.containers[0].phase else {
                panic!("{:?}", journal.sandbox.containers)
            };
            assert_eq!(status, expected);
        }
    }

    #[test]
    fn garbage_names_its_line() {
        let text = started() + "{\"at\":\n";
        let error = fold(text.as_bytes(), 0, true).unwrap_err();
        assert_eq!(error.line, 5);
    }
}
