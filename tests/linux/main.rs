//! The real binary, real namespaces: what a user of podd sees.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so"
)]

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod app_armor;
mod capacity;
mod changes;
mod confinement;
mod deadline;
mod deletion;
mod endings;
mod env;
mod examples;
mod fake_registry;
mod hooks;
mod identity;
mod images;
mod init;
mod last_words;
mod life;
mod limits;
mod log_links;
mod machine;
mod migration;
mod mounts;
mod network;
mod placement;
mod ports;
mod pressure;
mod probes;
mod projected;
mod pull;
mod pull_credentials;
mod pull_endings;
mod pull_proxy;
mod resize;
mod restart;
mod restart_rules;
mod runtime_class;
mod sidecars;
mod statics;
mod userns;
mod volumes;
