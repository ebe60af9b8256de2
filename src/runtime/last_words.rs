//! The last words of a container: what `terminated.message` says.
//!
//! Goes in: the file that is mounted at `terminationMessagePath`, and the log where that may stand in for it. Comes out:
//! the end of the one or of the other, no longer than the pod's status has room for.
//!
//! **Invariant:** whatever a container has written, reading it takes little memory and never fails.
//!
//! The numbers are Kubernetes' (`pkg/kubelet/container/runtime.go`).

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::linux::fd::NO_LINK_NO_WAIT;
use crate::model::PodSpec;

/// Bytes of the file, of the log, and of all messages of a pod together.
const FILE_MAX: u64 = 4096;
const LOG_MAX: usize = 2048;
const POD_MAX: usize = 12 * 1024;
/// Records of the log.
const LOG_LINES: usize = 80;
/// Where they are: 80 records whose texts have fewer than 2 KiB together, and one more of 16 KiB.
const LOG_TAIL: u64 = 64 * 1024;

/// Bytes that one container's message may have (`status_manager.go`, `normalizeStatus`).
pub(super) fn limit(pod: &PodSpec) -> usize {
    let containers = pod.init_containers.len() + pod.containers.len() + pod.ephemeral_containers.len();
    POD_MAX.checked_div(containers).unwrap_or(POD_MAX)
}

/// The message in `file`; where there is none, the end of `log`, if that may stand in for it.
pub(super) fn read(file: &Path, log: Option<&Path>, limit: usize) -> String {
    let written = match tail(file, FILE_MAX) {
        Ok((written, _)) => written,
        // It was never made: the container did not come so far.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let message = format!("Error on reading termination log {}: {error}", file.display());
            return cut(message, limit);
        }
    };
    let message = match log {
        Some(log) if written.is_empty() => end_of_log(log),
        Some(_) | None => String::from_utf8_lossy(&written).into_owned(),
    };
    cut(message, limit)
}

/// At most this many bytes from the end of a file, and whether something comes before them.
fn tail(path: &Path, length: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = OpenOptions::new().read(true).custom_flags(NO_LINK_NO_WAIT).open(path)?;
    let start = file.metadata()?.len().saturating_sub(length);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    // It may still grow.
    file.take(length).read_to_end(&mut bytes)?;
    Ok((bytes, start > 0))
}

/// What the newest records of a log say. A log that cannot be read says nothing.
fn end_of_log(path: &Path) -> String {
    let Ok((bytes, is_cut)) = tail(path, LOG_TAIL) else {
        return String::new();
    };
    // The first line of a piece from the middle is no whole record.
    let whole = if is_cut {
        let first = bytes.iter().position(|byte| *byte == b'\n');
        &bytes[first.map_or(bytes.len(), |at| at + 1)..]
    } else {
        &bytes[..]
    };
    let mut records = VecDeque::with_capacity(LOG_LINES);
    for line in whole.split_inclusive(|byte| *byte == b'\n') {
        if records.len() == LOG_LINES {
            records.pop_front();
        }
        records.push_back(line);
    }
    let text: Vec<u8> = records.into_iter().flat_map(text_of).collect();
    let start = text.len().saturating_sub(LOG_MAX);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

/// The text of a record `<time> <stream> <P|F> <text>`, with its newline where the container wrote one.
fn text_of(record: &[u8]) -> Vec<u8> {
    let Some(record) = record.strip_suffix(b"\n") else {
        // A record that is still being written.
        return Vec::new();
    };
    let mut parts = record.splitn(4, |byte| *byte == b' ').skip(2);
    let (Some(tag), Some(text)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let mut text = text.to_vec();
    if tag == b"F" {
        text.push(b'\n');
    }
    text
}

/// The beginning, as a kubelet keeps it.
fn cut(mut message: String, limit: usize) -> String {
    message.truncate(message.floor_char_boundary(limit));
    message
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Words(tempfile::TempDir);

    impl Words {
        fn new(file: Option<&[u8]>, log: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            if let Some(file) = file {
                fs::write(dir.path().join("file"), file).unwrap();
            }
            fs::write(dir.path().join("log"), log).unwrap();
            Self(dir)
        }

        fn read(&self, may_use_log: bool) -> String {
            let (file, log) = (self.0.path().join("file"), self.0.path().join("log"));
            read(&file, may_use_log.then_some(log.as_path()), POD_MAX)
        }
    }

    fn record(tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:00.000000000Z stdout {tag} {text}\n")
    }

    #[test]
    fn the_file_counts_before_the_log() {
        let words = Words::new(Some(b"disk full"), &record("F", "logged"));
        assert_eq!(words.read(true), "disk full");
        assert_eq!(words.read(false), "disk full");
    }

    #[test]
    fn the_log_stands_in_for_an_empty_or_a_missing_file_only_where_it_may() {
        for file in [None, Some(&b""[..])] {
            let log = record("F", "first") + &record("P", "half ") + &record("F", "and half");
            let words = Words::new(file, &log);
            assert_eq!(words.read(true), "first\nhalf and half\n");
            assert_eq!(words.read(false), "");
        }
    }

    #[test]
    fn of_a_long_file_the_end_counts_and_of_that_the_beginning() {
        let long = [vec![b'a'; 5000], vec![b'b'; 4096]].concat();
        let words = Words::new(Some(&long), "");
        assert_eq!(words.read(false), "b".repeat(4096));
        let file = words.0.path().join("file");
        assert_eq!(read(&file, None, 100), "b".repeat(100));
    }

    #[test]
    fn what_is_no_utf_8_is_replaced() {
        let words = Words::new(Some(b"a\xffb"), "");
        assert_eq!(words.read(false), "a\u{fffd}b");
        assert_eq!(cut("a\u{fffd}".to_owned(), 2), "a");
    }

    #[test]
    fn of_a_log_eighty_records_and_two_kibibytes_count() {
        let log: String = (0..100).map(|n| record("F", &n.to_string())).collect();
        let told = Words::new(None, &log).read(true);
        assert_eq!(told.lines().count(), 80);
        assert!(told.starts_with("20\n") && told.ends_with("99\n"), "{told}");

        let log: String = (0..20).map(|_| record("F", &"x".repeat(16 * 1024))).collect();
        let told = Words::new(None, &log).read(true);
        assert_eq!(told.len(), 2048);
        assert!(told.ends_with("x\n"));
    }

    #[test]
    fn a_link_is_not_followed() {
        let words = Words::new(None, "");
        std::os::unix::fs::symlink("/etc/passwd", words.0.path().join("file")).unwrap();
        assert!(words.read(false).starts_with("Error on reading termination log "));
    }
}
