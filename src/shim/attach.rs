//! Who listens to a container besides its log, and who talks to it.
//!
//! Goes in: what the container writes, what clients write. Comes out: both, on the other side, in order and without loss.
//!
//! A client that does not read holds the container up: its output is not read until the client has taken its part. After
//! [`PATIENCE`] without progress it is cut off, so that nobody holds up a container for good.
//!
//! **Invariant:** never waits, and keeps at most what was read at once for each client.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::supervisor::session_token;
use crate::linux::fd;
use crate::linux::poll::{Interest, Poller};

/// How long a client may read nothing of what waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a client's input is read at once.
const CHUNK: usize = 4096;
/// What a client that has gone may have left in its pipe: as much as a pipe holds.
const MAX_LAST_INPUT: usize = 64 * 1024;

/// A container's clients.
#[derive(Debug)]
pub(super) struct Audience {
    clients: Vec<Client>,
    inlet: Option<Inlet>,
    /// Of the inlet, for the poller.
    inlet_token: u64,
    /// The first client that had the input closes it when it ends.
    once: bool,
}

#[derive(Debug)]
struct Client {
    connection: u64,
    /// stdout (or the terminal) and stderr.
    outlets: [Option<Outlet>; 2],
    source: Option<OwnedFd>,
}

/// A client's end of one output.
#[derive(Debug)]
struct Outlet {
    pipe: OwnedFd,
    waiting: Vec<u8>,
    /// When it last took something, or began to wait.
    since: Instant,
    /// Nothing more will come.
    ending: bool,
}

/// The container's input.
#[derive(Debug)]
struct Inlet {
    file: OwnedFd,
    waiting: Vec<u8>,
    /// To be closed when nothing waits any more.
    ending: bool,
}

impl Audience {
    pub(super) fn new(inlet_token: u64, once: bool) -> Self {
        Self {
            clients: Vec::new(),
            inlet: None,
            inlet_token,
            once,
        }
    }

    /// The (non-blocking) descriptor by which the container hears.
    pub(super) fn set_inlet(&mut self, file: OwnedFd) {
        self.inlet = Some(Inlet {
            file,
            waiting: Vec::new(),
            ending: false,
        });
    }

    pub(super) fn has_inlet(&self) -> bool {
        self.inlet.as_ref().is_some_and(|inlet| !inlet.ending)
    }

    pub(super) fn connections(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.connection).collect()
    }

    /// A new client, with (non-blocking) descriptors of its own.
    pub(super) fn join(
        &mut self,
        connection: u64,
        source: Option<OwnedFd>,
        outlets: [Option<OwnedFd>; 2],
        poller: &Poller,
    ) {
        let client = Client {
            connection,
            outlets: outlets.map(|pipe| pipe.map(Outlet::new)),
            source: source.filter(|_| self.has_inlet()),
        };
        if self.inlet.as_ref().is_some_and(|inlet| inlet.waiting.is_empty()) {
            client.listen(poller);
        }
        self.clients.push(client);
    }

    /// The container wrote this.
    pub(super) fn push(&mut self, index: usize, bytes: &[u8], poller: &Poller) {
        for client in &mut self.clients {
            let token = session_token(client.connection, 2 + index);
            let slot = &mut client.outlets[index];
            if let Some(outlet) = slot
                && !outlet.push(bytes, token, poller)
            {
                *slot = None;
            }
        }
    }

    /// Whether somebody has not taken all of this output yet.
    pub(super) fn is_behind(&self, index: usize) -> bool {
        let outlets = self.clients.iter().filter_map(|client| client.outlets[index].as_ref());
        outlets.into_iter().any(|outlet| !outlet.waiting.is_empty())
    }

    /// A client's end can take more.
    pub(super) fn flush(&mut self, connection: u64, index: usize, poller: &Poller) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.connection == connection) {
            let slot = &mut client.outlets[index];
            if let Some(outlet) = slot
                && !outlet.flush(poller)
            {
                *slot = None;
            }
        }
    }

    /// The container will write nothing more there.
    pub(super) fn end_output(&mut self, index: usize) {
        for client in &mut self.clients {
            let slot = &mut client.outlets[index];
            if let Some(outlet) = slot {
                outlet.ending = true;
                if outlet.waiting.is_empty() {
                    *slot = None;
                }
            }
        }
    }

    /// The container will hear nothing more.
    pub(super) fn end_input(&mut self, poller: &Poller) {
        self.close_inlet(poller);
    }

    /// Who has read nothing for too long; they are not clients any more.
    pub(super) fn cut_off(&mut self, now: Instant, poller: &Poller) -> Vec<u64> {
        let overdue: Vec<u64> = self
            .clients
            .iter()
            .filter(|client| client.deadline().is_some_and(|deadline| deadline <= now))
            .map(|client| client.connection)
            .collect();
        for connection in &overdue {
            self.leave(*connection, poller);
        }
        overdue
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(Client::deadline).min()
    }

    /// A client has gone. What it wrote last is still heard.
    pub(super) fn leave(&mut self, connection: u64, poller: &Poller) {
        let Some(at) = self.clients.iter().position(|client| client.connection == connection) else {
            return;
        };
        let mut client = self.clients.swap_remove(at);
        for outlet in client.outlets.iter().flatten() {
            outlet.ignore(poller);
        }
        if let (Some(source), Some(inlet)) = (client.source.take(), &mut self.inlet) {
            let _removed = poller.remove(&source);
            let mut buffer = [0; CHUNK];
            let was_empty = inlet.waiting.is_empty();
            let mut left = MAX_LAST_INPUT.saturating_sub(inlet.waiting.len());
            while let Ok(Some(length @ 1..)) = fd::read_some(source.as_fd(), &mut buffer[..left.min(CHUNK)]) {
                inlet.waiting.extend_from_slice(&buffer[..length]);
                left -= length;
            }
            inlet.ending |= self.once;
            if was_empty {
                self.pour(poller);
            }
        }
    }

    /// A client's input can be read.
    pub(super) fn hear(&mut self, connection: u64, poller: &Poller) {
        let Some(client) = self.clients.iter_mut().find(|client| client.connection == connection) else {
            return;
        };
        let (Some(source), Some(inlet)) = (&client.source, &mut self.inlet) else {
            return;
        };
        if !inlet.waiting.is_empty() {
            return;
        }
        let mut buffer = [0; CHUNK];
        match fd::read_some(source.as_fd(), &mut buffer) {
            Ok(None) => return,
            Ok(Some(0)) | Err(_) => {
                let _removed = poller.remove(source);
                client.source = None;
                inlet.ending |= self.once;
            }
            Ok(Some(length)) => inlet.waiting.extend_from_slice(&buffer[..length]),
        }
        self.pour(poller);
    }

    /// The container's input has room again.
    pub(super) fn inlet_ready(&mut self, poller: &Poller) {
        let Some(inlet) = &self.inlet else { return };
        let _removed = poller.remove(&inlet.file);
        self.pour(poller);
        if self.inlet.as_ref().is_some_and(|inlet| inlet.waiting.is_empty()) {
            for client in &self.clients {
                client.listen(poller);
            }
        }
    }

    /// Write what waits. If not all of it can be taken, clients are not heard until it has.
    fn pour(&mut self, poller: &Poller) {
        let Some(inlet) = &mut self.inlet else { return };
        let mut poured = 0;
        while poured < inlet.waiting.len() {
            match fd::write_some(inlet.file.as_fd(), &inlet.waiting[poured..]) {
                Ok(Some(length)) => poured += length,
                Ok(None) => break,
                // Nobody in the container will ever read it.
                Err(_) => return self.close_inlet(poller),
            }
        }
        inlet.waiting.drain(..poured);
        if inlet.waiting.is_empty() {
            inlet.waiting = Vec::new();
            if inlet.ending {
                self.close_inlet(poller);
            }
            return;
        }
        if poller.add(&inlet.file, self.inlet_token, Interest::Write).is_err() {
            return self.close_inlet(poller);
        }
        for source in self.clients.iter().filter_map(|client| client.source.as_ref()) {
            let _removed = poller.remove(source);
        }
    }

    /// Clients find their ends closed.
    fn close_inlet(&mut self, poller: &Poller) {
        if let Some(inlet) = self.inlet.take() {
            let _removed = poller.remove(&inlet.file);
        }
        for client in &mut self.clients {
            if let Some(source) = client.source.take() {
                let _removed = poller.remove(&source);
            }
        }
    }
}

impl Client {
    fn listen(&self, poller: &Poller) {
        if let Some(source) = &self.source {
            // There already, or it cannot be watched: then nothing is heard of it.
            let _watched = poller.add(source, session_token(self.connection, 1), Interest::Read);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let waiting = self
            .outlets
            .iter()
            .flatten()
            .filter(|outlet| !outlet.waiting.is_empty());
        waiting.map(|outlet| outlet.since + PATIENCE).min()
    }
}

impl Outlet {
    fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe,
            waiting: Vec::new(),
            since: Instant::now(),
            ending: false,
        }
    }

    /// `false`: nobody reads it any more.
    fn push(&mut self, bytes: &[u8], token: u64, poller: &Poller) -> bool {
        let was_waiting = !self.waiting.is_empty();
        self.waiting.extend_from_slice(bytes);
        if was_waiting {
            return true;
        }
        self.since = Instant::now();
        self.write() && (self.waiting.is_empty() || poller.add(&self.pipe, token, Interest::Write).is_ok())
    }

    /// `false`: it is over.
    fn flush(&mut self, poller: &Poller) -> bool {
        let goes_on = self.write();
        if !goes_on || self.waiting.is_empty() {
            self.ignore(poller);
        }
        goes_on && !(self.ending && self.waiting.is_empty())
    }

    fn ignore(&self, poller: &Poller) {
        // It is watched only while something waits.
        let _removed = poller.remove(&self.pipe);
    }

    fn write(&mut self) -> bool {
        let mut written = 0;
        let result = loop {
            if written == self.waiting.len() {
                break true;
            }
            match fd::write_some(self.pipe.as_fd(), &self.waiting[written..]) {
                Ok(Some(length)) => written += length,
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if written > 0 {
            self.since = Instant::now();
            self.waiting.drain(..written);
        }
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
        result
    }
}
