//! What a member is beside its name and content: owner, mode, times, extended attributes.
//!
//! Goes in: a member, and a descriptor of what was made for it, or of its parent where opening it would do something.
//! Comes out: the same, as the layer has it.
//!
//! **Invariant:** no link is followed here.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod, fchown, fsetxattr,
    fstat, openat, utimensat,
};
use rustix::io::Errno;

use super::{Result, trying};
use crate::image::member::{Kind, Member};

const XATTR_OPAQUE: &str = "trusted.overlay.opaque";

/// Say of a directory that it hides what lower layers have there.
pub(super) fn set_opaque(directory: &OwnedFd) -> rustix::io::Result<()> {
    fsetxattr(directory, XATTR_OPAQUE, b"y", XattrFlags::empty())
}

/// Of a file as the layer has them.
pub(super) fn times(member: &Member) -> Timestamps {
    let (tv_sec, nanos) = member.mtime;
    let at = Timespec {
        tv_sec,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

/// The mode to make a file or directory with: right from the beginning for most, if the umask leaves it. Until a layer is
/// whole nobody but root gets to it.
pub(super) fn first_mode(member: &Member) -> Mode {
    Mode::from_raw_mode(member.mode & 0o777)
}

/// Owner, mode and extended attributes of a file or directory. In this order: chown(2) takes set-id bits and file
/// capabilities away. To look costs less than to set what is right already, which most of it is.
pub(super) fn settle(member: &Member, file: BorrowedFd<'_>) -> Result<()> {
    let stat = trying(member, "look at it", fstat(file))?;
    let chown = (stat.st_uid, stat.st_gid) != (member.uid, member.gid);
    if chown {
        trying(
            member,
            "set its owner",
            fchown(file, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid))),
        )?;
    }
    if chown || stat.st_mode & 0o7777 != member.mode {
        trying(member, "set its mode", fchmod(file, Mode::from_raw_mode(member.mode)))?;
    }
    for (name, value) in &member.xattrs {
        // Nothing of the host's own machinery (overlay's marks, security labels, ACLs) is for an image to say.
        let taken =
            name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
        if !taken {
            continue;
        }
        match fsetxattr(file, &name[..], value, XattrFlags::empty()) {
            // The file system has no place for these; containerd passes over that too.
            Err(Errno::NOTSUP) if name.starts_with(b"user.") => {}
            result => trying(member, "set an extended attribute", result)?,
        }
    }
    Ok(())
}

/// Owner, mode and times of what cannot be opened without doing something.
pub(super) fn settle_node(member: &Member, parent: &OwnedFd, base: &[u8]) -> Result<()> {
    let owner = chownat(
        parent,
        base,
        Some(Uid::from_raw(member.uid)),
        Some(Gid::from_raw(member.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    );
    trying(member, "set its owner", owner)?;
    if member.kind != Kind::Symlink {
        // chmod(2) by descriptor needs one that is open for more than its path; its entry in /proc does not.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = openat(parent, base, flags, Mode::empty()).and_then(|node| {
            let path = format!("/proc/self/fd/{}", node.as_raw_fd());
            chmod(path, Mode::from_raw_mode(member.mode))
        });
        trying(member, "set its mode", mode)?;
    }
    trying(
        member,
        "set its times",
        utimensat(parent, base, &times(member), AtFlags::SYMLINK_NOFOLLOW),
    )
}
