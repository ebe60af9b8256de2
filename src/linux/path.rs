//! Paths whose parts others may change while they are walked: opened, made and removed without ever leaving the
//! directory they start from.
//!
//! Goes in: an open directory, or a path whose parents are ours alone, and what is beneath it. Comes out: descriptors,
//! or an error with the path.
//!
//! **Invariant:** nothing here follows a symbolic link out of the directory it was given, and removing never enters
//! another mount: neither a bind mount of something dear nor a link put there in the meantime is touched.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, IFlags, Mode, OFlags, RenameFlags, ResolveFlags, Uid, fchmod, fchown, fsync,
    ioctl_getflags, ioctl_setflags, mkdirat, openat, openat2, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

/// `openat2` may ask to try again while anything on the machine is renamed.
const TRIES: usize = 128;
/// How many directories of a tree are open at a time; deeper ones are moved up before they are emptied.
const DEPTH: usize = 64;
/// How often a directory is emptied into which somebody keeps writing.
const ROUNDS: usize = 64;

/// What could not be done, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {tried} {}", path.display())]
pub struct PathError {
    /// `remove`, `write`, ...
    pub tried: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl PathError {
    fn new(tried: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            tried,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Whether a file must be there after a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The file and its directory are synchronised with the disk.
    Disk,
    /// It can be made again from what is stored elsewhere.
    Memory,
}

fn open2(
    directory: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        match openat2(
            directory,
            path,
            flags,
            Mode::empty(),
            resolve | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

/// Open something that exists beneath a directory. Links are followed as long as they stay beneath (else `EXDEV`).
pub fn open_beneath(directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(open2(directory, path, flags, ResolveFlags::BENEATH)?)
}

/// Open a directory beneath another one, making what is missing of it with this mode. Links are not followed at all
/// (`ELOOP`, `ENOTDIR`).
pub fn mkdir_beneath(directory: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mut at = openat(
        directory,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                return Err(io::Error::from_raw_os_error(Errno::XDEV.raw_os_error()));
            }
        };
        let open = || {
            open2(
                at.as_fd(),
                name,
                OFlags::PATH | OFlags::DIRECTORY,
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            )
        };
        let next = match open() {
            Err(Errno::NOENT) => match make_dir(at.as_fd(), name, mode) {
                Ok(()) | Err(Errno::EXIST) => open()?,
                Err(error) => return Err(error.into()),
            },
            result => result?,
        };
        at = next;
    }
    Ok(at)
}

/// A directory with exactly this mode, or none: it is made under another name and gets its own once it is complete.
/// `EXIST`: there is something of this name.
fn make_dir(parent: BorrowedFd<'_>, name: &OsStr, mode: u32) -> rustix::io::Result<()> {
    let new = temporary(name);
    mkdirat(parent, new.as_c_str(), Mode::from_raw_mode(0o700))?;
    let named = openat(
        parent,
        new.as_c_str(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|directory| fchmod(&directory, Mode::from_raw_mode(mode)))
    .and_then(
        |()| match renameat_with(parent, new.as_c_str(), parent, name, RenameFlags::NOREPLACE) {
            // A file system that cannot do so (NFS): onto an empty directory at worst.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(parent, new.as_c_str(), parent, name),
            result => result,
        },
    );
    if named.is_err() {
        let _ = unlinkat(parent, new.as_c_str(), AtFlags::REMOVEDIR);
    }
    named
}

/// Make a directory with exactly this mode, whatever the umask, in a parent that is ours. `Ok(false)`: it is there.
pub fn make_directory(path: &Path, mode: u32) -> Result<bool, PathError> {
    let make = || {
        let (parent, name) = parent_and_name(path)?;
        match make_dir(parent.as_fd(), name, mode) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                let there = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let kind = FileType::from_raw_mode(there.st_mode);
                if kind == FileType::Directory {
                    Ok(false)
                } else {
                    Err(Errno::NOTDIR.into())
                }
            }
            Err(error) => Err(io::Error::from(error)),
        }
    };
    // The ordinary case costs one look.
    if path.symlink_metadata().is_ok_and(|there| there.is_dir()) {
        return Ok(false);
    }
    make().map_err(|source| PathError::new("make directory", path, source))
}

/// Say of a directory that those made in it have nothing to do with each other, so that the file system may put each
/// where there is room instead of all of them side by side (chattr(1), attribute T).
///
/// ext4 then looks for a free inode in another group for each. Without a journal it never gives out an inode that was
/// freed within the last minute: where many pods or images come and go in one group, every file that is made waits for a
/// walk over all that were removed.
///
/// # Errors
/// The file system has no such attribute.
pub fn spread(directory: impl AsFd) -> io::Result<()> {
    let attributes = ioctl_getflags(&directory)?;
    if !attributes.contains(IFlags::TOPDIR) {
        ioctl_setflags(&directory, attributes | IFlags::TOPDIR)?;
    }
    Ok(())
}

/// Put a file in place, wholly or not at all, with exactly this mode. A link of this name is replaced, not followed.
///
/// It is another file then: whoever has the old one open or mounted keeps that.
pub fn write_file_atomic(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> Result<(), PathError> {
    let write = || -> io::Result<()> {
        let (parent, name) = parent_and_name(path)?;
        let new = temporary(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&parent, new.as_c_str(), flags, Mode::from_raw_mode(0o600))?);
        let placed = file
            .write_all(bytes)
            .and_then(|()| Ok(fchmod(&file, Mode::from_raw_mode(mode))?))
            .and_then(|()| {
                if durability == Durability::Disk {
                    file.sync_all()
                } else {
                    Ok(())
                }
            })
            .and_then(|()| Ok(renameat(&parent, new.as_c_str(), &parent, name)?));
        if placed.is_err() {
            let _ = unlinkat(&parent, new.as_c_str(), AtFlags::empty());
            return placed;
        }
        if durability == Durability::Disk {
            fsync(&parent)?;
        }
        Ok(())
    };
    write().map_err(|source| PathError::new("write", path, source))
}

/// Make an empty file with exactly this mode. `AlreadyExists`: something of this name is there, a link too.
pub fn write_new(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::from_raw_mode(mode))?;
    fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(File::from(file))
}

/// Who something is to belong to; `None`: it stays whoever's it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    pub user: Option<u32>,
    pub group: Option<u32>,
}

/// Make a file beneath a directory, with exactly this mode. `AlreadyExists`: something of this name is there, a link too.
pub fn write_new_beneath(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    bytes: &[u8],
    mode: u32,
    owner: Owner,
) -> io::Result<()> {
    if name.as_bytes().contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(bytes)?;
    give(file.as_fd(), owner)?;
    Ok(fchmod(&file, Mode::from_raw_mode(mode))?)
}

/// Give an open file or directory to somebody. The mode may have to be set anew after it.
pub fn give(file: BorrowedFd<'_>, owner: Owner) -> io::Result<()> {
    let Owner { user, group } = owner;
    if user.is_none() && group.is_none() {
        return Ok(());
    }
    Ok(fchown(file, user.map(Uid::from_raw), group.map(Gid::from_raw))?)
}

/// Remove a file, a link or a whole tree, in a parent that is ours. Not there: nothing happens.
///
/// A mount in it stays, with all that is beneath, and is the error; what is beside it is removed all the same.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    let (parent, name) = match parent_and_name(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PathError::new("remove", path, error)),
    };
    let name = CString::new(name.as_bytes()).map_err(|error| PathError::new("remove", path, error))?;
    let mut removal = Removal { moved: 0, failed: None };
    removal.remove(parent.as_fd(), &name, path, 0, None);
    removal.failed.map_or(Ok(()), Err)
}

/// The removal of one tree.
struct Removal {
    /// How many directories were moved up, and the number in the next one's name.
    moved: u64,
    /// The first failure.
    failed: Option<PathError>,
}

impl Removal {
    fn fail(&mut self, path: &Path, error: Errno) -> bool {
        self.failed.get_or_insert_with(|| PathError::new("remove", path, error));
        false
    }

    /// Remove one entry of `parent`; whether it is gone. `path` is only for people, `top` the tree's own directory.
    fn remove(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
        top: Option<BorrowedFd<'_>>,
    ) -> bool {
        let mut last = Errno::NOTEMPTY;
        let mut round = 0;
        while round < ROUNDS {
            round += 1;
            match unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return true,
                Err(Errno::ISDIR) => {}
                Err(error) => return self.fail(path, error),
            }
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return true,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(Errno::NOTDIR) => continue,
                Err(error) => return self.fail(path, error),
            }
            if let (DEPTH, Some(top)) = (depth, top) {
                return self.move_up(parent, name, path, top);
            }
            // Never over a mount, never through a link: what was a directory a moment ago may be either now.
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let directory = match open2(
                parent,
                name,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
                resolve,
            ) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => return true,
                Err(error @ (Errno::LOOP | Errno::NOTDIR)) => {
                    last = error;
                    continue;
                }
                Err(error) => return self.fail(path, error),
            };
            let moved = self.moved;
            if !self.empty(directory.as_fd(), path, depth, top.unwrap_or(directory.as_fd())) {
                return false;
            }
            if self.moved > moved {
                // Not somebody else's doing.
                round = 0;
            }
        }
        self.fail(path, last)
    }

    /// Too deep to go on with one descriptor for each level: what is here goes on at the top.
    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CStr, path: &Path, top: BorrowedFd<'_>) -> bool {
        loop {
            let higher = format!(".removed-{}", self.moved);
            self.moved += 1;
            match renameat_with(parent, name, top, higher.as_str(), RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return true,
                Err(Errno::EXIST) => {}
                Err(error) => return self.fail(path, error),
            }
        }
    }

    fn empty(&mut self, directory: BorrowedFd<'_>, path: &Path, depth: usize, top: BorrowedFd<'_>) -> bool {
        let entries = match Dir::read_from(directory) {
            Ok(entries) => entries,
            Err(error) => return self.fail(path, error),
        };
        let mut all = true;
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.fail(path, error),
            };
            let name = entry.file_name();
            if name != c"." && name != c".." {
                let place = path.join(OsStr::from_bytes(name.to_bytes()));
                all &= self.remove(directory, name, &place, depth + 1, Some(top));
            }
        }
        all
    }
}

/// The directory that holds a path, opened, and the path's last name.
fn parent_and_name(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((openat(CWD, parent, flags, Mode::empty())?, name))
}

/// A name for what is not complete yet, that nobody else uses.
fn temporary(name: &OsStr) -> CString {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // A directory entry has 255 bytes at most.
    let kept = name.as_bytes().get(..name.len().min(200)).unwrap_or_default();
    let mut new = b".".to_vec();
    new.extend(kept.iter().filter(|byte| **byte != 0));
    new.extend_from_slice(format!(".new-{}-{number}", std::process::id()).as_bytes());
    CString::new(new).expect("zero bytes were left out")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::AtomicBool;

    use rustix::mount::{mount_bind, unmount};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn open_dir(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    /// Where the file system cannot, a directory stays as it is.
    #[test]
    fn a_directory_is_spread_once_and_keeps_its_other_attributes() {
        let directory = tempfile::tempdir().unwrap();
        let open = File::open(directory.path()).unwrap();
        let attributes = || ioctl_getflags(&open);
        let Ok(before) = attributes() else {
            assert!(spread(&open).is_err());
            return;
        };
        match (spread(&open), spread(&open)) {
            (Ok(()), Ok(())) => assert_eq!(attributes().unwrap(), before | IFlags::TOPDIR),
            (Err(_), Err(_)) => assert_eq!(attributes().unwrap(), before),
            other => panic!("the second time is not as the first: {other:?}"),
        }
    }

    #[test]
    fn links_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir_all(base.join("a/b")).unwrap();
        symlink("a/b", base.join("inside")).unwrap();
        symlink("../..", base.join("up")).unwrap();
        symlink("/etc", base.join("absolute")).unwrap();
        let fd = open_dir(&base);
        open_beneath(fd.as_fd(), Path::new("inside"), OFlags::RDONLY).unwrap();
        for path in ["up", "absolute/passwd", "../base", "a/../..", "/etc"] {
            let error = open_beneath(fd.as_fd(), Path::new(path), OFlags::RDONLY).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::XDEV.raw_os_error()), "{path}");
        }

        let made = mkdir_beneath(fd.as_fd(), Path::new("a/new/./deep"), 0o2770).unwrap();
        assert_eq!(
            rustix::fs::fstat(&made).unwrap().st_ino,
            fs::metadata(base.join("a/new/deep")).unwrap().ino()
        );
        assert_eq!(
            (mode(&base.join("a/new")), mode(&base.join("a/new/deep"))),
            (0o2770, 0o2770)
        );
        mkdir_beneath(fd.as_fd(), Path::new("a/new/deep"), 0o700).unwrap();
        assert_eq!(mode(&base.join("a/new/deep")), 0o2770, "what is there stays as it is");
        for path in ["up/x", "absolute/x", "inside/x", "../x", "/x"] {
            mkdir_beneath(fd.as_fd(), Path::new(path), 0o700).unwrap_err();
        }
        assert!(!dir.path().join("x").exists() && !base.join("a/b/x").exists());
    }

    #[test]
    fn files_are_put_in_place_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let victim = dir.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, &path).unwrap();
        for (text, durability) in [("one", Durability::Disk), ("two", Durability::Memory)] {
            write_file_atomic(&path, text.as_bytes(), 0o646, durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(mode(&path), 0o646);
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            2,
            "nothing half made is left"
        );
        let error = write_file_atomic(&dir.path().join("no/file"), b"", 0o600, Durability::Memory).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot write ") && error.to_string().ends_with("/no/file"),
            "{error}"
        );

        let new = dir.path().join("new");
        write_new(&new, 0o666).unwrap();
        assert_eq!(mode(&new), 0o666);
        assert_eq!(write_new(&new, 0o666).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn directories_have_the_mode_they_are_made_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        assert!(make_directory(&path, 0o1777).unwrap());
        assert_eq!(mode(&path), 0o1777);
        assert!(!make_directory(&path, 0o700).unwrap());
        assert_eq!(mode(&path), 0o1777);
        fs::write(dir.path().join("f"), "").unwrap();
        make_directory(&dir.path().join("f"), 0o700).unwrap_err();
        symlink(&path, dir.path().join("l")).unwrap();
        make_directory(&dir.path().join("l"), 0o700).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_tree_goes_wholly_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("bird"), "alive").unwrap();
        symlink(&canary, tree.join("link")).unwrap();
        symlink("..", tree.join("a/up")).unwrap();
        fs::hard_link(canary.join("bird"), tree.join("hard")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(canary.join("bird")).unwrap(), "alive");

        symlink(&canary, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(tree.symlink_metadata().is_err() && canary.join("bird").exists());
        remove_tree(&dir.path().join("no/such")).unwrap();
    }

    #[test]
    fn a_mount_stays_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, canary) = (dir.path().join("tree"), dir.path().join("canary"));
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("bird"), "alive").unwrap();
        for place in ["x/a/mounted", "x/b/mounted"] {
            fs::create_dir_all(tree.join(place)).unwrap();
        }
        fs::create_dir_all(tree.join("y/z")).unwrap();
        fs::write(tree.join("x/file"), "").unwrap();
        for place in ["x/a/mounted", "x/b/mounted"] {
            mount_bind(&canary, tree.join(place)).unwrap();
        }
        let error = remove_tree(&tree).unwrap_err();
        let names: Vec<_> = fs::read_dir(&tree).unwrap().map(|e| e.unwrap().file_name()).collect();
        let bird = fs::read_to_string(canary.join("bird"));
        for place in ["x/a/mounted", "x/b/mounted"] {
            unmount(tree.join(place), rustix::mount::UnmountFlags::empty()).unwrap();
        }
        assert!(
            error.path.ends_with("mounted") && error.path.starts_with(&tree),
            "{error}"
        );
        assert_eq!(error.source.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(names, ["x"], "what is beside it is gone");
        assert_eq!(bird.unwrap(), "alive");
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn depth_is_no_hiding_place() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join(".removed-0"), "in the way").unwrap();
        let mut at = open_dir(&tree);
        // Deeper than a path can be long, and than there are descriptors.
        for _ in 0..1000 {
            mkdirat(&at, "deep", Mode::RWXU).unwrap();
            write_in(&at);
            at = openat(
                &at,
                "deep",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    fn write_in(at: &OwnedFd) {
        openat(
            at,
            "file",
            OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::RUSR,
        )
        .unwrap();
    }

    #[test]
    fn swapping_a_directory_for_a_link_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        fs::create_dir(&canary).unwrap();
        for number in 0..20 {
            fs::write(canary.join(format!("bird-{number}")), "alive").unwrap();
        }
        let stop = AtomicBool::new(false);
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                symlink(&canary, dir.path().join("link")).unwrap();
                let at = open_dir(dir.path());
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat_with(&at, "link", &at, "tree/swapped", RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..300 {
                let _ = fs::create_dir_all(tree.join("swapped"));
                let _ = fs::write(tree.join("swapped/file"), "");
                let _ = remove_tree(&tree);
            }
            stop.store(true, Ordering::Relaxed);
        });
        // The racer's own writing through the link is the only thing that may be new there.
        let birds = fs::read_dir(&canary)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name() != "file")
            .count();
        assert_eq!(birds, 20);
    }
}
