//! podd
fn main() {}
