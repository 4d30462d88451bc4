//! The rules of the kernels of the canvas, the sampler and the loops.

use super::STEPS_MAX;
use super::kernel::Facts;
use super::shapes::{Checked, condition, dims, dtype, ensure, like, rows, shaped, typed, vocabulary};
use crate::Rule;
use crate::plan::{Dim, Kernel, Value};
use crate::poly::constant;
use dreamc_num::DType;

/// Checks one dispatch of such a kernel; all others are refused.
pub(super) fn check(k: &Kernel, reads: &[&Value], writes: &[&Value]) -> Result<Facts, Rule> {
    let none = Facts::default();
    let over = |in_place| Facts { in_place, schedule: None };
    match (k, reads, writes) {
        (Kernel::IsToken { token }, [canvas], [y]) => {
            ensure(i32::try_from(*token).is_ok(), Rule::Setting)?;
            typed(canvas, DType::I32, 2)?;
            condition(y, &canvas.dims)?;
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
            condition(active, &logits.dims[..2])?;
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
        (Kernel::DrawToken { first }, [probs, active, temperature, bits], [y]) => {
            vocabulary(probs)?;
            let columns = probs.dims.last().and_then(constant);
            let end = columns.and_then(|n| first.checked_add(n)).ok_or(Rule::Setting)?;
            ensure(i32::try_from(end).is_ok(), Rule::Setting)?;
            condition(active, &probs.dims[..2])?;
            shaped(temperature, DType::F32, &[])?;
            shaped(bits, DType::U32, &probs.dims[..2])?;
            shaped(y, DType::I32, &probs.dims[..2])?;
            Ok(none)
        }
        (Kernel::Confidence(_), [probs, active, token], [y]) => {
            vocabulary(probs)?;
            condition(active, &probs.dims[..2])?;
            shaped(token, DType::I32, &probs.dims[..2])?;
            shaped(y, DType::F32, &probs.dims[..2])?;
            Ok(none)
        }
        (Kernel::KeepTokens { first, len }, [logits, rows], [y]) => {
            let v = vocabulary(logits)?;
            ensure(*len > 0 && first.checked_add(*len).is_some_and(|end| end <= v), Rule::Setting)?;
            shaped(rows, DType::I32, &logits.dims[..2])?;
            like(y, logits)?;
            Ok(over(&[0]))
        }
        (Kernel::TransferCount { steps, eps }, [active, index, joint], [y]) => {
            schedule(*steps, *eps)?;
            condition(active, &active.dims)?;
            ensure(active.dims.len() == 2, Rule::Shape)?;
            shaped(index, DType::I32, &[])?;
            shaped(joint, DType::I32, &[])?;
            shaped(y, DType::I32, &active.dims[..1])?;
            Ok(Facts { in_place: &[], schedule: Some((1, *steps)) })
        }
        (Kernel::SelectSlots, [confidence, active, count, alg_temp, bits, joint], [y]) => {
            typed(confidence, DType::F32, 2)?;
            condition(active, &confidence.dims)?;
            shaped(count, DType::I32, &confidence.dims[..1])?;
            shaped(alg_temp, DType::F32, &[])?;
            shaped(bits, DType::U32, &confidence.dims)?;
            shaped(joint, DType::I32, &[])?;
            condition(y, &confidence.dims)?;
            Ok(none)
        }
        (Kernel::OriginSlots { steps, eps }, [active, index, bits], [y]) => {
            schedule(*steps, *eps)?;
            condition(active, &active.dims)?;
            ensure(active.dims.len() == 2, Rule::Shape)?;
            shaped(index, DType::I32, &[])?;
            shaped(bits, DType::U32, &active.dims)?;
            condition(y, &active.dims)?;
            Ok(Facts { in_place: &[], schedule: Some((1, *steps)) })
        }
        (Kernel::Commit, [select, token, canvas], [y]) => {
            typed(canvas, DType::I32, 2)?;
            condition(select, &canvas.dims)?;
            like(token, canvas)?;
            like(y, canvas)?;
            Ok(over(&[2]))
        }
        (Kernel::AdvanceStream, [stream], [y]) => {
            shaped(stream, DType::U32, &[Dim::constant(4)])?;
            like(y, stream)?;
            Ok(over(&[0]))
        }
        (Kernel::OpenSlots { token }, [canvas], [slots, open]) => {
            ensure(i32::try_from(*token).is_ok(), Rule::Setting)?;
            typed(canvas, DType::I32, 2)?;
            typed(slots, DType::I32, 2)?;
            dims(&slots.dims[..1], &canvas.dims[..1])?;
            condition(open, &slots.dims)?;
            Ok(none)
        }
        (Kernel::ReadRows { before }, [slots], [y]) => {
            ensure(i32::try_from(*before).is_ok(), Rule::Setting)?;
            typed(slots, DType::I32, 2)?;
            like(y, slots)?;
            Ok(none)
        }
        (Kernel::SlotBits { lane: _ }, [slots, stream], [y]) => {
            typed(slots, DType::I32, 2)?;
            shaped(stream, DType::U32, &[Dim::constant(4)])?;
            shaped(y, DType::U32, &slots.dims)?;
            Ok(none)
        }
        (Kernel::TakeSlots, [x, slots], [y]) => {
            typed(x, DType::I32, 2)?;
            typed(slots, DType::I32, 2)?;
            dims(&x.dims[..1], &slots.dims[..1])?;
            like(y, slots)?;
            Ok(none)
        }
        (Kernel::CommitSlots, [select, token, slots, canvas], [y]) => {
            typed(canvas, DType::I32, 2)?;
            typed(slots, DType::I32, 2)?;
            dims(&slots.dims[..1], &canvas.dims[..1])?;
            condition(select, &slots.dims)?;
            like(token, slots)?;
            like(y, canvas)?;
            Ok(over(&[3]))
        }
        (Kernel::TimestepEmbed { times }, [index], [y]) => {
            ensure((1..=STEPS_MAX as usize).contains(&times.len()), Rule::Setting)?;
            ensure(times.iter().all(|t| t.is_finite()), Rule::Setting)?;
            dtype(index, DType::I32)?;
            dtype(y, DType::F32)?;
            let (outer, w) = rows(y)?;
            let (before, count) = match index.dims.as_slice() {
                [] => (outer, 1),
                [n] => {
                    let (last, before) = outer.split_last().ok_or(Rule::Shape)?;
                    let n = constant(n).filter(|n| constant(last) == Some(*n)).ok_or(Rule::Shape)?;
                    (before, n)
                }
                _ => return Err(Rule::Shape),
            };
            let one = count > 0 && before.iter().all(|d| constant(d) == Some(1));
            ensure(one && constant(w).is_some_and(|w| w >= 4 && w.is_multiple_of(2)), Rule::Shape)?;
            Ok(Facts { in_place: &[], schedule: Some((0, times.len() as u32)) })
        }
        (Kernel::EulerStep { dt }, [x, v], [y]) => {
            ensure(dt.is_finite(), Rule::Setting)?;
            dtype(x, DType::F32)?;
            like(v, x)?;
            like(y, x)?;
            Ok(over(&[0]))
        }
        (Kernel::DdimStep { alphas }, [x, noise, index], [y]) => {
            ensure((2..=STEPS_MAX as usize + 1).contains(&alphas.len()), Rule::Setting)?;
            ensure(alphas.iter().all(|a| *a > 0.0 && *a <= 1.0), Rule::Setting)?;
            dtype(x, DType::F32)?;
            like(noise, x)?;
            shaped(index, DType::I32, &[])?;
            like(y, x)?;
            Ok(Facts { in_place: &[0], schedule: Some((2, alphas.len() as u32 - 1)) })
        }
        _ => Err(Rule::OperandCount),
    }
}

pub(super) fn schedule(steps: u32, eps: f32) -> Checked {
    ensure((1..=STEPS_MAX).contains(&steps) && eps > 0.0 && eps < 1.0, Rule::Setting)
}
