//! Paths inside a container's root, resolved and made without ever leaving it.
//!
//! Goes in: a descriptor of the root (or of a volume) and a path that the image or the pod chose. Comes out: a descriptor
//! of what is there, made first if it was missing.
//!
//! Everything goes through openat2(2) with `RESOLVE_IN_ROOT` or `RESOLVE_BENEATH` and without magic links: also while
//! another container renames directories of a shared volume under our feet, the worst that can happen is an error.
//!
//! **Invariant:** used by a child between clone and exec: no allocation, no locks.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::sys;

/// The longest path, with its NUL.
const PATH_MAX: usize = 4096;
/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// What shall be at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// A C string on the stack.
pub(super) struct PathBuffer {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl PathBuffer {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; PATH_MAX],
            length: 0,
        }
    }

    /// # Errors
    /// `ENAMETOOLONG`, and `EINVAL` for a NUL within.
    pub(super) fn push(&mut self, more: &[u8]) -> Result<(), Errno> {
        if more.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let end = self.length + more.len();
        // One byte stays for the NUL.
        if end >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(more);
        self.bytes[end] = 0;
        self.length = end;
        Ok(())
    }

    /// The decimal digits of a number.
    pub(super) fn push_number(&mut self, number: u32) -> Result<(), Errno> {
        let mut digits = [0_u8; 10];
        let mut at = digits.len();
        let mut left = number;
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.push(&digits[at..])
    }

    fn truncate(&mut self, length: usize) {
        self.length = length;
        self.bytes[length] = 0;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// Take off the last component (and the slash before it).
    fn pop(&mut self) {
        let end = self.as_bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.truncate(end);
    }
}

fn kind_of(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    Ok(sys::stat(file)?.st_mode & libc::S_IFMT)
}

/// Open what is at `path` in this root, following links as a process inside would.
pub(super) fn open_in_root(root: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    sys::openat2(root, if path.is_empty() { c"." } else { path }, flags, 0, sys::IN_ROOT)
}

/// Open what is at `path` in this root with `O_PATH`; if nothing is there, make it and its parents (directories 0755, an
/// empty file 0644), going through symbolic links as a process inside would.
pub(super) fn open_or_make(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> Result<OwnedFd, Errno> {
    let found = match open_in_root(root, path, libc::O_PATH) {
        Err(Errno::ENOENT) => make(root, path, kind)?,
        other => other?,
    };
    match (kind, kind_of(found.as_fd())?) {
        (Kind::Directory, libc::S_IFDIR) => Ok(found),
        (Kind::Directory, _) => Err(Errno::ENOTDIR),
        (Kind::File, libc::S_IFDIR) => Err(Errno::EISDIR),
        (Kind::File, _) => Ok(found),
    }
}

/// Walk the path by name. `done` never contains a symbolic link or `..`, so that each step is one openat2 of it.
fn make(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> Result<OwnedFd, Errno> {
    const STRICT: u64 = sys::IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
    let mut done = PathBuffer::new();
    let mut rest = PathBuffer::new();
    rest.push(path.to_bytes())?;
    let mut links = 0;
    let mut at = 0;
    let mut current = open_in_root(root, c".", libc::O_PATH | libc::O_DIRECTORY)?;
    loop {
        // The next component of `rest`, from `at`.
        let (start, end) = {
            let text = rest.as_bytes();
            let Some(offset) = text[at..].iter().position(|byte| *byte != b'/') else {
                return Ok(current);
            };
            let start = at + offset;
            let length = text[start..]
                .iter()
                .position(|byte| *byte == b'/')
                .unwrap_or(text.len() - start);
            (start, start + length)
        };
        at = end;
        let last = rest.as_bytes()[end..].iter().all(|byte| *byte == b'/');
        let component = &rest.as_bytes()[start..end];
        if component == b"." {
            continue;
        }
        if component == b".." {
            done.pop();
            current = open_in_root(root, done.as_c_str(), libc::O_PATH | libc::O_DIRECTORY)?;
            continue;
        }
        let parent_length = done.length;
        if done.length > 0 {
            done.push(b"/")?;
        }
        done.push(component)?;
        let name_start = done.length - component.len();
        let opened = sys::openat2(
            root,
            done.as_c_str(),
            libc::O_PATH | libc::O_NOFOLLOW,
            0,
            IN_ROOT_NO_FOLLOW,
        );
        let opened = match opened {
            Err(Errno::ENOENT) => {
                let name = CStr::from_bytes_until_nul(&done.bytes[name_start..]).map_err(|_| Errno::EINVAL)?;
                create(current.as_fd(), name, last, kind)?;
                sys::openat2(root, done.as_c_str(), libc::O_PATH | libc::O_NOFOLLOW, 0, STRICT)?
            }
            other => other?,
        };
        if kind_of(opened.as_fd())? == libc::S_IFLNK {
            links += 1;
            // The text of a magic link of /proc says something, but it is not where the link leads.
            if links > MAX_LINKS || sys::is_proc(opened.as_fd())? {
                return Err(Errno::ELOOP);
            }
            // The link's target takes the place of its name, before what is left.
            let mut target = [0_u8; PATH_MAX];
            let target = sys::readlink(opened.as_fd(), &mut target)?;
            let mut longer = PathBuffer::new();
            longer.push(target)?;
            longer.push(b"/")?;
            longer.push(&rest.as_bytes()[at..])?;
            done.truncate(if target.starts_with(b"/") { 0 } else { parent_length });
            rest = longer;
            at = 0;
            current = open_in_root(root, done.as_c_str(), libc::O_PATH | libc::O_DIRECTORY)?;
        } else {
            current = opened;
        }
    }
}

/// A trailing link is opened itself (`O_NOFOLLOW`), one within the path cannot be there.
const IN_ROOT_NO_FOLLOW: u64 = sys::IN_ROOT;

fn create(parent: BorrowedFd<'_>, name: &CStr, last: bool, kind: Kind) -> Result<(), Errno> {
    if last && kind == Kind::File {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
        let resolve = sys::BENEATH | libc::RESOLVE_NO_SYMLINKS;
        // A descriptor opened with O_PATH is a fine starting point.
        sys::openat2(parent, name, flags, 0o644, resolve).map(drop)
    } else {
        sys::mkdirat(parent, name, 0o755)
    }
}

/// Open `path` strictly beneath a volume's directory; missing directories are made with `mode`. A link that leads out of
/// the volume is `EXDEV`.
pub(super) fn open_or_make_beneath(base: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<OwnedFd, Errno> {
    match sys::openat2(base, path, libc::O_PATH, 0, sys::BENEATH) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let mut done = PathBuffer::new();
    let mut current = sys::openat2(base, c".", libc::O_PATH | libc::O_DIRECTORY, 0, sys::BENEATH)?;
    for component in path
        .to_bytes()
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
    {
        if component == b".." {
            return Err(Errno::EXDEV);
        }
        if done.length > 0 {
            done.push(b"/")?;
        }
        done.push(component)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        current = match sys::openat2(base, done.as_c_str(), flags, 0, sys::BENEATH) {
            Err(Errno::ENOENT) => {
                let start = done.length - component.len();
                let name = CStr::from_bytes_until_nul(&done.bytes[start..]).map_err(|_| Errno::EINVAL)?;
                match sys::mkdirat(current.as_fd(), name, mode) {
                    // Another container of the pod was faster.
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno),
                }
                sys::openat2(base, done.as_c_str(), flags, 0, sys::BENEATH)?
            }
            other => other?,
        };
    }
    Ok(current)
}

/// `/proc/self/fd/<n>`, for the calls that want a path. Needs the host's /proc, so before the root is changed.
pub(super) fn descriptor_path(file: BorrowedFd<'_>) -> Result<PathBuffer, Errno> {
    let mut path = PathBuffer::new();
    push_descriptor(&mut path, file)?;
    Ok(path)
}

pub(super) fn push_descriptor(path: &mut PathBuffer, file: BorrowedFd<'_>) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    path.push(b"/proc/self/fd/")?;
    path.push_number(u32::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    fn inside(path: &str, kind: Kind, prepare: impl FnOnce(&Path)) -> (tempfile::TempDir, Result<OwnedFd, Errno>) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        prepare(&root);
        let opened = open_or_make(File::open(&root).unwrap().as_fd(), &CString::new(path).unwrap(), kind);
        (directory, opened)
    }

    fn same(file: &OwnedFd, path: &Path) -> bool {
        let stat = sys::stat(file.as_fd()).unwrap();
        let meta = fs::symlink_metadata(path).unwrap();
        (stat.st_dev, stat.st_ino) == (meta.dev(), meta.ino())
    }

    #[test]
    fn missing_directories_are_made() {
        let (directory, opened) = inside("/a/b//c/", Kind::Directory, |_| {});
        assert!(same(&opened.unwrap(), &directory.path().join("root/a/b/c")));
    }

    #[test]
    fn a_missing_file_is_made_empty() {
        let (directory, opened) = inside("/etc/hosts", Kind::File, |_| {});
        assert!(same(&opened.unwrap(), &directory.path().join("root/etc/hosts")));
        assert_eq!(fs::read(directory.path().join("root/etc/hosts")).unwrap(), b"");
    }

    #[test]
    fn a_dangling_link_is_followed_inside_the_root() {
        let (directory, opened) = inside("/etc/resolv.conf", Kind::File, |root| {
            fs::create_dir(root.join("etc")).unwrap();
            symlink("../run/systemd/resolve/stub.conf", root.join("etc/resolv.conf")).unwrap();
        });
        assert!(same(
            &opened.unwrap(),
            &directory.path().join("root/run/systemd/resolve/stub.conf")
        ));
    }

    #[test]
    fn links_that_point_outside_end_inside() {
        for target in ["/outside", "../outside", "../../../../../../outside", "/../../outside"] {
            let (directory, opened) = inside("/data/x", Kind::Directory, |root| {
                symlink(target, root.join("data")).unwrap();
            });
            assert!(
                same(&opened.unwrap(), &directory.path().join("root/outside/x")),
                "{target}"
            );
            assert_eq!(
                fs::read_dir(directory.path().join("outside")).unwrap().count(),
                0,
                "{target}"
            );
        }
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let (_directory, opened) = inside("/a/x", Kind::Directory, |root| {
            symlink("b", root.join("a")).unwrap();
            symlink("a", root.join("b")).unwrap();
        });
        assert_eq!(opened.unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn a_file_is_no_directory_and_a_directory_no_file() {
        let (_directory, opened) = inside("/a", Kind::Directory, |root| fs::write(root.join("a"), b"").unwrap());
        assert_eq!(opened.unwrap_err(), Errno::ENOTDIR);
        let (_directory, opened) = inside("/a", Kind::File, |root| fs::create_dir(root.join("a")).unwrap());
        assert_eq!(opened.unwrap_err(), Errno::EISDIR);
        let (_directory, opened) = inside("/a/b/c", Kind::File, |root| fs::write(root.join("a"), b"").unwrap());
        assert_eq!(opened.unwrap_err(), Errno::ENOTDIR);
    }

    #[test]
    fn magic_links_are_not_followed() {
        let (_directory, opened) = inside("/fd/x", Kind::Directory, |root| {
            symlink("/proc/self/fd/0", root.join("fd")).unwrap();
        });
        // There is no /proc inside, so a plain directory of that name is made there; nothing magic happens.
        assert!(opened.is_ok());
        let host = File::open("/").unwrap();
        assert_eq!(
            open_in_root(host.as_fd(), c"/proc/self/fd/0", libc::O_PATH).unwrap_err(),
            Errno::ELOOP
        );
    }

    fn beneath(path: &str, prepare: impl FnOnce(&Path)) -> (tempfile::TempDir, Result<OwnedFd, Errno>) {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        prepare(&volume);
        let opened = open_or_make_beneath(
            File::open(&volume).unwrap().as_fd(),
            &CString::new(path).unwrap(),
            0o750,
        );
        (directory, opened)
    }

    #[test]
    fn a_sub_path_is_made_with_its_mode() {
        let (directory, opened) = beneath("a/b", |_| {});
        let made = directory.path().join("volume/a/b");
        assert!(same(&opened.unwrap(), &made));
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_sub_path_never_leaves_the_volume() {
        let (_directory, opened) = beneath("out/x", |volume| symlink("../outside", volume.join("out")).unwrap());
        assert_eq!(opened.unwrap_err(), Errno::EXDEV);
        let (_directory, opened) = beneath("out", |volume| symlink("/etc", volume.join("out")).unwrap());
        assert_eq!(opened.unwrap_err(), Errno::EXDEV);
        let (_directory, opened) = beneath("../outside", |_| {});
        assert_eq!(opened.unwrap_err(), Errno::EXDEV);
        let (_directory, opened) = beneath("a/../../outside/new", |_| {});
        assert_eq!(opened.unwrap_err(), Errno::EXDEV);
    }

    #[test]
    fn a_sub_path_may_be_a_file_or_go_through_a_link_that_stays() {
        let (directory, opened) = beneath("link/file", |volume| {
            fs::create_dir(volume.join("real")).unwrap();
            fs::write(volume.join("real/file"), b"x").unwrap();
            symlink("real", volume.join("link")).unwrap();
        });
        assert!(same(&opened.unwrap(), &directory.path().join("volume/real/file")));
    }
}
