//! The real binary, real namespaces: what a user of podd sees.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod capacity;
mod changes;
mod confinement;
mod deadline;
mod deletion;
mod endings;
mod env;
mod examples;
mod hooks;
mod identity;
mod images;
mod init;
mod last_words;
mod life;
mod limits;
mod machine;
mod mounts;
mod network;
mod placement;
mod ports;
mod pressure;
mod probes;
mod projected;
mod pull;
mod resize;
mod restart;
mod runtime_class;
mod sidecars;
mod statics;
mod userns;
mod volumes;
