//! Files and directories of pods, without ever following a link or crossing a mount that somebody put in the way.
//!
//! Goes in: a trusted directory and names beneath it. Comes out: the thing done, or an error with the path.
//!
//! **Invariant:** what a container may have written is walked by descriptors: each step names one component of an open
//! directory, so that swapping a directory for a symlink meanwhile leads nowhere.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// A file-system operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct PathError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

fn error(action: &'static str, path: &Path) -> impl Fn(Errno) -> PathError {
    move |errno| PathError {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Remove a directory and all beneath it. Not there: nothing happens. A mount beneath it is left as it is, and is an
/// error: what lies behind it is not ours.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    let fail = error("remove", path);
    match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(directory) => remove_contents(directory, path)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return rustix::fs::unlinkat(CWD, path, AtFlags::empty()).map_err(fail),
        Err(errno) => return Err(fail(errno)),
    }
    match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(fail(errno)),
    }
}

/// One directory on the way down, with what is still to be looked at in it.
struct Level {
    directory: OwnedFd,
    entries: Dir,
    path: PathBuf,
}

/// Depth first and without recursion, so that no depth a container may have made exhausts the stack.
fn remove_contents(directory: OwnedFd, path: &Path) -> Result<(), PathError> {
    let level = |directory: OwnedFd, path: PathBuf| -> Result<Level, PathError> {
        let entries = Dir::read_from(&directory).map_err(error("list", &path))?;
        Ok(Level {
            directory,
            entries,
            path,
        })
    };
    let mut levels = vec![level(directory, path.to_owned())?];
    while let Some(top) = levels.last_mut() {
        let Some(entry) = top.entries.next() else {
            let done = levels.pop().expect("it was there a line ago");
            if let (Some(parent), Some(name)) = (levels.last(), done.path.file_name()) {
                match rustix::fs::unlinkat(&parent.directory, name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(error("remove", &done.path)(errno)),
                }
            }
            continue;
        };
        let entry = entry.map_err(error("list", &top.path))?;
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let child = top.path.join(OsStr::from_bytes(name.to_bytes()));
        match rustix::fs::unlinkat(&top.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                if is_mount_point(top.directory.as_fd(), name).map_err(error("look at", &child))? {
                    return Err(error("remove", &child)(Errno::BUSY));
                }
                let inner = rustix::fs::openat(&top.directory, name, DIRECTORY, Mode::empty())
                    .map_err(error("open", &child))?;
                levels.push(level(inner, child)?);
            }
            Err(errno) => return Err(error("remove", &child)(errno)),
        }
    }
    Ok(())
}

fn is_mount_point(directory: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let seen = rustix::fs::statx(
        directory,
        name,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        StatxFlags::BASIC_STATS,
    )?;
    Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Make an empty file of exactly this mode. There already: nothing happens.
pub fn write_new(path: &Path, mode: u32) -> Result<(), PathError> {
    let fail = error("make", path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::from_raw_mode(mode)) {
        // The umask is not asked.
        Ok(file) => rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(fail),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(fail(errno)),
    }
}

/// Write a file so that it is there whole or not at all. The same content already: it keeps its inode, so that whoever
/// has it mounted goes on seeing it.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), PathError> {
    if std::fs::read(path).is_ok_and(|now| now == content) {
        return Ok(());
    }
    let failed = |action, source| PathError {
        action,
        path: path.to_owned(),
        source,
    };
    let temporary = path.with_extension("new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(mode)).map_err(error("make", &temporary))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(error("make", &temporary))?;
    let mut file = File::from(file);
    file.write_all(content).map_err(|source| failed("write", source))?;
    rustix::fs::renameat_with(CWD, &temporary, CWD, path, RenameFlags::empty()).map_err(error("write", path))
}

/// Make a directory and its parents with exactly this mode for the last one. There already: its mode is left alone.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), PathError> {
    let fail = error("make", path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| PathError {
            action: "make",
            path: parent.to_owned(),
            source,
        })?;
    }
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) => rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(fail),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(fail(errno)),
    }
}

/// The kind of what a path names; `None` when there is nothing.
pub fn kind(path: &Path) -> Result<Option<FileType>, PathError> {
    match rustix::fs::stat(path) {
        Ok(seen) => Ok(Some(FileType::from_raw_mode(seen.st_mode))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(error("look at", path)(errno)),
    }
}

/// True when a file system of its own begins at this path.
pub fn is_mounted(path: &Path) -> Result<bool, PathError> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| error("look at", path)(Errno::INVAL))?;
    match is_mount_point(CWD, &name) {
        Err(Errno::NOENT) => Ok(false),
        other => other.map_err(error("look at", path)),
    }
}

/// Mount a tmpfs of at most `size` bytes (half of the memory when `None`) with this mode.
pub fn mount_tmpfs(path: &Path, size: Option<u64>, mode: u32) -> Result<(), PathError> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options = format!("{options},size={size}");
    }
    let options = std::ffi::CString::new(options).expect("digits and commas");
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str()).map_err(error("mount a tmpfs on", path))
}

/// Unmount at once from everybody's sight; the kernel lets go when the last user does.
pub fn unmount(path: &Path) -> Result<(), PathError> {
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(path, flags) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(error("unmount", path)(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_goes_and_what_its_links_point_at_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, canary) = (dir.path().join("tree"), dir.path().join("canary"));
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "x").unwrap();
        symlink(&canary, tree.join("a/link")).unwrap();
        symlink(canary.join("file"), tree.join("file-link")).unwrap();
        std::fs::write(tree.join("a/b/file"), "x").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "x");
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_mount_in_the_way_is_spared_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let mounted = dir.path().join("tree/mounted");
        std::fs::create_dir_all(&mounted).unwrap();
        mount_tmpfs(&mounted, Some(1 << 20), 0o755).unwrap();
        std::fs::write(mounted.join("precious"), "x").unwrap();
        let refused = remove_tree(&dir.path().join("tree")).unwrap_err();
        assert_eq!(refused.path, mounted);
        assert!(mounted.join("precious").exists());
        unmount(&mounted).unwrap();
        remove_tree(&dir.path().join("tree")).unwrap();
    }

    #[test]
    fn a_deep_tree_does_not_exhaust_the_stack() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let deep = (0..800).fold(tree.clone(), |path, _| path.join("d"));
        std::fs::create_dir_all(deep).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn an_unchanged_file_keeps_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        write_atomic(&path, b"one", 0o644).unwrap();
        let first = inode(&path);
        write_atomic(&path, b"one", 0o644).unwrap();
        assert_eq!(inode(&path), first);
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
