//! The shim as a real process: the built binary as zygote, real namespaces, a busybox root.
//!
//! Each test has its own sandbox directory and its own cgroup, so they run side by side.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of fact among many"
)]

#[cfg(test)]
mod attach;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod life;
#[cfg(test)]
mod output;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod speed;
