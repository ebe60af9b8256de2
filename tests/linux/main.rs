//! The real binary, real namespaces: what a user of podd sees.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

#[path = "../common/mod.rs"]
mod common;

mod confinement;
mod deletion;
mod images;
mod life;
mod machine;
mod network;
mod placement;
mod pull;
mod restart;
mod volumes;
