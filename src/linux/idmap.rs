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
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::fd;
use super::mounts;
use super::process::{self, Cloned};
use super::sys::{self, MountAttr, OPEN_TREE_CLONE};

/// The kernel that a kubelet asks for (KEP-127): the first that maps a tmpfs, where ConfigMaps, Secrets and tokens lie.
const KERNEL: (u32, u32) = (6, 3);

/// Files cannot be shown as a user namespace counts their owners.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("{kind} cannot be mounted with a pod's own ids by Linux {release}: it needs Linux {}.{}", KERNEL.0, KERNEL.1)]
    OldKernel { kind: String, release: String },
    #[error("{kind} is a file system that cannot be mounted with a pod's own ids")]
    FileSystem { kind: String },
    #[error("cannot be mounted with a pod's own ids")]
    Mount(#[source] io::Error),
    #[error("no user namespace can be made")]
    Namespace(#[source] io::Error),
}

impl MapError {
    /// Why this file or directory of the machine was refused; looks at the mount table and at the kernel's version.
    pub(super) fn of(path: &Path, source: io::Error) -> Self {
        match mounts::kind_of(path) {
            Ok(kind) => Self::of_kind(kind, source),
            Err(_) => Self::Mount(source),
        }
    }

    fn of_kind(kind: String, source: io::Error) -> Self {
        if source.raw_os_error() != Some(libc::EINVAL) {
            return Self::Mount(source);
        }
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        if version(&release).is_some_and(|version| version < KERNEL) {
            Self::OldKernel { kind, release }
        } else {
            Self::FileSystem { kind }
        }
    }
}

/// `6.1.0-37-cloud-amd64`
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Make a user namespace, and mount what pods need with its ids, nowhere: this directory, and a tmpfs. Nothing is left of
/// any of it.
///
/// # Errors
/// The first that does not go.
pub fn try_mounts(directory: &Path) -> Result<(), MapError> {
    let tried = in_namespace(|pid| {
        let of_directory = mapped(directory, pid).map(drop);
        Ok((of_directory, map_tmpfs(pid)))
    });
    let (of_directory, of_tmpfs) = tried.map_err(MapError::Namespace)?;
    of_directory.map_err(|source| MapError::of(directory, source))?;
    of_tmpfs.map_err(|source| MapError::of_kind("tmpfs".to_owned(), source))
}

fn map_tmpfs(pid: i32) -> io::Result<()> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/user"))?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(map_mount(mount.as_fd(), namespace.as_fd())?)
}

/// Do something while a process lives, whose pid it is given, that has a user namespace of its own.
fn in_namespace<T>(look: impl FnOnce(i32) -> io::Result<T>) -> io::Result<T> {
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
                    look(pid)
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

/// Whether a pod whose infra is this process can be shown this directory.
///
/// # Errors
/// Why it cannot.
pub fn try_mapped(directory: &Path, pid: i32) -> Result<(), MapError> {
    let tried = mapped(directory, pid).map(drop);
    tried.map_err(|source| MapError::of(directory, source))
}

/// A directory, mounted nowhere, as the user namespace of this process counts owners.
///
/// # Errors
/// `InvalidInput` (the kernel's `EINVAL`): its file system cannot do that. Others: the place or the process is not there.
pub(super) fn mapped(directory: &Path, pid: i32) -> io::Result<OwnedFd> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/user"))?;
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let opened = sys::open(&path, libc::O_PATH | libc::O_DIRECTORY)?;
    let tree = sys::open_tree(opened.as_fd(), c"", OPEN_TREE_CLONE)?;
    map_mount(tree.as_fd(), namespace.as_fd())?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_old_by_its_numbers() {
        for (release, expected) in [
            ("6.1.0-37-cloud-amd64", Some((6, 1))),
            ("6.3", Some((6, 3))),
            ("6.18.44-fc", Some((6, 18))),
            ("10.0.1", Some((10, 0))),
            ("unknown", None),
        ] {
            assert_eq!(version(release), expected);
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let refused = |errno| MapError::of(Path::new("/proc/self"), io::Error::from_raw_os_error(errno)).to_string();
        assert!(refused(libc::EINVAL).starts_with("proc "), "{}", refused(libc::EINVAL));
        assert_eq!(refused(libc::EPERM), "cannot be mounted with a pod's own ids");
    }
}
