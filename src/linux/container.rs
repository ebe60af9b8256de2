//! The native runtime: an OCI runtime spec becomes a process.
//!
//! Goes in: the spec, the root's layers, the machine's cgroups. Comes out: a [`Starting`] process, which says on a channel
//! whether it has become the container's program or why not.
//!
//! What podd cannot carry out is refused by name before anything is made: a container never runs with less than its spec
//! asks for.
//!
//! **Invariant:** all that can allocate happens before the clone; `child.rs` does the rest.

#![expect(
    unsafe_code,
    reason = "clone3 in a process with one thread, whose child only makes system calls"
)]

pub mod join;
mod spec;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use oci_spec::runtime::{Process, Spec};

use super::capability::{self, Capabilities};
use super::cgroup::{CgroupError, Cgroups, Entry};
use super::idmap::UserNamespace;
use super::mount::UnsupportedOption;
use super::plan::{Plan, ProcessPlan, Root, WORD_LENGTH, What, Word};
use super::process::{self, Cloned};
use super::seccomp::Program;
use super::{child, fd, sys};
use spec::{
    Namespaces, absolute, cgroup_mounts, devices, exec, first_id, path_string, paths, plain_number, plan_mount,
    refuse_unsupported, rlimit, root_propagation, sysctls, terminal,
};

/// What a container's root is made of, and what the spec has no words for.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Topmost first.
    pub lower: &'a [PathBuf],
    pub upper: &'a Path,
    pub work: &'a Path,
    /// An existing directory to mount on, in the container's own mount namespace.
    pub target: &'a Path,
    /// Of mounts by their destination: the relative path beneath the source.
    pub sub_paths: &'a HashMap<PathBuf, PathBuf>,
    /// Keep a pipe as stdin; else /dev/null.
    pub stdin: bool,
    /// Already compiled from the spec's profile.
    pub seccomp: Option<Program>,
}

/// What of the machine a container needs to know, looked at once.
#[derive(Debug)]
pub struct Machine {
    pub cgroups: Cgroups,
    available: u64,
    last_capability: u32,
    own_pid_namespace: OwnedFd,
}

impl Machine {
    /// # Errors
    /// `/proc` is not as it should be.
    pub fn look(cgroups: Cgroups) -> io::Result<Self> {
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
        let last_capability = last.trim_end().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        let own_pid_namespace = sys::open(c"/proc/self/ns/pid", libc::O_RDONLY)?;
        Ok(Self {
            cgroups,
            available: capability::available()?,
            last_capability,
            own_pid_namespace,
        })
    }

    /// Whether a process of ours can be spared from the out-of-memory killer more than we are ourselves
    /// (`CAP_SYS_RESOURCE`).
    pub fn can_lower_oom_score(&self) -> bool {
        self.available & (1 << CAP_SYS_RESOURCE) != 0
    }
}

const CAP_SYS_RESOURCE: u32 = 24;

/// A spec that cannot be carried out, or whose parts cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("the spec has no {field}")]
    Missing { field: &'static str },
    #[error("{field} is not supported")]
    Unsupported { field: &'static str },
    #[error("mount {destination:?}: {source}")]
    MountOption {
        destination: PathBuf,
        source: UnsupportedOption,
    },
    #[error("mount {destination:?} needs a source")]
    MountSource { destination: PathBuf },
    #[error("{what} {value:?} holds a NUL byte")]
    Nul { what: &'static str, value: String },
    #[error("{what} {path:?} is not an absolute path")]
    NotAbsolute { what: &'static str, path: PathBuf },
    #[error("sub path {path:?} of mount {destination:?} is not a plain relative path")]
    SubPath { destination: PathBuf, path: PathBuf },
    #[error("device {path:?} has an impossible number or type")]
    Device { path: PathBuf },
    #[error("sysctl {name:?} is not a plain name")]
    Sysctl { name: String },
    #[error("root propagation {value:?} is not known")]
    Propagation { value: String },
    #[error("{kind} namespace {path:?}: {source}")]
    Namespace {
        kind: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("a user namespace is joined by its path, and its ids are one range of users and groups from 0 on")]
    UserNamespace,
    #[error("cgroup")]
    Cgroup(#[from] CgroupError),
    #[error("standard streams: {0}")]
    Streams(io::Error),
    #[error("{}", clone_error_words(.0))]
    Clone(io::Error),
}

/// A container that is ready to be cloned.
pub struct Prepared {
    plan: Plan,
    ours: Streams,
    shares_pid_namespace: bool,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("program", &self.plan.process.exec.program)
            .finish_non_exhaustive()
    }
}

/// The shim's ends of a container's streams; none of them with a terminal.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// A process on its way to exec.
pub struct Starting {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub streams: Streams,
    /// Whether it is not the first process of a pid namespace of its own: then others may outlive it.
    pub shares_pid_namespace: bool,
    channel: OwnedFd,
    /// Kept to put faults into words.
    plan: Plan,
    ready: bool,
}

impl std::fmt::Debug for Starting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Starting")
            .field("pid", &self.pid)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// What is known about a start by now.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new: ask again when the channel can be read.
    Wait,
    /// The master of the container's terminal.
    Terminal(OwnedFd),
    /// The program runs.
    Running,
    /// It could not be executed; the process ends by itself.
    Failed(String),
    /// The process ended before it said anything: something has killed it.
    Died,
}

impl Starting {
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Let a process that is held go on. `false`: something has gone wrong with it, and it must be given up.
    pub fn release(&self) -> bool {
        let mut bytes = [0; WORD_LENGTH];
        let is_well = match fd::peek(self.channel.as_fd(), &mut bytes) {
            Ok(None) => true,
            Ok(Some(length)) => matches!(Word::decode(&bytes[..length]), Some(Word::Terminal)),
            Err(_) => false,
        };
        is_well && sys::send(self.channel.as_fd(), &[1], None).is_ok()
    }

    /// Read the channel, without waiting. Call it again until it gives something other than `Terminal`.
    pub fn progress(&mut self) -> Progress {
        let mut bytes = [0; WORD_LENGTH];
        loop {
            match fd::receive_with_fd(self.channel.as_fd(), &mut bytes, false) {
                Ok((0, _)) => return if self.ready { Progress::Running } else { Progress::Died },
                Ok((length, descriptor)) => match (Word::decode(&bytes[..length]), descriptor) {
                    (Some(Word::Ready), _) => self.ready = true,
                    (Some(Word::Fault(fault)), _) => return Progress::Failed(self.plan.describe(fault)),
                    (Some(Word::Terminal), Some(master)) => return Progress::Terminal(master),
                    (Some(Word::Terminal | Word::Child(_)) | None, _) => {
                        return Progress::Failed("the container's process spoke nonsense".to_owned());
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Wait,
                // It ended with a word unread that we had sent it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Progress::Died,
                Err(error) => return Progress::Failed(format!("cannot hear the container's process: {error}")),
            }
        }
    }
}

impl Prepared {
    /// Understand the spec and open everything the child will need. The cgroup must be there already.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn new(spec: &Spec, parts: &Parts<'_>, machine: &Machine) -> Result<Self, PrepareError> {
        refuse_unsupported(spec)?;
        let process = spec
            .process()
            .as_ref()
            .ok_or(PrepareError::Missing { field: "process" })?;
        let linux = spec.linux().as_ref().ok_or(PrepareError::Missing { field: "linux" })?;
        let namespaces = Namespaces::of(spec)?;
        let user = match (namespaces.user, first_id(spec)?) {
            (Some(namespace), Some(first)) => Some(UserNamespace { namespace, first }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(PrepareError::UserNamespace),
        };
        let first = user.as_ref().map_or(0, |user| user.first);
        let cgroup_path = linux.cgroups_path().as_ref().ok_or(PrepareError::Missing {
            field: "linux.cgroupsPath",
        })?;
        let cgroup_path = cgroup_path.to_string_lossy();
        let entry = machine.cgroups.entry(&cgroup_path)?;

        let mut mounts = Vec::new();
        let mut links = Vec::new();
        let mut own_dev = false;
        for mount in spec.mounts().iter().flatten() {
            if mount.typ().as_deref() == Some("cgroup") || mount.typ().as_deref() == Some("cgroup2") {
                let own = namespaces.new_cgroup;
                cgroup_mounts(
                    mount,
                    machine.cgroups.hierarchies(),
                    &cgroup_path,
                    own,
                    &mut mounts,
                    &mut links,
                )?;
                continue;
            }
            let planned = plan_mount(mount, parts.sub_paths, first)?;
            own_dev |= mount.destination() == Path::new("/dev") && matches!(planned.what, What::Bind { .. });
            mounts.push(planned);
        }
        // Whoever binds a /dev of his own has it as it is.
        let (devices, device_links) = if own_dev {
            (Vec::new(), Vec::new())
        } else {
            devices(linux.devices().as_deref().unwrap_or_default())?
        };
        links.extend(device_links);

        let terminal = process.terminal().unwrap_or(false).then(|| terminal(process));
        let (ours, stdio) = if terminal.is_some() {
            (Streams::default(), None)
        } else {
            let (ours, theirs) = streams(parts.stdin).map_err(PrepareError::Streams)?;
            (ours, Some(theirs))
        };
        let trees = mounts.iter().map(|_| None).collect();
        let root = spec.root().as_ref();
        let plan = Plan {
            clone_flags: namespaces.clone_flags,
            pid_namespace: namespaces.pid,
            join: namespaces.join,
            user,
            new_cgroup_namespace: namespaces.new_cgroup,
            cgroup: entry,
            sysctls: sysctls(linux.sysctl().as_ref())?,
            root: Root {
                lower: parts
                    .lower
                    .iter()
                    .map(|path| path_string("layer", path))
                    .collect::<Result<_, _>>()?,
                upper: path_string("upper layer", parts.upper)?,
                work: path_string("work directory", parts.work)?,
                target: path_string("root target", parts.target)?,
                readonly: root.and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
                home: path_string("upper layer", parts.upper.parent().unwrap_or(parts.upper))?,
                propagation: root_propagation(linux.rootfs_propagation().as_deref())?,
            },
            mounts,
            trees,
            devices,
            links,
            terminal,
            masked: paths("masked path", linux.masked_paths().as_deref())?,
            readonly: paths("read-only path", linux.readonly_paths().as_deref())?,
            cwd: absolute("working directory", process.cwd())?,
            stdio,
            process: process_plan(process, parts.seccomp.clone(), machine)?,
            held: false,
        };
        if plan.root.lower.is_empty() {
            return Err(PrepareError::Missing { field: "root layers" });
        }
        Ok(Self {
            plan,
            ours,
            shares_pid_namespace: namespaces.shares_pid,
        })
    }

    /// Clone. The child goes on by itself; its channel tells how. One that is `held` prepares everything, and waits to be
    /// [released](Starting::release) before it gives up its privileges and becomes the program.
    ///
    /// # Errors
    /// No process, no descriptor, or (`ENOMEM`) the pid namespace to join is dead. What was made is gone again.
    pub fn start(self, machine: &Machine, held: bool) -> io::Result<Starting> {
        let Self {
            mut plan,
            ours,
            shares_pid_namespace,
        } = self;
        plan.held = held;
        let (channel, childs_end) = fd::message_pair()?;
        if let Some(namespace) = &plan.pid_namespace {
            sys::setns(namespace.as_fd(), libc::CLONE_NEWPID)?;
        }
        let directory = plan.cgroup.directory.as_ref().map(AsFd::as_fd);
        // SAFETY: the child calls `child::run` at once, which only makes system calls and never returns.
        let cloned = unsafe { process::clone3(plan.clone_flags, directory) };
        if matches!(cloned, Ok(Cloned::Child)) {
            child::run(&mut plan, childs_end.as_fd());
        }
        if plan.pid_namespace.is_some()
            && let Err(errno) = sys::setns(machine.own_pid_namespace.as_fd(), libc::CLONE_NEWPID)
        {
            // The next container would be born in the wrong place, and this one must not live without a name.
            if let Ok(Cloned::Parent { pidfd, .. }) = cloned {
                process::signal(pidfd.as_fd(), libc::SIGKILL)?;
            }
            return Err(errno.into());
        }
        match cloned? {
            Cloned::Parent { pid, pidfd } => {
                // What only the child needs is closed on this side.
                plan.stdio = None;
                plan.join.clear();
                plan.user = None;
                plan.pid_namespace = None;
                plan.cgroup = Entry {
                    tasks: Vec::new(),
                    directory: None,
                };
                Ok(Starting {
                    pid,
                    pidfd,
                    streams: ours,
                    shares_pid_namespace,
                    channel,
                    plan,
                    ready: false,
                })
            }
            Cloned::Child => unreachable!("the child has been sent its own way"),
        }
    }
}

/// What every process of the container becomes, the first one or another.
fn process_plan(process: &Process, seccomp: Option<Program>, machine: &Machine) -> Result<ProcessPlan, PrepareError> {
    Ok(ProcessPlan {
        oom_score_adj: process.oom_score_adj().map(|score| plain_number(score.into())),
        rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
        umask: process.user().umask().unwrap_or(0o022),
        uid: process.user().uid(),
        gid: process.user().gid(),
        groups: process.user().additional_gids().clone().unwrap_or_default(),
        capabilities: Capabilities::of(process.capabilities().as_ref(), machine.available),
        last_capability: machine.last_capability,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp,
        exec: exec(process)?,
    })
}

/// Pipes, our ends of which do not block; without `stdin` the other end of that is `/dev/null`.
pub(super) fn streams(stdin: bool) -> io::Result<(Streams, [OwnedFd; 3])> {
    let (our_stdin, their_stdin) = if stdin {
        let (reads, writes) = fd::pipe()?;
        fd::set_nonblocking(writes.as_fd())?;
        (Some(writes), reads)
    } else {
        (None, sys::open(c"/dev/null", libc::O_RDONLY)?)
    };
    let (our_stdout, their_stdout) = fd::pipe()?;
    let (our_stderr, their_stderr) = fd::pipe()?;
    fd::set_nonblocking(our_stdout.as_fd())?;
    fd::set_nonblocking(our_stderr.as_fd())?;
    let ours = Streams {
        stdin: our_stdin,
        stdout: Some(our_stdout),
        stderr: Some(our_stderr),
    };
    Ok((ours, [their_stdin, their_stdout, their_stderr]))
}

/// What an errno of the clone means where it can be said better.
pub fn clone_error_words(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOMEM) => "make process: out of memory, or the pid namespace to join is dead".to_owned(),
        Some(errno) => format!("make process: {}", super::plan::errno_words(errno)),
        None => format!("make process: {error}"),
    }
}
