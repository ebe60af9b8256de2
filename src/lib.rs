//! podd: a pod host for one Linux machine.
//!
//! One binary takes Kubernetes Pods over HTTP, keeps what is wanted and what is seen in `SQLite`, and reconciles.
//!
//! ```text
//! podd serve            the agent: HTTP API, SQLite, controller, images, network   (tokio)
//!  └─ podd shim         the zygote: the agent's program in a sealed memfd; shims are forked from it
//!      └─ shim          one per sandbox; its own session; outlives the agent       (one thread)
//!          ├─ infra     holds net, ipc, uts (and pid, when shared)
//!          └─ containers each joins infra's namespaces; own mount and pid namespace; the shim is their parent
//! ```
//!
//! # The way of the data
//!
//! ```text
//! POST ── wire (k8s-openapi) ── admit (pure) ── store (one transaction) ── 201
//!                                                └─ wake(uid), a hint without data
//! controller:  desired  = store's pod, as `model` means it
//!              observed = record(store.observed, runtime.observe)        record before you decide
//!              plan     = reconcile(now, desired, observed)              pure
//!              each step: recorded, then carried out; then look again
//!              status(now, desired, observed)                            one write per real change
//! shim:        a child exits ── journal ── hint ──────────┘
//! GET/WATCH ── store
//! ```
//!
//! # The rooms
//!
//! Arrows point down only; `tests/layers.rs` fails on one that points up.
//!
//! | layer | room | what it is |
//! | --- | --- | --- |
//! | top | [`agent`], [`cli`], [`config`], [`telemetry`] | everything put together; what is said to it |
//! | edge | [`api`] | HTTP: handlers generic over kinds, watch, tables, errors as Status |
//! | drivers | [`controller`] | the loop and its queue |
//! | | [`probe`] | probes and hooks: what is asked of a container while it runs |
//! | | [`eviction`] | pods that use more of the disk than they may |
//! | | [`refresh`] | the files of volumes follow the objects that they tell of |
//! | | [`garbage`] | namespaces from their first moment to their end; what goes with its owner |
//! | | [`space`] | room on the disk: images that nobody uses go |
//! | | [`node`] | the node's object and Lease; pods that wait to be bound |
//! | | [`statics`] | pods that a directory of manifests asks for |
//! | | [`event`] | what happened, told for people and kept for an hour |
//! | effects | [`runtime`] | what can be done to the machine for a pod |
//! | | [`image`], [`network`], [`volume`] | content store; bridge and addresses; what a pod mounts |
//! | | [`account`] | service accounts: their tokens, and what those are worth |
//! | | [`store`] | all the SQL |
//! | | [`shim`] | the other process: protocol, journal, reaper, output |
//! | | [`linux`] | all of `nix` and `unsafe` |
//! | | [`insecure_tls`] | TLS to those whose certificates nobody checks |
//! | pure core | [`admit`], [`schedule`], [`reconcile`], [`status`], [`model`] | refusals, placement, the decision, the report, the words |
//!
//! Wire types are k8s-openapi's, model types podd's own, stored rows a third kind; each is turned into the next by
//! exhaustive destructuring, so that a new field breaks the build.

pub mod account;
pub mod admit;
pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod controller;
pub mod event;
pub mod eviction;
pub mod garbage;
pub mod image;
pub mod insecure_tls;
pub mod linux;
pub mod model;
pub mod network;
pub mod node;
pub mod probe;
pub mod reconcile;
pub mod refresh;
pub mod runtime;
pub mod schedule;
pub mod shim;
pub mod space;
pub mod statics;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod volume;
