//! The kernel of an op: what a dispatch computes is the same on every target.

use dreamc_artifact::plan::{self, Kernel};
use dreamc_ir::{Activation, Confidence, NodeData, Op};

/// The kernel that computes `op`.
///
/// # Errors
///
/// Where a setting is too large for a plan, or the op is a constant or a loop, which are no kernels.
pub fn kernel(op: &Op) -> Result<Kernel, String> {
    let small = |n: u64| u32::try_from(n).map_err(|_| format!("{n} is too large"));
    Ok(match op {
        Op::Embed => Kernel::Embed,
        Op::RopeTable(t) => Kernel::RopeTable {
            theta: t.theta,
            sections: t.sections.iter().map(|n| small(*n)).collect::<Result<_, _>>()?,
            axial: t.axial,
        },
        Op::RmsNorm { eps } => Kernel::RmsNorm { eps: *eps },
        Op::LayerNorm { eps } => Kernel::LayerNorm { eps: *eps },
        Op::Linear(l) => Kernel::Linear(plan::Linear {
            norm_eps: l.norm_eps,
            weights: small(l.weights)?,
            bias: l.bias,
            residual: l.residual,
            swiglu: l.swiglu,
            smooth: l.smooth,
            codes: l.codes,
            activation: l.activation.map(activation),
        }),
        Op::Rope { head_dim } => Kernel::Rope { head_dim: small(*head_dim)? },
        Op::Attention(a) => Kernel::Attention(plan::Attention {
            heads: small(a.heads)?,
            kv_heads: small(a.kv_heads)?,
            head_dim: small(a.head_dim)?,
            packed: a.packed,
            rope: a.rope,
            rows: a.rows,
        }),
        Op::Add => Kernel::Add,
        Op::Mul => Kernel::Mul,
        Op::Activate(kind) => Kernel::Activate(activation(*kind)),
        Op::SwiGlu => Kernel::SwiGlu,
        Op::Slice { start, .. } => Kernel::Slice { start: small(*start)? },
        Op::Concat { axis } => Kernel::Concat { axis: small(*axis)? },
        Op::MergeRows { .. } | Op::SplitRows { .. } | Op::Stack => Kernel::Copy,
        Op::DropRows { count } => Kernel::DropRows { count: small(*count)? },
        Op::TakeRows => Kernel::TakeRows,
        Op::Splice => Kernel::Splice,
        Op::ShiftRows => Kernel::ShiftRows,
        Op::IsToken { token } => Kernel::IsToken { token: small(*token)? },
        Op::EosPenalty { token, steps, eps } => {
            Kernel::EosPenalty { token: small(*token)?, steps: small(*steps)?, eps: *eps }
        }
        Op::KeepTokens { first, len } => Kernel::KeepTokens { first: small(*first)?, len: small(*len)? },
        Op::SamplingProbs => Kernel::SamplingProbs,
        Op::RandomBits { lane } => Kernel::RandomBits { lane: *lane },
        Op::DrawToken { first } => Kernel::DrawToken { first: small(*first)? },
        Op::Confidence(kind) => Kernel::Confidence(match kind {
            Confidence::Probability => plan::Confidence::Probability,
            Confidence::Margin => plan::Confidence::Margin,
            Confidence::NegativeEntropy => plan::Confidence::NegativeEntropy,
        }),
        Op::TransferCount { steps, eps } => Kernel::TransferCount { steps: small(*steps)?, eps: *eps },
        Op::SelectSlots => Kernel::SelectSlots,
        Op::OriginSlots { steps, eps } => Kernel::OriginSlots { steps: small(*steps)?, eps: *eps },
        Op::Commit => Kernel::Commit,
        Op::AdvanceStream => Kernel::AdvanceStream,
        Op::OpenSlots { token } => Kernel::OpenSlots { token: small(*token)? },
        Op::ReadRows { before } => Kernel::ReadRows { before: small(*before)? },
        Op::SlotBits { lane } => Kernel::SlotBits { lane: *lane },
        Op::TakeSlots => Kernel::TakeSlots,
        Op::CommitSlots => Kernel::CommitSlots,
        Op::TimestepEmbed { times, .. } => Kernel::TimestepEmbed { times: times.clone() },
        Op::EulerStep { dt } => Kernel::EulerStep { dt: *dt },
        Op::DdimStep { alphas } => Kernel::DdimStep { alphas: alphas.clone() },
        Op::Weight(_) | Op::Const(_) | Op::Denoise { .. } => {
            return Err("bug: this is no kernel; please report it".to_owned());
        }
    })
}

const fn activation(kind: Activation) -> plan::Activation {
    match kind {
        Activation::Silu => plan::Activation::Silu,
        Activation::Gelu => plan::Activation::Gelu,
        Activation::QuickGelu => plan::Activation::QuickGelu,
        Activation::Relu => plan::Activation::Relu,
    }
}

/// Whether an operand of an op is a matmul's weight.
pub fn is_matrix(op: &Op, operand: usize) -> bool {
    match op {
        Op::Linear(linear) => linear.weight_operands().contains(&operand),
        _ => false,
    }
}

/// Operands over which the kernel of a node may write its first result, best first.
pub fn in_place(node: &NodeData) -> Vec<usize> {
    match &node.op {
        Op::Add | Op::Mul | Op::SwiGlu => vec![0, 1],
        Op::Rope { .. }
        | Op::Activate(_)
        | Op::Splice
        | Op::EosPenalty { .. }
        | Op::KeepTokens { .. }
        | Op::SamplingProbs
        | Op::EulerStep { .. }
        | Op::DdimStep { .. }
        | Op::AdvanceStream => vec![0],
        Op::Commit => vec![2],
        Op::CommitSlots => vec![3],
        Op::Linear(linear) if linear.residual => vec![node.inputs.len() - 1],
        Op::Linear(_)
        | Op::Weight(_)
        | Op::Const(_)
        | Op::Embed
        | Op::RopeTable(_)
        | Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Attention(_)
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::MergeRows { .. }
        | Op::SplitRows { .. }
        | Op::DropRows { .. }
        | Op::TakeRows
        | Op::Stack
        | Op::TimestepEmbed { .. }
        | Op::ShiftRows
        | Op::IsToken { .. }
        | Op::RandomBits { .. }
        | Op::DrawToken { .. }
        | Op::Confidence(_)
        | Op::TransferCount { .. }
        | Op::SelectSlots
        | Op::OriginSlots { .. }
        | Op::OpenSlots { .. }
        | Op::ReadRows { .. }
        | Op::SlotBits { .. }
        | Op::TakeSlots
        | Op::Denoise { .. } => vec![],
    }
}
