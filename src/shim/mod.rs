//! The other process: one shim per sandbox, parent of infra and of every container.
pub mod protocol;
