//! The log files of one container instance: found, opened without following any link, and read in order over rotations.
//!
//! `<attempt>.log` is being written; `<attempt>.log.<stamp>` are older, their stamps ascending. A rotation renames the
//! first to one of the second and makes a new one. **Invariant:** a reader that is slower than the rotations skips what
//! was removed meanwhile, but never reads a file twice nor in the wrong order.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{AtFlags, Mode, OFlags, openat};

use super::cri;
use crate::model::Timestamp;

/// Bytes read at once.
pub(super) const CHUNK: usize = 64 * 1024;
/// A record is at most this long, whatever wrote it; longer ones are cut into several by the writer.
const RECORD_LIMIT: usize = 1024 * 1024;
/// Bytes that tell whether a record is a whole line.
const HEAD: usize = 96;

/// The directory of one container's logs, and which of its instances is meant.
#[derive(Debug)]
pub(super) struct LogDir {
    directory: OwnedFd,
    /// `3.log`
    current: String,
}

/// One log file.
#[derive(Debug)]
struct Piece {
    file: File,
    identity: Identity,
    modified: Option<SystemTime>,
}

/// Tells one file from another, also from a later one that was given the inode of a removed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    born: Option<SystemTime>,
}

/// What stamps are ordered by: `20260101-000000`, `20260101-000000-1` and so on to `20260101-000000-10`, numbers all.
fn age(stamp: &str) -> Vec<u64> {
    stamp.split('-').map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

/// Names that come from objects are single path components, or nothing is opened.
fn component(name: &str) -> io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a name of one directory",
        ));
    }
    Ok(name)
}

impl LogDir {
    /// # Errors
    /// `NotFound` where nothing was ever logged.
    pub(super) fn open(log_dir: &Path, pod: &str, container: &str, attempt: u32) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(log_dir, flags, Mode::empty())?;
        let pod = openat(&root, component(pod)?, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let directory = openat(&pod, component(container)?, flags | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Self {
            directory,
            current: format!("{attempt}.log"),
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A regular file of this directory with no other name; anything else is not a log of ours.
    fn piece(&self, name: &str) -> io::Result<Piece> {
        // NONBLOCK: a fifo in the place of a file must not hold us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(openat(&self.directory, component(name)?, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a regular file with one name",
            ));
        }
        let identity = Identity {
            inode: metadata.ino(),
            born: metadata.created().ok(),
        };
        Ok(Piece {
            identity,
            modified: metadata.modified().ok(),
            file,
        })
    }

    /// Of the file being written, if there is one.
    fn newest_inode(&self) -> Option<u64> {
        let stat = rustix::fs::statat(&self.directory, self.current.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(stat.st_ino)
    }

    /// The files that are there now, oldest first. Those that vanish between listing and opening are left out.
    fn pieces(&self) -> io::Result<Vec<Piece>> {
        let prefix = format!("{}.", self.current);
        let mut rotated = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) {
                rotated.push(name);
            }
        }
        rotated.sort_by_cached_key(|name| age(&name[prefix.len()..]));
        rotated.push(self.current.clone());
        let mut pieces: Vec<Piece> = Vec::with_capacity(rotated.len());
        for name in rotated {
            match self.piece(&name) {
                // A rotation between listing and opening shows a file under both its names: its first place is right.
                Ok(piece) if pieces.iter().any(|p| p.identity == piece.identity) => {}
                Ok(piece) => pieces.push(piece),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pieces)
    }
}

/// Reads all files of an instance in order, one after the other, and then whatever is added.
#[derive(Debug)]
pub(super) struct Reader {
    directory: LogDir,
    current: Option<Piece>,
    /// Files that were read to their end and are there still.
    read: Vec<Identity>,
    offset: u64,
    /// Bytes read that do not yet end with a newline.
    pending: Vec<u8>,
}

impl Reader {
    /// Begin at the `tail`-last line, or at the first file that can hold something of `since`, or at the beginning.
    pub(super) fn begin(directory: LogDir, tail: Option<u64>, since: Option<Timestamp>) -> io::Result<Self> {
        let pieces = directory.pieces()?;
        let (at, offset) = match tail {
            Some(lines) => tail_start(&pieces, lines)?,
            None => (first_since(&pieces, since), 0),
        };
        let read = pieces.iter().take(at).map(|p| p.identity).collect();
        let current = pieces.into_iter().nth(at);
        Ok(Self {
            directory,
            current,
            read,
            offset,
            pending: Vec::new(),
        })
    }

    /// The next bytes through `printer` into `out`. False: there is nothing more now.
    pub(super) fn read(&mut self, printer: &mut cri::Printer, out: &mut Vec<u8>) -> io::Result<bool> {
        let Some(piece) = &self.current else {
            return self.advance();
        };
        let start = self.pending.len();
        self.pending.resize(start + CHUNK, 0);
        let read = piece.file.read_at(&mut self.pending[start..], self.offset);
        self.pending.truncate(start + *read.as_ref().unwrap_or(&0));
        let read = read?;
        if read == 0 {
            return self.advance();
        }
        self.offset += u64::try_from(read).unwrap_or(0);
        let used = printer.print(&self.pending, out);
        self.pending.drain(..used);
        if self.pending.len() > RECORD_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record without end"));
        }
        Ok(true)
    }

    /// The file after the one that was read to its end. False: it is the one being written still.
    fn advance(&mut self) -> io::Result<bool> {
        if let Some(current) = &self.current
            && self.directory.newest_inode() == Some(current.identity.inode)
        {
            return Ok(false);
        }
        let pieces = self.directory.pieces()?;
        let here = self
            .current
            .as_ref()
            .and_then(|c| pieces.iter().position(|p| p.identity == c.identity));
        if let (Some(here), Some(current)) = (here, &self.current) {
            if here + 1 == pieces.len() {
                return Ok(false);
            }
            // Written between our last look and the rotation: read that first.
            if current.file.metadata()?.len() > self.offset {
                return Ok(true);
            }
        }
        // Ours may have been removed already: then whatever is oldest of what was not read comes next.
        self.read.extend(self.current.as_ref().map(|c| c.identity));
        self.read
            .retain(|identity| pieces.iter().any(|p| p.identity == *identity));
        let next = pieces.into_iter().find(|p| !self.read.contains(&p.identity));
        let moved = next.is_some();
        if moved {
            self.current = next;
            self.offset = 0;
            self.pending.clear();
        }
        Ok(moved)
    }

    pub(super) fn directory(&self) -> &LogDir {
        &self.directory
    }
}

/// The first file that was written to at `since` or later: everything before is older.
fn first_since(pieces: &[Piece], since: Option<Timestamp>) -> usize {
    let Some(since) = since.map(SystemTime::from) else {
        return 0;
    };
    pieces
        .iter()
        .position(|p| p.modified.is_none_or(|m| m >= since))
        .unwrap_or(pieces.len().saturating_sub(1))
}

/// Where the last `lines` lines begin: the file, and the offset in it. What follows the last newline the container wrote
/// is a line too, as it is for tail(1).
fn tail_start(pieces: &[Piece], lines: u64) -> io::Result<(usize, u64)> {
    let mut found = 0;
    let mut last = true;
    for (at, piece) in pieces.iter().enumerate().rev() {
        // Ends of records, from the last one backwards. What follows the last newline is still being written.
        let mut end = piece.file.metadata()?.len();
        let mut block = vec![0; CHUNK];
        let mut newest_end: Option<u64> = None;
        while end > 0 {
            let size = usize::try_from(end).unwrap_or(usize::MAX).min(CHUNK);
            let start = end - u64::try_from(size).unwrap_or(0);
            piece.file.read_exact_at(&mut block[..size], start)?;
            for (i, _) in block[..size].iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
                let newline = start + u64::try_from(i).unwrap_or(0);
                // The record after this newline is known now: it ends at the newline found before.
                if newest_end.is_some() && (is_full(&piece.file, newline + 1)? || std::mem::take(&mut last)) {
                    last = false;
                    found += 1;
                    if found > lines {
                        return after_record(&piece.file, newline + 1).map(|offset| (at, offset));
                    }
                }
                newest_end = Some(newline + 1);
            }
            end = start;
        }
        if newest_end.is_some() && (is_full(&piece.file, 0)? || std::mem::take(&mut last)) {
            last = false;
            found += 1;
            if found > lines {
                return after_record(&piece.file, 0).map(|offset| (at, offset));
            }
        }
    }
    Ok((0, 0))
}

/// Whether the record that begins here ends a line.
fn is_full(file: &File, offset: u64) -> io::Result<bool> {
    let mut head = [0; HEAD];
    let read = file.read_at(&mut head, offset)?;
    let line = head[..read].split(|b| *b == b'\n').next().unwrap_or(&[]);
    Ok(cri::parse(line).is_some_and(|record| record.full))
}

/// Where the record after this one begins.
fn after_record(file: &File, offset: u64) -> io::Result<u64> {
    let mut at = offset;
    let mut block = vec![0; CHUNK];
    loop {
        let read = file.read_at(&mut block, at)?;
        if read == 0 {
            return Ok(at);
        }
        if let Some(i) = block[..read].iter().position(|b| *b == b'\n') {
            return Ok(at + u64::try_from(i).unwrap_or(0) + 1);
        }
        at += u64::try_from(read).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Logs {
        root: tempfile::TempDir,
    }

    impl Logs {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("n_p_u/c")).unwrap();
            Self { root }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join("n_p_u/c").join(name)
        }

        fn write(&self, name: &str, lines: std::ops::Range<u32>) {
            let mut text = String::new();
            for i in lines {
                writeln!(text, "2026-01-01T00:00:{:02}Z stdout F line {i}", i % 60).unwrap();
            }
            fs::write(self.path(name), text).unwrap();
        }

        fn open(&self) -> io::Result<LogDir> {
            LogDir::open(self.root.path(), "n_p_u", "c", 0)
        }

        fn reader(&self, tail: Option<u64>) -> Reader {
            Reader::begin(self.open().unwrap(), tail, None).unwrap()
        }
    }

    fn drain(reader: &mut Reader) -> String {
        let (mut printer, mut out) = (cri::Printer::new(None, false, None), Vec::new());
        while reader.read(&mut printer, &mut out).unwrap() {}
        String::from_utf8(out).unwrap()
    }

    fn lines(range: std::ops::Range<u32>) -> String {
        range.fold(String::new(), |text, i| text + &format!("line {i}\n"))
    }

    #[test]
    fn rotated_files_come_first_in_the_order_of_their_stamps() {
        let logs = Logs::new();
        logs.write("0.log.20260101-000001-10", 10..20);
        logs.write("0.log.20260101-000001-9", 5..10);
        logs.write("0.log.20260101-000001", 0..5);
        logs.write("0.log", 20..30);
        logs.write("1.log", 90..99);
        assert_eq!(drain(&mut logs.reader(None)), lines(0..30));
    }

    #[test]
    fn a_tail_counts_lines_over_all_files() {
        let logs = Logs::new();
        logs.write("0.log.1", 0..5000);
        logs.write("0.log", 5000..5010);
        for (tail, first) in [
            (0, 5010),
            (3, 5007),
            (10, 5000),
            (11, 4999),
            (4000, 1010),
            (5010, 0),
            (9999, 0),
        ] {
            assert_eq!(drain(&mut logs.reader(Some(tail))), lines(first..5010), "tail {tail}");
        }
    }

    #[test]
    fn a_tail_counts_a_line_of_many_parts_once() {
        let logs = Logs::new();
        let long = "x".repeat(20_000);
        let mut text = String::from("2026-01-01T00:00:00Z stdout F first\n");
        for _ in 0..10 {
            writeln!(text, "2026-01-01T00:00:01Z stdout P {long}").unwrap();
        }
        text.push_str("2026-01-01T00:00:02Z stdout F end\n2026-01-01T00:00:03Z stdout F last\n");
        fs::write(logs.path("0.log"), text).unwrap();
        assert_eq!(drain(&mut logs.reader(Some(1))), "last\n");
        assert_eq!(
            drain(&mut logs.reader(Some(2))),
            format!("{}end\nlast\n", long.repeat(10))
        );
        assert!(drain(&mut logs.reader(Some(3))).starts_with("first\n"));
    }

    #[test]
    fn reading_goes_on_over_rotations_without_loss_or_repetition() {
        let logs = Logs::new();
        logs.write("0.log", 0..10);
        let mut reader = logs.reader(None);
        assert_eq!(drain(&mut reader), lines(0..10));
        // Two rotations while nobody looked, with more written to the first file before.
        logs.write("0.log", 0..12);
        fs::rename(logs.path("0.log"), logs.path("0.log.1")).unwrap();
        logs.write("0.log", 12..20);
        fs::rename(logs.path("0.log"), logs.path("0.log.2")).unwrap();
        logs.write("0.log", 20..25);
        assert_eq!(drain(&mut reader), lines(10..25));
        // Ours and the next were removed already: on with what is left.
        for (from, to) in [(25, 30), (30, 35)] {
            fs::rename(logs.path("0.log"), logs.path(&format!("0.log.{to}"))).unwrap();
            logs.write("0.log", from..to);
        }
        fs::remove_file(logs.path("0.log.30")).unwrap();
        assert_eq!(drain(&mut reader), lines(25..35));
    }

    #[test]
    fn the_first_file_may_come_later() {
        let logs = Logs::new();
        let mut reader = logs.reader(None);
        assert_eq!(drain(&mut reader), "");
        logs.write("0.log", 0..2);
        assert_eq!(drain(&mut reader), lines(0..2));
    }

    #[test]
    fn nothing_but_a_regular_file_of_its_own_is_read() {
        let logs = Logs::new();
        let secret = logs.root.path().join("secret");
        fs::write(&secret, "2026-01-01T00:00:00Z stdout F secret\n").unwrap();
        let refused = || Reader::begin(logs.open().unwrap(), None, None).is_err();
        symlink(&secret, logs.path("0.log")).unwrap();
        assert!(refused(), "a link");
        fs::remove_file(logs.path("0.log")).unwrap();
        fs::hard_link(&secret, logs.path("0.log")).unwrap();
        assert!(refused(), "a second name");
        fs::remove_file(logs.path("0.log")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            logs.path("0.log"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(refused(), "a fifo");
        fs::remove_file(logs.path("0.log")).unwrap();
        fs::create_dir(logs.path("0.log")).unwrap();
        assert!(refused(), "a directory");
    }

    #[test]
    fn directories_are_not_reached_through_links_or_dots() {
        let logs = Logs::new();
        symlink("n_p_u", logs.root.path().join("link")).unwrap();
        for (pod, container) in [("link", "c"), ("..", "c"), ("n_p_u", ".."), ("n_p_u/c", "."), ("", "c")] {
            assert!(
                LogDir::open(logs.root.path(), pod, container, 0).is_err(),
                "{pod}/{container}"
            );
        }
    }
}
