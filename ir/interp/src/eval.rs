//! One op on concrete operands.

use crate::run::RunError;
use crate::tensor::Tensor;
use crate::{actions, float, rows, sampler, slots};
use dreamc_ir::{Activation, Op};

/// Results of `op`. The operands are those of a verified graph.
pub(crate) fn eval(op: &Op, x: &[&Tensor]) -> Result<Vec<Tensor>, RunError> {
    let result = match op {
        Op::Embed => float::embed(x[0], x[1])?,
        Op::RopeTable(table) => {
            let (cos, sin) = float::rope_table(x[0], table);
            return Ok(vec![cos, sin]);
        }
        Op::RmsNorm { eps } => float::rms_norm(x[0], x[1], *eps),
        Op::LayerNorm { eps } => float::layer_norm(x[0], x[1], x[2], *eps),
        Op::Linear(linear) => float::linear(linear, x),
        Op::Rope { head_dim } => float::rope(x[0], x[1], x[2], *head_dim as usize),
        Op::Attention(attention) => float::attention(attention, x)?,
        Op::Add => float::zip(x[0], x[1], |a, b| a + b),
        Op::Mul => float::zip(x[0], x[1], |a, b| a * b),
        Op::Activate(activation) => float::map(x[0], |x| float::activate(*activation, x)),
        Op::SwiGlu => float::zip(x[0], x[1], |gate, up| float::activate(Activation::Silu, gate) * up),
        Op::Slice { start, len } => rows::slice(x[0], *start as usize, *len as usize),
        Op::Concat { axis } => rows::concat(x, *axis as usize),
        Op::MergeRows { .. } | Op::SplitRows { .. } => rows::regroup(op, x[0]),
        Op::DropRows { count } => rows::drop(x[0], *count as usize),
        Op::TakeRows => rows::take(x[0], x[1])?,
        Op::Splice => rows::splice(x[0], x[1], x[2])?,
        Op::Stack => rows::stack(x[0]),
        Op::ShiftRows => rows::shift(x[0]),
        Op::IsToken { token } => {
            let found = x[0].ints().iter().map(|t| *t == *token as i32).collect();
            Tensor::bool(&x[0].dims, found)
        }
        Op::EosPenalty { token, steps, eps } => {
            sampler::eos_penalty(x[0], x[1], x[2], *token as usize, *steps as u32, *eps)
        }
        Op::KeepTokens { first, len } => {
            sampler::keep_tokens(x[0], x[1], *first as usize..(first + len) as usize)
        }
        Op::SamplingProbs => sampler::sampling_probs(x[0], x[2], x[3], x[4]),
        Op::RandomBits { lane } => sampler::random_bits(x[0], x[1], *lane),
        Op::DrawToken { first } => sampler::draw_token(*first, x[0], x[1], x[2], x[3]),
        Op::Confidence(kind) => sampler::confidence(*kind, x[0], x[1], x[2]),
        Op::TransferCount { steps, eps } => sampler::transfer_count(x[0], x[1], x[2], *steps as u32, *eps),
        Op::SelectSlots => sampler::select_slots(x[0], x[1], x[2], x[3], x[4], x[5]),
        Op::OriginSlots { steps, eps } => sampler::origin_slots(x[0], x[1], x[2], *steps as u32, *eps),
        Op::Commit => slots::commit_all(x[0], x[1], x[2]),
        Op::AdvanceStream => {
            let mut words = x[0].words().to_vec();
            words[3] = words[3].wrapping_add(1);
            Tensor::u32(&x[0].dims, words)
        }
        Op::TimestepEmbed { times, width } => {
            let steps = x[0].ints().iter().map(|step| actions::at(times, *step));
            actions::timestep_embed(&steps.collect::<Result<Vec<f32>, _>>()?, *width as usize)
        }
        Op::EulerStep { dt } => float::zip(x[0], x[1], |x, v| x + v * dt),
        Op::DdimStep { alphas } => {
            let step = x[2].ints()[0];
            let (now, next) = (actions::at(alphas, step)?, actions::at(&alphas[1..], step)?);
            float::zip(x[0], x[1], |x, noise| actions::ddim_step(x, noise, now, next))
        }
        Op::ReadRows { before } => {
            let row = |p: &i32| p.saturating_sub(1).max(0).saturating_add(*before as i32);
            Tensor::i32(&x[0].dims, x[0].ints().iter().map(row).collect())
        }
        Op::SlotBits { lane } => slots::bits(x[0], x[1], *lane),
        Op::TakeSlots => slots::take(x[0], x[1])?,
        Op::CommitSlots => slots::commit(x[0], x[1], x[2], x[3])?,
        Op::Weight(_) | Op::Const(_) | Op::OpenSlots { .. } | Op::Denoise { .. } => {
            unreachable!("handled where graphs are walked")
        }
    };
    Ok(vec![result])
}
