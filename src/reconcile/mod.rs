//! The decision. (skeleton)
