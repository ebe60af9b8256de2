//! The programs that joined containers of this sandbox: made, killed, ended. One for each session.
//!
//! Goes in: requests, words on channels, ends of children, ends of sessions. Comes out: answers to be given, and cgroups
//! in which everything is to be killed.
//!
//! What a program starts is in a cgroup of the program's own, beneath the container's, whatever it does to its session,
//! its process group or its parents: so that all of it can be killed when whoever asked for it is gone. A walk over
//! processes could miss one that is being forked.
//!
//! A program that ends by itself may leave others behind in the container, as with every other container runtime: they
//! live on until the container ends.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;

use super::containers::{Containers, StartError, read_spec};
use super::protocol::{Exec, ExecStreams, Reply, WaitStatus};
use super::supervisor::{Waiter, session_token, words};
use crate::linux::container::Machine;
use crate::linux::container::join::{JoinParts, JoinProgress, JoinStreams, Joining, join};
use crate::linux::poll::{Interest, Poller};
use crate::linux::{fd, process};

/// So that no flood of requests uses up our descriptors.
const MAX_LIVE: usize = 512;
/// Cgroups of programs that left others behind are looked at again this many at a time.
const SWEEP: usize = 4;

/// All programs that joined and have not ended.
#[derive(Debug, Default)]
pub(super) struct Execs {
    /// By the connection of their session.
    live: BTreeMap<u64, Live>,
    /// Children that nobody has waited for yet, by pid: whose they are.
    pids: BTreeMap<i32, u64>,
    made: u64,
    /// Cgroups in which something may live that an ended program left behind.
    left: VecDeque<String>,
}

#[derive(Debug)]
struct Live {
    waiter: Waiter,
    /// `None`: it runs.
    joining: Option<Box<Joining>>,
    /// Both until they were waited for.
    guest: Option<i32>,
    program: Option<i32>,
    cgroup: String,
}

/// What is to be done about a session.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) reply: Option<(Waiter, Reply)>,
    pub(super) ended: Option<(u64, WaitStatus)>,
    /// Everything in it is to be killed, and it is to be removed.
    pub(super) remove: Option<String>,
}

impl Execs {
    pub(super) fn none_live(&self) -> bool {
        self.live.is_empty()
    }

    pub(super) fn any_joining(&self) -> bool {
        self.live.values().any(|live| live.joining.is_some())
    }

    /// Make the process. What becomes of it is heard on its channel.
    pub(super) fn start(
        &mut self,
        waiter: Waiter,
        exec: Exec,
        descriptors: Vec<OwnedFd>,
        containers: &mut Containers,
        machine: &Machine,
        poller: &Poller,
    ) -> Outcome {
        let Exec {
            container,
            command,
            streams,
        } = exec;
        let answer = |reply| Outcome {
            reply: Some((waiter, reply)),
            ..Outcome::default()
        };
        if self.live.len() >= MAX_LIVE {
            return answer(Reply::Failed(format!("{MAX_LIVE} programs run in this pod already")));
        }
        let Some(running) = containers.running(&container) else {
            return answer(not_running(&container));
        };
        if let Some(handler) = running.opaque {
            let message = format!("exec is not supported in containers of runtime handler {handler:?}");
            return answer(Reply::Failed(message));
        }
        let (config, parent) = (running.config.to_owned(), running.cgroup.to_owned());
        let name = format!("podd-exec-{}", self.made);
        let cgroup = format!("{parent}/{name}");
        let mut made_cgroup = None;
        let make = || -> Result<Joining, StartError> {
            let spec = read_spec(&config)?;
            let seccomp = containers.filter_of(&spec)?;
            let streams = join_streams(streams, descriptors).map_err(StartError::Streams)?;
            let entry = machine.cgroups.create_within(&parent, &name)?;
            made_cgroup = Some(cgroup.clone());
            let first = containers.running(&container).ok_or(StartError::Ended)?.pidfd;
            let parts = JoinParts {
                first,
                spec: &spec,
                command,
                streams,
                seccomp,
                cgroup: entry,
            };
            let joining = join(parts, machine)?;
            let token = session_token(waiter.connection, 0);
            if let Err(error) = poller.add(&joining.channel(), token, Interest::Read) {
                // Without being watched it must not live; it is reaped as a stranger.
                let _killed = process::kill_child(joining.guest);
                return Err(StartError::Watch(error));
            }
            Ok(joining)
        };
        let attempt = make();
        // A number is used once: what is left of the one before may still be there.
        self.made += 1;
        let joining = match attempt {
            Ok(joining) => joining,
            Err(error) => {
                return Outcome {
                    remove: made_cgroup,
                    ..answer(Reply::Failed(words(&error)))
                };
            }
        };
        let guest = joining.guest;
        self.pids.insert(guest, waiter.connection);
        let live = Live {
            waiter,
            joining: Some(Box::new(joining)),
            guest: Some(guest),
            program: None,
            cgroup,
        };
        self.live.insert(waiter.connection, live);
        Outcome::default()
    }

    /// Hear what a program on its way to exec has said.
    pub(super) fn progress(&mut self, connection: u64, poller: &Poller) -> Outcome {
        let Some(live) = self.live.get_mut(&connection) else {
            return Outcome::default();
        };
        let Some(joining) = &mut live.joining else {
            return Outcome::default();
        };
        let progress = joining.progress();
        if live.program.is_none()
            && let Some(pid) = joining.program
        {
            live.program = Some(pid);
            self.pids.insert(pid, connection);
        }
        let reply = match progress {
            JoinProgress::Wait => return Outcome::default(),
            JoinProgress::Running => return live.runs(poller),
            JoinProgress::Failed(message) => Reply::Failed(message),
            JoinProgress::NoContainer => Reply::Refused("the container has ended".to_owned()),
            JoinProgress::Died => Reply::Failed("killed while it joined the container".to_owned()),
        };
        let waiter = live.waiter;
        Outcome {
            reply: Some((waiter, reply)),
            remove: self.kill(connection, poller),
            ..Outcome::default()
        }
    }

    /// The session of a child, which has ended and was not waited for yet.
    pub(super) fn session_of(&self, pid: i32) -> Option<u64> {
        self.pids.get(&pid).copied()
    }

    /// A child has ended and was waited for.
    pub(super) fn ended(
        &mut self,
        pid: i32,
        status: WaitStatus,
        machine: &Machine,
        poller: &Poller,
    ) -> Option<Outcome> {
        let connection = self.pids.remove(&pid)?;
        let Some(live) = self.live.get_mut(&connection) else {
            return Some(Outcome::default());
        };
        if live.program != Some(pid) {
            // The guest. All that it said was heard before it was waited for.
            live.guest = None;
            if live.program.is_some() {
                return Some(Outcome::default());
            }
            let reply = Reply::Failed("killed while it joined the container".to_owned());
            return Some(Outcome {
                reply: Some((live.waiter, reply)),
                remove: self.kill(connection, poller),
                ..Outcome::default()
            });
        }
        live.program = None;
        let was_ready = live.joining.as_ref().is_none_or(|joining| joining.is_ready());
        let mut outcome = Outcome::default();
        if live.joining.is_some() {
            // The guest may hold the channel open a moment longer than the program lived.
            outcome = live.runs(poller);
        }
        if !was_ready {
            let message = match status {
                WaitStatus::Code(code) => format!("ended with code {code} while it joined the container"),
                WaitStatus::Signal(signal) => format!("killed by signal {signal} while it joined the container"),
            };
            outcome.reply = Some((live.waiter, Reply::Failed(message)));
            outcome.remove = self.kill(connection, poller);
            return Some(outcome);
        }
        outcome.ended = Some((connection, status));
        if let Some(live) = self.live.remove(&connection) {
            if let Some(guest) = live.guest {
                self.pids.remove(&guest);
            }
            let cgroup = live.cgroup;
            if machine.cgroups.pids(&cgroup).is_ok_and(|pids| pids.is_empty()) {
                // The kernel may take it for busy a moment longer.
                outcome.remove = Some(cgroup);
            } else {
                self.left.push_back(cgroup);
            }
        }
        self.sweep(machine);
        Some(outcome)
    }

    /// Remove some of the cgroups in which something was left behind, if it has ended since. What cannot be removed now
    /// goes with its container at the latest.
    fn sweep(&mut self, machine: &Machine) {
        for _ in 0..SWEEP.min(self.left.len()) {
            if let Some(cgroup) = self.left.pop_front()
                && !machine.cgroups.remove(&cgroup).unwrap_or(false)
            {
                self.left.push_back(cgroup);
            }
        }
    }

    /// Its session is over: everything that was started is to be killed. Returns the cgroup that holds it.
    pub(super) fn kill(&mut self, connection: u64, poller: &Poller) -> Option<String> {
        let live = self.live.remove(&connection)?;
        for pid in [live.guest, live.program].into_iter().flatten() {
            // Nobody has waited for it yet, so this is still its name. It may not be in its cgroup yet.
            if self.pids.remove(&pid).is_some() {
                let _killed = process::kill_child(pid);
            }
        }
        if let Some(joining) = live.joining {
            let _removed = poller.remove(&joining.channel());
        }
        Some(live.cgroup)
    }

    /// The sandbox ends. Who is asked for a moment later is refused by the supervisor.
    pub(super) fn kill_all(&self) {
        for pid in self.pids.keys() {
            let _killed = process::kill_child(*pid);
        }
    }
}

impl Live {
    fn runs(&mut self, poller: &Poller) -> Outcome {
        if let Some(joining) = self.joining.take() {
            let _removed = poller.remove(&joining.channel());
        }
        Outcome {
            reply: Some((self.waiter, Reply::Done)),
            ..Outcome::default()
        }
    }
}

pub(super) fn not_running(container: &str) -> Reply {
    Reply::Refused(format!("container {container} is not running"))
}

/// The descriptors that came, in their places.
fn join_streams(streams: ExecStreams, descriptors: Vec<OwnedFd>) -> io::Result<JoinStreams> {
    let mut descriptors = descriptors.into_iter();
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "a descriptor is missing");
    match streams {
        ExecStreams::Terminal { width, height } => Ok(JoinStreams::Terminal {
            to: descriptors.next().ok_or_else(missing)?,
            rows: height,
            columns: width,
        }),
        ExecStreams::Files { stdin, stdout, stderr } => {
            let null = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/null")?);
            let mut next = |wanted: bool| {
                if wanted {
                    descriptors.next().ok_or_else(missing)
                } else {
                    fd::duplicate(&null)
                }
            };
            Ok(JoinStreams::Files([next(stdin)?, next(stdout)?, next(stderr)?]))
        }
    }
}
