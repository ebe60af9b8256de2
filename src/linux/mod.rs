//! ALL of `nix` and `unsafe`: what podd asks of the kernel, as small safe functions.
//!
//! Goes in: paths, descriptors and numbers; root paths are arguments, so that tests run on a temporary directory.
//! Comes out: owned descriptors and plain values, errors that carry what was tried.
//!
//! **Invariant:** nothing here knows what a pod is, and nothing decides.

pub mod app_armor;
mod capability;
pub mod cgroup;
mod child;
pub mod command;
pub mod confine;
pub mod container;
pub mod exchange;
pub mod fd;
mod guest;
pub mod host;
pub mod idmap;
pub mod infra;
pub mod inotify;
pub mod lock;
mod mount;
pub mod mounts;
pub mod namespace;
pub mod netlink;
pub mod netns;
pub mod nfnetlink;
pub mod ownership;
pub mod path;
mod plan;
pub mod poll;
pub mod privilege;
pub mod probe;
pub mod process;
mod rootfs;
pub mod seccomp;
mod sys;
pub mod terminal;
pub mod unix;
pub mod usage;
