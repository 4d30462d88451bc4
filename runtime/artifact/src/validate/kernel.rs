//! The rules of each kernel, those of the model here: number, types and shapes of operands and results, settings, what may be in place.

use super::operands::{attention_operands, linear_operands};
use super::shapes::{
    Checked, dims, dtype, ensure, equal_but, even, like, real, rope_table, rows, shaped, typed, vector,
};
use super::{PART_COUNT_MAX, ROPE_SECTION_COUNT_MAX, sampler};
use crate::layout::Layout;
use crate::plan::{Dim, Kernel, Linear, Place, Value};
use crate::poly::{Poly, constant, same_dim, same_dims};
use crate::{Rule, WeightInfo};
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};

/// What the checker has to know beyond the shapes.
#[derive(Default)]
pub(super) struct Facts {
    /// Operands that a result may lie exactly over.
    pub(super) in_place: &'static [usize],
    /// Operand that holds a schedule's index, and the schedule's steps.
    pub(super) schedule: Option<(usize, u32)>,
}

/// Checks one dispatch: here the kernels of the model, in `sampler.rs` those of the canvas and the loop. `packed`: whether
/// the weights of matmuls are.
pub(super) fn check(
    k: &Kernel,
    reads: &[&Value],
    writes: &[&Value],
    weights: &[WeightInfo],
    packed: bool,
) -> Result<Facts, Rule> {
    let matrices = match k {
        Kernel::Linear(linear) => linear.weight_operands(),
        _ => 0..0,
    };
    for (i, read) in reads.iter().enumerate() {
        layout(read, matrices.contains(&i).then_some(packed), weights)?;
    }
    if let Kernel::Linear(linear) = k {
        alike(linear, reads, weights)?;
    }
    let none = Facts::default();
    let over = |in_place| Facts { in_place, schedule: None };
    match (k, reads, writes) {
        (Kernel::Copy, [x], [y]) => {
            dtype(y, x.dtype)?;
            let (from, to) = (Poly::elements(&x.dims), Poly::elements(&y.dims));
            ensure(same_dims(&x.dims, &y.dims) || from.is_some() && from == to, Rule::Shape)?;
            Ok(none)
        }
        (Kernel::Embed, [ids, table], [y]) => {
            typed(ids, DType::I32, 2)?;
            real(table)?;
            real(y)?;
            ensure(table.dims.len() == 2 && y.dims.len() == 3, Rule::Shape)?;
            dims(&y.dims[..2], &ids.dims)?;
            dims(&y.dims[2..], &table.dims[1..])?;
            Ok(none)
        }
        (Kernel::RopeTable { theta, sections, axial: _ }, [positions], [cos, sin]) => {
            ensure(theta.is_finite() && *theta > 0.0, Rule::Setting)?;
            ensure((1..=ROPE_SECTION_COUNT_MAX).contains(&sections.len()), Rule::Setting)?;
            ensure(sections.iter().all(|n| *n > 0), Rule::Setting)?;
            let total = sections.iter().try_fold(0_u32, |sum, n| sum.checked_add(*n)).ok_or(Rule::Setting)?;
            let outer = if sections.len() == 1 {
                typed(positions, DType::I32, 2)?;
                positions.dims.as_slice()
            } else {
                typed(positions, DType::I32, 3)?;
                ensure(constant(&positions.dims[0]) == Some(sections.len() as u32), Rule::Shape)?;
                &positions.dims[1..]
            };
            rope_table(cos, sin, outer, total)?;
            Ok(none)
        }
        (Kernel::RmsNorm { eps }, [x, gain], [y]) => {
            ensure(eps.is_finite() && *eps >= 0.0, Rule::Setting)?;
            real(x)?;
            real(y)?;
            let (_, h) = rows(x)?;
            vector(gain, h)?;
            dims(&y.dims, &x.dims)?;
            Ok(none)
        }
        (Kernel::LayerNorm { eps }, [x, gain, bias], [y]) => {
            ensure(eps.is_finite() && *eps >= 0.0, Rule::Setting)?;
            real(x)?;
            real(y)?;
            let (_, h) = rows(x)?;
            vector(gain, h)?;
            vector(bias, h)?;
            dims(&y.dims, &x.dims)?;
            Ok(none)
        }
        (Kernel::Linear(linear), _, [y]) => linear_operands(linear, reads, y),
        (Kernel::Rope { head_dim }, [x, cos, sin], [y]) => {
            ensure(even(*head_dim), Rule::Setting)?;
            real(x)?;
            like(y, x)?;
            let (outer, n) = rows(x)?;
            ensure(outer.len() == 2 && constant(n).is_some_and(|n| n % head_dim == 0), Rule::Shape)?;
            rope_table(cos, sin, outer, head_dim / 2)?;
            Ok(over(&[0]))
        }
        (Kernel::Attention(attention), _, [y]) => attention_operands(attention, reads, y).map(|()| none),
        (Kernel::Add | Kernel::Mul | Kernel::SwiGlu, [a, b], [y]) => {
            real(a)?;
            like(b, a)?;
            like(y, a)?;
            Ok(over(&[0, 1]))
        }
        (Kernel::Activate(_), [x], [y]) => {
            real(x)?;
            like(y, x)?;
            Ok(over(&[0]))
        }
        (Kernel::Slice { start }, [x], [y]) => {
            real(x)?;
            dtype(y, x.dtype)?;
            let ((outer, n), (y_outer, m)) = (rows(x)?, rows(y)?);
            dims(outer, y_outer)?;
            let (Some(n), Some(m)) = (constant(n), constant(m)) else { return Err(Rule::Shape) };
            ensure(start.checked_add(m).is_some_and(|end| end <= n), Rule::Setting)?;
            Ok(none)
        }
        (Kernel::Concat { axis }, [first, ..], [y]) => {
            ensure(reads.len() <= PART_COUNT_MAX, Rule::OperandCount)?;
            ensure(y.dtype != DType::Bool && y.dtype != DType::U32, Rule::DType)?;
            let axis = *axis as usize;
            ensure(axis < first.dims.len(), Rule::Setting)?;
            let mut sum = Poly::zero();
            for part in reads {
                dtype(part, y.dtype)?;
                equal_but(&part.dims, &y.dims, axis)?;
                sum = sum.plus(&Poly::of(&part.dims[axis])).ok_or(Rule::Shape)?;
            }
            ensure(Poly::of(&y.dims[axis]) == sum, Rule::Shape)?;
            Ok(none)
        }
        (Kernel::DropRows { count }, [x], [y]) => {
            real(x)?;
            dtype(y, x.dtype)?;
            ensure(x.dims.len() == 3, Rule::Shape)?;
            equal_but(&y.dims, &x.dims, 1)?;
            let sum = Poly::of(&y.dims[1]).plus(&Poly::of(&Dim::constant(*count)));
            ensure(sum == Some(Poly::of(&x.dims[1])), Rule::Shape)?;
            Ok(none)
        }
        (Kernel::TakeRows, [x, index], [y]) if index.dims.is_empty() => {
            real(x)?;
            dtype(y, x.dtype)?;
            dtype(index, DType::I32)?;
            let one = Dim::constant(1);
            let [outer, rows, n] = x.dims.as_slice() else { return Err(Rule::Shape) };
            dims(core::slice::from_ref(outer), core::slice::from_ref(&one))?;
            dims(&y.dims, &[one.clone(), one.clone(), n.clone()])?;
            // A loop that takes a row in each step finds one.
            Ok(Facts { in_place: &[], schedule: constant(rows).map(|rows| (1, rows)) })
        }
        (Kernel::TakeRows, [x, index], [y]) => {
            real(x)?;
            dtype(y, x.dtype)?;
            ensure(x.dims.len() == 3, Rule::Shape)?;
            typed(index, DType::I32, 2)?;
            equal_but(&y.dims, &x.dims, 1)?;
            dims(&y.dims[..2], &index.dims)?;
            Ok(none)
        }
        (Kernel::Splice, [x, index, source], [y]) => {
            real(x)?;
            like(y, x)?;
            ensure(x.dims.len() == 3, Rule::Shape)?;
            shaped(index, DType::I32, &x.dims[..2])?;
            dtype(source, x.dtype)?;
            ensure(same_dim(rows(source)?.1, &x.dims[2]), Rule::Shape)?;
            Ok(over(&[0]))
        }
        (Kernel::ShiftRows, [x], [y]) => {
            real(x)?;
            ensure(x.dims.len() == 3, Rule::Shape)?;
            like(y, x)?;
            Ok(none)
        }
        _ => sampler::check(k, reads, writes),
    }
}

/// Whether all weights of a linear lie alike, and in few bits where codes are multiplied: fp8 for fp8.
fn alike(linear: &Linear, reads: &[&Value], weights: &[WeightInfo]) -> Checked {
    let of = |read: &&Value| Some(weights.get(read.place.weight()? as usize)?.layout);
    let mut layouts = reads.get(linear.weight_operands()).unwrap_or_default().iter().map(of);
    let first = layouts.next().flatten();
    ensure(layouts.all(|layout| layout == first), Rule::WeightLayout)?;
    let fp8 = first == Some(Layout::Quantized(Quant::Fp8));
    let fits = match linear.codes {
        Some(Codes::Fp8) => fp8,
        Some(Codes::Int8) => !fp8 && matches!(first, Some(Layout::Quantized(_))),
        None => !fp8,
    };
    ensure(fits, Rule::WeightLayout)
}

/// A stored tensor must have the layout that the kernel reads. `packed`: of the matrix of a matmul, whether those of this plan
/// are.
fn layout(value: &Value, packed: Option<bool>, weights: &[WeightInfo]) -> Checked {
    let Place::Weight(index) = value.place else { return Ok(()) };
    let weight = weights.get(index as usize).ok_or(Rule::Index)?;
    let fits = match (packed, weight.layout) {
        (Some(packed), Layout::Quantized(quant)) => packed == (quant != Quant::Fp8),
        (Some(true), layout) => Layout::of_matmul(value.dtype) == Some(layout),
        (Some(false) | None, layout) => layout == Layout::RowMajor,
    };
    ensure(fits, Rule::WeightLayout)
}
