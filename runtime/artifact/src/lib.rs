//! The artifact: file format, plan, packed-weight layouts.
#![no_std]
extern crate alloc;

pub mod layout;
pub mod plan;
