//! The rules of each kernel: number, types and shapes of operands and results, settings, what may be in place.

use super::{STEPS_MAX, ensure};
use crate::layout::Layout;
use crate::plan::{Attention, Dim, Kernel, Linear, Place, Value};
use crate::poly::{constant, same_dim, same_dims};
use crate::{Rule, WeightInfo};
use dreamc_num::DType;

/// What the checker has to know beyond the shapes.
#[derive(Default)]
pub(super) struct Facts {
    /// Operands that a result may lie exactly over.
    pub(super) in_place: &'static [usize],
    /// Operand that holds a schedule's index, and the schedule's steps.
    pub(super) schedule: Option<(usize, u32)>,
}

type Checked = Result<(), Rule>;

/// Checks one dispatch.
pub(super) fn check(
    k: &Kernel,
    reads: &[&Value],
    writes: &[&Value],
    weights: &[WeightInfo],
) -> Result<Facts, Rule> {
    let packed = match k {
        Kernel::Linear(linear) => linear_weights(linear),
        _ => 0..0,
    };
    for (i, read) in reads.iter().enumerate() {
        layout(read, packed.contains(&i), weights)?;
    }
    let none = Facts::default();
    let over = |in_place| Facts { in_place, schedule: None };
    match (k, reads, writes) {
        (Kernel::Copy, [x], [y]) => {
            dtype(y, x.dtype)?;
            dims(&y.dims, &x.dims)?;
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
        (Kernel::RopeTable { theta, head_dim }, [positions], [cos, sin]) => {
            ensure(theta.is_finite() && *theta > 0.0 && even(*head_dim), Rule::Setting)?;
            typed(positions, DType::I32, 2)?;
            rope_table(cos, sin, &positions.dims, *head_dim)?;
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
        (Kernel::Linear(linear), _, [y]) => linear_operands(linear, reads, y),
        (Kernel::Rope { head_dim }, [x, cos, sin], [y]) => {
            ensure(even(*head_dim), Rule::Setting)?;
            real(x)?;
            like(y, x)?;
            let (outer, n) = rows(x)?;
            ensure(outer.len() == 2 && constant(n).is_some_and(|n| n % head_dim == 0), Rule::Shape)?;
            rope_table(cos, sin, outer, *head_dim)?;
            Ok(over(&[0]))
        }
        (Kernel::Attention(attention), _, [y]) => attention_operands(attention, reads, y).map(|()| none),
        (Kernel::Add | Kernel::Mul | Kernel::SwiGlu, [a, b], [y]) => {
            real(a)?;
            like(b, a)?;
            like(y, a)?;
            Ok(over(&[0, 1]))
        }
        (Kernel::Silu, [x], [y]) => {
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
        (Kernel::ShiftRows, [x], [y]) => {
            real(x)?;
            ensure(x.dims.len() == 3, Rule::Shape)?;
            like(y, x)?;
            Ok(none)
        }
        (Kernel::IsToken { token }, [canvas], [y]) => {
            ensure(i32::try_from(*token).is_ok(), Rule::Setting)?;
            typed(canvas, DType::I32, 2)?;
            shaped(y, DType::Bool, &canvas.dims)?;
            Ok(none)
        }
        (Kernel::EosPenalty { token, steps, eps }, [logits, penalty, index], [y]) => {
            schedule(*steps, *eps)?;
            let v = vocabulary(logits)?;
            ensure(*token < v, Rule::Setting)?;
            shaped(penalty, DType::F32, &[])?;
            shaped(index, DType::I32, &[])?;
            like(y, logits)?;
            Ok(Facts { in_place: &[0], schedule: Some((2, *steps)) })
        }
        (Kernel::SamplingProbs, [logits, active, temperature, top_p, top_k], [y]) => {
            vocabulary(logits)?;
            shaped(active, DType::Bool, &logits.dims[..2])?;
            shaped(temperature, DType::F32, &[])?;
            shaped(top_p, DType::F32, &[])?;
            shaped(top_k, DType::I32, &[])?;
            like(y, logits)?;
            Ok(over(&[0]))
        }
        (Kernel::RandomBits { lane: _ }, [canvas, stream], [y]) => {
            typed(canvas, DType::I32, 2)?;
            shaped(stream, DType::U32, &[Dim::constant(4)])?;
            shaped(y, DType::U32, &canvas.dims)?;
            Ok(none)
        }
        (Kernel::DrawToken, [probs, active, temperature, bits], [y]) => {
            vocabulary(probs)?;
            shaped(active, DType::Bool, &probs.dims[..2])?;
            shaped(temperature, DType::F32, &[])?;
            shaped(bits, DType::U32, &probs.dims[..2])?;
            shaped(y, DType::I32, &probs.dims[..2])?;
            Ok(none)
        }
        (Kernel::Confidence(_), [probs, active, token], [y]) => {
            vocabulary(probs)?;
            shaped(active, DType::Bool, &probs.dims[..2])?;
            shaped(token, DType::I32, &probs.dims[..2])?;
            shaped(y, DType::F32, &probs.dims[..2])?;
            Ok(none)
        }
        (Kernel::TransferCount { steps, eps }, [active, index], [y]) => {
            schedule(*steps, *eps)?;
            typed(active, DType::Bool, 2)?;
            shaped(index, DType::I32, &[])?;
            shaped(y, DType::I32, &active.dims[..1])?;
            Ok(Facts { in_place: &[], schedule: Some((1, *steps)) })
        }
        (Kernel::SelectSlots, [confidence, active, count, alg_temp, bits], [y]) => {
            typed(confidence, DType::F32, 2)?;
            shaped(active, DType::Bool, &confidence.dims)?;
            shaped(count, DType::I32, &confidence.dims[..1])?;
            shaped(alg_temp, DType::F32, &[])?;
            shaped(bits, DType::U32, &confidence.dims)?;
            shaped(y, DType::Bool, &confidence.dims)?;
            Ok(none)
        }
        (Kernel::OriginSlots { steps, eps }, [active, index, bits], [y]) => {
            schedule(*steps, *eps)?;
            typed(active, DType::Bool, 2)?;
            shaped(index, DType::I32, &[])?;
            shaped(bits, DType::U32, &active.dims)?;
            shaped(y, DType::Bool, &active.dims)?;
            Ok(Facts { in_place: &[], schedule: Some((1, *steps)) })
        }
        (Kernel::Commit, [select, token, canvas], [y]) => {
            typed(canvas, DType::I32, 2)?;
            shaped(select, DType::Bool, &canvas.dims)?;
            like(token, canvas)?;
            like(y, canvas)?;
            Ok(over(&[2]))
        }
        (Kernel::AdvanceStream, [stream], [y]) => {
            shaped(stream, DType::U32, &[Dim::constant(4)])?;
            like(y, stream)?;
            Ok(over(&[0]))
        }
        _ => Err(Rule::OperandCount),
    }
}

/// Which operands of a linear are its weights.
fn linear_weights(linear: &Linear) -> core::ops::Range<usize> {
    let first = 1 + usize::from(linear.norm_eps.is_some());
    first..first + linear.weights.min(3) as usize
}

fn linear_operands(linear: &Linear, reads: &[&Value], y: &Value) -> Result<Facts, Rule> {
    ensure((1..=3).contains(&linear.weights), Rule::Setting)?;
    ensure(linear.norm_eps.is_none_or(|eps| eps.is_finite() && eps >= 0.0), Rule::Setting)?;
    ensure(!linear.swiglu || linear.weights == 2 && !linear.bias, Rule::Setting)?;
    let matrices = linear_weights(linear);
    let count = matrices.end + usize::from(linear.bias) + usize::from(linear.residual);
    ensure(reads.len() == count, Rule::OperandCount)?;
    let x = reads[0];
    real(x)?;
    real(y)?;
    let ((outer, k), (y_outer, n)) = (rows(x)?, rows(y)?);
    dims(outer, y_outer)?;
    if linear.norm_eps.is_some() {
        vector(reads[1], k)?;
    }
    let mut total = 0_u32;
    for weight in &reads[matrices.clone()] {
        ensure(matches!(weight.place, Place::Weight(_)), Rule::WeightLayout)?;
        dtype(weight, reads[matrices.start].dtype)?;
        let [rows, columns] = weight.dims.as_slice() else { return Err(Rule::Shape) };
        ensure(same_dim(columns, k), Rule::Shape)?;
        let rows = constant(rows).ok_or(Rule::Shape)?;
        if linear.swiglu {
            ensure(total == 0 || total == rows, Rule::Shape)?;
            total = rows;
        } else {
            total = total.checked_add(rows).ok_or(Rule::Shape)?;
        }
    }
    ensure(constant(n) == Some(total), Rule::Shape)?;
    if linear.bias {
        vector(reads[matrices.end], n)?;
    }
    if linear.residual {
        shaped(reads[count - 1], DType::F32, &y.dims)?;
    }
    // The residual's number among the operands: 1 x, up to 1 gain, 3 weights, 1 bias before it.
    const RESIDUAL: [[usize; 1]; 7] = [[0], [1], [2], [3], [4], [5], [6]];
    let in_place = RESIDUAL.get(count - 1).filter(|_| linear.residual).map_or(&[][..], |r| &r[..]);
    Ok(Facts { in_place, schedule: None })
}

fn attention_operands(attention: &Attention, reads: &[&Value], y: &Value) -> Checked {
    let Attention { heads, kv_heads, head_dim, packed, rope } = *attention;
    ensure(even(head_dim) && heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads), Rule::Setting)?;
    let all = kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(heads));
    let width = |h: u32| h.checked_mul(head_dim).ok_or(Rule::Setting);
    let (q_width, kv_width, all_width) = (width(heads)?, width(kv_heads)?, width(all.ok_or(Rule::Setting)?)?);
    let inputs = if packed { 1 } else { 3 };
    ensure(reads.len() == inputs + 1 + if rope { 2 } else { 0 }, Rule::OperandCount)?;
    let first = reads[0];
    real(first)?;
    ensure(first.dims.len() == 3, Rule::Shape)?;
    let outer = &first.dims[..2];
    let columns = |value: &Value, n: u32| {
        dtype(value, first.dtype)?;
        let (o, last) = rows(value)?;
        ensure(same_dims(o, outer) && constant(last) == Some(n), Rule::Shape)
    };
    if packed {
        columns(first, all_width)?;
    } else {
        columns(first, q_width)?;
        columns(reads[1], kv_width)?;
        columns(reads[2], kv_width)?;
    }
    columns(y, q_width)?;
    shaped(reads[inputs], DType::I32, outer)?;
    if rope { rope_table(reads[inputs + 1], reads[inputs + 2], outer, head_dim) } else { Ok(()) }
}

/// A stored tensor must have the layout that the kernel reads.
fn layout(value: &Value, packed: bool, weights: &[WeightInfo]) -> Checked {
    let Place::Weight(index) = value.place else { return Ok(()) };
    let weight = weights.get(index as usize).ok_or(Rule::Index)?;
    let wanted = if packed { Layout::of_matmul(value.dtype) } else { Some(Layout::RowMajor) };
    ensure(Some(weight.layout) == wanted, Rule::WeightLayout)
}

fn dtype(value: &Value, dtype: DType) -> Checked {
    ensure(value.dtype == dtype, Rule::DType)
}

/// The `T` of the kernels' documentation.
fn real(value: &Value) -> Checked {
    ensure(matches!(value.dtype, DType::F32 | DType::BF16), Rule::DType)
}

fn dims(a: &[Dim], b: &[Dim]) -> Checked {
    ensure(same_dims(a, b), Rule::Shape)
}

fn shaped(value: &Value, element: DType, shape: &[Dim]) -> Checked {
    dtype(value, element)?;
    dims(&value.dims, shape)
}

fn like(value: &Value, other: &Value) -> Checked {
    shaped(value, other.dtype, &other.dims)
}

fn typed(value: &Value, element: DType, rank: usize) -> Checked {
    dtype(value, element)?;
    ensure(value.dims.len() == rank, Rule::Shape)
}

/// An f32 vector.
fn vector(value: &Value, len: &Dim) -> Checked {
    shaped(value, DType::F32, core::slice::from_ref(len))
}

/// All axes but the last, and the last.
fn rows(value: &Value) -> Result<(&[Dim], &Dim), Rule> {
    value.dims.split_last().map(|(last, outer)| (outer, last)).ok_or(Rule::Shape)
}

/// `f32[B, S, V]` with constant `V`, which is returned.
fn vocabulary(logits: &Value) -> Result<u32, Rule> {
    typed(logits, DType::F32, 3)?;
    constant(&logits.dims[2]).filter(|v| i32::try_from(*v).is_ok()).ok_or(Rule::Shape)
}

fn rope_table(cos: &Value, sin: &Value, outer: &[Dim], head_dim: u32) -> Checked {
    typed(cos, DType::F32, 3)?;
    dims(&cos.dims[..2], outer)?;
    ensure(constant(&cos.dims[2]) == Some(head_dim / 2), Rule::Shape)?;
    like(sin, cos)
}

fn even(head_dim: u32) -> bool {
    head_dim > 0 && head_dim.is_multiple_of(2)
}

fn schedule(steps: u32, eps: f32) -> Checked {
    ensure((1..=STEPS_MAX).contains(&steps) && eps > 0.0 && eps < 1.0, Rule::Setting)
}
