//! The containers' output on its way into their logs.
//!
//! An output outlives its container as long as somebody holds the other end of a pipe (a process that the container left
//! behind), and ends at the end of file.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::log::{LogFile, Stream};
use super::protocol::Fact;
use super::supervisor::FIRST_OUTPUT;
use crate::linux::fd;
use crate::linux::poll::{Interest, Poller};

/// How much is read at once, so that one loud container does not keep the others waiting.
const CHUNK: usize = 16 * 1024;

/// All outputs of this shim.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    next: u64,
    open: BTreeMap<u64, Output>,
}

#[derive(Debug)]
struct Output {
    container: String,
    attempt: u32,
    log: LogFile,
    /// stdout (or the terminal) and stderr.
    ends: [Option<End>; 2],
}

#[derive(Debug)]
struct End {
    file: OwnedFd,
    stream: Stream,
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
            },
        );
        id
    }

    /// Read this (non-blocking) descriptor into the output's log from now on.
    pub(super) fn attach(&mut self, id: u64, file: OwnedFd, stderr: bool, poller: &Poller) -> io::Result<()> {
        let Some(output) = self.open.get_mut(&id) else {
            return Ok(());
        };
        poller.add(&file, FIRST_OUTPUT + 2 * id + u64::from(stderr), Interest::Read)?;
        let stream = if stderr { Stream::stderr() } else { Stream::stdout() };
        output.ends[usize::from(stderr)] = Some(End { file, stream });
        Ok(())
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
        self.open.remove(&id);
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
                (Read::End, written)
            }
            Ok(Some(length)) => {
                let written = end.stream.push(&mut self.log, at, &buffer[..length]);
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
