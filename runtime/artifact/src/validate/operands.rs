//! The rules of the kernels with many operands: linear and attention.

use super::INT8_COLUMNS_MAX;
use super::kernel::Facts;
use super::shapes::{Checked, dims, dtype, ensure, even, real, rope_table, rows, shaped, vector};
use crate::Rule;
use crate::plan::{Attention, Dim, Linear, Place, Value};
use crate::poly::{constant, same_dim, same_dims};
use dreamc_num::DType;
use dreamc_num::quant::Codes;

pub(super) fn linear_operands(linear: &Linear, reads: &[&Value], y: &Value) -> Result<Facts, Rule> {
    ensure((1..=3).contains(&linear.weights), Rule::Setting)?;
    ensure(linear.norm_eps.is_none_or(|eps| eps.is_finite() && eps >= 0.0), Rule::Setting)?;
    let gated = linear.weights == 2 && !linear.bias && linear.activation.is_none();
    ensure(!linear.swiglu || gated, Rule::Setting)?;
    let matrices = linear.weight_operands();
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
    if linear.smooth {
        vector(reads[matrices.start - 1], k)?;
    }
    if linear.codes == Some(Codes::Int8) {
        ensure(constant(k).is_some_and(|k| k <= INT8_COLUMNS_MAX), Rule::Setting)?;
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
    // The residual's number among the operands: 1 x, up to 1 gain, 1 smooth, 3 weights, 1 bias before it.
    const RESIDUAL: [[usize; 1]; 8] = [[0], [1], [2], [3], [4], [5], [6], [7]];
    let in_place = RESIDUAL.get(count - 1).filter(|_| linear.residual).map_or(&[][..], |r| &r[..]);
    Ok(Facts { in_place, schedule: None })
}

pub(super) fn attention_operands(attention: &Attention, reads: &[&Value], y: &Value) -> Checked {
    let Attention { heads, kv_heads, head_dim, packed, rope, rows: some } = *attention;
    ensure(!some || !packed, Rule::Setting)?;
    ensure(even(head_dim) && heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads), Rule::Setting)?;
    let all = kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(heads));
    let width = |h: u32| h.checked_mul(head_dim).ok_or(Rule::Setting);
    let (q_width, kv_width, all_width) = (width(heads)?, width(kv_heads)?, width(all.ok_or(Rule::Setting)?)?);
    let inputs = if packed { 1 } else { 3 };
    let count = inputs + 1 + if rope { 2 } else { 0 } + usize::from(some);
    ensure(reads.len() == count, Rule::OperandCount)?;
    // The rows of the queries, and those of everything else.
    let (first, other) = (reads[0], reads[usize::from(some)]);
    real(first)?;
    ensure(first.dims.len() == 3 && other.dims.len() == 3, Rule::Shape)?;
    let (own, outer) = (&first.dims[..2], &other.dims[..2]);
    let columns = |value: &Value, outer: &[Dim], n: u32| {
        dtype(value, first.dtype)?;
        let (o, last) = rows(value)?;
        ensure(same_dims(o, outer) && constant(last) == Some(n), Rule::Shape)
    };
    if packed {
        columns(first, own, all_width)?;
    } else {
        columns(first, own, q_width)?;
        columns(reads[1], outer, kv_width)?;
        columns(reads[2], outer, kv_width)?;
    }
    columns(y, own, q_width)?;
    shaped(reads[inputs], DType::I32, outer)?;
    if rope {
        rope_table(reads[inputs + 1], reads[inputs + 2], outer, head_dim / 2)?;
    }
    if some {
        ensure(same_dim(&own[0], &outer[0]), Rule::Shape)?;
        shaped(reads[count - 1], DType::I32, own)?;
    }
    Ok(())
}
