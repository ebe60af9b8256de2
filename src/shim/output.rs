//! The containers' output on its way into their logs, and to those who are attached.
//!
//! An output outlives its container as long as somebody holds the other end of a pipe (a process that the container left
//! behind), and ends at the end of file.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use super::attach::Audience;
use super::log::{LogFile, Stream};
use super::protocol::Fact;
use super::supervisor::{FIRST_INPUT, FIRST_OUTPUT};
use crate::linux::poll::{Interest, Poller};
use crate::linux::{fd, terminal};

/// How much is read at once, so that one loud container does not keep the others waiting.
const CHUNK: usize = 16 * 1024;

/// All outputs of this shim.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    next: u64,
    open: BTreeMap<u64, Output>,
    /// Which output the session of a connection is attached to.
    sessions: BTreeMap<u64, u64>,
}

/// What a session finds that attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) stdin: bool,
    pub(super) tty: bool,
}

/// So that no flood of requests uses up our descriptors.
const MAX_SESSIONS: usize = 64;

#[derive(Debug)]
struct Output {
    container: String,
    attempt: u32,
    log: LogFile,
    /// stdout (or the terminal) and stderr.
    ends: [Option<End>; 2],
    audience: Audience,
    terminal: bool,
    /// A terminal's input is wanted.
    wants_input: bool,
    /// The container has ended. Until then a session can attach, also where the container has closed its streams.
    ended: bool,
}

#[derive(Debug)]
struct End {
    file: OwnedFd,
    stream: Stream,
    token: u64,
    /// Not read now: a client has not taken all of it.
    paused: bool,
}

/// What came of one attempt to read.
enum Read {
    Some(usize),
    Nothing,
    End,
}

impl Outputs {
    /// A new output, whose log is opened now. Returns its number.
    pub(super) fn open(&mut self, container: &str, attempt: u32, log: &Path, max_size: u64, max_files: u32) -> u64 {
        let id = self.next;
        self.next += 1;
        let log = LogFile::open(log, max_size, max_files);
        self.open.insert(
            id,
            Output {
                container: container.to_owned(),
                attempt,
                log,
                ends: [None, None],
                audience: Audience::new(FIRST_INPUT + id, false),
                terminal: false,
                wants_input: false,
                ended: false,
            },
        );
        id
    }

    /// Read this (non-blocking) descriptor into the output's log from now on.
    pub(super) fn attach(&mut self, id: u64, file: OwnedFd, stderr: bool, poller: &Poller) -> io::Result<()> {
        let Some(output) = self.open.get_mut(&id) else {
            return Ok(());
        };
        let token = FIRST_OUTPUT + 2 * id + u64::from(stderr);
        poller.add(&file, token, Interest::Read)?;
        let stream = if stderr { Stream::stderr() } else { Stream::stdout() };
        output.ends[usize::from(stderr)] = Some(End {
            file,
            stream,
            token,
            paused: false,
        });
        Ok(())
    }

    /// As [`Self::attach`], for a terminal's master.
    pub(super) fn attach_terminal(&mut self, id: u64, master: OwnedFd, poller: &Poller) -> io::Result<()> {
        if let Some(output) = self.open.get_mut(&id) {
            output.terminal = true;
            if output.wants_input {
                output.audience.set_inlet(fd::duplicate(&master)?);
            }
        }
        self.attach(id, master, false, poller)
    }

    /// Whether there is an input, whether its first client closes it, and the pipe by which the container hears it; with
    /// a terminal that comes later. A terminal's input cannot be closed.
    pub(super) fn accept_input(&mut self, id: u64, wanted: bool, once: bool, pipe: Option<OwnedFd>) {
        if let Some(output) = self.open.get_mut(&id) {
            output.wants_input = wanted;
            output.audience = Audience::new(FIRST_INPUT + id, once && pipe.is_some());
            if let Some(pipe) = pipe {
                output.audience.set_inlet(pipe);
            }
        }
    }

    /// A session wants to be at this output from now on.
    ///
    /// # Errors
    /// What is to be answered.
    pub(super) fn join(
        &mut self,
        id: u64,
        connection: u64,
        source: Option<OwnedFd>,
        outlets: [Option<OwnedFd>; 2],
        poller: &Poller,
    ) -> Result<Found, String> {
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(format!("{MAX_SESSIONS} sessions are attached to this pod already"));
        }
        let output = self.open.get_mut(&id).ok_or("the container has ended")?;
        for file in source.iter().chain(outlets.iter().flatten()) {
            fd::set_nonblocking(file.as_fd()).map_err(|error| error.to_string())?;
        }
        let found = Found {
            stdin: output.audience.has_inlet(),
            tty: output.terminal,
        };
        output.audience.join(connection, source, outlets, poller);
        for index in 0..2 {
            if output.ends[index].is_none() {
                output.audience.end_output(index);
            }
        }
        self.sessions.insert(connection, id);
        Ok(found)
    }

    /// Sessions at this output.
    pub(super) fn attached(&self, id: u64) -> Vec<u64> {
        self.open
            .get(&id)
            .map_or_else(Vec::new, |output| output.audience.connections())
    }

    /// A connection is gone.
    pub(super) fn leave(&mut self, connection: u64, poller: &Poller) {
        if let Some(id) = self.sessions.remove(&connection)
            && let Some(output) = self.open.get_mut(&id)
        {
            output.audience.leave(connection, poller);
            output.go_on(poller);
            self.close_if_ended(id);
        }
    }

    /// A client can take more of an output (0 or 1).
    pub(super) fn client_ready(&mut self, connection: u64, index: usize, poller: &Poller) {
        if let Some((id, output)) = self.of_session(connection) {
            output.audience.flush(connection, index, poller);
            output.go_on(poller);
            self.close_if_ended(id);
        }
    }

    /// A client has written something.
    pub(super) fn client_wrote(&mut self, connection: u64, poller: &Poller) {
        if let Some((_, output)) = self.of_session(connection) {
            output.audience.hear(connection, poller);
        }
    }

    /// The container can take more input.
    pub(super) fn input_ready(&mut self, token: u64, poller: &Poller) {
        if let Some(output) = self.open.get_mut(&(token - FIRST_INPUT)) {
            output.audience.inlet_ready(poller);
        }
    }

    /// The terminal of the container that this session is attached to has another size now.
    ///
    /// # Errors
    /// What is to be answered.
    pub(super) fn resize(&mut self, connection: u64, width: u16, height: u16) -> Result<(), String> {
        let output = self.of_session(connection).map(|(_, output)| output);
        let output = output.filter(|output| output.terminal);
        match output.and_then(|output| output.ends[0].as_ref()) {
            Some(end) => terminal::resize(end.file.as_fd(), height, width).map_err(|error| error.to_string()),
            None => Err("this session has no terminal".to_owned()),
        }
    }

    fn of_session(&mut self, connection: u64) -> Option<(u64, &mut Output)> {
        let id = *self.sessions.get(&connection)?;
        Some((id, self.open.get_mut(&id)?))
    }

    /// Sessions that have read nothing for too long. They are not attached any more.
    pub(super) fn cut_off(&mut self, now: Instant, poller: &Poller) -> Vec<u64> {
        let mut all = Vec::new();
        for id in self.open.keys().copied().collect::<Vec<_>>() {
            if let Some(output) = self.open.get_mut(&id) {
                let overdue = output.audience.cut_off(now, poller);
                if !overdue.is_empty() {
                    output.go_on(poller);
                    self.close_if_ended(id);
                }
                all.extend(overdue);
            }
        }
        for connection in &all {
            self.sessions.remove(connection);
        }
        all
    }

    /// When [`Self::cut_off`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.values().filter_map(|output| output.audience.deadline()).min()
    }

    /// Something can be read. Returns what is to be written down about lost output, if anything.
    pub(super) fn readable(&mut self, token: u64, at: i64, poller: &Poller) -> Option<Fact> {
        let id = (token - FIRST_OUTPUT) / 2;
        let index = usize::from(token % 2 == 1);
        let output = self.open.get_mut(&id)?;
        let (_, written) = output.read(index, at, CHUNK, poller);
        // Space has returned when something could be written again.
        let fact = if written { output.lost() } else { None };
        self.close_if_ended(id).or(fact)
    }

    /// The container has ended: what is in the pipes now goes into the log, and what has no newline yet too.
    pub(super) fn drain(&mut self, id: u64, at: i64, poller: &Poller) -> Option<Fact> {
        let output = self.open.get_mut(&id)?;
        output.ended = true;
        output.audience.end_input(poller);
        for index in 0..2 {
            output.drain(index, at, poller);
        }
        let fact = output.lost();
        self.close_if_ended(id).or(fact)
    }

    fn close_if_ended(&mut self, id: u64) -> Option<Fact> {
        let output = self.open.get_mut(&id)?;
        if output.ends.iter().any(Option::is_some) {
            return None;
        }
        let fact = output.lost();
        // Clients still have to take what was read last.
        if output.ended && (0..2).all(|index| !output.audience.is_behind(index)) {
            self.open.remove(&id);
            self.sessions.retain(|_, output| *output != id);
        }
        fact
    }
}

impl Output {
    fn lost(&mut self) -> Option<Fact> {
        let bytes = self.log.take_lost();
        (bytes > 0).then(|| Fact::LogLost {
            container: self.container.clone(),
            attempt: self.attempt,
            bytes,
        })
    }

    /// Read again where every client has taken what there was.
    fn go_on(&mut self, poller: &Poller) {
        for (index, end) in self.ends.iter_mut().enumerate() {
            if let Some(end) = end
                && end.paused
                && !self.audience.is_behind(index)
            {
                // If it cannot be watched, what is in it is read when the container ends.
                end.paused = poller.add(&end.file, end.token, Interest::Read).is_err();
            }
        }
    }

    /// Read once. Also returns whether something was written.
    fn read(&mut self, index: usize, at: i64, most: usize, poller: &Poller) -> (Read, bool) {
        let Some(end) = &mut self.ends[index] else {
            return (Read::End, false);
        };
        let mut buffer = [0; CHUNK];
        match fd::read_some(end.file.as_fd(), &mut buffer[..most.min(CHUNK)]) {
            Ok(None) => (Read::Nothing, false),
            // A terminal whose other side is closed gives EIO.
            Ok(Some(0)) | Err(_) => {
                let written = end.stream.flush(&mut self.log, at);
                let _removed = poller.remove(&end.file);
                self.ends[index] = None;
                self.audience.end_output(index);
                (Read::End, written)
            }
            Ok(Some(length)) => {
                let written = end.stream.push(&mut self.log, at, &buffer[..length]);
                self.audience.push(index, &buffer[..length], poller);
                if self.audience.is_behind(index) && !end.paused {
                    end.paused = true;
                    let _removed = poller.remove(&end.file);
                }
                (Read::Some(length), written)
            }
        }
    }

    /// As much as is there now: a process that was left behind and goes on writing does not hold us up.
    fn drain(&mut self, index: usize, at: i64, poller: &Poller) {
        let there = |end: &End| fd::readable(end.file.as_fd()).unwrap_or(0);
        let mut left = self.ends[index].as_ref().map_or(0, there);
        while left > 0 {
            match self.read(index, at, left, poller).0 {
                Read::Some(length) => left -= length.min(left),
                Read::Nothing => break,
                Read::End => return,
            }
        }
        // The end of file, if it is there.
        if let (Read::Some(_) | Read::Nothing, _) = self.read(index, at, 1, poller)
            && let Some(end) = &mut self.ends[index]
        {
            end.stream.flush(&mut self.log, at);
        }
    }
}
