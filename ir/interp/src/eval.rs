//! One op on concrete operands.

use crate::run::RunError;
use crate::tensor::{Data, Tensor};
use crate::{float, sampler};
use dreamc_ir::Op;

/// Results of `op`. The operands are those of a verified graph.
pub(crate) fn eval(op: &Op, x: &[&Tensor]) -> Result<Vec<Tensor>, RunError> {
    let result = match op {
        Op::Embed => float::embed(x[0], x[1])?,
        Op::RopeTable { theta, head_dim } => {
            let (cos, sin) = float::rope_table(x[0], *theta, *head_dim as usize);
            return Ok(vec![cos, sin]);
        }
        Op::RmsNorm { eps } => float::rms_norm(x[0], x[1], *eps),
        Op::Linear(linear) => float::linear(linear, x),
        Op::Rope { head_dim } => float::rope(x[0], x[1], x[2], *head_dim as usize),
        Op::Attention(attention) => float::attention(attention, x),
        Op::Add => float::zip(x[0], x[1], |a, b| a + b),
        Op::Mul => float::zip(x[0], x[1], |a, b| a * b),
        Op::Silu => float::map(x[0], float::silu),
        Op::SwiGlu => float::zip(x[0], x[1], |gate, up| float::silu(gate) * up),
        Op::Slice { start, len } => slice(x[0], *start as usize, *len as usize),
        Op::Concat => concat(x),
        Op::ShiftRows => shift_rows(x[0]),
        Op::IsToken { token } => {
            let found = x[0].ints().iter().map(|t| *t == *token as i32).collect();
            Tensor::bool(&x[0].dims, found)
        }
        Op::EosPenalty { token, steps, eps } => {
            sampler::eos_penalty(x[0], x[1], x[2], *token as usize, *steps as u32, *eps)
        }
        Op::SamplingProbs => sampler::sampling_probs(x[0], x[2], x[3], x[4]),
        Op::RandomBits { lane } => sampler::random_bits(x[0], x[1], *lane),
        Op::DrawToken => sampler::draw_token(x[0], x[1], x[2], x[3]),
        Op::Confidence(kind) => sampler::confidence(*kind, x[0], x[1], x[2]),
        Op::TransferCount { steps, eps } => sampler::transfer_count(x[0], x[1], *steps as u32, *eps),
        Op::SelectSlots => sampler::select_slots(x[0], x[1], x[2], x[3], x[4]),
        Op::OriginSlots { steps, eps } => sampler::origin_slots(x[0], x[1], x[2], *steps as u32, *eps),
        Op::Commit => {
            let pairs = x[1].ints().iter().zip(x[2].ints());
            let merged =
                x[0].bools().iter().zip(pairs).map(|(s, (token, old))| if *s { *token } else { *old });
            Tensor::i32(&x[2].dims, merged.collect())
        }
        Op::AdvanceStream => {
            let mut words = x[0].words().to_vec();
            words[3] = words[3].wrapping_add(1);
            Tensor::u32(&x[0].dims, words)
        }
        Op::Weight { .. } | Op::Const(_) | Op::Denoise { .. } => {
            unreachable!("handled where graphs are walked")
        }
    };
    Ok(vec![result])
}

/// Picks elements by their old index.
fn pick(x: &Tensor, dims: Vec<usize>, indices: impl Iterator<Item = usize>) -> Tensor {
    let data = match &x.data {
        Data::F32(v) => Data::F32(indices.map(|i| v[i]).collect()),
        Data::I32(v) => Data::I32(indices.map(|i| v[i]).collect()),
        Data::U32(v) => Data::U32(indices.map(|i| v[i]).collect()),
        Data::Bool(v) => Data::Bool(indices.map(|i| v[i]).collect()),
    };
    Tensor { dims, data }
}

fn slice(x: &Tensor, start: usize, len: usize) -> Tensor {
    let n = x.columns();
    let rows: usize = x.dims[..x.dims.len() - 1].iter().product();
    let mut dims = x.dims.clone();
    *dims.last_mut().expect("a slice has columns") = len;
    pick(x, dims, (0..rows).flat_map(|r| (start..start + len).map(move |c| r * n + c)))
}

fn shift_rows(x: &Tensor) -> Tensor {
    let (s, n) = (x.dims[1], x.dims[2]);
    let rows = (0..x.dims[0] * s).map(|r| if r % s == 0 { r } else { r - 1 });
    pick(x, x.dims.clone(), rows.flat_map(|r| (0..n).map(move |c| r * n + c)))
}

fn concat(parts: &[&Tensor]) -> Tensor {
    let mut joined = parts[0].clone();
    for part in &parts[1..] {
        joined.dims[0] += part.dims[0];
        match (&mut joined.data, &part.data) {
            (Data::F32(a), Data::F32(b)) => a.extend(b),
            (Data::I32(a), Data::I32(b)) => a.extend(b),
            (Data::U32(a), Data::U32(b)) => a.extend(b),
            (Data::Bool(a), Data::Bool(b)) => a.extend(b),
            (Data::F32(_) | Data::I32(_) | Data::U32(_) | Data::Bool(_), _) => {
                unreachable!("verified: one dtype")
            }
        }
    }
    joined
}
