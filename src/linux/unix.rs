//! Unix stream sockets by path, also where the path is longer than the 108 bytes an address has: the directory is opened
//! and the socket named through `/proc/self/fd/<directory>/<name>`.

#![expect(unsafe_code, reason = "umask(2) for the one moment in which the socket file is made")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

fn open_directory(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory)
}

fn through(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Listen on `<directory>/<name>`, mode 0600. For processes with one thread: the umask changes for a moment.
pub fn listen(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let opened = open_directory(directory)?;
    // SAFETY: umask cannot fail and touches no memory.
    let before = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(through(&opened, name));
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    listener
}

/// Connect to `<directory>/<name>`.
pub fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let opened = open_directory(directory)?;
    UnixStream::connect(through(&opened, name))
}
