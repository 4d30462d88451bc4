//! The same for what is executed: a dispatch of a plan at the lengths of one request, with weights as they are stored.

use super::{Cost, RMS_NORM, ROPE, SWIGLU};
use dream::{Operand, Shape};
use dreamc_artifact::plan::{Activation, Confidence, Dispatch, Kernel, Place, ValueId};

/// The cost of a dispatch. `operands`: all values of its program at the request's lengths, by id. `stored`: bytes of a
/// weight as they lie in the artifact, filling and scales included.
pub fn dispatch(dispatch: &Dispatch, operands: &[Operand], stored: &dyn Fn(u32) -> u64) -> Cost {
    let find = |ids: &[ValueId]| -> Vec<Operand> {
        ids.iter().filter_map(|id| operands.get(id.0 as usize).copied()).collect()
    };
    let (reads, writes) = (find(&dispatch.reads), find(&dispatch.writes));
    Cost { flop: flop(&dispatch.kernel, &reads, &writes), bytes: traffic(dispatch, &reads, &writes, stored) }
}

fn elements(operand: Option<&Operand>) -> u64 {
    operand.map_or(0, |o| o.shape.elements() as u64)
}

/// Bytes of operands and results, each once; of what rows are picked from, those that are read.
fn traffic(dispatch: &Dispatch, reads: &[Operand], writes: &[Operand], stored: &dyn Fn(u32) -> u64) -> u64 {
    let bytes = |o: &Operand| match o.place {
        Place::Weight(index) => stored(index),
        Place::Arena(_) => (o.shape.elements() * o.dtype.bytes()) as u64,
    };
    let sum = |list: &[Operand]| list.iter().map(bytes).fold(0, u64::saturating_add);
    let results = sum(writes);
    match (&dispatch.kernel, reads) {
        // One column, where the rest stays in its place.
        (Kernel::EosPenalty { .. }, [logits, ..])
            if writes.first().is_some_and(|o| o.place == logits.place) =>
        {
            (2 * logits.shape.rows() * logits.dtype.bytes()) as u64
        }
        (Kernel::Embed, [ids, table]) => {
            let rows = elements(writes.first()) * table.dtype.bytes() as u64;
            bytes(ids).saturating_add(rows).saturating_add(results)
        }
        (Kernel::Slice { .. } | Kernel::DropRows { .. } | Kernel::TakeRows | Kernel::TakeSlots, _) => {
            results.saturating_mul(2)
        }
        _ => sum(reads).saturating_add(results),
    }
}

fn flop(kernel: &Kernel, reads: &[Operand], writes: &[Operand]) -> u64 {
    let (input, result) = (elements(reads.first()), elements(writes.first()));
    match kernel {
        Kernel::Linear(linear) => {
            let gain = u64::from(linear.norm_eps.is_some());
            let weights = reads.get(linear.weight_operands()).unwrap_or_default();
            let rows = |o: &Operand| u64::from(o.shape.dims().first().copied().unwrap_or(0));
            let epilogue = u64::from(linear.bias)
                + u64::from(linear.residual)
                + if linear.swiglu { SWIGLU } else { 0 }
                + linear.activation.map_or(0, activation);
            2 * input * weights.iter().map(rows).sum::<u64>() + input * gain * RMS_NORM + result * epilogue
        }
        Kernel::Attention(a) => {
            let dims = |o: Option<&Operand>| o.map_or([0; 2], |o| first_two(o.shape));
            let [batch, length] = dims(reads.get(usize::from(!a.packed)));
            let keys = batch * length * u64::from(a.kv_heads) * u64::from(a.head_dim);
            4 * result * length + if a.rope { (result + keys) * ROPE } else { 0 }
        }
        Kernel::RmsNorm { .. } => RMS_NORM * input,
        Kernel::LayerNorm { .. } => 7 * input,
        Kernel::Rope { .. } => ROPE * input,
        // Cosines and sines are made of one angle.
        Kernel::RopeTable { .. } => 3 * result,
        Kernel::Add | Kernel::Mul => result,
        Kernel::Activate(kind) => activation(*kind) * result,
        Kernel::TimestepEmbed { .. } | Kernel::EulerStep { .. } => 2 * result,
        Kernel::DdimStep { .. } | Kernel::SamplingProbs => 6 * result,
        Kernel::SwiGlu => SWIGLU * result,
        Kernel::DrawToken { .. } => input,
        Kernel::Confidence(Confidence::Probability) => 0,
        Kernel::Confidence(Confidence::Margin) => 2 * input,
        Kernel::Confidence(Confidence::NegativeEntropy) => 4 * input,
        Kernel::EosPenalty { .. } => writes.first().map_or(0, |o| o.shape.rows() as u64),
        Kernel::Copy
        | Kernel::Embed
        | Kernel::Slice { .. }
        | Kernel::Concat { .. }
        | Kernel::DropRows { .. }
        | Kernel::TakeRows
        | Kernel::Splice
        | Kernel::KeepTokens { .. }
        | Kernel::ShiftRows
        | Kernel::IsToken { .. }
        | Kernel::RandomBits { .. }
        | Kernel::TransferCount { .. }
        | Kernel::SelectSlots
        | Kernel::OriginSlots { .. }
        | Kernel::Commit
        | Kernel::AdvanceStream
        | Kernel::OpenSlots { .. }
        | Kernel::ReadRows { .. }
        | Kernel::SlotBits { .. }
        | Kernel::TakeSlots
        | Kernel::CommitSlots => 0,
    }
}

/// Rows of a batch and their length.
fn first_two(shape: Shape) -> [u64; 2] {
    let dim = |i: usize| u64::from(shape.dims().get(i).copied().unwrap_or(0));
    [dim(0), dim(1)]
}

const fn activation(kind: Activation) -> u64 {
    super::activation(match kind {
        Activation::Silu => dreamc_ir::Activation::Silu,
        Activation::Gelu => dreamc_ir::Activation::Gelu,
        Activation::QuickGelu => dreamc_ir::Activation::QuickGelu,
        Activation::Relu => dreamc_ir::Activation::Relu,
    })
}
