//! The dreamc command.
fn main() {}
