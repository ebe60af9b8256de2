//! Containers that we make ourselves: when they are asked for, or ahead of it (see [`stand_in`](super::super::stand_in)).
//!
//! Goes in: a start, and the config.json it names. Comes out: a process on its way to exec, or held before it.
//!
//! **Invariant:** what is made ahead has no fact, no log and no output: a start makes it the container's, or it goes.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Containers, Live, Stage, StartError, parse, read};
use crate::linux::container::{Machine, Parts, Prepared, Starting};
use crate::linux::path;
use crate::linux::poll::{Interest, Poller};
use crate::linux::{fd, process};
use crate::shim::output::Outputs;
use crate::shim::protocol::{Ahead, Overlay, SandboxConfig, StartContainer};
use crate::shim::stand_in::StandIn;
use crate::shim::supervisor::{FIRST_CHANNEL, SIGKILL, Waiter};

/// A process of a container, held or on its way.
pub(super) struct Made {
    starting: Starting,
    cgroup: String,
}

impl Containers {
    /// A process for this start, held or on its way.
    pub(super) fn made(
        &mut self,
        start: &StartContainer,
        machine: &Machine,
        unused: &mut BTreeSet<String>,
        made_cgroup: &mut Option<String>,
    ) -> Result<Made, StartError> {
        let config = read(&start.spec)?;
        if let Some(stand_in) = self.stand_ins.take(start, &config) {
            if stand_in.starting.release() {
                let StandIn { starting, cgroup, .. } = stand_in;
                return Ok(Made { starting, cgroup });
            }
            self.stand_ins.give_up(stand_in);
        }
        self.make(start, &config, machine, false, unused, made_cgroup)
    }

    /// While the agent decides: make what the next start will need. What fails here fails again, and is told, when the
    /// container is started.
    pub(in crate::shim) fn make_ahead(
        &mut self,
        start: StartContainer,
        machine: &Machine,
        unused: &mut BTreeSet<String>,
    ) {
        if self.is_known(&start.container, start.attempt) {
            return;
        }
        let mut cgroup = None;
        let made = read(&start.spec).and_then(|config| {
            let made = self.make(&start, &config, machine, true, unused, &mut cgroup)?;
            Ok((config, made))
        });
        match made {
            Ok((config, Made { starting, cgroup })) => {
                self.stand_ins.wait(Instant::now(), start, config, starting, cgroup);
            }
            Err(_) => unused.extend(cgroup),
        }
    }

    /// What the container's next start will most likely be. One that has none alive comes back: it can be made at once.
    pub(in crate::shim) fn expect(&mut self, ahead: Box<Ahead>) -> Option<StartContainer> {
        let container = &ahead.start.container;
        match self.live.values_mut().find(|live| live.container == *container) {
            Some(live) => {
                live.ahead = Some(ahead);
                None
            }
            None => Some(ahead.start),
        }
    }

    /// Make the process of a start.
    fn make(
        &mut self,
        start: &StartContainer,
        config: &[u8],
        machine: &Machine,
        held: bool,
        unused: &mut BTreeSet<String>,
        made_cgroup: &mut Option<String>,
    ) -> Result<Made, StartError> {
        let StartContainer {
            container: _,
            attempt: _,
            spec: path,
            rootfs:
                Overlay {
                    lower,
                    upper,
                    work,
                    target,
                },
            sub_paths,
            log: _,
            stdin,
            stdin_once: _,
            target: joined,
        } = start;
        let spec = parse(config, path)?;
        if let Some(joined) = joined {
            self.check_target(joined, &spec)?;
        }
        let linux = spec.linux().as_ref();
        let cgroup = linux
            .and_then(|linux| linux.cgroups_path().as_ref())
            .ok_or(StartError::NoCgroup)?;
        let cgroup = cgroup.to_string_lossy().into_owned();
        // From here on it is in use, whatever was to become of one of that name.
        if unused.remove(&cgroup) || self.stand_ins.dies_in(&cgroup) {
            vacate(machine, &cgroup)?;
        }
        *made_cgroup = Some(cgroup.clone());
        machine.cgroups.create(&cgroup)?;
        if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
            machine.cgroups.apply(&cgroup, resources)?;
        }
        let filter = self.filter_of(&spec)?;
        let (upper, work) = fresh(upper, work)?;
        let sub_paths: HashMap<_, _> = sub_paths
            .iter()
            .map(|sub| (sub.destination.clone(), sub.path.clone()))
            .collect();
        let parts = Parts {
            lower,
            upper: &upper,
            work: &work,
            target,
            sub_paths: &sub_paths,
            stdin: *stdin,
            seccomp: filter,
        };
        let prepared = Prepared::new(&spec, &parts, machine)?;
        let starting = prepared.start(machine, held).map_err(StartError::Clone)?;
        Ok(Made { starting, cgroup })
    }

    /// The process is on its way to exec: from here on it is the container's.
    pub(super) fn go(
        &mut self,
        start: StartContainer,
        made: Made,
        waiter: Waiter,
        poller: &Poller,
        config: &SandboxConfig,
        outputs: &mut Outputs,
    ) -> Result<(), StartError> {
        let StartContainer {
            container,
            attempt,
            spec,
            rootfs: _,
            sub_paths: _,
            log,
            stdin,
            stdin_once,
            target: _,
        } = start;
        let Made { mut starting, cgroup } = made;
        let pid = starting.pid;
        // There is a child: whatever fails, its end is heard and makes the answer.
        let start_time = process::start_time(pid).unwrap_or(0);
        let output = outputs.open(&container, attempt, &log, config.log_max_size, config.log_max_files);
        let streams = std::mem::take(&mut starting.streams);
        // Held open from now on, so that the container's stdin does not end. A terminal's comes with its master.
        outputs.accept_input(output, stdin, stdin_once, streams.stdin);
        let watch = |outputs: &mut Outputs| {
            for (file, stderr) in [(streams.stdout, false), (streams.stderr, true)] {
                if let Some(file) = file {
                    outputs.attach(output, file, stderr, poller)?;
                }
            }
            poller.add(
                &starting.channel(),
                FIRST_CHANNEL + u64::try_from(pid).unwrap_or(0),
                Interest::Read,
            )
        };
        let watched = watch(outputs).map_err(StartError::Watch);
        let pidfd = fd::duplicate(&starting.pidfd).map_err(StartError::Watch);
        if watched.is_err() || pidfd.is_err() {
            // Without being watched it must not live; it is reaped as a stranger.
            let _sent = process::signal(starting.pidfd.as_fd(), SIGKILL);
        }
        watched?;
        let live = Live {
            container,
            attempt,
            pidfd: pidfd?,
            start_time,
            shares_pid_namespace: starting.shares_pid_namespace,
            stage: Stage::Starting {
                starting: Box::new(starting),
                waiters: vec![waiter],
            },
            cgroup,
            config: spec,
            output,
            signals: BTreeSet::new(),
            ahead: None,
            mounts: None,
            made_by: None,
        };
        self.live.insert(pid, live);
        Ok(())
    }

    /// Nobody asked in time for what was made ahead.
    pub(in crate::shim) fn expire(&mut self, now: Instant) {
        self.stand_ins.expire(now);
    }

    /// When something that was made ahead has waited long enough.
    pub(in crate::shim) fn deadline(&self) -> Option<Instant> {
        self.stand_ins.deadline()
    }

    /// Nothing will be started any more.
    pub(in crate::shim) fn no_more_starts(&mut self) {
        self.stand_ins.give_up_all();
    }

    /// A child that was no container's has been reaped: the cgroup that it leaves to nobody, if it was made ahead.
    pub(in crate::shim) fn reaped(&mut self, pid: i32) -> Option<String> {
        let cgroup = self.stand_ins.reaped(pid)?;
        let in_use = self.live.values().any(|live| live.cgroup == cgroup)
            || self.stand_ins.has_cgroup(&cgroup)
            || self.stand_ins.dies_in(&cgroup);
        (!in_use).then_some(cgroup)
    }

    /// Nobody has waited for a container's first process, so that its pid names it and nothing else.
    fn check_target(&self, container: &str, spec: &Spec) -> Result<(), StartError> {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let pid = namespaces
            .into_iter()
            .flatten()
            .find(|namespace| namespace.typ() == LinuxNamespaceType::Pid);
        let path = pid.and_then(|namespace| namespace.path().as_deref());
        let is_joined = |(pid, live): (&i32, &Live)| {
            let own = format!("/proc/{pid}/ns/pid");
            live.container == container && matches!(live.stage, Stage::Running) && path == Some(Path::new(&own))
        };
        if self.live.iter().any(is_joined) {
            Ok(())
        } else {
            Err(StartError::NoTarget {
                container: container.to_owned(),
            })
        }
    }
}

/// Upper and work directory that were never mounted: one that was made in vain may have had these, and a volatile overlay
/// is not mounted twice.
fn fresh(upper: &Path, work: &Path) -> Result<(PathBuf, PathBuf), StartError> {
    let (mut upper, mut work) = (upper.to_owned(), work.to_owned());
    let mut times = 0_u32;
    // The kernel makes this at the first mount.
    while work.join("work").exists() {
        times += 1;
        upper.set_extension(times.to_string());
        work.set_extension(times.to_string());
        for directory in [&upper, &work] {
            path::make_directory(directory, 0o755).map_err(|source| StartError::Directory {
                path: directory.clone(),
                source,
            })?;
        }
    }
    Ok((upper, work))
}

/// A cgroup that was made for something else: it goes, with its limits and whatever still ends in it. It takes as long as
/// a killed process that mounted things takes to end.
fn vacate(machine: &Machine, cgroup: &str) -> Result<(), StartError> {
    let idle = Poller::new().map_err(StartError::Watch)?;
    for _ in 0..100 {
        if machine.cgroups.remove(cgroup)? {
            return Ok(());
        }
        machine.cgroups.kill(cgroup)?;
        // The kernel tells nobody when a cgroup has become empty of what has ended.
        idle.wait(&mut Vec::new(), Some(1)).map_err(StartError::Watch)?;
    }
    Err(StartError::Occupied {
        cgroup: cgroup.to_owned(),
    })
}
