//! Containers that a runtime's command line makes: from the first command to a program that runs, or does not.
//!
//! `create` ends: the container's first process waits. `start` ends: it has become the program. It may have ended before
//! that is heard; whether that was its program's end or it never began, only `start` can tell.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Instant;

use super::{Containers, Heard, Live, SIGKILL, Stage, StartError, Started, read_spec};
use crate::linux::container::{Machine, Streams};
use crate::linux::poll::Poller;
use crate::linux::{fd, process};
use crate::shim::oci::{CommandError, Created, Place, Purpose};
use crate::shim::output::Outputs;
use crate::shim::protocol::{Fact, OciRuntime, Reply, SandboxConfig, StartContainer, WaitStatus};
use crate::shim::supervisor::{Waiter, words};

impl Containers {
    /// Begin to make a container by a runtime's command line. It makes the cgroup too.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the supervisor that a start touches"
    )]
    pub(super) fn begin_create(
        &mut self,
        start: StartContainer,
        waiter: Waiter,
        runtime: &OciRuntime,
        machine: &Machine,
        poller: &Poller,
        config: &SandboxConfig,
        outputs: &mut Outputs,
        made_cgroup: &mut Option<String>,
    ) -> Result<(), StartError> {
        let StartContainer {
            container,
            attempt,
            spec: config_path,
            rootfs,
            sub_paths,
            log,
            stdin,
            stdin_once,
            target: _,
        } = start;
        let spec = read_spec(&config_path)?;
        let cgroup = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
        let cgroup = cgroup.ok_or(StartError::NoCgroup)?.to_string_lossy().into_owned();
        *made_cgroup = Some(cgroup.clone());
        let place = Place::new(runtime, &config_path, &container, attempt);
        let (creating, streams) = place.create(spec, &rootfs, sub_paths, stdin, machine)?;
        let pid = creating.pid();
        let pidfd = fd::duplicate(creating.pidfd()).map_err(StartError::Watch)?;
        let output = outputs.open(&container, attempt, &log, config.log_max_size, config.log_max_files);
        let Streams {
            stdin: inlet,
            stdout,
            stderr,
        } = streams;
        outputs.accept_input(output, stdin, stdin_once, inlet);
        for (file, is_stderr) in [(stdout, false), (stderr, true)] {
            if let Some(file) = file
                && let Err(error) = outputs.attach(output, file, is_stderr, poller)
            {
                // Without being watched it must not live; it is reaped as a stranger.
                let _sent = process::signal(pidfd.as_fd(), SIGKILL);
                return Err(StartError::Watch(error));
            }
        }
        let live = Live {
            container,
            attempt,
            stage: Stage::Creating {
                creating: Box::new(creating),
                waiters: vec![waiter],
            },
            pidfd,
            start_time: 0,
            // Whatever it is made of ends with its cgroup.
            shares_pid_namespace: true,
            cgroup,
            config: config_path,
            output,
            signals: BTreeSet::new(),
            ahead: None,
            mounts: None,
            made_by: Some(place),
        };
        self.live.insert(pid, live);
        Ok(())
    }

    /// A child has ended and was waited for. `None`: it was no command of a runtime.
    pub(in crate::shim) fn command_ended(
        &mut self,
        pid: i32,
        status: WaitStatus,
        machine: &Machine,
        poller: &Poller,
        outputs: &mut Outputs,
    ) -> Option<Heard> {
        let creates = |live: &Live| matches!(live.stage, Stage::Creating { .. });
        if self.live.get(&pid).is_some_and(creates) {
            let live = self.live.remove(&pid)?;
            return Some(self.created(live, status, machine, poller, outputs));
        }
        let (purpose, done) = self.commands.ended(pid, status)?;
        Some(match purpose {
            Purpose::Start { first } => self.began(first, done, machine, poller, outputs),
            Purpose::Other => Heard::Nothing,
        })
    }

    /// A runtime has made the container's first process, or not.
    fn created(
        &mut self,
        mut live: Live,
        status: WaitStatus,
        machine: &Machine,
        poller: &Poller,
        outputs: &mut Outputs,
    ) -> Heard {
        let none = Stage::Beginning { waiters: Vec::new() };
        let (Stage::Creating { creating, waiters }, Some(place)) =
            (std::mem::replace(&mut live.stage, none), live.made_by.clone())
        else {
            return Heard::Nothing;
        };
        let found = creating.finish(&place, status).map_err(|error| words(&error));
        let found = found.and_then(|Created { pid, terminal }| {
            let pidfd = process::pidfd_of_child(pid).map_err(|error| format!("the container's process: {error}"))?;
            Ok((pid, pidfd, terminal))
        });
        let (pid, pidfd, terminal) = match found {
            Ok(found) => found,
            Err(message) => {
                live.stage = Stage::Failing { message, waiters };
                return Heard::Ended(Box::new(self.conclude(live, status, machine, poller, outputs)));
            }
        };
        if let Some(master) = terminal {
            // A terminal that cannot be read ends its program by SIGHUP, which is the truth about it.
            let _watched =
                fd::set_nonblocking(master.as_fd()).and_then(|()| outputs.attach_terminal(live.output, master, poller));
        }
        live.pidfd = pidfd;
        live.start_time = process::start_time(pid).unwrap_or(0);
        live.stage = match self.commands.start(&place, pid, machine) {
            Ok(()) => Stage::Beginning { waiters },
            Err(error) => {
                let _sent = process::signal(live.pidfd.as_fd(), SIGKILL);
                Stage::Failing {
                    message: words(&error),
                    waiters,
                }
            }
        };
        self.live.insert(pid, live);
        Heard::Nothing
    }

    /// A runtime has let the program begin, or not.
    fn began(
        &mut self,
        first: i32,
        done: Result<(), CommandError>,
        machine: &Machine,
        poller: &Poller,
        outputs: &mut Outputs,
    ) -> Heard {
        let started = |live: &Live| Fact::Started {
            container: live.container.clone(),
            attempt: live.attempt,
            pid: first,
            start_time: live.start_time,
        };
        if let Some((mut live, status)) = self.early.remove(&first) {
            let waiters = live.take_waiters();
            if let Err(error) = done {
                let message = words(&error);
                live.stage = Stage::Failing { message, waiters };
                return Heard::Ended(Box::new(self.conclude(live, status, machine, poller, outputs)));
            }
            live.stage = Stage::Running;
            let fact = started(&live);
            let mut ended = self.conclude(live, status, machine, poller, outputs);
            ended.started = Some(fact);
            ended.answer = waiters.into_iter().map(|waiter| (waiter, Reply::Done)).collect();
            return Heard::Ended(Box::new(ended));
        }
        let Some(live) = self.live.get_mut(&first) else {
            return Heard::Nothing;
        };
        let waiters = live.take_waiters();
        match done {
            Ok(()) => {
                live.stage = Stage::Running;
                live.mounts = process::mount_namespace(first).ok();
                Heard::Started(Started {
                    fact: started(live),
                    waiters,
                })
            }
            Err(error) => {
                let _sent = process::signal(live.pidfd.as_fd(), SIGKILL);
                let message = words(&error);
                live.stage = Stage::Failing { message, waiters };
                Heard::Nothing
            }
        }
    }

    /// Commands that take too long are ended. Returns when to look again.
    pub(in crate::shim) fn cut_off(&self, now: Instant) -> Option<Instant> {
        let creating = self.live.values().filter_map(|live| match &live.stage {
            Stage::Creating { creating, .. } => Some(&**creating),
            Stage::Beginning { .. } | Stage::Starting { .. } | Stage::Failing { .. } | Stage::Running => None,
        });
        self.commands.cut_off(creating, now)
    }
}
