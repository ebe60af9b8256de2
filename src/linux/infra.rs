//! The pod's first process, which holds its namespaces and sleeps.
//!
//! It is a fork without an exec: nothing is mapped that the shim does not share. It shows nothing of the host: its mount
//! namespace is empty and read-only, it has no descriptors, nobody but root can look into it, and it dies with the shim.
//!
//! **Invariant:** in the child no allocation, no locks: only system calls.

#![expect(
    unsafe_code,
    reason = "clone3 in a process with one thread, whose child only makes system calls"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::cgroup::Entry;
use super::process::{self, Cloned};
use super::{fd, idmap, sys};

/// How to make it.
#[derive(Debug)]
pub struct InfraConfig<'a> {
    /// Keep the host's network and uts namespaces.
    pub host_network: bool,
    /// Keep the host's pid namespace.
    pub host_pid: bool,
    /// Keep the host's IPC namespace.
    pub host_ipc: bool,
    /// Kernel parameters of its namespaces.
    pub sysctls: Vec<Sysctl>,
    /// Its namespaces belong to a user namespace of its own, with these ids.
    pub users: Option<UserIds>,
    pub hostname: &'a str,
    pub oom_score_adj: i32,
    pub cgroup: Entry,
    /// From [`super::namespace::empty_mount_namespace`].
    pub mounts: BorrowedFd<'a>,
}

/// A kernel parameter to be set.
#[derive(Debug)]
pub struct Sysctl {
    name: String,
    /// Beneath /proc/sys.
    path: CString,
    value: CString,
}

impl Sysctl {
    /// `name` with slashes between its parts.
    ///
    /// # Errors
    /// [`InfraError::SysctlName`]: it leads elsewhere, or name or value holds a NUL byte.
    pub fn new(name: &str, value: &str) -> Result<Self, InfraError> {
        let bad = || InfraError::SysctlName { name: name.to_owned() };
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !name.split('/').all(plain) {
            return Err(bad());
        }
        Ok(Self {
            name: name.to_owned(),
            path: CString::new(name).map_err(|_| bad())?,
            value: CString::new(value).map_err(|_| bad())?,
        })
    }
}

/// The ids of a user namespace: those of the machine from `first` on are its own from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIds {
    pub first: u32,
    pub count: u32,
}

/// A running infra process.
#[derive(Debug)]
pub struct Infra {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// The order is that of the child's steps.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum InfraStep {
    #[error("enter cgroup")]
    Cgroup,
    #[error("set up")]
    SetUp,
    #[error("set sysctl")]
    Sysctl,
    #[error("set hostname")]
    Hostname,
    #[error("enter the empty mount namespace")]
    Mounts,
    #[error("make the user namespace")]
    Users,
}

const STEPS: [InfraStep; 6] = [
    InfraStep::Cgroup,
    InfraStep::SetUp,
    InfraStep::Sysctl,
    InfraStep::Hostname,
    InfraStep::Mounts,
    InfraStep::Users,
];

/// The second byte of a word: a user namespace is there and waits for its ids.
const WITHOUT_IDS: u8 = 1;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum InfraError {
    #[error("make infra process: {0}")]
    Clone(io::Error),
    #[error("infra process: {step}: {source}")]
    Child { step: InfraStep, source: io::Error },
    #[error("infra process: set sysctl {name}: {source}")]
    Sysctl { name: String, source: io::Error },
    #[error("sysctl {name:?} is not a plain name")]
    SysctlName { name: String },
    #[error("user namespace: give it its ids: {0}")]
    Ids(io::Error),
    #[error("infra process ended while it was made")]
    Died,
}

/// Make infra and wait until it is asleep in its namespaces (well under a millisecond: nothing in it can wait).
///
/// # Errors
/// See [`InfraError`]. The process, if there was one, ends by itself and is to be waited for.
pub fn start(config: &InfraConfig<'_>) -> Result<Infra, InfraError> {
    let (channel, childs_end) = fd::message_pair().map_err(InfraError::Clone)?;
    let pid = if config.host_pid { 0 } else { libc::CLONE_NEWPID };
    let mut own = if config.host_ipc { 0 } else { libc::CLONE_NEWIPC };
    if !config.host_network {
        own |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    // What belongs to a user namespace is made with it, by the child.
    let at_once = if config.users.is_some() { 0 } else { own };
    let flags = u64::from((pid | at_once).cast_unsigned());
    let score = config.oom_score_adj.to_string();
    let directory = config.cgroup.directory.as_ref().map(AsFd::as_fd);
    // SAFETY: the child calls `run` at once, which only makes system calls and never returns.
    let cloned = unsafe { process::clone3(flags, directory) }.map_err(|errno| InfraError::Clone(errno.into()))?;
    match cloned {
        Cloned::Child => run(config, own, score.as_bytes(), childs_end.as_fd()),
        Cloned::Parent { pid, pidfd } => {
            drop(childs_end);
            let mut word = [0; 8];
            let (mut length, _) = fd::receive_with_fd(channel.as_fd(), &mut word, true).map_err(InfraError::Clone)?;
            if let ([_, WITHOUT_IDS, ..], Some(UserIds { first, count })) = (word, config.users) {
                idmap::give_ids(pid, first, count).map_err(InfraError::Ids)?;
                sys::send(channel.as_fd(), &[1], None).map_err(|_gone| InfraError::Died)?;
                (length, _) = fd::receive_with_fd(channel.as_fd(), &mut word, true).map_err(InfraError::Clone)?;
            }
            let [step, index, _, _, a, b, c, d] = word;
            match (length, i32::from_le_bytes([a, b, c, d])) {
                // It is told before it closes what it has open, this channel too: the end of that is waited for.
                (8, 0) => match fd::receive_with_fd(channel.as_fd(), &mut word, true).map_err(InfraError::Clone)? {
                    (0, _) => Ok(Infra { pid, pidfd }),
                    _ => Err(InfraError::Died),
                },
                (8, errno) => {
                    let source = io::Error::from_raw_os_error(errno);
                    let step = STEPS.get(usize::from(step)).copied().unwrap_or(InfraStep::SetUp);
                    Err(match (step, config.sysctls.get(usize::from(index))) {
                        (InfraStep::Sysctl, Some(sysctl)) => InfraError::Sysctl {
                            name: sysctl.name.clone(),
                            source,
                        },
                        (step, _) => InfraError::Child { step, source },
                    })
                }
                _ => Err(InfraError::Died),
            }
        }
    }
}

fn run(config: &InfraConfig<'_>, own: libc::c_int, score: &[u8], channel: BorrowedFd<'_>) -> ! {
    let (step, index, errno) = match set_up(config, own, score, channel) {
        Ok(()) => (0, 0, 0),
        Err((step, index, errno)) => (step as u8, index, errno as i32),
    };
    let [a, b, c, d] = errno.to_le_bytes();
    let told = sys::send(channel, &[step, index, 0, 0, a, b, c, d], None);
    if errno != 0 || told.is_err() || sys::close_from(0, 0).is_err() {
        sys::exit(1);
    }
    loop {
        // Orphans of the pod are forgotten by the kernel when they end, because SIGCHLD is ignored; as the first process
        // of its pid namespace nothing but SIGKILL from outside ends this one.
        sys::pause();
    }
}

fn set_up(
    config: &InfraConfig<'_>,
    own: libc::c_int,
    score: &[u8],
    channel: BorrowedFd<'_>,
) -> Result<(), (InfraStep, u8, Errno)> {
    let at = |step| move |errno| (step, 0, errno);
    for tasks in &config.cgroup.tasks {
        sys::write(tasks.as_fd(), b"0").map_err(at(InfraStep::Cgroup))?;
    }
    let rest = || {
        die_with_parent()?;
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
        sys::set_name(c"podd-infra")?;
        sys::new_session()?;
        sys::sleep_actions()
    };
    rest().map_err(at(InfraStep::SetUp))?;
    // It shows the namespaces of whoever opens what is in it, and stays reachable by this.
    let parameters = if config.sysctls.is_empty() {
        None
    } else {
        let opened = sys::open(c"/proc/sys", libc::O_PATH | libc::O_DIRECTORY);
        Some(opened.map_err(at(InfraStep::Sysctl))?)
    };
    let set_names = || {
        for (index, sysctl) in (0..=u8::MAX).zip(&config.sysctls) {
            let Some(parameters) = &parameters else { break };
            sys::openat2(parameters.as_fd(), &sysctl.path, libc::O_WRONLY, 0, 0)
                .and_then(|file| sys::write(file.as_fd(), sysctl.value.to_bytes()))
                .map_err(|errno| (InfraStep::Sysctl, index, errno))?;
        }
        if config.host_network {
            return Ok(());
        }
        sys::sethostname(config.hostname.as_bytes()).map_err(at(InfraStep::Hostname))
    };
    if config.users.is_none() {
        set_names()?;
    }
    // Lowering it needs CAP_SYS_RESOURCE, which not every machine gives.
    if let Ok(file) = sys::open(c"/proc/self/oom_score_adj", libc::O_WRONLY) {
        let _lowered = sys::write(file.as_fd(), score);
    }
    sys::setns(config.mounts, libc::CLONE_NEWNS).map_err(at(InfraStep::Mounts))?;
    if config.users.is_some() {
        become_root_of_new_users(own, channel).map_err(at(InfraStep::Users))?;
        set_names()?;
    }
    Ok(())
}

/// A user namespace, to which the others belong, and nobody in it whom the machine knows: after this the process is the
/// namespace's root, and no longer the machine's.
fn become_root_of_new_users(own: libc::c_int, channel: BorrowedFd<'_>) -> Result<(), Errno> {
    sys::unshare(libc::CLONE_NEWUSER | own)?;
    sys::send(channel, &[0, WITHOUT_IDS, 0, 0, 0, 0, 0, 0], None)?;
    sys::receive_byte(channel)?;
    sys::setgroups(&[])?;
    sys::setresgid(0)?;
    sys::setresuid(0)?;
    // A change of credentials takes both away. That the parent lives is seen when it is told that all is done.
    die_with_parent()?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

fn die_with_parent() -> Result<(), Errno> {
    let kill = libc::c_ulong::from(libc::SIGKILL.cast_unsigned());
    sys::prctl(libc::PR_SET_PDEATHSIG, kill, 0)
}
