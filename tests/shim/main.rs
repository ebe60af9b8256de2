//! The shim as a real process: the built binary as zygote, real namespaces, a busybox root.
//!
//! Each test has its own sandbox directory and its own cgroup, so they run side by side.

mod harness;
mod isolation;
mod life;
mod output;
mod speed;
