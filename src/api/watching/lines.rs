//! Lines of watches, written once for all who watch.
//!
//! A thousand watchers of one kind see the same changes, mostly in the same form. Whoever is first to show a change in a
//! form writes the line; the others share its bytes.
//!
//! **Invariant:** holds at most [`KEPT`] lines and [`BYTES`] bytes, whatever is watched.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::api::negotiate::View;
use crate::api::table::Include;

/// Lines kept at most: those of the newest changes, in a few forms each.
const KEPT: usize = 64;
/// Bytes kept at most.
const BYTES: usize = 2 << 20;

/// What makes two lines the same line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Of the change.
    pub(super) version: u64,
    pub(super) event_type: &'static str,
    /// Group and plural name.
    pub(super) kind: (&'static str, &'static str),
    pub(super) view: View,
    pub(super) include: Include,
    pub(super) headed: bool,
    /// Tables tell ages: in which second. 0 for other forms.
    pub(super) second: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Lines {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<(Line, Bytes)>,
    bytes: usize,
}

impl Lines {
    /// The line, written now if it is not there.
    pub(super) fn get(&self, line: Line, write: impl FnOnce() -> Bytes) -> Bytes {
        if let Some(found) = self.find(&line) {
            return found;
        }
        // Not under the lock: two may write the same line at once, and nobody waits for a large one.
        let written = write();
        self.keep(line, written.clone());
        written
    }

    fn find(&self, line: &Line) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, bytes) = kept.lines.iter().rev().find(|(found, _)| found == line)?;
        Some(bytes.clone())
    }

    fn keep(&self, line: Line, bytes: Bytes) {
        if bytes.len() > BYTES / 2 {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes.len();
        kept.lines.push_back((line, bytes));
        while kept.lines.len() > KEPT || kept.bytes > BYTES {
            let Some((_, dropped)) = kept.lines.pop_front() else {
                break;
            };
            kept.bytes -= dropped.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(version: u64, view: View) -> Line {
        Line {
            version,
            event_type: "ADDED",
            kind: ("", "pods"),
            view,
            include: Include::Metadata,
            headed: false,
            second: 0,
        }
    }

    #[test]
    fn a_line_is_written_once_for_each_form() {
        let lines = Lines::default();
        let first = lines.get(line(1, View::Object), || Bytes::from_static(b"one"));
        let again = lines.get(line(1, View::Object), || unreachable!("it was written already"));
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert_eq!(
            lines.get(line(1, View::Table("v1")), || Bytes::from_static(b"table")),
            "table"
        );
        assert_eq!(lines.get(line(2, View::Object), || Bytes::from_static(b"two")), "two");
    }

    #[test]
    fn only_so_many_lines_and_bytes_are_kept() {
        let lines = Lines::default();
        for version in 0..1000 {
            lines.get(line(version, View::Object), || Bytes::from(vec![0; 100_000]));
        }
        let kept = lines.kept.lock().unwrap();
        assert!(kept.lines.len() <= KEPT && kept.bytes <= BYTES);
        assert_eq!(kept.bytes, kept.lines.iter().map(|(_, b)| b.len()).sum::<usize>());
        drop(kept);
        lines.get(line(5000, View::Object), || Bytes::from(vec![0; BYTES]));
        assert!(lines.find(&line(5000, View::Object)).is_none());
        assert!(lines.find(&line(999, View::Object)).is_some());
    }
}
