//! Threads that may do less than their process: for work on bytes that strangers have made.
//!
//! Goes in: in which directories the calling thread may still make files, if in any. From then on the kernel refuses it
//! everything else: capabilities are dropped (capabilities(7)) and, where the kernel has it (Linux 5.19), a domain of
//! landlock(7) is entered.
//!
//! It holds against mistakes in what a thread does. It does not hold against one that runs foreign code: that has the
//! memory of the whole process.
//!
//! **Invariant:** only takes away, from the calling thread (and those it makes) alone, and for good: never to be called on
//! a thread of a pool.

#![expect(unsafe_code, reason = "landlock has no wrapper")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use oci_spec::runtime::Capability;

use super::capability::number;
use super::sys::{self, CapSets};

/// What making files of any owner and kind needs; `SysAdmin` is for `trusted.*` attributes, and mounts nothing in a
/// domain of landlock.
const OF_FILES: [Capability; 7] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Mknod,
    Capability::Setfcap,
    Capability::SysAdmin,
];

/// The calling thread opens no file any more, and has no capability.
///
/// # Errors
/// The kernel refuses to take them.
pub fn to_nothing() -> io::Result<()> {
    enter(&[])?;
    keep(&[])?;
    Ok(())
}

/// The calling thread makes, changes and removes files beneath these directories alone, and has no capability but for
/// that.
///
/// # Errors
/// The kernel refuses to take the others.
pub fn to_files_beneath(directories: &[BorrowedFd<'_>]) -> io::Result<()> {
    enter(directories)?;
    keep(&OF_FILES)?;
    Ok(())
}

fn keep(kept: &[Capability]) -> Result<(), Errno> {
    let kept = kept.iter().fold(0, |bits, capability| bits | 1 << number(*capability));
    let before = sys::capget()?;
    sys::capset(&CapSets {
        effective: before.effective & kept,
        permitted: before.permitted & kept,
        inheritable: 0,
    })
}

/// `struct landlock_ruleset_attr`
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: RawFd,
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const ACCESS_FS_EXECUTE: u64 = 1;
/// The first version that lets files be renamed and linked from one directory to another.
const VERSION_WITH_REFER: i64 = 2;

/// All accesses to files that this version of landlock knows.
fn accesses_of(version: i64) -> u64 {
    let count = match version {
        ..=1 => 13,
        2 => 14,
        3 | 4 => 15,
        5.. => 16,
    };
    (1 << count) - 1
}

/// A domain in which nothing is allowed but what lies beneath these directories. On a kernel without one it does nothing.
fn enter(directories: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    // SAFETY: with this flag the kernel reads no attribute.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    if version < VERSION_WITH_REFER {
        return Ok(());
    }
    let attr = RulesetAttr {
        handled_access_fs: accesses_of(version),
        // Bind and connect of TCP.
        handled_access_net: if version >= 4 { 0b11 } else { 0 },
        // Abstract sockets and signals.
        scoped: if version >= 6 { 0b11 } else { 0 },
    };
    // An older kernel takes zeros behind what it knows.
    // SAFETY: the size is the attribute's own, and the kernel only reads it.
    let ruleset = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0_u32,
        )
    })?;
    let ruleset = RawFd::try_from(ruleset).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows of it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    for directory in directories {
        let rule = PathBeneathAttr {
            allowed_access: accesses_of(version) & !ACCESS_FS_EXECUTE,
            parent_fd: directory.as_raw_fd(),
        };
        // SAFETY: the kernel reads one rule of this layout; both descriptors are open.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0_u32,
            )
        })?;
    }
    // SAFETY: takes a descriptor that is open, and no memory.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_fd().as_raw_fd(), 0_u32) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::os::unix::fs as unix;

    /// Landlock is in this kernel, and switched on.
    fn has_domains() -> bool {
        // SAFETY: as above.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<u8>(),
                0_usize,
                1_u32,
            )
        };
        version >= VERSION_WITH_REFER
    }

    #[test]
    fn a_thread_makes_what_it_likes_in_its_directory_and_nothing_elsewhere() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = File::open(own.path()).unwrap();
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                to_files_beneath(&[directory.as_fd()]).unwrap();
                let path = |name: &str| own.path().join(name);
                fs::create_dir(path("below")).unwrap();
                fs::write(path("file"), "text").unwrap();
                fs::hard_link(path("file"), path("below/link")).unwrap();
                fs::rename(path("file"), path("below/moved")).unwrap();
                unix::symlink("/etc", path("symlink")).unwrap();
                unix::chown(path("below"), Some(7), Some(8)).unwrap();
                // Others' files too.
                fs::write(path("below/more"), "").unwrap();
                let caps = sys::capget().unwrap();
                assert_eq!(caps.effective.count_ones(), 7);
                if has_domains() {
                    for path in [other.path().join("file"), path("symlink").join("podd-was-here")] {
                        assert_eq!(fs::write(path, "").unwrap_err().kind(), ErrorKind::PermissionDenied);
                    }
                    let denied = File::open("/etc/passwd").unwrap_err();
                    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
                }
                // Whom it makes has no more than it.
                let child = scope.spawn(|| {
                    to_nothing().unwrap();
                    assert_eq!(sys::capget().unwrap(), CapSets::default());
                    let opened = File::open(own.path().join("below/moved"));
                    assert!(opened.is_err() || !has_domains());
                });
                child.join().unwrap();
            });
            work.join().unwrap();
        });
        // This one is as it was.
        fs::write(other.path().join("file"), "").unwrap();
        File::open("/etc/passwd").unwrap();
    }
}
