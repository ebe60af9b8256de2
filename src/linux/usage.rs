//! How much of the disk a directory takes.
//!
//! Goes in: a directory whose content others change at will. Comes out: the bytes that its files occupy (kubelet
//! `pkg/volume/util/fs`, `du`): blocks, not lengths; what has several names counts once; other mounts count nothing.
//!
//! **Invariant:** no symbolic link is ever followed, and nothing is written, not even a time of access.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

/// Bytes of one block of stat(2).
const BLOCK: u64 = 512;

/// Bytes that everything beneath a directory takes on its file system, itself included. Not there: 0. What vanishes
/// meanwhile, and what lies so deep that its path is too long for the kernel, is left out.
///
/// # Errors
/// The directory itself cannot be read.
pub fn of(directory: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match openat(CWD, directory, flags, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut seen = HashSet::new();
    let mut total = blocks(&root, OsStr::new("."), &mut seen).unwrap_or(0);
    // Paths and not descriptors: a tree may be deeper than there are descriptors.
    let mut pending = VecDeque::from([PathBuf::from(".")]);
    while let Some(path) = pending.pop_front() {
        let Ok(opened) = beneath(&root, &path) else { continue };
        let Ok(entries) = Dir::read_from(&opened) else { continue };
        for entry in entries.flatten() {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            total += blocks(&opened, name, &mut seen).unwrap_or(0);
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                pending.push_back(path.join(name));
            }
        }
    }
    Ok(total)
}

/// Never over a link, never out of the tree, never onto another mount.
fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(root, path, flags, Mode::empty(), resolve)
}

fn blocks(directory: &OwnedFd, name: &OsStr, seen: &mut HashSet<(u64, u64)>) -> Result<u64, Errno> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !is_directory && stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) {
        return Ok(0);
    }
    Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 4 * MIB]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b/c");
        fs::create_dir_all(&inner).unwrap();
        let few = of(dir.path()).unwrap();
        assert!(few < MIB as u64, "{few}");
        fs::write(inner.join("x"), vec![1; MIB]).unwrap();
        fs::hard_link(inner.join("x"), dir.path().join("same")).unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let all = of(dir.path()).unwrap();
        assert!(all >= few + MIB as u64 && all < few + 2 * MIB as u64, "{all}");
        assert_eq!(of(&dir.path().join("absent")).unwrap(), 0);
        assert!(of(&dir.path().join("link")).is_err(), "a link is no directory");
    }
}
