//! One connection with an agent: bytes in, requests out; messages in, bytes out. Never waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::frame::{self, Decoder, FrameError};
use super::protocol::{FromShim, Request};
use crate::linux::fd;

/// An agent that does not read its answers is dropped when this many bytes wait for it.
const MAX_WAITING: usize = 1 << 20;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("the other end is gone")]
    End,
    #[error("reading or writing failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it does not read what it is sent")]
    Stalled,
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    waiting: Vec<u8>,
    /// It has said `Hello`, and gets hints.
    pub(super) greeted: bool,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            decoder: Decoder::default(),
            waiting: Vec::new(),
            greeted: false,
        })
    }

    /// All requests that have arrived whole.
    pub(super) fn receive(&mut self) -> Result<Vec<Request>, Closed> {
        let mut buffer = [0; 8192];
        let mut requests = Vec::new();
        loop {
            match fd::read_some(self.socket.as_fd(), &mut buffer)? {
                // Requests that came before the end are still carried out, but nobody hears the answer.
                Some(0) if requests.is_empty() => return Err(Closed::End),
                None | Some(0) => return Ok(requests),
                Some(length) => {
                    self.decoder.push(&buffer[..length]);
                    while let Some(request) = self.decoder.message()? {
                        requests.push(request);
                    }
                }
            }
        }
    }

    /// Send now what fits, and keep the rest.
    pub(super) fn send(&mut self, message: &FromShim) -> Result<(), Closed> {
        self.waiting.extend(frame::encode(message)?);
        self.flush()
    }

    pub(super) fn flush(&mut self) -> Result<(), Closed> {
        let mut sent = 0;
        while sent < self.waiting.len() {
            match fd::write_some(self.socket.as_fd(), &self.waiting[sent..])? {
                Some(length) => sent += length,
                None => break,
            }
        }
        self.waiting.drain(..sent);
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
        if self.waiting.len() > MAX_WAITING {
            Err(Closed::Stalled)
        } else {
            Ok(())
        }
    }

    /// Whether something waits to be sent.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
