//! The real binary, real namespaces: what a user of podd sees.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod confinement;
mod deadline;
mod deletion;
mod hooks;
mod images;
mod init;
mod last_words;
mod life;
mod limits;
mod machine;
mod network;
mod placement;
mod probes;
mod pull;
mod resize;
mod restart;
mod runtime_class;
mod sidecars;
mod statics;
mod volumes;
