//! podd: a pod host for one Linux machine. (map to be written)

pub mod admit;
pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod controller;
pub mod image;
pub mod linux;
pub mod model;
pub mod network;
pub mod reconcile;
pub mod runtime;
pub mod shim;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod volume;
