//! The clients that people have, each against a real agent: what they print is what their users see.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

#[path = "../common/mod.rs"]
mod common;

mod command;
mod helm;
mod kubectl;
mod life;
mod packaged;
