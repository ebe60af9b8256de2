//! What this kernel and this process allow, tried for real and without a trace.
//!
//! Goes in: what to try, and where. Comes out: that it works, or the kernel's error.
//!
//! Everything is tried in a child process or on a thread with namespaces of its own, which take along what was made.

#![expect(unsafe_code, reason = "fork and the bare system calls have no safe form")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::exchange::NetlinkError;
use super::netlink::{Netlink, Veth};
use super::netns;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    User,
}

impl Namespace {
    pub const ALL: [Self; 7] = [
        Self::Mount,
        Self::Pid,
        Self::Network,
        Self::Ipc,
        Self::Uts,
        Self::Cgroup,
        Self::User,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::User => "user",
        }
    }

    fn flag(self) -> CloneFlags {
        match self {
            Self::Mount => CloneFlags::CLONE_NEWNS,
            Self::Pid => CloneFlags::CLONE_NEWPID,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            Self::User => CloneFlags::CLONE_NEWUSER,
        }
    }
}

/// Make a namespace of this kind, in a child.
pub fn namespace(kind: Namespace) -> io::Result<()> {
    let flag = kind.flag();
    // SAFETY: the child makes two system calls and nothing else: no allocation, no locks.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let errno = nix::sched::unshare(flag).err().map_or(0, |errno| errno as i32);
            // SAFETY: _exit(2) ends this process; nothing of the parent's is flushed or destroyed.
            unsafe { libc::_exit(errno) }
        }
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                Ok(WaitStatus::Exited(_, errno)) => return Err(io::Error::from_raw_os_error(errno)),
                Ok(_) => return Err(io::Error::other("the child that tried it was killed")),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        },
    }
}

/// Mount an overlay on the file system of `directory`, write through it, delete through it. What is made for this in
/// `directory` is removed.
pub fn overlay(directory: &Path) -> io::Result<()> {
    let place = directory.join(format!(".podd-probe-{}", std::process::id()));
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(place.join(name))?;
    }
    let result = fs::write(place.join("lower/below"), "").and_then(|()| on_own_thread(|| try_overlay(&place)));
    let removed = super::path::remove_tree(&place).map_err(|error| error.source);
    result.and(removed)
}

fn try_overlay(place: &Path) -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Since unshare(2) the working directory is this thread's alone: options need no path of any form.
    std::env::set_current_dir(place)?;
    mount(
        "overlay",
        "merged",
        "overlay",
        MountFlags::empty(),
        c"lowerdir=lower,upperdir=upper,workdir=work",
    )?;
    fs::write("merged/new", "written")?;
    fs::remove_file("merged/below")?;
    if fs::read_to_string("upper/new")? != "written" || fs::symlink_metadata("upper/below").is_err() {
        return Err(io::Error::other("what is written is not in the upper directory"));
    }
    Ok(())
}

/// Make a bridge, and a link from it into another network namespace.
pub fn bridge_and_veth() -> Result<(), ProbeError> {
    on_own_thread(|| {
        // One to be the inside, and one to be the outside.
        netns::enter_new().map_err(ProbeError::Namespace)?;
        let inside = netns::of_this_thread().map_err(ProbeError::Namespace)?;
        netns::enter_new().map_err(ProbeError::Namespace)?;
        let mut netlink = Netlink::open()?;
        netlink.add_bridge("probe0", [0x0a, 0x58, 0, 0, 0, 1])?;
        let bridge = netlink.link("probe0")?.map(|link| (link.index, link.mtu));
        let (bridge, mtu) = bridge.ok_or(ProbeError::Vanished)?;
        netlink.add_veth(&Veth {
            name: "probe1",
            alias: "probe",
            bridge,
            mtu,
            peer_name: "eth0",
            peer_mac: [0x0a, 0x58, 0, 0, 0, 2],
            peer_netns: inside.as_fd(),
            ipv6: false,
        })?;
        Ok(())
    })
}

/// Run `work` in a new network namespace, on a thread made for it.
pub fn in_new_network<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_own_thread(|| netns::enter_new().map(|()| work()))
}

/// A trial that failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot make a network namespace")]
    Namespace(#[source] io::Error),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("a bridge that was just made is not there")]
    Vanished,
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The newer system calls that podd is built on, and whether each is there.
pub fn system_calls() -> [(&'static str, bool); 6] {
    let there = |call: libc::c_long, arguments: [libc::c_long; 4]| {
        let [a, b, c, d] = arguments;
        // SAFETY: with these arguments (a bad descriptor, or a size of zero) each of the calls fails before it does
        // anything, and no pointer is read.
        Errno::result(unsafe { libc::syscall(call, a, b, c, d) }) != Err(Errno::ENOSYS)
    };
    let root = rustix::fs::openat2(
        rustix::fs::CWD,
        "/",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    );
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    [
        ("openat2", root.is_ok_and(|fd| fd.as_raw_fd() >= 0)),
        ("pidfd_open", own.is_ok()),
        ("clone3", there(libc::SYS_clone3, [0, 0, 0, 0])),
        ("close_range", there(libc::SYS_close_range, [1, 0, 0, 0])),
        ("move_mount", there(libc::SYS_move_mount, [-1, 0, -1, 0])),
        ("mount_setattr", there(libc::SYS_mount_setattr, [-1, 0, 0, 0])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        overlay(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(
            super::super::mounts::beneath(&dir.path().canonicalize().unwrap()).unwrap(),
            []
        );
        bridge_and_veth().unwrap();
        assert!(Netlink::open().unwrap().link("probe0").unwrap().is_none());
        for kind in Namespace::ALL {
            namespace(kind).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        }
        assert_eq!(system_calls().map(|(_, there)| there), [true; 6]);
        overlay(Path::new("/proc")).unwrap_err();
    }
}
