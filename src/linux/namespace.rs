//! The one mount namespace that every infra process shares: empty, read-only, nothing of the host in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc;

use super::sys;

/// Make an empty, read-only mount namespace and come back from it. For processes with one thread, whose working
/// directory is `/` afterwards.
///
/// # Errors
/// No privileges, or no /proc. The process may then be left in the half-made namespace and must end.
pub fn empty_mount_namespace() -> io::Result<OwnedFd> {
    let home = sys::open(c"/proc/self/ns/mnt", libc::O_RDONLY)?;
    sys::unshare(libc::CLONE_NEWNS)?;
    let empty = sys::open(c"/proc/self/ns/mnt", libc::O_RDONLY)?;
    sys::propagate(c"/", libc::MS_PRIVATE | libc::MS_REC)?;
    // Any directory will do to mount on: /proc is surely there.
    sys::mount(
        c"none",
        c"/proc",
        c"tmpfs",
        libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        c"size=0,mode=555",
    )?;
    let root = sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY)?;
    sys::fchdir(root.as_fd())?;
    sys::pivot_root_here()?;
    sys::unmount(c".", libc::MNT_DETACH)?;
    sys::setns(home.as_fd(), libc::CLONE_NEWNS)?;
    Ok(empty)
}
