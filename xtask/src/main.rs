//! Repository commands: demo, test, check.
fn main() {}
