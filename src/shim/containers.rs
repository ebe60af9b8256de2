//! The containers of this sandbox: started, signalled, ended.
//!
//! Goes in: requests, words on start channels, ends of children. Comes out: facts to be written down and answers to be
//! given; the supervisor does both, in that order.

mod by_command;
mod native;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use sha2::{Digest, Sha256};

use super::oci::{CommandError, Commands, Creating, Place};
use super::output::Outputs;
use super::protocol::{Ahead, Fact, Reply, SandboxConfig, StartContainer, WaitStatus};
use super::stand_in::StandIns;
use super::supervisor::{SIGKILL, Waiter, words};
use crate::linux::container::{self, Machine, PrepareError, Progress, Starting};
use crate::linux::path::PathError;
use crate::linux::poll::Poller;
use crate::linux::seccomp::{self, Program, SeccompError};
use crate::linux::{fd, process};

/// All containers that this shim has started.
#[derive(Debug, Default)]
pub(super) struct Containers {
    /// By the pid of their first process, which nobody has waited for yet; before there is one, by that of the command
    /// that makes it.
    live: BTreeMap<i32, Live>,
    /// Every attempt there ever was, whatever became of it.
    known: BTreeMap<String, BTreeSet<u32>>,
    /// Compiled filters by the hash of their profile.
    filters: BTreeMap<[u8; 32], Program>,
    stand_ins: StandIns,
    /// Of the runtimes that make containers for us.
    commands: Commands,
    /// Containers that ended before the command that started them did: how that goes says what their end was.
    early: BTreeMap<i32, (Live, WaitStatus)>,
}

#[derive(Debug)]
struct Live {
    container: String,
    attempt: u32,
    stage: Stage,
    pidfd: OwnedFd,
    start_time: u64,
    shares_pid_namespace: bool,
    cgroup: String,
    /// The spec it was started from.
    config: PathBuf,
    output: u64,
    /// Written down already.
    signals: BTreeSet<i32>,
    /// What its successor will most likely be.
    ahead: Option<Box<Ahead>>,
    /// Its mount namespace, once it runs: while this is open, its mounts are not taken down by its end.
    mounts: Option<OwnedFd>,
    /// `None`: by ourselves.
    made_by: Option<Place>,
}

#[derive(Debug)]
enum Stage {
    /// A runtime is making it.
    Creating {
        creating: Box<Creating>,
        waiters: Vec<Waiter>,
    },
    /// Its first process waits; the runtime is letting it become the program.
    Beginning {
        waiters: Vec<Waiter>,
    },
    /// On its way to exec; these wait for it.
    Starting {
        starting: Box<Starting>,
        waiters: Vec<Waiter>,
    },
    /// It could not be executed and is about to end.
    Failing {
        message: String,
        waiters: Vec<Waiter>,
    },
    Running,
}

/// What is known of an attempt that shall be started.
#[derive(Debug)]
pub(super) enum Known {
    /// Start it.
    No,
    /// It is on its way: the answer comes later.
    Later,
    Answer(Reply),
}

/// A start that came to nothing before there was a process.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    /// What is to be removed.
    pub(super) cgroup: Option<String>,
}

/// What a session needs to know of a container that runs.
#[derive(Debug)]
pub(super) struct Running<'a> {
    /// Of its first process.
    pub(super) pidfd: BorrowedFd<'a>,
    pub(super) config: &'a Path,
    pub(super) cgroup: &'a str,
    pub(super) output: u64,
    /// The handler that made it, if it cannot be joined from outside.
    pub(super) opaque: Option<&'a str>,
}

/// A process of a container could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no OCI runtime spec", path.display())]
    Spec {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the spec has no linux.cgroupsPath")]
    NoCgroup,
    #[error("control group")]
    Cgroup(#[from] crate::linux::cgroup::CgroupError),
    #[error("seccomp")]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("{}", container::clone_error_words(.0))]
    Clone(io::Error),
    #[error("cannot watch the process")]
    Watch(#[source] io::Error),
    #[error("standard streams")]
    Streams(#[source] io::Error),
    #[error("the container has ended")]
    Ended,
    #[error("what was prepared in vain still ends in control group {cgroup}")]
    Occupied { cgroup: String },
    #[error("cannot make {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: PathError,
    },
    #[error("the target container {container} does not run")]
    NoTarget { container: String },
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The spec in this file.
pub(super) fn read_spec(path: &Path) -> Result<Spec, StartError> {
    parse(&read(path)?, path)
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(bytes: &[u8], path: &Path) -> Result<Spec, StartError> {
    serde_json::from_slice(bytes).map_err(|source| StartError::Spec {
        path: path.to_owned(),
        source,
    })
}

/// A container runs now.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) fact: Fact,
    pub(super) waiters: Vec<Waiter>,
}

/// What came of a runtime's command.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing to tell.
    Nothing,
    Started(Started),
    Ended(Box<Ended>),
}

/// A container has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// To be written down before: it has started.
    pub(super) started: Option<Fact>,
    pub(super) fact: Fact,
    pub(super) lost: Option<Fact>,
    pub(super) cgroup: String,
    /// Sessions that were attached to it.
    pub(super) attached: Vec<u64>,
    pub(super) status: WaitStatus,
    pub(super) answer: Vec<(Waiter, Reply)>,
    /// What its successor will most likely be.
    pub(super) ahead: Option<Box<Ahead>>,
    /// To be closed when nobody waits for anything: taking down what a container had mounted takes its time.
    pub(super) mounts: Option<OwnedFd>,
}

impl Containers {
    /// Whether a start needs a new process; if not, what is answered.
    pub(super) fn known(&mut self, container: &str, attempt: u32, waiter: Waiter) -> Known {
        let known = self.known.get(container);
        let was_started = known.is_some_and(|known| known.contains(&attempt));
        let newest = known.and_then(|known| known.last().copied());
        match self.live.values_mut().find(|live| live.container == container) {
            Some(live) if live.attempt == attempt => match &mut live.stage {
                Stage::Creating { waiters, .. }
                | Stage::Beginning { waiters }
                | Stage::Starting { waiters, .. }
                | Stage::Failing { waiters, .. } => {
                    waiters.push(waiter);
                    Known::Later
                }
                Stage::Running => Known::Answer(Reply::Done),
            },
            Some(_) | None if was_started => Known::Answer(Reply::Done),
            Some(live) => {
                let message = format!("attempt {} of container {container} still lives", live.attempt);
                Known::Answer(Reply::Refused(message))
            }
            None => match newest.filter(|newest| *newest > attempt) {
                Some(newest) => {
                    let message = format!("attempt {newest} of container {container} was started already");
                    Known::Answer(Reply::Refused(message))
                }
                None => Known::No,
            },
        }
    }

    pub(super) fn is_known(&self, container: &str, attempt: u32) -> bool {
        self.known.get(container).is_some_and(|known| known.contains(&attempt))
    }

    pub(super) fn remember(&mut self, container: &str, attempt: u32) {
        self.known.entry(container.to_owned()).or_default().insert(attempt);
    }

    pub(super) fn any_starting(&self) -> bool {
        self.live
            .values()
            .any(|live| matches!(live.stage, Stage::Starting { .. } | Stage::Creating { .. }))
    }

    pub(super) fn none_live(&self) -> bool {
        self.live.is_empty() && self.early.is_empty() && self.commands.none_running() && self.stand_ins.none_left()
    }

    /// Make the process, or let the one in that waits for this very start. What becomes of it is heard on its channel.
    /// `unused`: cgroups that are to be removed.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the supervisor that a start touches"
    )]
    pub(super) fn start(
        &mut self,
        start: StartContainer,
        waiter: Waiter,
        machine: &Machine,
        poller: &Poller,
        config: &SandboxConfig,
        outputs: &mut Outputs,
        unused: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let mut cgroup = None;
        let started = match &config.runtime {
            Some(runtime) => self.begin_create(start, waiter, runtime, machine, poller, config, outputs, &mut cgroup),
            None => self
                .made(&start, machine, unused, &mut cgroup)
                .and_then(|made| self.go(start, made, waiter, poller, config, outputs)),
        };
        started.map_err(|error| Failure {
            message: words(&error),
            cgroup,
        })
    }

    /// The container of this name, if it runs.
    pub(super) fn running(&self, container: &str) -> Option<Running<'_>> {
        let is_running = |live: &&Live| live.container == container && matches!(live.stage, Stage::Running);
        let live = self.live.values().find(is_running)?;
        Some(Running {
            pidfd: live.pidfd.as_fd(),
            config: &live.config,
            cgroup: &live.cgroup,
            output: live.output,
            opaque: live
                .made_by
                .as_ref()
                .filter(|place| !place.is_plain())
                .map(Place::handler),
        })
    }

    /// The compiled seccomp filter of a spec, if it has one.
    pub(super) fn filter_of(&mut self, spec: &Spec) -> Result<Option<Program>, SeccompError> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        profile.map(|profile| self.filter(profile)).transpose()
    }

    fn filter(&mut self, profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(profile).expect("a profile that was read can be written"));
        let hash = hash.finalize().into();
        if let Some(program) = self.filters.get(&hash) {
            return Ok(program.clone());
        }
        let program = seccomp::compile(profile)?;
        self.filters.insert(hash, program.clone());
        Ok(program)
    }

    /// Hear what a container on its way to exec has said.
    pub(super) fn progress(&mut self, pid: i32, poller: &Poller, outputs: &mut Outputs) -> Option<Started> {
        let live = self.live.get_mut(&pid)?;
        let Stage::Starting { starting, waiters } = &mut live.stage else {
            return None;
        };
        loop {
            match starting.progress() {
                Progress::Wait => return None,
                Progress::Terminal(master) => {
                    // A terminal that cannot be read ends its program by SIGHUP, which is the truth about it.
                    let _watched = fd::set_nonblocking(master.as_fd())
                        .and_then(|()| outputs.attach_terminal(live.output, master, poller));
                }
                Progress::Running => {
                    let _removed = poller.remove(&starting.channel());
                    let waiters = std::mem::take(waiters);
                    live.stage = Stage::Running;
                    // Without it, the end only takes a little longer.
                    live.mounts = process::mount_namespace(pid).ok();
                    let fact = Fact::Started {
                        container: live.container.clone(),
                        attempt: live.attempt,
                        pid,
                        start_time: live.start_time,
                    };
                    return Some(Started { fact, waiters });
                }
                Progress::Failed(message) => {
                    let _removed = poller.remove(&starting.channel());
                    // It ends by itself; a nonsensical one is helped.
                    let _sent = process::signal(live.pidfd.as_fd(), SIGKILL);
                    live.stage = Stage::Failing {
                        message,
                        waiters: std::mem::take(waiters),
                    };
                    return None;
                }
                Progress::Died => {
                    let _removed = poller.remove(&starting.channel());
                    live.stage = Stage::Failing {
                        message: String::new(),
                        waiters: std::mem::take(waiters),
                    };
                    return None;
                }
            }
        }
    }

    /// `true` the first time this signal is sent to this attempt.
    pub(super) fn first_signal(&mut self, container: &str, attempt: u32, signal: i32) -> bool {
        self.find(container, attempt)
            .is_some_and(|live| live.signals.insert(signal))
    }

    fn find(&mut self, container: &str, attempt: u32) -> Option<&mut Live> {
        self.live
            .values_mut()
            .find(|live| live.container == container && live.attempt == attempt)
    }

    /// Send a signal to the first process; with `all`, SIGKILL to everything in the container. Ended: nothing happens.
    pub(super) fn signal(
        &mut self,
        container: &str,
        attempt: u32,
        signal: i32,
        all: bool,
        machine: &Machine,
    ) -> Result<(), String> {
        let mut live = self.live.values();
        let Some(live) = live.find(|live| live.container == container && live.attempt == attempt) else {
            return Ok(());
        };
        if let Some(place) = &live.made_by
            && !place.is_plain()
            && signal != SIGKILL
        {
            let sent = self.commands.signal(place, signal, machine);
            return sent.map_err(|error| words(&error));
        }
        process::signal(live.pidfd.as_fd(), signal).map_err(|error| format!("signal {signal}: {error}"))?;
        if all && live.shares_pid_namespace {
            machine.cgroups.kill(&live.cgroup).map_err(|error| words(&error))?;
        }
        Ok(())
    }

    pub(super) fn kill_all(&self, machine: &Machine) {
        self.commands.kill_starts();
        for live in self.live.values() {
            // Children that nobody has waited for can always be signalled; what is left in a cgroup is killed again
            // before it is removed.
            let _sent = process::signal(live.pidfd.as_fd(), SIGKILL);
            if live.shares_pid_namespace {
                let _killed = machine.cgroups.kill(&live.cgroup);
            }
        }
    }

    /// The first process of a container has ended. `None`: it was not one of ours.
    pub(super) fn ended(
        &mut self,
        pid: i32,
        status: WaitStatus,
        machine: &Machine,
        poller: &Poller,
        outputs: &mut Outputs,
    ) -> Option<Ended> {
        let live = self.live.remove(&pid)?;
        if matches!(live.stage, Stage::Beginning { .. }) {
            self.early.insert(pid, (live, status));
            return None;
        }
        Some(self.conclude(live, status, machine, poller, outputs))
    }

    fn conclude(
        &mut self,
        live: Live,
        status: WaitStatus,
        machine: &Machine,
        poller: &Poller,
        outputs: &mut Outputs,
    ) -> Ended {
        if live.shares_pid_namespace {
            // Nothing else ends what it left behind in the pod's pid namespace.
            let _killed = machine.cgroups.kill(&live.cgroup);
        }
        let attached = outputs.attached(live.output);
        let lost = outputs.drain(live.output, process::realtime(), poller);
        let oom_killed = machine.cgroups.oom_kills(&live.cgroup).is_ok_and(|kills| kills > 0);
        let Live {
            container,
            attempt,
            cgroup,
            stage,
            ahead,
            mounts,
            made_by,
            ..
        } = live;
        if let Some(place) = made_by {
            self.commands.delete(&place, machine);
        }
        let ahead = ahead.filter(|ahead| ahead.after_success || status != WaitStatus::Code(0));
        let (fact, answer) = match stage {
            Stage::Running => (
                Fact::Exited {
                    container,
                    attempt,
                    status,
                    oom_killed,
                },
                Vec::new(),
            ),
            Stage::Starting { waiters, .. }
            | Stage::Creating { waiters, .. }
            | Stage::Beginning { waiters }
            | Stage::Failing { waiters, message: _ }
                if oom_killed =>
            {
                let message = "out of memory while the container was set up".to_owned();
                (
                    Fact::StartFailed {
                        container,
                        attempt,
                        message: message.clone(),
                    },
                    failed(waiters, &message),
                )
            }
            Stage::Failing { message, waiters } if !message.is_empty() => (
                Fact::StartFailed {
                    container,
                    attempt,
                    message: message.clone(),
                },
                failed(waiters, &message),
            ),
            Stage::Starting { waiters, .. }
            | Stage::Creating { waiters, .. }
            | Stage::Beginning { waiters }
            | Stage::Failing { waiters, message: _ } => {
                let message = match status {
                    WaitStatus::Code(code) => format!("ended with code {code} while the container was set up"),
                    WaitStatus::Signal(signal) => format!("killed by signal {signal} while the container was set up"),
                };
                (
                    Fact::StartFailed {
                        container,
                        attempt,
                        message: message.clone(),
                    },
                    failed(waiters, &message),
                )
            }
        };
        Ended {
            started: None,
            fact,
            lost,
            cgroup,
            attached,
            status,
            answer,
            ahead,
            mounts,
        }
    }
}

impl Live {
    /// Whoever waits for it to run.
    fn take_waiters(&mut self) -> Vec<Waiter> {
        match &mut self.stage {
            Stage::Creating { waiters, .. }
            | Stage::Beginning { waiters }
            | Stage::Starting { waiters, .. }
            | Stage::Failing { waiters, .. } => std::mem::take(waiters),
            Stage::Running => Vec::new(),
        }
    }
}

fn failed(waiters: Vec<Waiter>, message: &str) -> Vec<(Waiter, Reply)> {
    waiters
        .into_iter()
        .map(|waiter| (waiter, Reply::Failed(message.to_owned())))
        .collect()
}
