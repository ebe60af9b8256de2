//! One layer becomes one directory, as overlay wants its lower directories.
//!
//! Goes in: the members of a layer, and a descriptor of an empty directory. Comes out: that directory, filled.
//!
//! A layer comes from a stranger. **Invariant:** nothing outside the directory is ever opened, made, changed or removed,
//! whatever names, links and devices the layer holds: parents are resolved by the kernel with the directory as their root
//! (`openat2`, `RESOLVE_IN_ROOT`), the last component is never followed, and every further step is relative to an open
//! descriptor.
//!
//! What a layer means is the OCI image spec's layer.md and, where that is silent, what containerd does
//! (`pkg/archive/tar.go`), with these differences: a whiteout and a member of the same name in one layer mean both
//! (the lower one is hidden, this layer's stays), in whatever order they come; `..` in names is refused.
//! Parents that a layer does not name are made `root:root 0755`, as docker and podman make them.

mod metadata;

use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timestamps, Uid, fchmod, fchown, futimens, linkat, major,
    makedev, minor, mkdirat, mknodat, openat, openat2, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use metadata::{first_mode, set_opaque, settle, settle_node, times};

use super::limits::{DIRECTORY_PATHS_MAX, LimitError, NAME_MAX, Share};
use super::member::{Kind, Member, Members, Skip, TarError};

const WHITEOUT: &[u8] = b".wh.";
/// Names that aufs kept for itself.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How many directories deep a path may lead. Every level costs a descriptor while parents are made.
const DEPTH_MAX: usize = 256;
/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;
/// `openat2` may ask to try again while anything on the machine is renamed.
const TRIES: usize = 64;

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("member {member:?} is refused: {fault}")]
    Refused { member: String, fault: Fault },
    #[error("member {member:?}: cannot {action}")]
    Io {
        member: String,
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What a layer may not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("its name holds `..`")]
    DotDot,
    #[error("a part of its name is longer than {NAME_MAX} bytes")]
    NameTooLong,
    #[error("it leads through more than {DEPTH_MAX} directories")]
    TooDeep,
    #[error("it has no name")]
    NoName,
    #[error("a directory in its name begins with `.wh.`, which is reserved")]
    Reserved,
    #[error("it removes nothing that could be named")]
    Whiteout,
    #[error("its parent is not a directory")]
    ParentNotDirectory,
    #[error("its parent leads through too many links")]
    Loop,
    #[error("a character device 0:0 would remove a file of a lower layer")]
    ZeroDevice,
    #[error("it is a link to nothing")]
    EmptyLink,
    #[error("it is a hard link to a file that is not in this layer")]
    LinkTarget,
    #[error("it is a hard link to a directory")]
    LinkToDirectory,
}

type Result<T, E = UnpackError> = std::result::Result<T, E>;

/// Unpack all members into `root`. Directories that a later member replaces are moved into `trash`, for the caller to
/// remove.
pub(super) fn unpack<R: Skip + BufRead>(
    members: &mut Members<R>,
    root: OwnedFd,
    trash: BorrowedFd<'_>,
    share: &mut Share,
) -> Result<()> {
    let mut unpacker = Unpacker {
        root: Rc::new(root),
        trash,
        trashed: 0,
        share,
        parent: None,
        times: Vec::new(),
        times_bytes: 0,
    };
    while let Some(member) = members.next()? {
        unpacker.share.entry()?;
        unpacker.member(&member, members)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: Rc<OwnedFd>,
    trash: BorrowedFd<'a>,
    trashed: u64,
    share: &'a mut Share,
    /// The parent of the last member: members come directory by directory.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories' times are set last: filling a directory changes them.
    times: Vec<(Vec<u8>, Timestamps)>,
    times_bytes: usize,
}

/// What stood where a member shall stand, and stands there no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// A directory, which was kept because a directory is wanted.
    Directory,
    Whiteout,
    Other,
}

/// Adds to an error of the kernel which member it was, and what was tried.
fn trying<T, E: Into<io::Error>>(
    member: &Member,
    action: &'static str,
    result: std::result::Result<T, E>,
) -> Result<T> {
    result.map_err(|error| UnpackError::Io {
        member: member.name(),
        action,
        source: error.into(),
    })
}

fn refused<T>(member: &Member, fault: Fault) -> Result<T> {
    Err(UnpackError::Refused {
        member: member.name(),
        fault,
    })
}

/// The parts of a name. A leading slash means nothing: every name is relative to the layer.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    let mut parts = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Fault::DotDot),
            part if part.len() > NAME_MAX => return Err(Fault::NameTooLong),
            part => parts.push(part),
        }
    }
    if parts.len() > DEPTH_MAX {
        return Err(Fault::TooDeep);
    }
    Ok(parts)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && major(stat.st_rdev) == 0
        && minor(stat.st_rdev) == 0
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Unpacker<'_> {
    fn member<R: Skip + BufRead>(&mut self, member: &Member, data: &mut Members<R>) -> Result<()> {
        let parts = parts(&member.path).or_else(|fault| refused(member, fault))?;
        let Some((base, parents)) = parts.split_last() else {
            return match member.kind {
                // `./`: the layer's own root.
                Kind::Directory => {
                    let root = Rc::clone(&self.root);
                    self.settle_directory(member, &root, Vec::new())
                }
                Kind::File
                | Kind::Symlink
                | Kind::HardLink
                | Kind::CharDevice { .. }
                | Kind::BlockDevice { .. }
                | Kind::Fifo => refused(member, Fault::NoName),
            };
        };
        if parts
            .iter()
            .any(|part| part.starts_with(WHITEOUT_META) && *part != OPAQUE)
        {
            return Ok(());
        }
        if parents.iter().any(|part| part.starts_with(WHITEOUT)) {
            return refused(member, Fault::Reserved);
        }
        let parent = self.parent_of(member, parents)?;
        if *base == OPAQUE {
            return trying(member, "make its directory opaque", set_opaque(&parent));
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            return Self::whiteout(member, &parent, hidden);
        }
        match member.kind {
            Kind::File => self.file(member, &parent, base, data),
            Kind::Directory => self.directory(member, &parent, base, &parts),
            Kind::Symlink => self.symlink(member, &parent, base),
            Kind::HardLink => self.hard_link(member, &parent, base),
            Kind::CharDevice { major: 0, minor: 0 } => refused(member, Fault::ZeroDevice),
            Kind::CharDevice { major, minor } => {
                self.node(member, &parent, base, FileType::CharacterDevice, makedev(major, minor))
            }
            Kind::BlockDevice { major, minor } => {
                self.node(member, &parent, base, FileType::BlockDevice, makedev(major, minor))
            }
            Kind::Fifo => self.node(member, &parent, base, FileType::Fifo, 0),
        }
    }

    /// The directory a member belongs in, made if it is not there.
    fn parent_of(&mut self, member: &Member, parents: &[&[u8]]) -> Result<Rc<OwnedFd>> {
        if parents.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let path = parents.join(&b'/');
        if let Some((last, parent)) = &self.parent
            && *last == path
        {
            return Ok(Rc::clone(parent));
        }
        let parent = match self.resolve(&path, OFlags::empty()) {
            Ok(parent) => Rc::new(parent),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::AGAIN) => self.make_parents(member, parents)?,
            Err(Errno::LOOP) => return refused(member, Fault::Loop),
            Err(error) => return trying(member, "open its parent directory", Err(error)),
        };
        self.parent = Some((path, Rc::clone(&parent)));
        Ok(parent)
    }

    /// Let the kernel resolve a path to a directory, with the layer as its root.
    fn resolve(&self, path: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let mut tries = 0;
        loop {
            match openat2(&*self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Walk to a directory part by part, as the kernel would with the layer as its root, and make what is missing.
    fn make_parents(&mut self, member: &Member, parents: &[&[u8]]) -> Result<Rc<OwnedFd>> {
        let mut walked = vec![Rc::clone(&self.root)];
        let mut ahead: Vec<Vec<u8>> = parents.iter().rev().map(|part| part.to_vec()).collect();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == b".." {
                if walked.len() > 1 {
                    walked.pop();
                }
                continue;
            }
            if walked.len() > DEPTH_MAX {
                return refused(member, Fault::TooDeep);
            }
            let here = walked.last().expect("the root is never popped");
            match openat(&**here, &part, OPEN_DIRECTORY, Mode::empty()) {
                Ok(next) => walked.push(Rc::new(next)),
                Err(Errno::NOENT) => {
                    let made = Self::make_parent(member, here, &part)?;
                    walked.push(Rc::new(made));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let stat = trying(
                        member,
                        "look at its parent",
                        statat(&**here, &part, AtFlags::SYMLINK_NOFOLLOW),
                    )?;
                    if is_whiteout(&stat) {
                        trying(member, "replace a whiteout", unlinkat(&**here, &part, AtFlags::empty()))?;
                        let made = Self::make_parent(member, here, &part)?;
                        trying(member, "make its parent opaque", set_opaque(&made))?;
                        walked.push(Rc::new(made));
                        continue;
                    }
                    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                        return refused(member, Fault::ParentNotDirectory);
                    }
                    links += 1;
                    if links > LINKS_MAX {
                        return refused(member, Fault::Loop);
                    }
                    let target = trying(member, "read a link", readlinkat(&**here, &part, Vec::new()))?.into_bytes();
                    if target.starts_with(b"/") {
                        walked.truncate(1);
                    }
                    let parts = target
                        .split(|b| *b == b'/')
                        .rev()
                        .filter(|part| !matches!(*part, b"" | b"."));
                    ahead.extend(parts.map(<[u8]>::to_vec));
                }
                Err(error) => return trying(member, "open its parent directory", Err(error)),
            }
        }
        Ok(walked.pop().expect("the root is never popped"))
    }

    fn make_parent(member: &Member, here: &OwnedFd, part: &[u8]) -> Result<OwnedFd> {
        if part.starts_with(WHITEOUT) {
            return refused(member, Fault::Reserved);
        }
        let made = mkdirat(here, part, Mode::RWXU)
            .and_then(|()| openat(here, part, OPEN_DIRECTORY, Mode::empty()))
            .and_then(|made| {
                fchown(&made, Some(Uid::ROOT), Some(Gid::ROOT))?;
                fchmod(&made, Mode::from_raw_mode(0o755))?;
                Ok(made)
            });
        trying(member, "make its parent directory", made)
    }

    /// Make way for a member: what stands at its place is removed, but a directory where a directory is wanted.
    fn make_way(&mut self, member: &Member, parent: &OwnedFd, base: &[u8], want: Kind) -> Result<Before> {
        let stat = match statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Before::Nothing),
            Err(error) => return trying(member, "look at what it replaces", Err(error)),
        };
        if is_directory(&stat) {
            if want == Kind::Directory {
                return Ok(Before::Directory);
            }
            self.parent = None;
            self.trashed += 1;
            let to = self.trashed.to_string();
            trying(
                member,
                "replace a directory",
                renameat(parent, base, self.trash, to.as_str()),
            )?;
            return Ok(Before::Other);
        }
        // The way to the last parent may have led through this link.
        self.parent = None;
        trying(member, "replace a file", unlinkat(parent, base, AtFlags::empty()))?;
        Ok(if is_whiteout(&stat) {
            Before::Whiteout
        } else {
            Before::Other
        })
    }

    /// Make something new at its place. The kernel refuses if anything stands there: then that goes, and once more.
    fn place<T>(
        &mut self,
        member: &Member,
        parent: &OwnedFd,
        base: &[u8],
        action: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.make_way(member, parent, base, member.kind)?;
                trying(member, action, make())
            }
            result => trying(member, action, result),
        }
    }

    fn file<R: Skip + BufRead>(
        &mut self,
        member: &Member,
        parent: &OwnedFd,
        base: &[u8],
        data: &mut Members<R>,
    ) -> Result<()> {
        self.share.file(member.size)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = first_mode(member) | Mode::RUSR | Mode::WUSR;
        let file = self.place(member, parent, base, "make it", || openat(parent, base, flags, mode))?;
        let mut file = std::fs::File::from(file);
        loop {
            let bytes = match data.fill_buf() {
                Ok([]) => break,
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TarError::from(error).into()),
            };
            let got = bytes.len();
            trying(member, "write it", self.share.about_to_write(got as u64, file.as_fd()))?;
            trying(member, "write it", file.write_all(bytes))?;
            data.consume(got);
        }
        settle(member, file.as_fd())?;
        trying(member, "set its times", futimens(&file, &times(member)))
    }

    fn directory(&mut self, member: &Member, parent: &OwnedFd, base: &[u8], parts: &[&[u8]]) -> Result<()> {
        let make = || mkdirat(parent, base, first_mode(member) | Mode::RWXU);
        let mut opaque = false;
        match make() {
            Err(Errno::EXIST) => {
                let before = self.make_way(member, parent, base, Kind::Directory)?;
                if before != Before::Directory {
                    trying(member, "make it", make())?;
                }
                // This layer also removes what a lower one has here.
                opaque = before == Before::Whiteout;
            }
            result => trying(member, "make it", result)?,
        }
        let directory = trying(member, "open it", openat(parent, base, OPEN_DIRECTORY, Mode::empty()))?;
        if opaque {
            trying(member, "make it opaque", set_opaque(&directory))?;
        }
        self.settle_directory(member, &directory, parts.join(&b'/'))
    }

    fn settle_directory(&mut self, member: &Member, directory: &OwnedFd, path: Vec<u8>) -> Result<()> {
        settle(member, directory.as_fd())?;
        self.times_bytes += path.len() + size_of::<(Vec<u8>, Timestamps)>();
        if self.times_bytes > DIRECTORY_PATHS_MAX {
            return Err(LimitError::DirectoryPaths.into());
        }
        self.times.push((path, times(member)));
        Ok(())
    }

    fn symlink(&mut self, member: &Member, parent: &OwnedFd, base: &[u8]) -> Result<()> {
        if member.link.is_empty() {
            return refused(member, Fault::EmptyLink);
        }
        self.place(member, parent, base, "make the link", || {
            symlinkat(&member.link[..], parent, base)
        })?;
        settle_node(member, parent, base)
    }

    /// containerd and docker, too, take hard links within a layer alone.
    fn hard_link(&mut self, member: &Member, parent: &OwnedFd, base: &[u8]) -> Result<()> {
        let parts = parts(&member.link).or_else(|fault| refused(member, fault))?;
        let Some((target, target_parents)) = parts.split_last() else {
            return refused(member, Fault::LinkTarget);
        };
        let target_parent = if target_parents.is_empty() {
            Rc::clone(&self.root)
        } else {
            match self.resolve(&target_parents.join(&b'/'), OFlags::empty()) {
                Ok(directory) => Rc::new(directory),
                Err(Errno::NOENT | Errno::NOTDIR) => return refused(member, Fault::LinkTarget),
                Err(Errno::LOOP) => return refused(member, Fault::Loop),
                Err(error) => return trying(member, "open the directory it links to", Err(error)),
            }
        };
        let stat = match statat(&*target_parent, *target, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_directory(&stat) => return refused(member, Fault::LinkToDirectory),
            Ok(stat) if is_whiteout(&stat) => return refused(member, Fault::LinkTarget),
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return refused(member, Fault::LinkTarget),
            Err(error) => return trying(member, "look at what it links to", Err(error)),
        };
        if let Ok(here) = statat(parent, base, AtFlags::SYMLINK_NOFOLLOW)
            && (here.st_dev, here.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        // Owner, mode and times are the file's, which has them already.
        self.place(member, parent, base, "make the hard link", || {
            linkat(&*target_parent, *target, parent, base, AtFlags::empty())
        })
    }

    fn node(&mut self, member: &Member, parent: &OwnedFd, base: &[u8], kind: FileType, device: u64) -> Result<()> {
        self.place(member, parent, base, "make the device or pipe", || {
            mknodat(parent, base, kind, Mode::RUSR | Mode::WUSR, device)
        })?;
        settle_node(member, parent, base)
    }

    fn whiteout(member: &Member, parent: &OwnedFd, hidden: &[u8]) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            return refused(member, Fault::Whiteout);
        }
        match mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                let stat = trying(
                    member,
                    "look at what it removes",
                    statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW),
                )?;
                if !is_directory(&stat) {
                    // This layer's own file, or a whiteout already: either hides what lies below.
                    return Ok(());
                }
                let directory = openat(parent, hidden, OPEN_DIRECTORY, Mode::empty());
                trying(
                    member,
                    "make a directory opaque",
                    directory.and_then(|directory| set_opaque(&directory)),
                )
            }
            result => trying(member, "make the whiteout", result),
        }
    }

    /// Directories' times, now that they are filled.
    fn finish(self) -> Result<()> {
        for (path, times) in &self.times {
            let directory = if path.is_empty() {
                Ok(Rc::clone(&self.root))
            } else {
                self.resolve(path, OFlags::NOFOLLOW).map(Rc::new)
            };
            // What a later member replaced has no times to be set.
            let Ok(directory) = directory else { continue };
            if let Err(error) = futimens(&*directory, times) {
                let member = String::from_utf8_lossy(path).into_owned();
                return Err(UnpackError::Io {
                    member,
                    action: "set its times",
                    source: error.into(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
