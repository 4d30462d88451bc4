//! What the rules of the kernels are made of.

use crate::Rule;
use crate::plan::{Dim, Value};
use crate::poly::{constant, same_dims};
use dreamc_num::DType;

pub(super) type Checked = Result<(), Rule>;

pub(super) fn ensure(holds: bool, rule: Rule) -> Checked {
    if holds { Ok(()) } else { Err(rule) }
}

pub(super) fn dtype(value: &Value, dtype: DType) -> Checked {
    ensure(value.dtype == dtype, Rule::DType)
}

/// The `T` of the kernels' documentation.
pub(super) fn real(value: &Value) -> Checked {
    ensure(matches!(value.dtype, DType::F32 | DType::BF16 | DType::F16), Rule::DType)
}

/// A condition for each element of `shape`.
pub(super) fn condition(value: &Value, shape: &[Dim]) -> Checked {
    ensure(matches!(value.dtype, DType::Bool | DType::U32), Rule::DType)?;
    dims(&value.dims, shape)
}

pub(super) fn dims(a: &[Dim], b: &[Dim]) -> Checked {
    ensure(same_dims(a, b), Rule::Shape)
}

pub(super) fn shaped(value: &Value, element: DType, shape: &[Dim]) -> Checked {
    dtype(value, element)?;
    dims(&value.dims, shape)
}

pub(super) fn like(value: &Value, other: &Value) -> Checked {
    shaped(value, other.dtype, &other.dims)
}

pub(super) fn typed(value: &Value, element: DType, rank: usize) -> Checked {
    dtype(value, element)?;
    ensure(value.dims.len() == rank, Rule::Shape)
}

/// Equal in all axes but `axis`, which both have.
pub(super) fn equal_but(a: &[Dim], b: &[Dim], axis: usize) -> Checked {
    let equal = a.len() == b.len() && axis < a.len();
    ensure(equal, Rule::Shape)?;
    dims(&a[..axis], &b[..axis])?;
    dims(&a[axis + 1..], &b[axis + 1..])
}

/// An f32 vector.
pub(super) fn vector(value: &Value, len: &Dim) -> Checked {
    shaped(value, DType::F32, core::slice::from_ref(len))
}

/// All axes but the last, and the last.
pub(super) fn rows(value: &Value) -> Result<(&[Dim], &Dim), Rule> {
    value.dims.split_last().map(|(last, outer)| (outer, last)).ok_or(Rule::Shape)
}

/// `f32[B, S, V]` with constant `V`, which is returned.
pub(super) fn vocabulary(logits: &Value) -> Result<u32, Rule> {
    typed(logits, DType::F32, 3)?;
    constant(&logits.dims[2]).filter(|v| i32::try_from(*v).is_ok()).ok_or(Rule::Shape)
}

/// Cosines and sines of `n` frequencies for the rows `outer`.
pub(super) fn rope_table(cos: &Value, sin: &Value, outer: &[Dim], n: u32) -> Checked {
    typed(cos, DType::F32, 3)?;
    dims(&cos.dims[..2], outer)?;
    ensure(constant(&cos.dims[2]) == Some(n), Rule::Shape)?;
    like(sin, cos)
}

pub(super) fn even(head_dim: u32) -> bool {
    head_dim > 0 && head_dim.is_multiple_of(2)
}
