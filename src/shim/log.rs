//! A container's output, as the container runtime interface has it: `<RFC 3339> <stdout|stderr> <P|F> <text>`.
//!
//! Goes in: bytes as they were read. Comes out: lines in the log file, which is rotated when it is full, and the number of
//! bytes that could not be written.
//!
//! A line of more than 16 KiB is written in parts, tagged `P`; so is the rest of a stream that does not end in a newline,
//! so that joining the texts, with a newline after each `F`, gives what the container wrote, to the byte.
//!
//! **Invariant:** never waits, never fails for good: what the disk does not take is dropped and counted.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::linux::fd::NO_LINK_NO_WAIT;

/// The longest text of one record, in bytes (containerd and CRI-O have the same).
pub(super) const MAX_TEXT: usize = 16 * 1024;

/// The file that both streams of a container share.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// `None`: it could not be opened; tried again at the next write.
    file: Option<File>,
    length: u64,
    max_size: u64,
    max_files: u32,
    lost: u64,
    /// The second of the last rotation, and how many there were in it before.
    rotated: (String, u64),
}

impl LogFile {
    /// Open (or go on with) this log. A directory that is missing is made (0755).
    pub(super) fn open(path: &Path, max_size: u64, max_files: u32) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            file: None,
            length: 0,
            max_size,
            max_files,
            lost: 0,
            rotated: Default::default(),
        };
        // A log that cannot be opened now may be opened later; until then its output is counted as lost.
        let _later = log.reopen();
        log
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        // A link, a pipe or a device in this place is not our log.
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(NO_LINK_NO_WAIT)
            .open(&self.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.length = meta.len();
        self.file = Some(file);
        Ok(())
    }

    /// Write whole records, which carry `text` bytes of output. `true`: they are in the file.
    fn write(&mut self, at: i64, records: &[u8], text: u64) -> bool {
        if self.length > 0 && self.length + length_of(records) > self.max_size {
            self.rotate(at);
        }
        if self.file.is_none() && self.reopen().is_err() {
            self.lost += text;
            return false;
        }
        let Some(file) = &mut self.file else { return false };
        loop {
            match file.write(records) {
                Ok(written) if written == records.len() => {
                    self.length += length_of(records);
                    return true;
                }
                Ok(_) => {
                    // A torn record would be taken for a line of its own.
                    let _cut = file.set_len(self.length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {}
            }
            self.lost += text;
            return false;
        }
    }

    /// How much was lost and not reported yet; from now on it is.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// `<n>.log` becomes `<n>.log.<time>`, and the oldest of them go. Whatever fails, the log goes on where it can.
    fn rotate(&mut self, at: i64) {
        let stamp = stamp(at);
        // Counted on, and not from the first free number: that of a file which was removed is older than all others.
        let mut more = if self.rotated.0 == stamp { self.rotated.1 + 1 } else { 0 };
        let mut target;
        loop {
            target = self.beside(&if more == 0 {
                stamp.clone()
            } else {
                format!("{stamp}-{more}")
            });
            if fs::symlink_metadata(&target).is_err() {
                break;
            }
            more += 1;
        }
        self.rotated = (stamp, more);
        if fs::rename(&self.path, &target).is_ok() {
            self.file = None;
            self.remove_old();
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        name.into()
    }

    /// Keep `max_files` in all: the one being written and the newest of the others.
    fn remove_old(&self) {
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let Ok(entries) = fs::read_dir(directory) else { return };
        let mut prefix = name.to_owned();
        prefix.push(".");
        let is_rotated = |name: &OsString| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        let mut rotated: Vec<OsString> = entries
            .flatten()
            .map(|entry| entry.file_name())
            .filter(is_rotated)
            .collect();
        rotated.sort_by_key(rotation_order);
        let keep = usize::try_from(self.max_files.saturating_sub(1)).unwrap_or(usize::MAX);
        for old in rotated.iter().take(rotated.len().saturating_sub(keep)) {
            // One that stays now goes at the next rotation.
            let _stays = fs::remove_file(directory.join(old));
        }
    }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// By time, then by the number that was added within the same second.
fn rotation_order(name: &OsString) -> (Vec<u8>, u64) {
    let text = name.as_encoded_bytes();
    let suffix_start = text.iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1);
    // YYYYMMDD-HHMMSS is 15 bytes.
    let (time, more) = text.split_at((suffix_start + 15).min(text.len()));
    let more = std::str::from_utf8(more)
        .ok()
        .and_then(|more| more.strip_prefix('-')?.parse().ok())
        .unwrap_or(0);
    (time.to_owned(), more)
}

fn timestamp(at: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn stamp(at: i64) -> String {
    timestamp(at).strftime("%Y%m%d-%H%M%S").to_string()
}

/// One stream's way into the log.
#[derive(Debug)]
pub(super) struct Stream {
    name: &'static str,
    /// A line that has no end yet; less than [`MAX_TEXT`].
    partial: Vec<u8>,
}

/// Short lines grow a lot on their way into records: this many bytes are written at once, and some more.
const MAX_WRITE: usize = 64 * 1024;

impl Stream {
    pub(super) fn stdout() -> Self {
        Self {
            name: "stdout",
            partial: Vec::new(),
        }
    }

    pub(super) fn stderr() -> Self {
        Self {
            name: "stderr",
            partial: Vec::new(),
        }
    }

    /// Bytes that were read at this moment. `true`: something was written, and nothing failed.
    pub(super) fn push(&mut self, log: &mut LogFile, at: i64, bytes: &[u8]) -> bool {
        let mut records = Records::new(self.name, at);
        let mut rest = bytes;
        while !rest.is_empty() {
            if records.bytes.len() >= MAX_WRITE {
                records.write(log);
            }
            let room = MAX_TEXT - self.partial.len();
            let window = &rest[..rest.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                records.add(b'F', &self.partial, &rest[..end], 1);
                self.partial.clear();
                rest = &rest[end + 1..];
            } else if window.len() < room {
                self.partial.extend_from_slice(window);
                break;
            } else if rest.get(room) == Some(&b'\n') {
                // Exactly as long as a record may be: it is whole.
                records.add(b'F', &self.partial, window, 1);
                self.partial.clear();
                rest = &rest[room + 1..];
            } else {
                records.add(b'P', &self.partial, window, 0);
                self.partial.clear();
                rest = &rest[room..];
            }
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        records.write(log)
    }

    /// Write what has no newline yet: the stream, or its container, has ended.
    pub(super) fn flush(&mut self, log: &mut LogFile, at: i64) -> bool {
        if self.partial.is_empty() {
            return false;
        }
        let mut records = Records::new(self.name, at);
        records.add(b'P', &std::mem::take(&mut self.partial), b"", 0);
        records.write(log)
    }
}

/// Records that go into the file with one write.
struct Records {
    prefix: String,
    at: i64,
    bytes: Vec<u8>,
    text: u64,
    written: bool,
    failed: bool,
}

impl Records {
    fn new(stream: &str, at: i64) -> Self {
        Self {
            prefix: format!("{:.9} {stream} ", timestamp(at)),
            at,
            bytes: Vec::new(),
            text: 0,
            written: false,
            failed: false,
        }
    }

    fn add(&mut self, tag: u8, begin: &[u8], end: &[u8], newline: u64) {
        self.bytes.extend_from_slice(self.prefix.as_bytes());
        self.bytes.extend_from_slice(&[tag, b' ']);
        self.bytes.extend_from_slice(begin);
        self.bytes.extend_from_slice(end);
        self.bytes.push(b'\n');
        self.text += length_of(begin) + length_of(end) + newline;
    }

    /// Write what there is. `true`: something was written by now, and nothing failed.
    fn write(&mut self, log: &mut LogFile) -> bool {
        if !self.bytes.is_empty() {
            let written = log.write(self.at, &self.bytes, self.text);
            self.written |= written;
            self.failed |= !written;
            self.bytes.clear();
            self.text = 0;
        }
        self.written && !self.failed
    }
}

#[cfg(test)]
pub(super) mod tests;
