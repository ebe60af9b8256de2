//! The agent's half: the zygote started, shims asked for, a shim found again.
//!
//! Everything here is blocking and short; whoever has an event loop wraps it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;

use super::frame::{self, Decoder, FrameError};
use super::protocol::{LOCK, PROTOCOL, Request, RequestBody, SOCKET, Spawn, Spawned};
use crate::linux::lock::Holder;
use crate::linux::{fd, lock, process, unix};

/// The process that shims are forked from, as the agent holds it. Dropped, the zygote ends; its shims live on.
#[derive(Debug)]
pub struct Zygote {
    socket: UnixStream,
    child: Child,
}

/// No shim could be made.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot reach the zygote")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the zygote has ended")]
    Gone,
    #[error("the zygote could not fork: {0}")]
    Fork(String),
}

impl Zygote {
    /// Copy `executable` (the agent's own: `/proc/self/exe`) into sealed memory and run it from there as `podd shim`.
    ///
    /// # Errors
    /// No memory, no process.
    pub fn start(executable: &Path) -> io::Result<Self> {
        let (socket, theirs) = fd::stream_pair()?;
        let child = process::spawn_sealed(executable, &["shim"], &OwnedFd::from(theirs))?;
        Ok(Self { socket, child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ask for a shim; waits for the fork. Returns its pid and the agent's end of its first connection, on which nothing
    /// was said yet. Whether the sandbox could be made is in the journal.
    ///
    /// # Errors
    /// After `Io`, `Frame` and `Gone` this zygote is of no use any more: start another.
    pub fn spawn(&mut self, request: &Spawn) -> Result<(i32, UnixStream), SpawnError> {
        let (ours, theirs) = fd::stream_pair()?;
        let bytes = frame::encode(request)?;
        // The descriptor goes with the first byte; a short write sends the rest without it.
        let sent = fd::send_with_fd(self.socket.as_fd(), &bytes, theirs.as_fd())?;
        io::Write::write_all(&mut self.socket, &bytes[sent..])?;
        drop(theirs);
        let mut decoder = Decoder::default();
        let mut buffer = [0; 256];
        loop {
            if let Some(answer) = decoder.message()? {
                return match answer {
                    Spawned::Pid(pid) => Ok((pid, ours)),
                    Spawned::Failed(message) => Err(SpawnError::Fork(message)),
                };
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(SpawnError::Gone),
                Ok(length) => decoder.push(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // It ends when it sees our end closed, and leaves no zombie.
        let _closed = self.socket.shutdown(std::net::Shutdown::Both);
        let _ended = self.child.wait();
    }
}

/// Whether the shim of this sandbox directory lives, and its pid.
///
/// # Errors
/// The lock cannot be asked: that is not the same as a dead shim.
pub fn shim_of(directory: &Path) -> io::Result<Holder> {
    lock::holder(&directory.join(LOCK))
}

/// The id of the request that begins a session.
pub const SESSION_REQUEST: u64 = 1;

/// Begin a session: a connection of its own with the shim of this sandbox directory, greeted and asked for `body`, with
/// which these descriptors go. What comes back are a `Hello` and the answer to [`SESSION_REQUEST`].
///
/// # Errors
/// As [`connect`], and what cannot be sent.
pub fn begin_session(directory: &Path, body: RequestBody, descriptors: &[BorrowedFd<'_>]) -> io::Result<UnixStream> {
    let request = Request {
        id: SESSION_REQUEST,
        body,
    };
    let hello = Request {
        id: 0,
        body: RequestBody::Hello { protocol: PROTOCOL },
    };
    let mut bytes = frame::encode(&hello).map_err(io::Error::other)?;
    bytes.extend(frame::encode(&request).map_err(io::Error::other)?);
    let mut socket = connect(directory)?;
    let sent = fd::send_with_fds(socket.as_fd(), &bytes, descriptors)?;
    io::Write::write_all(&mut socket, &bytes[sent..])?;
    Ok(socket)
}

/// Connect to the shim of this sandbox directory, however long its path is.
///
/// # Errors
/// `NotFound` and `ConnectionRefused`: it has ended, or does not listen yet.
pub fn connect(directory: &Path) -> io::Result<UnixStream> {
    unix::connect(directory, SOCKET)
}
