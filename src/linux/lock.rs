//! A file lock that says whether a process lives: `fcntl(F_SETLK)`, which the kernel drops when its holder ends and which a
//! fork does not inherit.
//!
//! **Invariant:** the holder opens the file once and never again: closing any descriptor of it would drop the lock.

#![expect(unsafe_code, reason = "struct flock is filled by hand")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Held until the process ends or this is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, or there is no such file.
    Free,
    /// This process (0 if it is in a pid namespace that cannot be seen from here).
    Pid(i32),
}

fn whole_file() -> libc::flock {
    // SAFETY: struct flock is plain integers, for which zero is a value; length 0 means the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(libc::F_WRLCK).expect("a small constant");
    lock.l_whence = i16::try_from(libc::SEEK_SET).expect("a small constant");
    lock
}

/// Take the lock, making the file (0600) if it is not there. `None`: another process has it.
pub fn take(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
        Ok(_) => Ok(Some(Lock { _file: file })),
        Err(Errno::EACCES | Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Who has the lock now. Never ask about a lock that this process holds itself: asking opens and closes the file.
pub fn holder(path: &Path) -> io::Result<Holder> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Free),
        Err(error) => return Err(error),
    };
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        Ok(Holder::Free)
    } else {
        Ok(Holder::Pid(lock.l_pid))
    }
}
