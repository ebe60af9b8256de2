//! One connection with an agent: bytes in, requests out; messages in, bytes out. Never waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::frame::{self, Decoder, FrameError};
use super::protocol::{FromShim, PROTOCOL, RawRequest, Request};
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
    #[error("it sent more descriptors than anything needs")]
    Descriptors,
}

/// A request, as far as it can be understood.
#[derive(Debug)]
pub(super) enum Received {
    Request(Request),
    /// An agent of another age asks for something that has no meaning here.
    Unknown {
        id: u64,
        message: String,
    },
}

impl Received {
    fn of(raw: RawRequest) -> Self {
        let RawRequest { id, body } = raw;
        match serde_json::from_str(body.get()) {
            Ok(body) => Self::Request(Request { id, body }),
            Err(error) => Self::Unknown {
                id,
                message: format!("this shim speaks protocol {PROTOCOL} and does not know the request: {error}"),
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    waiting: Vec<u8>,
    /// They came with requests, and belong to the next session.
    descriptors: Vec<OwnedFd>,
    /// A session: it gets no hints.
    pub(super) session: bool,
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
            descriptors: Vec::new(),
            session: false,
            greeted: false,
        })
    }

    /// What came along with the requests until now.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// All requests that have arrived whole.
    pub(super) fn receive(&mut self) -> Result<Vec<Received>, Closed> {
        let mut buffer = [0; 8192];
        let mut requests = Vec::new();
        loop {
            match fd::receive_with_fds(self.socket.as_fd(), &mut buffer)? {
                // Requests that came before the end are still carried out, but nobody hears the answer.
                Some((0, _)) if requests.is_empty() => return Err(Closed::End),
                None | Some((0, _)) => return Ok(requests),
                Some((length, descriptors)) => {
                    self.descriptors.extend(descriptors);
                    if self.descriptors.len() > fd::MOST {
                        return Err(Closed::Descriptors);
                    }
                    self.decoder.push(&buffer[..length]);
                    while let Some(request) = self.decoder.message()? {
                        requests.push(Received::of(request));
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
