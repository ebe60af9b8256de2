//! `$(VAR)` in command, args, env values and `subPathExpr` (Kubernetes `third_party/forked/golang/expansion/expand.go`).
//!
//! `$(NAME)` becomes the value of NAME where it is known and stays as it is where not; `$$` becomes `$`, so `$$(NAME)`
//! is the text `$(NAME)`; a `$(` that is never closed stays. One pass: what was put in is not looked at again.
//!
//! Variables may refer to variables, so a few lines can stand for more text than there is memory: what comes out is
//! bounded by what Linux takes in one argument, and for a whole pod.

use std::collections::{BTreeMap, BTreeSet};

/// The longest argument or `NAME=value` that Linux executes anything with (`MAX_ARG_STRLEN`, its NUL left out), in bytes.
pub const MAX_WORD: usize = 128 * 1024 - 1;
/// The most that all arguments and variables of a pod may amount to, in bytes.
pub const MAX_POD: usize = 8 * 1024 * 1024;

/// Text that grew too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    Word,
    Pod,
}

/// Why a path cannot be made of its variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// These are not known, or empty.
    #[error("missing value for {}", names.join(", "))]
    Missing { names: Vec<String> },
    #[error("the path is longer than {MAX_WORD} bytes once it is expanded")]
    TooLong,
}

/// Expands the texts of one pod, and counts what they amount to.
#[derive(Debug)]
pub struct Expander {
    left: usize,
}

impl Default for Expander {
    fn default() -> Self {
        Self::new()
    }
}

impl Expander {
    pub fn new() -> Self {
        Self { left: MAX_POD }
    }

    /// Replaces every reference to a known variable in one argument.
    ///
    /// # Errors
    /// It, or all texts together, grew too long.
    pub fn word(&mut self, text: &str, known: &BTreeMap<String, String>) -> Result<String, TooLong> {
        self.expand(text, known, MAX_WORD)
    }

    /// The same in the value of the variable `name`.
    ///
    /// # Errors
    /// As [`Expander::word`].
    pub fn variable(&mut self, name: &str, value: &str, known: &BTreeMap<String, String>) -> Result<String, TooLong> {
        let room = MAX_WORD.checked_sub(name.len() + 1).ok_or(TooLong::Word)?;
        self.expand(value, known, room)
    }

    fn expand(&mut self, text: &str, known: &BTreeMap<String, String>, room: usize) -> Result<String, TooLong> {
        let look_up = |name: &str| known.get(name).map(String::as_str);
        let expanded = expand(text, look_up, room).ok_or(TooLong::Word)?;
        self.left = self.left.checked_sub(expanded.len()).ok_or(TooLong::Pod)?;
        Ok(expanded)
    }
}

/// Expands a text in which every variable must be known and not be empty (`ExpandContainerVolumeMounts`).
///
/// # Errors
/// See [`PathError`].
pub fn path(text: &str, known: &BTreeMap<String, String>) -> Result<String, PathError> {
    let mut missing = BTreeSet::new();
    let look_up = |name: &str| {
        let value = known.get(name).map(String::as_str).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value
    };
    let expanded = expand(text, look_up, MAX_WORD);
    if !missing.is_empty() {
        return Err(PathError::Missing {
            names: missing.into_iter().collect(),
        });
    }
    expanded.ok_or(PathError::TooLong)
}

/// `None`: longer than `room`.
fn expand<'a>(text: &str, mut known: impl FnMut(&str) -> Option<&'a str>, room: usize) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            tail
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            if let Some(value) = known(name) {
                out.push_str(value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            tail
        } else {
            out.push('$');
            after
        };
        if out.len() > room {
            return None;
        }
    }
    out.push_str(rest);
    Some(out).filter(|out| out.len() <= room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_kubernetes_does() {
        let known = BTreeMap::from([
            ("VAR_A".to_owned(), "A".to_owned()),
            ("VAR_B".to_owned(), "B".to_owned()),
            ("VAR_REF".to_owned(), "$(VAR_A)".to_owned()),
            ("VAR_EMPTY".to_owned(), String::new()),
        ]);
        for (text, expected) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_B)", "AB"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$(VAR_EMPTY)", ""),
            ("$(VAR_UNKNOWN)", "$(VAR_UNKNOWN)"),
            ("$(VAR_A", "$(VAR_A"),
            ("$VAR_A", "$VAR_A"),
            ("$", "$"),
            ("$$", "$"),
            ("$)", "$)"),
            ("$()", "$()"),
            ("a $ b", "a $ b"),
            ("$(ä)$(VAR_A)ß", "$(ä)Aß"),
            ("$($(VAR_A))", "$($(VAR_A))"),
            ("", ""),
        ] {
            assert_eq!(Expander::new().word(text, &known).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_variable_of_a_path_has_a_value() {
        let known = BTreeMap::from([("A".to_owned(), "a".to_owned()), ("EMPTY".to_owned(), String::new())]);
        let missing = |names: &[&str]| {
            Err(PathError::Missing {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        for (text, expected) in [
            ("x/$(A)/y", Ok("x/a/y".to_owned())),
            ("$$(A)", Ok("$(A)".to_owned())),
            ("$(NO)/$(EMPTY)/$(A)/$(NO)", missing(&["EMPTY", "NO"])),
        ] {
            assert_eq!(path(text, &known), expected, "{text}");
        }
        assert_eq!(
            path("$(NO)$(EMPTY)", &known).unwrap_err().to_string(),
            "missing value for EMPTY, NO"
        );
        assert_eq!(path(&"x".repeat(MAX_WORD + 1), &known), Err(PathError::TooLong));
    }

    #[test]
    fn what_grows_is_cut_off_before_it_is_large() {
        let mut expander = Expander::new();
        let mut known = BTreeMap::from([("A".to_owned(), "y".repeat(100_000))]);
        assert_eq!(expander.word("$(A)$(A)", &known), Err(TooLong::Word));
        assert_eq!(expander.word(&"$(A)".repeat(1_000_000), &known), Err(TooLong::Word));
        assert_eq!(
            expander.variable("B", &"z".repeat(MAX_WORD - 1), &known),
            Err(TooLong::Word)
        );
        assert_eq!(
            expander
                .variable("B", &"z".repeat(MAX_WORD - 2), &known)
                .map(|value| value.len()),
            Ok(MAX_WORD - 2)
        );
        let words = (0..100).map_while(|_| expander.word("$(A)", &known).ok()).count();
        assert_eq!(words, (MAX_POD - (MAX_WORD - 2)) / 100_000);
        assert_eq!(expander.word("$(A)", &known), Err(TooLong::Pod));
        known.clear();
        assert_eq!(
            expander.word("$(A)", &known).as_deref(),
            Ok("$(A)"),
            "what is short still fits"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_leaves_text_without_dollars_alone(text in ".{0,60}") {
            let out = Expander::new().word(&text, &BTreeMap::new()).expect("short enough");
            if !text.contains('$') {
                proptest::prop_assert_eq!(out, text);
            }
        }
    }
}
