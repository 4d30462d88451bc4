//! The artifact: file format, plan, packed-weight layouts.
//!
//! One file holds everything that a run needs. All integers are little-endian and of fixed size.
//!
//! ```text
//!  0  magic            b"DREAMART"
//!  8  format_version   u16 u16    major, minor
//! 12  section_count    u32        at most 64
//! 16  file_len         u64
//! 24  reserved         u64        0
//! 32  header_hash      [u8; 32]   blake3 of bytes 0..32 and the section table
//! 64  section table    section_count * 64 bytes
//!       0  kind        u32
//!       4  reserved    u32        0
//!       8  offset      u64        from the start of the file
//!      16  len         u64
//!      24  reserved    u64        0
//!      32  hash        [u8; 32]   blake3 of the section, see below for the weights
//! ..  sections         in table order, each at the next multiple of 256; gaps are zero bytes
//! ```
//!
//! | section | how many | holds | written by | read by |
//! | --- | --- | --- | --- | --- |
//! | `Manifest` | 1 | [`Manifest`] as JSON text | compiler | everyone, `inspect` |
//! | `Plan` | one per target | [`plan::Plan`] in postcard, in the order of [`Manifest::targets`] | backend | runtime |
//! | `Code` | one per target | [`code::Code`] in postcard, in the same order; empty for the CPU | backend | device |
//! | `WeightTable` | 1 | `Vec<`[`WeightInfo`]`>` in postcard | packer | runtime, device |
//! | `Weights` | 1 | the tensors, each at the next multiple of 256; gaps are zero bytes | packer | device |
//! | `Tokenizer` | 0 or 1 | what the front end made of the tokenizer files | front | front |
//! | `Ir` | 0 or 1 | the graphs as text | compiler | `inspect` |
//! | `Golden` | 0 or 1 | recorded cases with tolerances | compiler | `verify` |
//!
//! The hashes form a tree. A tensor's hash stands in the weight table; the hash of the `Weights`
//! section is the blake3 of the tensors' hashes one after the other, so [`Artifact::open`] checks
//! every hash without reading a weight. A tensor is checked against its own hash on demand
//! ([`Artifact::check_weight`]), and [`Artifact::verify`] covers every byte of the file, gaps included.
//!
//! Files come from anywhere: nothing is believed before it is checked, limits are checked before
//! memory is taken, and a plan passes [`validate()`] before a device sees it.
//!
//! ```
//! use dreamc_artifact::{Artifact, OpenError};
//! assert_eq!(Artifact::open(b"not an artifact").err(), Some(OpenError::NotAnArtifact));
//! ```
#![no_std]
extern crate alloc;

pub mod code;
mod error;
mod header;
pub mod layout;
mod manifest;
mod open;
pub mod plan;
mod poly;
mod tuned;
mod validate;
mod weights;
mod wire;

pub use error::{At, OpenError, PlanError, Rule};
pub use header::{
    FORMAT_VERSION, HEADER_LEN, Header, Kind, MAGIC, SECTION_ALIGN, SECTION_COUNT_MAX, Section,
    TABLE_ENTRY_LEN, Version, assemble, encode_header,
};
pub use manifest::{Manifest, Model, Work};
pub use open::Artifact;
pub use poly::same_dims;
pub use tuned::{Timed, Tuned, TunedChoice};
pub use validate::{
    ARENA_BYTES_MAX, CANDIDATE_COUNT_MAX, CHOICE_COUNT_MAX, ELEMENTS_MAX, INT8_COLUMNS_MAX, LAUNCH_COUNT_MAX,
    OPERAND_COUNT_MAX, PART_COUNT_MAX, PORT_COUNT_MAX, PROGRAM_COUNT_MAX, RANK_MAX, ROPE_SECTION_COUNT_MAX,
    STEP_COUNT_MAX, STEPS_MAX, SYMBOL_COUNT_MAX, SYMBOL_MAX, VALUE_COUNT_MAX, validate,
};
pub use weights::{WEIGHT_COUNT_MAX, WeightInfo, decode_table, encode_table, place, table_hash};
pub use wire::{EncodeError, decode_plan, encode_plan};

/// Hash of a byte string, as it stands everywhere in the file.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// Next multiple of [`SECTION_ALIGN`], or `None` on overflow.
pub const fn align(offset: u64) -> Option<u64> {
    offset.checked_next_multiple_of(SECTION_ALIGN)
}
