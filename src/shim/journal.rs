//! What happened, one line of JSON for each fact, in the sandbox directory.
//!
//! Goes in: facts. Comes out: a file that the agent reads from any offset at which a line begins.
//!
//! Each line is one write(2) at the end of the file. Where that fails (the file system is full), the line waits in memory
//! and is tried again: a fact is late then, never lost, as long as the shim lives.
//!
//! **Invariant:** the file holds whole lines only, in the order in which things happened.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::protocol::{Entry, Fact};

/// The writing end.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    length: u64,
    waiting: VecDeque<Vec<u8>>,
}

impl Journal {
    /// Begin a new journal. There already: an error, because each sandbox attempt has one shim and one journal.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            file,
            length: 0,
            waiting: VecDeque::new(),
        })
    }

    /// Write a fact down. `Ok(true)`: it is in the file; `Ok(false)`: it waits (see [`Journal::flush`]).
    pub(super) fn append(&mut self, at: i64, fact: Fact) -> bool {
        let mut line = serde_json::to_vec(&Entry { at, fact }).expect("facts are plain data");
        line.push(b'\n');
        self.waiting.push_back(line);
        self.flush()
    }

    /// Try to write what waits. `true`: nothing waits any more.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(line) = self.waiting.front() {
            if !write_whole(&mut self.file, self.length, line) {
                return false;
            }
            self.length += u64::try_from(line.len()).expect("a line fits in memory");
            self.waiting.pop_front();
        }
        true
    }

    /// How many bytes of whole lines the file has.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// One write; a part of a line is taken back, so that no reader ever takes it for the whole.
fn write_whole(file: &mut File, length: u64, line: &[u8]) -> bool {
    loop {
        match file.write(line) {
            Ok(written) if written == line.len() => return true,
            Ok(_) => {
                // Should even this fail, the next line would follow on the torn one: then the journal stays as it is.
                let _cut = file.set_len(length);
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Read the facts in `bytes`, which begin at the beginning of a line: whole lines only, and how many bytes they were.
///
/// # Errors
/// The number of the line (from 0) that cannot be understood, and why.
pub fn read(bytes: &[u8]) -> Result<(Vec<Entry>, usize), (usize, serde_json::Error)> {
    let mut entries = Vec::new();
    let mut consumed = 0;
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if line.last() != Some(&b'\n') {
            break;
        }
        entries.push(serde_json::from_slice(line).map_err(|error| (number, error))?);
        consumed += line.len();
    }
    Ok((entries, consumed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::protocol::WaitStatus;

    fn exited(attempt: u32) -> Fact {
        Fact::Exited {
            container: "web".to_owned(),
            attempt,
            status: WaitStatus::Code(3),
            oom_killed: false,
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path).unwrap();
        assert!(journal.append(1, exited(0)));
        assert!(journal.append(
            2,
            Fact::InfraExited {
                status: WaitStatus::Signal(9)
            }
        ));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(journal.length(), bytes.len() as u64);
        let (entries, consumed) = read(&bytes).unwrap();
        assert_eq!(consumed, bytes.len());
        assert_eq!(entries[0], Entry { at: 1, fact: exited(0) });
        assert_eq!(
            entries[1],
            Entry {
                at: 2,
                fact: Fact::InfraExited {
                    status: WaitStatus::Signal(9)
                }
            }
        );
    }

    #[test]
    fn a_line_without_its_end_is_left_for_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path).unwrap();
        journal.append(1, exited(0));
        journal.append(2, exited(1));
        let bytes = std::fs::read(&path).unwrap();
        let (entries, consumed) = read(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(read(&bytes[consumed..]).unwrap().0, [Entry { at: 2, fact: exited(1) }]);
    }

    #[test]
    fn a_second_journal_in_the_same_place_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        Journal::create(&path).unwrap();
        assert_eq!(Journal::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_full_disk_makes_facts_late_and_loses_none() {
        let directory = tempfile::tempdir().unwrap();
        let _tmpfs = crate::shim::log::tests::Tmpfs::mount(directory.path(), "size=8k");
        let mut journal = Journal::create(&directory.path().join("journal")).unwrap();
        std::fs::write(directory.path().join("ballast"), [0; 4096]).unwrap();
        let mut written = 0;
        while journal.append(written, exited(0)) {
            written += 1;
        }
        assert!(!journal.append(written + 1, exited(1)));
        let bytes = std::fs::read(directory.path().join("journal")).unwrap();
        assert_eq!(bytes.last(), Some(&b'\n'), "whole lines only");
        assert_eq!(journal.length(), bytes.len() as u64);
        std::fs::remove_file(directory.path().join("ballast")).unwrap();
        assert!(journal.flush());
        let (entries, _) = read(&std::fs::read(directory.path().join("journal")).unwrap()).unwrap();
        assert_eq!(
            entries.iter().map(|e| e.at).collect::<Vec<_>>(),
            (0..=written + 1).collect::<Vec<_>>()
        );
    }
}
