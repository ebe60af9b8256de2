//! A program beside a container's first process: exec.
//!
//! Goes in: the first process (a pidfd), the spec it was started from, a command. Comes out: a [`Joining`] process, which
//! says on a channel whether it has become the program or why not, and is the caller's child to wait for.
//!
//! ```text
//! shim ── clone ──> guest, still outside the pid namespace: cgroup, namespaces, streams, limits, privileges
//!   └──── (clone, CLONE_PARENT by the guest) ──> the program, inside
//! ```
//!
//! Two processes, because whoever is in the container's pid namespace can be seen there, and one of its processes with
//! `CAP_SYS_PTRACE` could take over what it sees: so nobody enters before the privileges, the descriptors and the
//! directories of the host are gone (CVE-2016-9962, CVE-2024-21626). The second is the shim's own child all the same, so
//! its end is told truly; it waits for a word of the shim, so that it cannot end before the shim knows its pid.
//!
//! **Invariant:** all that can allocate happens before the clone; `guest.rs` does the rest.

#![expect(
    unsafe_code,
    reason = "clone3 in a process with one thread, whose child only makes system calls"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use oci_spec::runtime::{Process, Spec};

use super::spec::{absolute, first_id};
use super::{Machine, PrepareError, process_plan};
use crate::linux::cgroup::Entry;
use crate::linux::guest::{self, JoinPlan, Standard};
use crate::linux::plan::{Fault, ProcessPlan, Step, WORD_LENGTH, Word};
use crate::linux::process::{self, Cloned};
use crate::linux::seccomp::Program;
use crate::linux::{fd, sys};

/// What a program runs with.
#[derive(Debug)]
pub enum JoinStreams {
    /// stdin, stdout, stderr.
    Files([OwnedFd; 3]),
    /// A terminal of the container's own devpts, of this size. Its master is sent over this socket, with one byte.
    Terminal { to: OwnedFd, rows: u16, columns: u16 },
}

/// Who is joined, and by whom.
#[derive(Debug)]
pub struct JoinParts<'a> {
    /// The container's first process.
    pub first: BorrowedFd<'a>,
    /// What it was started from.
    pub spec: &'a Spec,
    /// The program and its arguments.
    pub command: Vec<String>,
    pub streams: JoinStreams,
    /// Already compiled from the spec's profile.
    pub seccomp: Option<Program>,
    pub cgroup: Entry,
}

/// A program on its way to exec.
pub struct Joining {
    /// The guest: a child that ends before the program runs.
    pub guest: i32,
    /// The program, once the guest has made it: a child too.
    pub program: Option<i32>,
    channel: OwnedFd,
    /// Kept to put faults into words.
    process: ProcessPlan,
    ready: bool,
}

impl std::fmt::Debug for Joining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joining")
            .field("guest", &self.guest)
            .field("program", &self.program)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// What is known about a joining program by now.
#[derive(Debug)]
pub enum JoinProgress {
    /// Nothing new: ask again when the channel can be read.
    Wait,
    /// The program runs.
    Running,
    /// It could not be executed; the process ends by itself.
    Failed(String),
    /// The container has ended.
    NoContainer,
    /// The process ended before it said anything: something has killed it.
    Died,
}

impl Joining {
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Whether the next thing it does is exec (or that has happened already).
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Read the channel, without waiting.
    pub fn progress(&mut self) -> JoinProgress {
        let mut bytes = [0; WORD_LENGTH];
        loop {
            match fd::receive_with_fd(self.channel.as_fd(), &mut bytes, false) {
                Ok((0, _)) if self.ready => return JoinProgress::Running,
                Ok((0, _)) => return JoinProgress::Died,
                Ok((length, _)) => match Word::decode(&bytes[..length]) {
                    Some(Word::Ready) if self.program.is_some() => self.ready = true,
                    Some(Word::Fault(fault)) => {
                        return if is_dead_container(fault) {
                            JoinProgress::NoContainer
                        } else {
                            JoinProgress::Failed(self.process.describe(fault))
                        };
                    }
                    Some(Word::Child(pid)) if self.program.is_none() => {
                        // It is gone already, or this is a lie: then it must not be signalled or waited for by this name.
                        if !process::is_child(pid) {
                            return JoinProgress::Died;
                        }
                        self.program = Some(pid);
                        if sys::send(self.channel.as_fd(), &[1], None).is_err() {
                            return JoinProgress::Died;
                        }
                    }
                    Some(Word::Ready | Word::Terminal | Word::Child(_)) | None => {
                        return JoinProgress::Failed("the joining process spoke nonsense".to_owned());
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return JoinProgress::Wait,
                Err(error) => return JoinProgress::Failed(format!("cannot hear the joining process: {error}")),
            }
        }
    }
}

/// `ESRCH`: the first process is gone. `ENOMEM`: its pid namespace is dead (or there is no memory).
fn is_dead_container(fault: Fault) -> bool {
    matches!(
        (fault.step, fault.errno),
        (Step::Container, Errno::ESRCH) | (Step::Fork, Errno::ENOMEM)
    )
}

/// Make the process that joins.
///
/// # Errors
/// The spec has no process or the command cannot be used; no process, no descriptor.
pub fn join(parts: JoinParts<'_>, machine: &Machine) -> Result<Joining, PrepareError> {
    let JoinParts {
        first,
        spec,
        command,
        streams,
        seccomp,
        cgroup,
    } = parts;
    let process = spec
        .process()
        .as_ref()
        .ok_or(PrepareError::Missing { field: "process" })?;
    let standard = match streams {
        JoinStreams::Files(files) => Standard::Files(files),
        JoinStreams::Terminal { to, rows, columns } => Standard::Terminal { to, rows, columns },
    };
    let process = joining_process(process, command, matches!(standard, Standard::Terminal { .. }));
    let plan = JoinPlan {
        first,
        cgroup,
        standard,
        cwd: absolute("working directory", process.cwd())?,
        process: process_plan(&process, seccomp, machine)?,
        first_id: first_id(spec)?,
    };
    let (channel, childs_end) = fd::message_pair().map_err(PrepareError::Streams)?;
    let directory = plan.cgroup.directory.as_ref().map(AsFd::as_fd);
    // SAFETY: the child calls `guest::run` at once, which only makes system calls and never returns.
    match unsafe { process::clone3(0, directory) }.map_err(|errno| PrepareError::Clone(errno.into()))? {
        Cloned::Child => guest::run(&plan, childs_end.as_fd()),
        // A child that only we wait for: its pid is enough.
        Cloned::Parent { pid, pidfd: _ } => Ok(Joining {
            guest: pid,
            program: None,
            channel,
            process: plan.process,
            ready: false,
        }),
    }
}

/// The spec's process with another command; with a terminal, `TERM` tells of it (as containerd has it).
fn joining_process(process: &Process, command: Vec<String>, terminal: bool) -> Process {
    let mut process = process.clone();
    process.set_args(Some(command));
    if terminal {
        let mut environment = process.env().clone().unwrap_or_default();
        environment.retain(|variable| !variable.starts_with("TERM="));
        environment.push("TERM=xterm".to_owned());
        process.set_env(Some(environment));
    }
    process
}
