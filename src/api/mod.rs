//! (skeleton)
pub mod images;
