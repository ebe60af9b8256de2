//! The CRI log format, record by record: `<RFC3339Nano> <stdout|stderr> <P|F>[:tags] <text>\n`.
//!
//! (`cri-api/pkg/apis/runtime/v1/constants.go`; read as `cri-client/pkg/logs/logs.go` reads it.)

use crate::model::Timestamp;

/// Where a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// One record: a line, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) timestamp: &'a str,
    pub(super) stream: Stream,
    /// The last part of a line (`F`), or the only one.
    pub(super) full: bool,
    pub(super) text: &'a [u8],
}

/// Read a record, given without its newline. `None`: not one; such a line is skipped.
pub(super) fn parse(line: &[u8]) -> Option<Record<'_>> {
    let (timestamp, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    let (tags, text) = word(rest)?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let full = match tags.split(|b| *b == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Record {
        timestamp: std::str::from_utf8(timestamp).ok()?,
        stream,
        full,
        text,
    })
}

fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// How records become what the client reads. Keeps where in a line it is, over any number of calls.
#[derive(Debug)]
pub(super) struct Printer {
    /// Only records of this moment or later.
    since: Option<Timestamp>,
    /// Only records of this one.
    stream: Option<Stream>,
    timestamps: bool,
    /// Bytes still to be written.
    left: Option<u64>,
    at_line_start: bool,
}

impl Printer {
    pub(super) fn new(since: Option<Timestamp>, timestamps: bool, limit: Option<u64>) -> Self {
        Self {
            since,
            stream: None,
            timestamps,
            left: limit,
            at_line_start: true,
        }
    }

    /// Only what was written there; `None`: everything.
    pub(super) fn only(mut self, stream: Option<Stream>) -> Self {
        self.stream = stream;
        self
    }

    /// The limit is reached: nothing more will be written.
    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Write every whole record of `bytes`; returns how many bytes those were.
    pub(super) fn print(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some(length) = bytes[at..].iter().position(|b| *b == b'\n') {
            if self.is_done() {
                break;
            }
            if let Some(record) = parse(&bytes[at..at + length]) {
                self.record(record, out);
            }
            at += length + 1;
        }
        at
    }

    fn record(&mut self, record: Record<'_>, out: &mut Vec<u8>) {
        if let Some(since) = self.since {
            // Once the first record is late enough the others are: they are in order.
            match record.timestamp.parse::<Timestamp>() {
                Ok(at) if at >= since => self.since = None,
                Ok(_) | Err(_) => return,
            }
        }
        if self.stream.is_some_and(|wanted| wanted != record.stream) {
            return;
        }
        if self.timestamps && self.at_line_start {
            self.write(record.timestamp.as_bytes(), out);
            self.write(b" ", out);
        }
        self.write(record.text, out);
        if record.full {
            self.write(b"\n", out);
        }
        self.at_line_start = record.full;
    }

    fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let take = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= u64::try_from(take).unwrap_or(u64::MAX);
                take
            }
        };
        out.extend_from_slice(&bytes[..take]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-01T00:00:01.000000001Z stdout F one\n\
2026-01-01T00:00:02.5Z stderr P tw\n\
2026-01-01T00:00:02.6Z stderr F o\n\
nonsense\n\
2026-01-01T00:00:03Z stdout F \n\
2026-01-01T00:00:04Z stdout F:x a  b\n\
2026-01-01T00:00:05Z stdout F unfinish";

    fn printed(mut printer: Printer, pieces: usize) -> String {
        let (mut out, mut pending) = (Vec::new(), Vec::new());
        for piece in LOG.as_bytes().chunks(pieces) {
            pending.extend_from_slice(piece);
            let used = printer.print(&pending, &mut out);
            pending.drain(..used);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_are_joined_and_what_is_no_record_is_skipped() {
        for pieces in [1, 7, 4096] {
            assert_eq!(printed(Printer::new(None, false, None), pieces), "one\ntwo\n\na  b\n");
        }
    }

    #[test]
    fn each_line_has_the_timestamp_of_its_first_part() {
        assert_eq!(
            printed(Printer::new(None, true, None), 4096),
            "2026-01-01T00:00:01.000000001Z one\n2026-01-01T00:00:02.5Z two\n2026-01-01T00:00:03Z \n2026-01-01T00:00:04Z a  b\n"
        );
    }

    #[test]
    fn one_stream_alone_is_told_from_the_other() {
        let only = |stream| printed(Printer::new(None, false, None).only(Some(stream)), 4096);
        assert_eq!(only(Stream::Stdout), "one\n\na  b\n");
        assert_eq!(only(Stream::Stderr), "two\n");
    }

    #[test]
    fn since_is_inclusive() {
        let since = "2026-01-01T00:00:03Z".parse().unwrap();
        assert_eq!(printed(Printer::new(Some(since), false, None), 4096), "\na  b\n");
    }

    #[test]
    fn the_limit_counts_bytes_that_are_sent() {
        assert_eq!(printed(Printer::new(None, false, Some(5)), 4096), "one\nt");
        assert_eq!(printed(Printer::new(None, false, Some(0)), 4096), "");
    }
}
