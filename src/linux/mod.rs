//! ALL of `nix` and `unsafe`: what podd asks of the kernel, as small safe functions.
//!
//! Goes in: paths, descriptors and numbers; root paths are arguments, so that tests run on a temporary directory.
//! Comes out: owned descriptors and plain values, errors that carry what was tried.
//!
//! **Invariant:** nothing here knows what a pod is, and nothing decides.

pub mod cgroup;
pub mod inotify;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod path;
pub mod probe;
pub mod process;
pub mod seccomp;
