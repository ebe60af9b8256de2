//! The other process: one shim per sandbox, parent of infra and of every container.
//!
//! Goes in: requests of the agent ([`protocol`]), the ends of children, their output. Comes out: facts in the journal,
//! lines in the containers' logs, answers.
//!
//! ```text
//! agent ── Spawn + socket ──> zygote ── fork ──> shim ── clone ──> infra
//!   └──── Request / Reply, Journal{length} ───────┘ └─── clone ──> containers
//! ```
//!
//! A session (exec, attach) is a connection of its own, and ends with it: [`execs`] are programs that join containers,
//! [`attach`] is who listens to a container besides its log.
//!
//! [`zygote`] is the process that shims are forked from; [`client`] is the agent's half of making one; [`supervisor`] is
//! the shim itself, with [`journal`], [`log`] and [`frame`] as its parts. Containers are made by the shim itself or, where
//! the sandbox says so, by the command line of an OCI runtime: [`oci`].
//!
//! **Invariant:** one thread, no tokio, no `SQLite`; nothing here interprets what happens, and nothing here waits for
//! anything but its own epoll (and, rarely and briefly, for the end of what it made in vain).

mod attach;
pub mod client;
mod connection;
mod containers;
mod execs;
pub mod frame;
pub mod journal;
mod log;
mod oci;
mod output;
pub mod protocol;
mod sandbox;
mod stand_in;
mod supervisor;
pub mod zygote;
