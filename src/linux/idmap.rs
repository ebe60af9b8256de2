//! User namespaces, and mounts that show their files as such a namespace counts owners.
//!
//! Goes in: a namespace (a descriptor), the first of its ids on the machine, mounts. Comes out: mounts whose owner 0 on the
//! disk is the namespace's 0. So what a pod writes belongs to the same numbers on the disk as without a namespace.
//!
//! **Invariant:** what a child uses between clone and exec allocates nothing. No file's owner on the disk is ever changed.

#![expect(unsafe_code, reason = "clone3 for a child that only makes system calls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::fd;
use super::process::{self, Cloned};
use super::sys::{self, MountAttr, OPEN_TREE_CLONE};

/// Make a user namespace and mount this directory with its ids, nowhere. Nothing is left of either.
///
/// # Errors
/// The kernel gives no user namespace, or the file system of the directory cannot be mounted so (`EINVAL`).
pub fn try_mount(directory: &Path) -> io::Result<()> {
    let (there, says) = fd::pipe()?;
    let (waits, release) = fd::pipe()?;
    // SAFETY: the child only makes system calls: no allocation, no locks.
    match unsafe { process::clone3(0, None) }? {
        Cloned::Child => {
            let errno = match sys::unshare(libc::CLONE_NEWUSER) {
                Ok(()) => 0,
                Err(errno) => errno as i32,
            };
            drop(release);
            let told = sys::write(says.as_fd(), &errno.to_le_bytes());
            drop(says);
            if told.is_ok() {
                // Until the other end is closed.
                let _ended = nix::unistd::read(waits.as_fd(), &mut [0]);
            }
            sys::exit(0)
        }
        Cloned::Parent { pid, pidfd: _ } => {
            drop((says, waits));
            let mut errno = [0; 4];
            let tried = fd::read_some(there.as_fd(), &mut errno).and_then(|length| match length {
                Some(4) if errno == [0; 4] => {
                    give_ids(pid, IDS, IDS)?;
                    mapped(directory, pid).map(drop)
                }
                Some(4) => Err(io::Error::from_raw_os_error(i32::from_le_bytes(errno))),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            });
            drop(release);
            process::reap(pid)?;
            tried
        }
    }
}

/// Some ids to try it with: any will do but the machine's own.
const IDS: u32 = 65_536;

/// What a container's first process needs of its pod's user namespace.
pub(super) struct UserNamespace {
    pub(super) namespace: OwnedFd,
    /// Its id 0, as the machine counts.
    pub(super) first: u32,
}

/// `/proc/<pid>/uid_map` and `gid_map`: the namespace's ids from 0 on are the machine's from `first` on.
///
/// # Errors
/// The process is gone, or its ids are given already.
pub(super) fn give_ids(pid: i32, first: u32, count: u32) -> io::Result<()> {
    let map = format!("0 {first} {count}\n");
    for file in ["uid_map", "gid_map"] {
        // In one write: a second one is refused.
        std::fs::write(format!("/proc/{pid}/{file}"), &map)?;
    }
    Ok(())
}

/// Have this detached mount, and not those beneath it, show its files as the namespace counts.
///
/// `EINVAL`: its file system cannot do that.
pub(super) fn map_mount(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        userns_fd: u64::try_from(namespace.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        ..MountAttr::default()
    };
    sys::mount_setattr(tree, false, &attr)
}

/// Put over a directory, in our own mount namespace, the same directory as the namespace counts owners.
pub(super) fn map_in_place(directory: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let tree = sys::open_tree(directory, c"", OPEN_TREE_CLONE)?;
    map_mount(tree.as_fd(), namespace)?;
    sys::move_mount(tree.as_fd(), directory)
}

/// From here on, what we make belongs to the namespace's root. We may still do all that we could.
pub(super) fn make_as_root_of(first: u32) -> Result<(), Errno> {
    sys::set_file_ids(first)?;
    // The kernel has taken those away that are for files.
    let mut capabilities = sys::capget()?;
    capabilities.effective = capabilities.permitted;
    sys::capset(&capabilities)
}

/// A directory, mounted nowhere, as the user namespace of this process counts owners.
///
/// # Errors
/// `InvalidInput` (the kernel's `EINVAL`): its file system cannot do that. Others: the place or the process is not there.
pub fn mapped(directory: &Path, pid: i32) -> io::Result<OwnedFd> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/user"))?;
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let opened = sys::open(&path, libc::O_PATH | libc::O_DIRECTORY)?;
    let tree = sys::open_tree(opened.as_fd(), c"", OPEN_TREE_CLONE)?;
    map_mount(tree.as_fd(), namespace.as_fd())?;
    Ok(tree)
}
