//! Placeholder until the command of the example is merged.

fn main() {}
