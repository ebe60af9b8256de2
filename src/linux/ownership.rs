//! A tree of files given to a group.
//!
//! **Invariant:** no link is followed and no other mount is entered, whatever is moved about in the tree meanwhile: what
//! is changed is what was looked at.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, chmod, chownat, fstat, open, openat2};
use rustix::io::Errno;

/// Kubernetes `pkg/volume/volume_linux.go`: `rwMask`, `execMask`.
const READ_WRITE: u32 = 0o660;
const SEARCH: u32 = 0o110;
const SET_GID: u32 = 0o2000;

/// What could not be given, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot give {} to group {gid}", path.display())]
pub struct OwnershipError {
    pub path: PathBuf,
    pub gid: u32,
    #[source]
    pub source: io::Error,
}

/// Whether the root of a volume is as [`give_to_group`] would leave it (`requiresPermissionChange`).
///
/// # Errors
/// It cannot be looked at.
pub fn is_given(root: &Path, gid: u32) -> io::Result<bool> {
    let stat = fstat(open_root(root)?)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let wanted = READ_WRITE | SEARCH | SET_GID;
    Ok(is_directory && stat.st_gid == gid && stat.st_mode & wanted == wanted)
}

/// Give a directory and everything beneath it to a group: each file can be read and written by it, and what is made in a
/// directory is the group's too.
///
/// # Errors
/// The first thing that could not be given. What vanishes meanwhile is no error.
pub fn give_to_group(root: &Path, gid: u32) -> Result<(), OwnershipError> {
    let failed = |path: &Path, errno: Errno| OwnershipError {
        path: path.to_owned(),
        gid,
        source: errno.into(),
    };
    let top = open_root(root).map_err(|errno| failed(root, errno))?;
    give(top.as_fd(), gid).map_err(|errno| failed(root, errno))?;
    // By paths beneath the root, each opened anew: a tree may be deeper than descriptors are many.
    let mut directories = vec![PathBuf::from(".")];
    while let Some(directory) = directories.pop() {
        let at = |path: &Path| root.join(path);
        let opened = match open_beneath(top.as_fd(), &directory, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(errno) if is_gone(errno) => continue,
            Err(errno) => return Err(failed(&at(&directory), errno)),
        };
        let entries = Dir::read_from(&opened).map_err(|errno| failed(&at(&directory), errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| failed(&at(&directory), errno))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            let given = open_beneath(opened.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW)
                .and_then(|file| give(file.as_fd(), gid));
            match given {
                Ok(FileType::Directory) => directories.push(path),
                Ok(_) => {}
                Err(errno) if is_gone(errno) => {}
                Err(errno) => return Err(failed(&at(&path), errno)),
            }
        }
    }
    Ok(())
}

fn open_root(root: &Path) -> rustix::io::Result<OwnedFd> {
    open(root, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn open_beneath(directory: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    // A link itself may be opened as a path, only not walked through.
    let resolve = if flags.contains(OFlags::PATH) {
        resolve - ResolveFlags::NO_SYMLINKS
    } else {
        resolve
    };
    openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// It is not there any more, something else is in its place, or it is another mount.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

/// `changeFilePermission`: the owner of a link is changed, its mode is another file's.
fn give(file: BorrowedFd<'_>, gid: u32) -> rustix::io::Result<FileType> {
    let stat = fstat(file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    chownat(file, c"", None, Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
    if kind == FileType::Symlink {
        return Ok(kind);
    }
    let mut mode = stat.st_mode & 0o7777 | READ_WRITE;
    if kind == FileType::Directory {
        mode |= SET_GID | SEARCH;
    }
    // A descriptor that is only a path has no mode of its own to be set; its name in /proc is the file itself.
    let name = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::INVAL)?;
    chmod(&name, Mode::from_raw_mode(mode))?;
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const GID: u32 = 4242;

    fn look(path: &Path) -> (u32, u32) {
        let found = fs::symlink_metadata(path).unwrap();
        (found.gid(), found.mode() & 0o7777)
    }

    fn put(path: &Path, mode: u32) {
        fs::write(path, "x").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_tree_is_given_and_nothing_that_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        put(&outside.join("secret"), 0o600);
        put(&root.join("a/b/file"), 0o4600);
        symlink(&outside, root.join("a/link")).unwrap();
        symlink(outside.join("secret"), root.join("file-link")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        let before = (look(&outside), look(&outside.join("secret")));

        assert!(!is_given(&root, GID).unwrap());
        give_to_group(&root, GID).unwrap();
        assert!(is_given(&root, GID).unwrap());
        assert_eq!(look(&root.join("a")), (GID, 0o2770));
        assert_eq!(look(&root.join("a/b")).0, GID);
        assert_eq!(
            look(&root.join("a/b/file")),
            (GID, 0o4660),
            "as the kubelet has it: what it had is kept"
        );
        assert_eq!(look(&root.join("a/link")).0, GID);
        assert_eq!(look(&root.join("dangling")).0, GID);
        assert_eq!((look(&outside), look(&outside.join("secret"))), before);
    }

    #[test]
    fn a_link_in_the_place_of_a_root_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        symlink(&outside, &root).unwrap();
        let before = look(&outside);
        let _whatever = give_to_group(&root, GID);
        assert_eq!(look(&outside), before);
    }
}
