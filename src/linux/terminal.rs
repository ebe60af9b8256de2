//! The size of a terminal.

use std::io;
use std::os::fd::BorrowedFd;

use super::sys;

/// Tell the terminal how large it is now, in characters; its programs get SIGWINCH if that is news.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    Ok(sys::set_window(terminal, rows, columns)?)
}
