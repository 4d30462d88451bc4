//! The GPU kernels: CubeCL, written here once, emitted as source for every target with no device at hand.
//!
//! A [`Kernel`] is plain data; [`Kernel::emit`] turns it into an [`Emitted`]: source, bindings, block of scalars, grid.
//!
//! ```
//! use dreamc_kernels::{Elementwise, Float, Kernel, Map, Target};
//!
//! let target = Target::named("sm_90a").expect("it is in the repository");
//! let kernel = Kernel::Elementwise(Elementwise { map: Map::Add, float: Float::BF16, in_place: true });
//! let emitted = kernel.emit(&target)?;
//! assert_eq!(emitted.name, "bf16_add_inplace");
//! assert!(emitted.source.contains("bf16_add_inplace("));
//! # Ok::<(), dreamc_kernels::EmitError>(())
//! ```
//!
//! Lengths that vary from request to request are scalars of the launch; the model's constants may be constants of the
//! kernel. No kernel assumes how many units run in step. Conditions (`bool`) are u32 words, 0 or 1.

#![allow(
    clippy::collapsible_if,
    clippy::if_same_then_else,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    reason = "kernels are written in the part of the language that can be generated"
)]

mod attention;
mod attention_matrix;
mod candidates;
mod distribution;
mod elementwise;
mod emit;
mod epilogue;
mod fp8;
mod greedy;
mod group;
mod kernel;
mod linear;
mod math;
mod matrix;
pub mod model;
mod norm;
mod open;
mod ptx;
mod record;
mod rope;
mod round;
mod rows;
mod sampler;
mod segments;
mod slots;
mod stage;
mod target;
mod tidy;
mod tile;
mod weigh;
mod wgmma;

pub use attention::{Attention, AttentionEngine};
pub use elementwise::{Elementwise, Map};
pub use emit::{Access, Buffer, Element, EmitError, Emitted, Extent, Form, Info, Scalar, ScalarType, Word};
pub use fp8::LinearFp8;
pub use greedy::{Greedy, Groups};
pub use kernel::{Float, Kernel};
pub use linear::{Engine, Linear, Residual, Tile, Turned, Weights};
pub use math::Activation;
pub use norm::{Norm, Statistic};
pub use open::Open;
pub use rope::{Rope, RopeTable, TimestepEmbed};
pub use round::RoundRows;
pub use rows::{Embed, Rows, Table};
pub use sampler::{Behind, Confidence, Sampler};
pub use segments::Segments;
pub use slots::Slots;
pub use target::{Capabilities, Target, TargetError};
pub use tile::{Instruction, MatrixTile};
pub use weigh::Weigh;
