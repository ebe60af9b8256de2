//! Mounts on the host: a tmpfs or an overlay made and taken away again, and what is mounted where.
//!
//! Goes in: paths. Comes out: nothing, or the kernel's error.
//!
//! **Invariant:** no symbolic link is followed in the last component of a path that is mounted on or unmounted.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::idmap;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    pub path: PathBuf,
    /// `tmpfs`, `ext4`, ...
    pub kind: String,
    /// The word that the mount was made with; for a bind mount that of the mount it shows.
    pub source: String,
    /// What of that file system is shown; `/` unless it is a bind mount of a part.
    pub root: PathBuf,
}

/// Mount a new tmpfs. `source` is a word by which it is known again; `size` in bytes, `None`: half of the memory.
pub fn mount_tmpfs(target: &Path, source: &str, size: Option<u64>, mode: u32) -> io::Result<()> {
    let size = size.map_or_else(String::new, |bytes| format!(",size={bytes}"));
    mount_tmpfs_with(target, source, &format!("mode={mode:o}{size}"))
}

/// The same for secrets: nothing in it is ever swapped out, where the kernel can promise that (6.4).
pub fn mount_secret_tmpfs(target: &Path, source: &str, mode: u32) -> io::Result<()> {
    mount_tmpfs_with(target, source, &format!("mode={mode:o},noswap"))
        .or_else(|_| mount_tmpfs_with(target, source, &format!("mode={mode:o}")))
}

fn mount_tmpfs_with(target: &Path, source: &str, options: &str) -> io::Result<()> {
    // Mounted through a descriptor: what was looked at is what is mounted on.
    let directory = openat(
        CWD,
        target,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let data = std::ffi::CString::new(options)?;
    Ok(mount(
        source,
        through(directory.as_fd()),
        "tmpfs",
        MountFlags::empty(),
        &*data,
    )?)
}

/// Mount an overlay of directories, topmost first, of which nothing can be changed. `source` is a word by which it is known
/// again. They must stay as they are for as long as it is mounted. `mapped_as`: their files belong to the same numbers in
/// this process's user namespace as on the disk; kernels before 6.15 cannot do that.
pub fn mount_layers(target: &Path, source: &str, layers: &[PathBuf], mapped_as: Option<i32>) -> io::Result<()> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty())
    };
    let directory = open(target)?;
    let opened = layers
        .iter()
        .map(|path| match mapped_as {
            Some(pid) => idmap::mapped(path, pid),
            None => Ok(open(path)?),
        })
        .collect::<io::Result<Vec<_>>>()?;
    // Named by descriptors, many of them fit on the one page of options. Without an upper directory an overlay wants at
    // least two: the place itself is empty.
    let lower: Vec<_> = opened
        .iter()
        .chain((opened.len() == 1).then_some(&directory))
        .map(|layer| through(layer.as_fd()))
        .collect();
    let data = std::ffi::CString::new(format!("lowerdir={}", lower.join(":")))?;
    let flags = MountFlags::RDONLY;
    Ok(mount(source, through(directory.as_fd()), "overlay", flags, &*data)?)
}

/// Unmount what is on top there; with processes still in it, it goes when they go.
pub fn unmount_now_or_later(target: &Path) -> io::Result<()> {
    match unmount(target, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::BUSY) => Ok(unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?),
        result => Ok(result?),
    }
}

/// Whether something is mounted there. A symbolic link is none.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, path, flags, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Everything mounted at or beneath a directory (no link in its path), the topmost mount of each place last.
pub fn beneath(directory: &Path) -> io::Result<Vec<MountPoint>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|byte| *byte == b'\n').filter_map(parse);
    Ok(lines.filter(|mount| mount.path.starts_with(directory)).collect())
}

/// The kind of file system that a path lies on: `tmpfs`, `ext4`, ...
///
/// # Errors
/// The path is not there, or no mount is.
pub fn kind_of(path: &Path) -> io::Result<String> {
    let path = path.canonicalize()?;
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|byte| *byte == b'\n').filter_map(parse);
    // The topmost of several at one place is the last of them.
    let above = lines.filter(|mount| path.starts_with(&mount.path));
    let nearest = above.max_by_key(|mount| mount.path.components().count());
    nearest
        .map(|mount| mount.kind)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// To whom a mount is propagated, or from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    None,
    /// It gets what is mounted elsewhere.
    Slave,
    /// What is mounted in it is seen elsewhere, and the other way round.
    Shared,
}

/// The mount that a path lies on, and its peers.
///
/// # Errors
/// The path is not there, or no mount is.
pub fn peers_of(path: &Path) -> io::Result<(PathBuf, Peers)> {
    let path = path.canonicalize()?;
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|byte| *byte == b'\n').filter_map(parse_peers);
    // The topmost of several at one place is the last of them.
    let above = lines.filter(|(mount, _)| path.starts_with(mount));
    let nearest = above.max_by_key(|(mount, _)| mount.components().count());
    nearest.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Of one line of mountinfo: where it is mounted, and its optional fields.
fn parse_peers(line: &[u8]) -> Option<(PathBuf, Peers)> {
    let mut words = line.split(|byte| *byte == b' ');
    let path = unescape(words.nth(4)?);
    let optional = words.skip(1).take_while(|word| *word != b"-");
    let peers = optional.fold(Peers::None, |known, word| {
        if word.starts_with(b"shared:") {
            Peers::Shared
        } else if word.starts_with(b"master:") && known == Peers::None {
            Peers::Slave
        } else {
            known
        }
    });
    Some((path, peers))
}

/// The path of a descriptor for calls that take only paths.
fn through(descriptor: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// proc(5): `36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw`.
fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut words = line.split(|byte| *byte == b' ');
    let root = unescape(words.nth(3)?);
    let path = unescape(words.next()?);
    // Optional fields, up to a dash.
    words.find(|word| *word == b"-")?;
    let kind = String::from_utf8_lossy(words.next()?).into_owned();
    let source = unescape(words.next()?).display().to_string();
    Some(MountPoint {
        path,
        kind,
        source,
        root,
    })
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_everything_in_it() {
        let line = br"36 35 98:0 /a\040b /mnt\011x\134y rw,noatime shared:1 master:2 - tmpfs my\040source rw,size=4k";
        assert_eq!(
            parse(line),
            Some(MountPoint {
                path: PathBuf::from("/mnt\tx\\y"),
                kind: "tmpfs".to_owned(),
                source: "my source".to_owned(),
                root: PathBuf::from("/a b"),
            })
        );
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 98:0 / /mnt rw"), None);
    }

    #[test]
    fn the_peers_of_a_line() {
        let of = |line: &[u8]| parse_peers(line).unwrap();
        let here = |peers| (PathBuf::from("/mnt"), peers);
        assert_eq!(of(b"36 35 98:0 / /mnt rw - tmpfs shared:1 rw"), here(Peers::None));
        assert_eq!(of(b"36 35 98:0 / /mnt rw master:2 - tmpfs x rw"), here(Peers::Slave));
        assert_eq!(
            of(b"36 35 98:0 / /mnt rw shared:1 master:2 - tmpfs x rw"),
            here(Peers::Shared)
        );
        assert_eq!(parse_peers(b""), None);
    }

    #[test]
    fn a_tmpfs_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let target = dir.join("with space");
        fs::create_dir(&target).unwrap();
        assert!(!is_mount_point(&target).unwrap());
        mount_tmpfs(&target, "here", Some(1 << 20), 0o751).unwrap();
        assert!(is_mount_point(&target).unwrap());
        let mounts = beneath(&dir).unwrap();
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        assert_eq!(
            (
                mounts[0].path.as_path(),
                mounts[0].kind.as_str(),
                mounts[0].source.as_str()
            ),
            (&*target, "tmpfs", "here")
        );
        assert_eq!(rustix::fs::stat(&target).unwrap().st_mode & 0o7777, 0o751);
        // In use: it goes all the same.
        let open = fs::File::create(target.join("file")).unwrap();
        unmount_now_or_later(&target).unwrap();
        drop(open);
        assert_eq!(beneath(&dir).unwrap(), []);

        std::os::unix::fs::symlink(&target, dir.join("link")).unwrap();
        assert!(mount_tmpfs(&dir.join("link"), "here", None, 0o755).is_err());
    }

    #[test]
    fn layers_are_merged_and_cannot_be_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for name in ["top", "bottom", "both", "one"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(dir.join("top/file"), "above").unwrap();
        fs::write(dir.join("bottom/file"), "below").unwrap();
        fs::write(dir.join("bottom/only"), "").unwrap();
        let both = dir.join("both");
        mount_layers(&both, "here", &[dir.join("top"), dir.join("bottom")], None).unwrap();
        assert_eq!(fs::read_to_string(both.join("file")).unwrap(), "above");
        assert!(both.join("only").exists());
        let refused = fs::write(both.join("file"), "").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let one = dir.join("one");
        mount_layers(&one, "here", &[dir.join("top")], None).unwrap();
        assert_eq!(fs::read_dir(&one).unwrap().count(), 1);
        for place in [both, one] {
            unmount_now_or_later(&place).unwrap();
        }
        assert_eq!(beneath(&dir).unwrap(), []);
    }
}
