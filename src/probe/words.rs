//! A kubelet's way to say things: what people search for in events is what Go prints.

use std::io;
use std::time::Duration;

use crate::model::ProbeKind;

pub(super) fn title(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    }
}

/// An error of the system, without its number and in lower case: `connection refused`.
pub(super) fn system(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut rest = text.chars();
    rest.next()
        .map(|first| first.to_lowercase().chain(rest).collect())
        .unwrap_or_default()
}

/// As Go prints a duration of whole seconds: `5s`, `1m30s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The first `max` bytes as text; what is no UTF-8 is replaced.
pub(super) fn text(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(bytes.get(..max).unwrap_or(bytes)).into_owned()
}

/// An error with all its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_errors_look_as_go_prints_them() {
        for (seconds, expected) in [(1, "1s"), (59, "59s"), (60, "1m0s"), (90, "1m30s"), (3600, "1h0m0s")] {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(system(&refused), "connection refused");
    }

    #[test]
    fn output_is_cut_where_it_is_too_long_even_within_a_character() {
        assert_eq!(text("abc".as_bytes(), 2), "ab");
        assert_eq!(text("aé".as_bytes(), 2), "a\u{fffd}");
        assert_eq!(text(b"abc", 10), "abc");
    }
}
