//! The shim: one event loop over its children, their output and the agents' connections.
//!
//! Goes in: a [`Spawn`] and the first connection. Comes out: the sandbox, until it is told to stop or infra cannot be made.
//!
//! Every fact is in the journal before anybody is told. When no agent is there, everything goes on; the journal tells the
//! next one.
//!
//! `supervisor/requests.rs` is what agents ask for.
//!
//! **Invariant:** the loop waits in epoll only. What would wait elsewhere (a container's mounts, its exec, a cgroup that is
//! busy, a full disk) is left to a child or to a later round. One exception: a start that needs the very cgroup in which
//! something made in vain still ends waits for that end, 100 ms at most.

mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::connection::Connection;
use super::containers::{Containers, Ended, Heard, Started};
use super::execs::Execs;
use super::journal::Journal;
use super::output::Outputs;
use super::protocol::{Fact, FromShim, JOURNAL, LOCK, PROTOCOL, Reply, SOCKET, SandboxConfig, Spawn, WaitStatus};
use super::sandbox::{infra_cgroup, make_infra};
use crate::linux::container::Machine;
use crate::linux::infra;
use crate::linux::lock::{self, Lock};
use crate::linux::poll::{Interest, Poller};
use crate::linux::process::{self, SignalDescriptor};
use crate::linux::unix;

/// More than all sessions together may have.
const MAX_CONNECTIONS: usize = 640;
/// Where the last words of a shim go that ends as it should not.
const LAST_WORDS: &str = "shim.err";
/// A cgroup that was busy, or a line that did not fit, is tried again after 1 ms, then 2, 4, ... at most this.
const MAX_RETRY_MS: u16 = 1000;

/// Why a shim ends before it is told to.
#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("cannot set up the shim's process")]
    SetUp(#[source] io::Error),
    #[error("another shim holds the lock of {}", dir.display())]
    Locked { dir: PathBuf },
    #[error("cannot take the lock of {}", dir.display())]
    Lock {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot begin the journal in {}", dir.display())]
    Journal {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen in {}", dir.display())]
    Listen {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("infra could not be made: {message}")]
    Infra { message: String },
    #[error("cannot wait for events")]
    Poll(#[source] io::Error),
    #[error("cannot wait for children")]
    Wait(#[source] io::Error),
}

/// The whole life of a shim, in the process that the zygote has forked for it. Returns its exit code.
pub(super) fn run(spawn: &Spawn, connection: OwnedFd, mounts: OwnedFd) -> i32 {
    let last_words = spawn.dir.join(LAST_WORDS);
    let for_panics = last_words.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let _unheard = std::fs::write(&for_panics, format!("{panic}\n"));
    }));
    match serve(spawn, connection, mounts) {
        Ok(()) => 0,
        Err(error) => {
            let _unheard = std::fs::write(last_words, format!("{}\n", words(&error)));
            1
        }
    }
}

/// An error and its causes on one line.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn serve(spawn: &Spawn, connection: OwnedFd, mounts: OwnedFd) -> Result<(), ShimError> {
    let dir = &spawn.dir;
    let set_up = || {
        process::new_session()?;
        process::shim_signal_actions()?;
        process::become_subreaper()?;
        process::set_name(c"podd-shim")?;
        process::detach_stdio()?;
        process::signal_descriptor(&[SIGCHLD, SIGTERM])
    };
    let signals = set_up().map_err(ShimError::SetUp)?;
    let lock = lock::take(&dir.join(LOCK))
        .map_err(|source| ShimError::Lock {
            dir: dir.clone(),
            source,
        })?
        .ok_or_else(|| ShimError::Locked { dir: dir.clone() })?;
    let mut journal = Journal::create(&dir.join(JOURNAL)).map_err(|source| ShimError::Journal {
        dir: dir.clone(),
        source,
    })?;
    journal.append(
        process::realtime(),
        Fact::Shim {
            protocol: PROTOCOL,
            pid: process::own_pid(),
            boot_id: spawn.sandbox.boot_id.clone(),
        },
    );
    let (machine, infra) = match make_infra(&spawn.sandbox, &mounts) {
        Ok(made) => made,
        Err(error) => {
            let message = words(&error);
            journal.append(
                process::realtime(),
                Fact::InfraFailed {
                    message: message.clone(),
                },
            );
            return Err(ShimError::Infra { message });
        }
    };
    drop(mounts);
    let start_time = process::start_time(infra.pid).map_err(ShimError::Wait)?;
    journal.append(
        process::realtime(),
        Fact::InfraStarted {
            pid: infra.pid,
            start_time,
        },
    );
    let listen_error = |source| ShimError::Listen {
        dir: dir.clone(),
        source,
    };
    let listener = unix::listen(dir, SOCKET).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    let poller = Poller::new().map_err(ShimError::Poll)?;
    poller
        .add(&listener, LISTENER, Interest::Read)
        .map_err(ShimError::Poll)?;
    poller.add(&signals, SIGNALS, Interest::Read).map_err(ShimError::Poll)?;
    let mut shim = Supervisor {
        config: &spawn.sandbox,
        dir,
        machine,
        poller,
        signals,
        listener,
        journal,
        told: 0,
        infra: Some(infra),
        containers: Containers::default(),
        outputs: Outputs::default(),
        execs: Execs::default(),
        connections: BTreeMap::new(),
        next_connection: FIRST_CONNECTION,
        stopping: None,
        remove: BTreeSet::new(),
        mounts: Vec::new(),
        retry_ms: 1,
        _lock: lock,
    };
    shim.connect(UnixStream::from(connection));
    shim.serve()
}

/// Nothing has happened for so many milliseconds, near enough: a container that is started again runs by now.
const QUIET_MS: u16 = 64;
/// Containers whose mounts outlive them for a moment.
const MOUNTS_MAX: usize = 8;

const SIGCHLD: i32 = 17;
const SIGTERM: i32 = 15;

/// Tokens of the poller: two fixed ones, then the containers' (see `containers.rs` and `output.rs`), then connections.
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
/// Start channels: this and the container's pid.
pub(super) const FIRST_CHANNEL: u64 = 1 << 32;
/// Outputs: this and twice their number, plus one for stderr.
pub(super) const FIRST_OUTPUT: u64 = 2 << 32;
/// Inputs: this and the output's number.
pub(super) const FIRST_INPUT: u64 = 3 << 32;
/// Sessions: see [`session_token`].
const FIRST_SESSION: u64 = 1 << 40;
const FIRST_CONNECTION: u64 = 1 << 48;

/// What belongs to the session of a connection: the channel of its program (0), what its client writes (1), what its
/// client reads of stdout (2) and of stderr (3).
pub(super) fn session_token(connection: u64, index: usize) -> u64 {
    FIRST_SESSION + 4 * (connection - FIRST_CONNECTION) + u64::try_from(index).unwrap_or(0)
}

/// Who waits for the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) connection: u64,
    request: u64,
}

struct Supervisor<'a> {
    config: &'a SandboxConfig,
    dir: &'a Path,
    machine: Machine,
    poller: Poller,
    signals: SignalDescriptor,
    listener: UnixListener,
    journal: Journal,
    /// The journal's length when it was last told to everybody.
    told: u64,
    /// `None`: it has ended.
    infra: Option<infra::Infra>,
    containers: Containers,
    outputs: Outputs,
    execs: Execs,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Everything is being killed, and these wait for it.
    stopping: Option<Vec<Waiter>>,
    /// Cgroups of containers that have ended, still to be removed.
    remove: BTreeSet<String>,
    /// Mount namespaces of containers that have ended, to be closed in a quiet moment.
    mounts: Vec<OwnedFd>,
    retry_ms: u16,
    _lock: Lock,
}

impl Supervisor<'_> {
    fn serve(&mut self) -> Result<(), ShimError> {
        let mut tokens = Vec::new();
        let mut idle_heap = true;
        loop {
            self.tell();
            let behind = self.retry();
            if self.stopped() {
                self.finish();
                return Ok(());
            }
            if !idle_heap && !self.containers.any_starting() && !self.execs.any_joining() {
                // The shim is about to sleep, perhaps for months: what a start needed is given back.
                process::trim_heap();
                process::trim_stack();
                idle_heap = true;
            }
            let now = Instant::now();
            self.cut_off(now);
            self.containers.expire(now);
            let commands = self.containers.cut_off(now);
            let timeout = [
                behind.then_some(self.retry_ms),
                patience(self.outputs.deadline(), now),
                patience(self.containers.deadline(), now),
                patience(commands, now),
            ];
            let timeout = timeout.into_iter().flatten().min();
            self.poller.wait(&mut tokens, timeout).map_err(ShimError::Poll)?;
            if tokens.is_empty() && behind {
                self.retry_ms = self.retry_ms.saturating_mul(2).min(MAX_RETRY_MS);
            }
            for &token in &tokens {
                match token {
                    LISTENER => self.accept(),
                    SIGNALS => self.signalled()?,
                    FIRST_CHANNEL..FIRST_OUTPUT => {
                        self.channel(token - FIRST_CHANNEL);
                        idle_heap = false;
                    }
                    FIRST_OUTPUT..FIRST_INPUT => self.output(token),
                    FIRST_INPUT..FIRST_SESSION => self.outputs.input_ready(token, &self.poller),
                    FIRST_SESSION..FIRST_CONNECTION => {
                        let token = token - FIRST_SESSION;
                        idle_heap &= !token.is_multiple_of(4);
                        self.session(token);
                    }
                    connection => self.requests(connection),
                }
            }
        }
    }

    /// Something of a session can be read or written.
    fn session(&mut self, token: u64) {
        let connection = FIRST_CONNECTION + token / 4;
        match token % 4 {
            0 => {
                let outcome = self.execs.progress(connection, &self.poller);
                self.settle(outcome);
            }
            1 => self.outputs.client_wrote(connection, &self.poller),
            2 => self.outputs.client_ready(connection, 0, &self.poller),
            _ => self.outputs.client_ready(connection, 1, &self.poller),
        }
    }

    /// Who holds up a container for too long is told that it is over.
    fn cut_off(&mut self, now: Instant) {
        for connection in self.outputs.cut_off(now, &self.poller) {
            let message = "cut off: the output was not read".to_owned();
            self.send(connection, &FromShim::CutOff { message });
        }
    }

    fn write_down(&mut self, fact: Fact) {
        // If it does not fit now it waits in memory, and is tried again by `retry`.
        self.journal.append(process::realtime(), fact);
    }

    /// Everybody hears how long the journal is, if it has grown.
    fn tell(&mut self) {
        if self.journal.length() == self.told {
            return;
        }
        self.told = self.journal.length();
        let message = FromShim::Journal { length: self.told };
        let greeted: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.greeted && !c.session)
            .map(|(id, _)| *id)
            .collect();
        for id in greeted {
            self.send(id, &message);
        }
    }

    /// Try again what did not work before. `true`: something is left.
    fn retry(&mut self) -> bool {
        let machine = &self.machine;
        self.remove.retain(|cgroup| {
            // An error is as good as busy: there is nobody to tell, and nothing else to do.
            let removed = machine.cgroups.remove(cgroup).unwrap_or(false);
            if !removed {
                // Whose first process has ended has nobody left who should live.
                let _killed = machine.cgroups.kill(cgroup);
            }
            !removed
        });
        let flushed = self.journal.flush();
        self.tell();
        if self.all_ended() && self.stopping.is_some() {
            // Someone may have been put into the pod's cgroup who is no child of ours.
            let _killed = self.machine.cgroups.kill(&self.config.cgroup);
            if self.machine.cgroups.remove(&self.config.cgroup).unwrap_or(false) {
                self.remove.clear();
            } else {
                self.remove.insert(self.config.cgroup.clone());
            }
        }
        if self.retry_ms >= QUIET_MS {
            self.mounts.clear();
        }
        let done = flushed && self.remove.is_empty() && self.mounts.is_empty();
        if done {
            self.retry_ms = 1;
        }
        !done
    }

    /// A container on its way to exec has said something.
    fn channel(&mut self, pid: u64) {
        let Ok(pid) = i32::try_from(pid) else { return };
        self.progress(pid);
    }

    fn progress(&mut self, pid: i32) {
        if let Some(started) = self.containers.progress(pid, &self.poller, &mut self.outputs) {
            self.started(started);
        }
    }

    fn started(&mut self, started: Started) {
        let Started { fact, waiters } = started;
        self.write_down(fact);
        self.tell();
        for waiter in waiters {
            self.reply(waiter, Reply::Done);
        }
    }

    fn output(&mut self, token: u64) {
        let lost = self.outputs.readable(token, process::realtime(), &self.poller);
        self.report_lost(lost);
    }

    fn report_lost(&mut self, lost: Option<Fact>) {
        if let Some(fact) = lost {
            self.write_down(fact);
        }
    }

    fn stop(&mut self, waiter: Option<Waiter>) {
        let waiters = self.stopping.get_or_insert_default();
        waiters.extend(waiter);
        self.execs.kill_all();
        self.containers.kill_all(&self.machine);
        if let Some(infra) = &self.infra {
            // A child that nobody has waited for can always be signalled.
            let _sent = process::signal(infra.pidfd.as_fd(), SIGKILL);
        }
        self.containers.no_more_starts();
        self.retry_ms = 1;
    }

    fn all_ended(&self) -> bool {
        self.infra.is_none() && self.containers.none_live() && self.execs.none_live()
    }

    fn stopped(&self) -> bool {
        self.stopping.is_some() && self.all_ended() && self.remove.is_empty() && self.journal.length() == self.told
    }

    fn finish(&mut self) {
        for waiter in self.stopping.take().unwrap_or_default() {
            self.reply(waiter, Reply::Done);
        }
        // One that is left is found to be refused; the lock tells the truth.
        let _removed = std::fs::remove_file(self.dir.join(SOCKET));
    }

    fn signalled(&mut self) -> Result<(), ShimError> {
        while let Some(signal) = self.signals.next().map_err(ShimError::Wait)? {
            if signal == SIGTERM {
                self.stop(None);
            }
        }
        while let Some(pid) = process::ended_child().map_err(ShimError::Wait)? {
            self.ended(pid)?;
        }
        Ok(())
    }

    /// A child has ended and is still a zombie, so that its pid names nobody else.
    fn ended(&mut self, pid: i32) -> Result<(), ShimError> {
        // It may have become the container's program, or said why not, a moment before.
        self.progress(pid);
        if let Some(connection) = self.execs.session_of(pid) {
            let outcome = self.execs.progress(connection, &self.poller);
            self.settle(outcome);
        }
        let status = match process::reap(pid).map_err(ShimError::Wait)? {
            process::Ended::Code(code) => WaitStatus::Code(code),
            process::Ended::Signal(signal) => WaitStatus::Signal(signal),
        };
        if self.infra.as_ref().is_some_and(|infra| infra.pid == pid) {
            self.infra = None;
            self.remove.insert(infra_cgroup(self.config));
            self.write_down(Fact::InfraExited { status });
            return Ok(());
        }
        if let Some(outcome) = self.execs.ended(pid, status, &self.machine, &self.poller) {
            self.settle(outcome);
            return Ok(());
        }
        let heard = self
            .containers
            .command_ended(pid, status, &self.machine, &self.poller, &mut self.outputs);
        match heard {
            Some(Heard::Nothing) => {}
            Some(Heard::Started(started)) => self.started(started),
            Some(Heard::Ended(ended)) => self.container_ended(*ended),
            None => {
                let ended = self
                    .containers
                    .ended(pid, status, &self.machine, &self.poller, &mut self.outputs);
                if let Some(ended) = ended {
                    self.container_ended(ended);
                } else if let Some(cgroup) = self.containers.reaped(pid) {
                    self.remove.insert(cgroup);
                    self.retry_ms = 1;
                }
            }
        }
        Ok(())
    }

    fn container_ended(&mut self, ended: Ended) {
        let Ended {
            started,
            fact,
            lost,
            cgroup,
            attached,
            status,
            answer,
            ahead,
            mounts,
        } = ended;
        if let Some(started) = started {
            self.write_down(started);
        }
        self.report_lost(lost);
        self.write_down(fact);
        self.tell();
        for (waiter, reply) in answer {
            self.reply(waiter, reply);
        }
        for connection in attached {
            self.send(connection, &FromShim::Ended { status });
        }
        if let Some(ahead) = ahead {
            self.make_ahead(ahead.start);
        }
        // Many at once wait for nothing that one would not.
        if self.mounts.len() >= MOUNTS_MAX {
            self.mounts.clear();
        }
        self.mounts.extend(mounts);
        self.remove.insert(cgroup);
        self.retry_ms = 1;
    }
}

/// Until then, in milliseconds.
fn patience(until: Option<Instant>, now: Instant) -> Option<u16> {
    let left = until?.saturating_duration_since(now);
    // Rounded up, so that it is over then.
    Some(u16::try_from(left.as_millis()).map_or(u16::MAX, |ms| ms.saturating_add(1)))
}

pub(super) const SIGKILL: i32 = 9;
