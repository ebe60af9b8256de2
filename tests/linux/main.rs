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
mod last_words;
mod life;
mod machine;
mod network;
mod placement;
mod pull;
mod resize;
mod restart;
mod runtime_class;
mod statics;
mod volumes;
