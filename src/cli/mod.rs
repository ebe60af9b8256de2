//! (skeleton)
pub mod client;
pub mod doctor;
pub mod image;
