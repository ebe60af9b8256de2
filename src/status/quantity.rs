//! Amounts as Kubernetes writes them.

use std::time::Duration;

pub use crate::model::{bytes_text as bytes, cpu_text as cpu};

/// A duration as Go prints it, in whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}h{minutes}m{rest}s")
    } else if minutes > 0 {
        format!("{minutes}m{rest}s")
    } else {
        format!("{rest}s")
    }
}
