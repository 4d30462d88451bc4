//! The C ABI of the runtime: what `dream.h` declares.
//!
//! [`calls`] are the functions and [`types`] what they take and give; the header is made from these two files and their
//! comments (`tests/header.rs`). Everything else is on this side of the boundary:
//!
//! - `given` is where pointers of the caller are read, and what about them can be checked is checked: null, alignment,
//!   lengths, UTF-8. What cannot be is listed in the header's rules.
//! - `handles` knows the models that are open. A handle is looked up and never followed, so a closed one is an error,
//!   not a crash, and so are two calls at a time.
//! - `failure` turns errors and panics into a status and a text.
//!
//! Other crates of this workspace use the crate `dream` and not this one: it makes no Rust library.

pub mod calls;
mod failure;
mod given;
mod handles;
#[cfg(test)]
mod tests;
pub mod types;
