//! The graph IR: types, ops, builder, text form, verifier, cost.
