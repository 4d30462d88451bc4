//! Result types of the sampler's ops and of the action loops'.

use super::{operand_count, require, vector};
use crate::dim::Dim;
use crate::op::{Op, SLOTS};
use crate::types::Type;
use dreamc_num::DType;

/// The one result's type, as [`super::infer`] says.
pub(super) fn infer(op: &Op, inputs: &[Type]) -> Result<Type, String> {
    match (op, inputs) {
        (Op::IsToken { token }, [canvas]) => {
            canvas_type(canvas)?;
            require(i32::try_from(*token).is_ok(), "the token must fit i32")?;
            Ok(canvas.with_dtype(DType::Bool))
        }
        (Op::EosPenalty { token, steps, .. }, [logits, penalty, step]) => {
            logits_type(logits)?;
            scalar(penalty, DType::F32, "penalty")?;
            scalar(step, DType::I32, "step")?;
            require(logits.columns().is_some_and(|v| *token < v), "the token must be inside the vocabulary")?;
            require(*steps > 0, "steps must be at least 1")?;
            Ok(logits.clone())
        }
        (Op::SamplingProbs, [logits, active, temperature, top_p, top_k]) => {
            logits_type(logits)?;
            rows(logits, active, DType::Bool, "active")?;
            scalar(temperature, DType::F32, "temperature")?;
            scalar(top_p, DType::F32, "top_p")?;
            scalar(top_k, DType::I32, "top_k")?;
            Ok(logits.clone())
        }
        (Op::RandomBits { .. }, [canvas, stream]) => {
            canvas_type(canvas)?;
            stream_type(stream)?;
            Ok(canvas.with_dtype(DType::U32))
        }
        (Op::DrawToken { first }, [probs, active, temperature, bits]) => {
            logits_type(probs)?;
            let last = probs.columns().and_then(|n| first.checked_add(n));
            require(last.is_some_and(|n| i32::try_from(n).is_ok()), "the tokens must fit i32")?;
            rows(probs, active, DType::Bool, "active")?;
            scalar(temperature, DType::F32, "temperature")?;
            rows(probs, bits, DType::U32, "bits")?;
            Ok(active.with_dtype(DType::I32))
        }
        (Op::Confidence(_), [probs, active, token]) => {
            logits_type(probs)?;
            rows(probs, active, DType::Bool, "active")?;
            rows(probs, token, DType::I32, "token")?;
            Ok(active.with_dtype(DType::F32))
        }
        (Op::TransferCount { steps, .. }, [active, step, joint]) => {
            scalar(joint, DType::I32, "joint")?;
            require(active.dtype == DType::Bool && active.dims.len() == 2, "active must be bool[B, S]")?;
            scalar(step, DType::I32, "step")?;
            require(*steps > 0, "steps must be at least 1")?;
            Ok(Type::new(DType::I32, [active.dims[0].clone()]))
        }
        (Op::SelectSlots, [confidence, active, count, alg_temp, bits, joint]) => {
            scalar(joint, DType::I32, "joint")?;
            require(active.dtype == DType::Bool && active.dims.len() == 2, "active must be bool[B, S]")?;
            require(*confidence == active.with_dtype(DType::F32), "the confidence must be f32[B, S]")?;
            require(*count == vector(DType::I32, active.dims.first()), "the count must be i32[B]")?;
            scalar(alg_temp, DType::F32, "alg_temp")?;
            require(*bits == active.with_dtype(DType::U32), "the bits must be u32[B, S]")?;
            Ok(active.clone())
        }
        (Op::OriginSlots { steps, .. }, [active, step, bits]) => {
            require(active.dtype == DType::Bool && active.dims.len() == 2, "active must be bool[B, S]")?;
            scalar(step, DType::I32, "step")?;
            require(*bits == active.with_dtype(DType::U32), "the bits must be u32[B, S]")?;
            require(*steps > 0, "steps must be at least 1")?;
            Ok(active.clone())
        }
        (Op::Commit, [select, token, canvas]) => {
            canvas_type(canvas)?;
            require(*select == canvas.with_dtype(DType::Bool), "the selection must be bool[B, S]")?;
            require(token == canvas, "tokens and canvas must have the same type")?;
            Ok(canvas.clone())
        }
        (Op::AdvanceStream, [stream]) => {
            stream_type(stream)?;
            Ok(stream.clone())
        }
        (Op::ReadRows { before }, [slots]) => {
            slots_type(slots)?;
            require(i32::try_from(*before).is_ok(), "the rows before must fit i32")?;
            Ok(slots.clone())
        }
        (Op::SlotBits { .. }, [slots, stream]) => {
            slots_type(slots)?;
            stream_type(stream)?;
            Ok(slots.with_dtype(DType::U32))
        }
        (Op::TakeSlots, [x, slots]) => {
            require(x.dtype == DType::I32 && x.dims.len() == 2, "`x` must be i32[B, S]")?;
            slots_type(slots)?;
            require(x.dims[0] == slots.dims[0], "slots and `x` must have the same rows")?;
            Ok(slots.clone())
        }
        (Op::CommitSlots, [select, token, slots, canvas]) => {
            canvas_type(canvas)?;
            slots_type(slots)?;
            require(canvas.dims[0] == slots.dims[0], "slots and canvas must have the same rows")?;
            require(*select == slots.with_dtype(DType::Bool), "the selection must be bool[B, K]")?;
            require(token == slots, "tokens and slots must have the same type")?;
            Ok(canvas.clone())
        }
        (Op::KeepTokens { first, len }, [logits, marked]) => {
            logits_type(logits)?;
            rows(logits, marked, DType::I32, "rows")?;
            let fits = first.checked_add(*len).zip(logits.columns()).is_some_and(|(end, v)| end <= v);
            require(fits && *len > 0, "the tokens must be inside the vocabulary")?;
            Ok(logits.clone())
        }
        (Op::TimestepEmbed { times, width }, [step]) => {
            require(step.dtype == DType::I32 && step.dims.len() <= 1, "`step` must be i32[] or i32[N]")?;
            let rows = step.dims.first().cloned().unwrap_or_else(|| 1.into());
            require(!times.is_empty(), "there must be a time")?;
            require(*width >= 4 && width.is_multiple_of(2), "the width must be even and at least 4")?;
            Ok(Type::new(DType::F32, [1.into(), rows, (*width).into()]))
        }
        (Op::EulerStep { .. }, [x, velocity]) => {
            require(x.dtype == DType::F32 && x == velocity, "`x` and the velocity must have one f32 type")?;
            Ok(x.clone())
        }
        (Op::DdimStep { alphas }, [x, noise, step]) => {
            require(x.dtype == DType::F32 && x == noise, "`x` and the noise must have one f32 type")?;
            scalar(step, DType::I32, "step")?;
            require(
                alphas.len() > 1 && alphas.iter().all(|a| *a > 0.0 && *a <= 1.0),
                "there must be two alphas or more, above 0 and at most 1",
            )?;
            Ok(x.clone())
        }
        _ => Err(operand_count(op, inputs)),
    }
}

/// Types of the results of `Op::OpenSlots`.
pub(super) fn open_slots(token: u64, canvas: &Type) -> Result<Vec<Type>, String> {
    canvas_type(canvas)?;
    require(i32::try_from(token).is_ok(), "the token must fit i32")?;
    let slots = Type::new(DType::I32, [canvas.dims[0].clone(), Dim::symbol(SLOTS)]);
    let open = slots.with_dtype(DType::Bool);
    Ok(vec![slots, open])
}

fn slots_type(slots: &Type) -> Result<(), String> {
    require(slots.dtype == DType::I32 && slots.dims.len() == 2, "the slots must be i32[B, K]")
}

fn canvas_type(canvas: &Type) -> Result<(), String> {
    require(canvas.dtype == DType::I32 && canvas.dims.len() == 2, "the canvas must be i32[B, S]")
}

fn stream_type(stream: &Type) -> Result<(), String> {
    require(*stream == Type::new(DType::U32, [4.into()]), "the stream must be u32[4]")
}

fn logits_type(logits: &Type) -> Result<(), String> {
    require(
        logits.dtype == DType::F32 && logits.dims.len() == 3 && logits.columns().is_some(),
        "logits must be f32[B, S, V]",
    )
}

fn rows(logits: &Type, operand: &Type, dtype: DType, name: &str) -> Result<(), String> {
    let wanted = Type::new(dtype, logits.dims[..2].iter().cloned());
    require(*operand == wanted, &format!("`{name}` must be {wanted}"))
}

fn scalar(ty: &Type, dtype: DType, name: &str) -> Result<(), String> {
    require(*ty == Type::scalar(dtype), &format!("`{name}` must be {dtype}[]"))
}
