//! The real binary, real namespaces: what a user of podd sees.

#[path = "../common/mod.rs"]
mod common;

mod confinement;
mod deletion;
mod images;
mod life;
mod machine;
mod network;
mod restart;
mod volumes;
