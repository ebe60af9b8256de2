//! A list of complaints that stays small however much there is to complain of.
//!
//! Each complaint may repeat a long path, so a list of all of them could outgrow the body it is about by far.

/// How many complaints of one kind are kept.
const MAX: usize = 100;

/// The first complaints, and how many there were beyond them.
#[derive(Debug, Default)]
pub(super) struct Bounded {
    lines: Vec<String>,
    more: usize,
}

impl Bounded {
    /// Keeps what `make` makes, or only counts it.
    pub(super) fn push(&mut self, make: impl FnOnce() -> String) {
        if self.lines.len() < MAX {
            self.lines.push(make());
        } else {
            self.more += 1;
        }
    }

    /// The complaints; the last line says how many were left out.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}
