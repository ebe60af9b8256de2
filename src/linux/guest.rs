//! A process that joins a container, from clone to exec: see `container/join.rs` for why there are two of them.
//!
//! Goes in: the [`JoinPlan`], in a copy of the parent's memory. Comes out: the program, or a [`Fault`] on the channel.
//!
//! The order matters, and these are its reasons: the cgroup is entered first, so that everything is accounted for and
//! can be killed; what is written through the host's /proc comes before the namespaces; the terminal is the container's
//! own; every other descriptor is closed before the working directory is looked up, so that no path leads through one;
//! privileges are given up before anybody inside can see us.
//!
//! **Invariant:** no allocation, no locks, no panics: only system calls on what the plan holds.

#![expect(
    unsafe_code,
    reason = "a clone that only makes system calls, and descriptor 0 borrowed"
)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::cgroup::Entry;
use super::child::{
    become_program, die_with_parent, enter_cgroup, file_streams, give_up, limit, set_oom_score, terminal_streams,
};
use super::plan::{Fault, ProcessPlan, Step, Word};
use super::{idmap, process, sys};

/// The whole plan of a joining process.
pub(super) struct JoinPlan<'a> {
    /// The container's first process.
    pub(super) first: BorrowedFd<'a>,
    pub(super) cgroup: Entry,
    pub(super) standard: Standard,
    pub(super) cwd: CString,
    pub(super) process: ProcessPlan,
    /// The container is in a user namespace, whose id 0 this is.
    pub(super) first_id: Option<u32>,
}

/// See [`super::container::join::JoinStreams`].
pub(super) enum Standard {
    Files([OwnedFd; 3]),
    Terminal { to: OwnedFd, rows: u16, columns: u16 },
}

/// All that a container may have of its own or share with its pod. One that it shares with us is joined without effect.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

enum Never {}

/// Carry out the plan and become the program.
pub(super) fn run(plan: &JoinPlan<'_>, channel: BorrowedFd<'_>) -> ! {
    let Err(fault) = outside(plan, channel);
    // If the parent is gone there is nobody to tell.
    let _unheard = sys::send(channel, &Word::Fault(fault).encode(), None);
    sys::exit(127)
}

/// The guest: everything that needs the host, and then nothing of it is left.
fn outside(plan: &JoinPlan<'_>, channel: BorrowedFd<'_>) -> Result<Never, Fault> {
    enter_cgroup(&plan.cgroup)?;
    die_with_parent()?;
    sys::umask(0);
    set_oom_score(&plan.process);
    let mut namespaces = NAMESPACES;
    if let Some(first) = plan.first_id {
        // In there nobody may raise a limit, nor give away what belongs to the host's root.
        limit(&plan.process)?;
        if let Standard::Files(files) = &plan.standard {
            file_streams(files, plan.process.uid.saturating_add(first)).map_err(Step::Stdio.fault())?;
        }
        idmap::make_as_root_of(first).map_err(Step::UserNamespace.fault())?;
        namespaces |= libc::CLONE_NEWUSER;
    }
    sys::setns(plan.first, namespaces).map_err(Step::Container.fault())?;
    match &plan.standard {
        Standard::Files(_) if plan.first_id.is_some() => {}
        Standard::Files(files) => file_streams(files, plan.process.uid).map_err(Step::Stdio.fault())?,
        Standard::Terminal { to, rows, columns } => {
            let slave = make_terminal(to.as_fd(), *rows, *columns).map_err(Step::Terminal.fault())?;
            terminal_streams(slave.as_fd(), plan.process.uid).map_err(Step::Stdio.fault())?;
        }
    }
    close_all_but(channel).map_err(Step::Stdio.fault())?;
    enter_directory(&plan.cwd).map_err(Step::Cwd.fault())?;
    if plan.first_id.is_none() {
        limit(&plan.process)?;
    }
    give_up(&plan.process)?;
    // SAFETY: the child goes on here and only makes system calls, as we do.
    match unsafe { process::clone_sibling() }.map_err(Step::Fork.fault())? {
        None => inside(plan, channel),
        Some(pid) => {
            // Unheard, the program hears of the shim's end too, and ends.
            let _told = sys::send(channel, &Word::Child(pid).encode(), None);
            sys::exit(0)
        }
    }
}

/// The program's process, in the container's pid namespace: nothing of the host is here but our memory, which nobody
/// without `CAP_SYS_PTRACE` can look into until exec replaces it.
fn inside(plan: &JoinPlan<'_>, channel: BorrowedFd<'_>) -> Result<Never, Fault> {
    die_with_parent()?;
    sys::new_session().map_err(Step::Session.fault())?;
    if matches!(plan.standard, Standard::Terminal { .. }) {
        // SAFETY: it was put there a moment ago and stays open.
        let terminal = unsafe { BorrowedFd::borrow_raw(0) };
        sys::set_controlling_terminal(terminal).map_err(Step::Terminal.fault())?;
    }
    // The shim knows us from its word on. If it is gone, so are we.
    let mut word = [0; 1];
    if nix::unistd::read(channel, &mut word).map_err(Step::ParentGone.fault())? == 0 {
        return Err(Step::ParentGone.fault()(Errno::EPIPE));
    }
    sys::send(channel, &Word::Ready.encode(), None).map_err(Step::ParentGone.fault())?;
    Err(become_program(&plan.process))
}

/// A terminal of the container's own devpts; its master goes to whoever asked. The paths are the container's, so what is
/// found there is looked at before it is believed.
fn make_terminal(to: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
    let master = in_root(c"dev/pts/ptmx", flags, libc::RESOLVE_NO_SYMLINKS)?;
    let stat = sys::stat(master.as_fd())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != sys::device_number(5, 2) {
        return Err(Errno::ENODEV);
    }
    let slave = sys::terminal_peer(master.as_fd())?;
    if rows != 0 || columns != 0 {
        sys::set_window(master.as_fd(), rows, columns)?;
    }
    sys::send(to, &[1], Some(master.as_fd()))?;
    Ok(slave)
}

/// No magic link of /proc is followed: it may name a descriptor of the host's.
fn enter_directory(path: &CStr) -> Result<(), Errno> {
    let directory = in_root(path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    sys::fchdir(directory.as_fd())
}

fn in_root(path: &CStr, flags: libc::c_int, resolve: u64) -> Result<OwnedFd, Errno> {
    let root = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    sys::openat2(root.as_fd(), path, flags, 0, sys::IN_ROOT | resolve)
}

/// Closed, not only marked for exec: what is not here cannot be reached by anybody.
fn close_all_but(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    let kept = channel.as_raw_fd();
    if kept > 3 {
        sys::close_between(3, kept - 1)?;
    }
    sys::close_from(kept + 1, 0)
}
