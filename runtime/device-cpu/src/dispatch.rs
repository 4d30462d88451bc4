//! From a checked dispatch to the function that computes it.

use crate::attention::{self, Attention};
use crate::context::{Context, Need};
use crate::elementwise::{self, Op};
use crate::isa::Isa;
use crate::matmul::pack::{Before, Norm};
use crate::matmul::{self, Matmul};
use crate::memory::Buf;
use crate::slots::{self, Choice};
use crate::{angles, norm, open_slots, rows, sampler};
use dreamc_artifact::plan::{Activation, Kernel};
use dreamc_num::quant::Codes;
use dreamc_num::{DType, schedule};
use dreamc_runtime::{DeviceError, Shape};

/// Runs a kernel on operands that [`crate::check::fits`] accepts.
pub(crate) fn run(
    context: &Context<'_>,
    kernel: &Kernel,
    reads: &[Buf],
    writes: &[Buf],
) -> Result<(), DeviceError> {
    match (kernel, reads, writes) {
        (Kernel::Copy, [x], [y]) => rows::copy_all(context, x, y),
        (Kernel::Embed, [ids, table], [y]) => rows::embed(context, ids, table, y)?,
        (Kernel::RopeTable { theta, sections, axial }, [positions], [cos, sin]) => {
            angles::rope_table(context, positions, *theta, sections, *axial, cos, sin);
        }
        (Kernel::RmsNorm { eps }, [x, gain], [y]) => norm::rms_norm(context, x, gain, *eps, y),
        (Kernel::LayerNorm { eps }, [x, gain, bias], [y]) => {
            norm::layer_norm(context, x, gain, bias, *eps, y)
        }
        (Kernel::Linear(linear), [x, rest @ ..], [out]) => {
            let mut rest = rest.iter().copied();
            let norm = linear.norm_eps.and_then(|eps| Some(Norm { eps, gain: rest.next()? }));
            let smooth = if linear.smooth { rest.next() } else { None };
            let mut weights = [*x; 3];
            let weights = &mut weights[..linear.weights.min(3) as usize];
            weights.iter_mut().zip(&mut rest).for_each(|(to, weight)| *to = weight);
            let bias = if linear.bias { rest.next() } else { None };
            let residual = if linear.residual { rest.next() } else { None };
            let (before, int8) = (Before { norm, smooth }, linear.codes == Some(Codes::Int8));
            let (swiglu, activation) = (linear.swiglu, linear.activation);
            let (x, out) = (*x, *out);
            let matmul = Matmul { x, before, weights, int8, bias, residual, swiglu, activation, out };
            matmul::run(context, &matmul);
        }
        (Kernel::Rope { .. }, [x, cos, sin], [y]) => angles::rope(context, x, cos, sin, y),
        (Kernel::Attention(a), [q, rest @ ..], [out]) => {
            let (heads, kv_heads, head_dim) = (a.heads as usize, a.kv_heads as usize, a.head_dim as usize);
            let (k, v, rest) = match rest {
                [k, v, rest @ ..] if !a.packed => ((*k, 0), (*v, 0), rest),
                _ => ((*q, heads * head_dim), (*q, (heads + kv_heads) * head_dim), rest),
            };
            let (mask, rope, rest) = match rest {
                [mask, cos, sin, rest @ ..] if a.rope => (*mask, Some((*cos, *sin)), rest),
                [mask, rest @ ..] => (*mask, None, rest),
                [] => return Err(DeviceError::Unsupported { kernel: name(kernel) }),
            };
            let (q, index, out) = ((*q, 0), rest.first().filter(|_| a.rows).copied(), *out);
            let attention = Attention { q, k, v, mask, rope, index, heads, kv_heads, head_dim, out };
            attention::run(context, &attention)?;
        }
        (Kernel::Add, [a, b], [y]) => elementwise::run(context, Op::Add, a, b, y),
        (Kernel::Mul, [a, b], [y]) => elementwise::run(context, Op::Mul, a, b, y),
        (Kernel::SwiGlu, [a, b], [y]) => elementwise::run(context, Op::SwiGlu, a, b, y),
        (Kernel::Activate(kind), [x], [y]) => elementwise::run(context, Op::Activate(*kind), x, x, y),
        (Kernel::Slice { start }, [x], [y]) => rows::slice(context, x, *start as usize, y),
        (Kernel::Concat { axis }, parts, [y]) => rows::concat(context, parts, *axis as usize, y),
        (Kernel::DropRows { .. }, [x], [y]) => rows::drop_rows(context, x, y),
        (Kernel::TakeRows, [x, index], [y]) => rows::take_rows(context, x, index, y)?,
        (Kernel::Splice, [x, index, source], [y]) => rows::splice(context, x, index, source, y)?,
        (Kernel::ShiftRows, [x], [y]) => rows::shift_rows(context, x, y),
        (Kernel::IsToken { token }, [canvas], [y]) => slots::is_token(canvas, *token, y),
        (Kernel::EosPenalty { token, steps, eps }, [logits, penalty, index], [y]) => {
            let factor = schedule::eos_penalty_factor(step(index, *steps)?, *steps, *eps);
            // One that overflows is as large as it can be.
            let amount = (penalty.get::<f32>(0) * factor).clamp(f32::MIN, f32::MAX);
            sampler::penalise(context, logits, *token as usize, amount, y);
        }
        (Kernel::KeepTokens { first, len }, [logits, chosen], [y]) => {
            let first = *first as usize;
            sampler::keep_tokens(context, logits, chosen, first..first + *len as usize, y);
        }
        (Kernel::SamplingProbs, [logits, active, temperature, top_p, top_k], [y]) => {
            let (temperature, top_p, top_k) = (temperature.get(0), top_p.get(0), top_k.get(0));
            sampler::probs(context, logits, active, temperature, top_p, top_k, y);
        }
        (Kernel::RandomBits { lane }, [_, stream], [y]) => slots::random_bits(stream, *lane, y),
        (Kernel::DrawToken { first }, [probs, active, temperature, bits], [y]) => {
            sampler::draw(context, *first, probs, active, temperature.get(0), bits, y)?;
        }
        (Kernel::Confidence(kind), [probs, active, token], [y]) => {
            sampler::confidence(context, *kind, probs, active, token, y);
        }
        (Kernel::TransferCount { steps, eps }, [active, index, joint], [y]) => {
            slots::count(active, step(index, *steps)?, *steps, *eps, joint.get::<i32>(0) != 0, y);
        }
        (Kernel::SelectSlots, [confidence, active, count, alg_temp, bits, joint], [y]) => {
            let (alg_temp, joint) = (alg_temp.get(0), joint.get::<i32>(0) != 0);
            slots::select(context, &Choice { confidence, active, count, alg_temp, bits, joint }, y);
        }
        (Kernel::OriginSlots { steps, eps }, [active, index, bits], [y]) => {
            slots::origin(active, step(index, *steps)?, *steps, *eps, bits, y);
        }
        (Kernel::Commit, [select, token, canvas], [y]) => slots::commit(select, token, canvas, y),
        (Kernel::AdvanceStream, [stream], [y]) => slots::advance(stream, y),
        (Kernel::OpenSlots { token }, [canvas], [slots, open]) => {
            open_slots::find(canvas, *token, slots, open);
        }
        (Kernel::ReadRows { before }, [slots], [y]) => open_slots::read_rows(slots, *before, y),
        (Kernel::SlotBits { lane }, [slots, stream], [y]) => open_slots::bits(slots, stream, *lane, y),
        (Kernel::TakeSlots, [x, slots], [y]) => open_slots::take(x, slots, y)?,
        (Kernel::CommitSlots, [select, token, slots, canvas], [y]) => {
            open_slots::commit(select, token, slots, canvas, y)?;
        }
        (Kernel::TimestepEmbed { times }, [index], [y]) => {
            for row in 0..index.elements() {
                let step = step_of(index, row, times.len() as u32)?;
                angles::timestep_embed(times[step as usize], y, row);
            }
        }
        (Kernel::EulerStep { dt }, [x, v], [y]) => elementwise::run(context, Op::Euler { dt: *dt }, x, v, y),
        (Kernel::DdimStep { alphas }, [x, noise, index], [y]) => {
            let step = step(index, (alphas.len() as u32).saturating_sub(1))? as usize;
            let op = Op::Ddim { a: alphas[step], p: alphas[step + 1] };
            elementwise::run(context, op, x, noise, y);
        }
        _ => return Err(DeviceError::Unsupported { kernel: name(kernel) }),
    }
    Ok(())
}

/// The step that `index` holds. It is read at run time, so nothing else keeps it inside the schedule.
fn step(index: &Buf, steps: u32) -> Result<u32, DeviceError> {
    step_of(index, 0, steps)
}

/// The same of row `row` of several steps.
fn step_of(index: &Buf, row: usize, steps: u32) -> Result<u32, DeviceError> {
    let step = index.get::<i32>(row);
    let outside = DeviceError::StepOutOfRange { step, steps };
    u32::try_from(step).ok().filter(|step| *step < steps).ok_or(outside)
}

/// The scratch of a kernel whose operand `i` is `read(i)`; `None` if it lacks one.
pub(crate) fn kernel_need(
    isa: Isa,
    kernel: &Kernel,
    read: impl Fn(usize) -> Option<(DType, Shape)>,
) -> Option<Need> {
    Some(match kernel {
        Kernel::Linear(linear) => {
            let ((x, shape), (weights, _)) = (read(0)?, read(linear.weight_operands().start)?);
            let (normed, int8) = (linear.norm_eps.is_some(), linear.codes == Some(Codes::Int8));
            let operands = matmul::Operands { x, weights, normed, int8 };
            matmul::need(isa, operands, shape.rows(), shape.columns())
        }
        Kernel::Attention(a) => {
            let ((dtype, _), (_, mask)) = (read(0)?, read(if a.packed { 1 } else { 3 })?);
            let (kv_heads, d) = (a.kv_heads as usize, a.head_dim as usize);
            attention::need(isa, dtype, mask.rows(), mask.columns(), kv_heads, d)
        }
        Kernel::SamplingProbs => Need { shared: 0, worker: sampler::need(read(0)?.1.columns()) },
        Kernel::SelectSlots => Need { shared: slots::need(read(0)?.1.elements()), worker: 0 },
        _ => Need::default(),
    })
}

/// The kernel's name in messages.
pub(crate) fn name(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel::Copy => "copy",
        Kernel::Embed => "embed",
        Kernel::RopeTable { .. } => "rope_table",
        Kernel::RmsNorm { .. } => "rms_norm",
        Kernel::LayerNorm { .. } => "layer_norm",
        Kernel::Linear(_) => "linear",
        Kernel::Rope { .. } => "rope",
        Kernel::Attention(_) => "attention",
        Kernel::Add => "add",
        Kernel::Mul => "mul",
        Kernel::Activate(Activation::Silu) => "silu",
        Kernel::Activate(Activation::Gelu) => "gelu",
        Kernel::Activate(Activation::QuickGelu) => "quick_gelu",
        Kernel::Activate(Activation::Relu) => "relu",
        Kernel::SwiGlu => "swiglu",
        Kernel::Slice { .. } => "slice",
        Kernel::Concat { .. } => "concat",
        Kernel::DropRows { .. } => "drop_rows",
        Kernel::TakeRows => "take_rows",
        Kernel::Splice => "splice",
        Kernel::ShiftRows => "shift_rows",
        Kernel::IsToken { .. } => "is_token",
        Kernel::EosPenalty { .. } => "eos_penalty",
        Kernel::KeepTokens { .. } => "keep_tokens",
        Kernel::SamplingProbs => "sampling_probs",
        Kernel::RandomBits { .. } => "random_bits",
        Kernel::DrawToken { .. } => "draw_token",
        Kernel::Confidence(_) => "confidence",
        Kernel::TransferCount { .. } => "transfer_count",
        Kernel::SelectSlots => "select_slots",
        Kernel::OriginSlots { .. } => "origin_slots",
        Kernel::Commit => "commit",
        Kernel::AdvanceStream => "advance_stream",
        Kernel::OpenSlots { .. } => "open_slots",
        Kernel::ReadRows { .. } => "read_rows",
        Kernel::SlotBits { .. } => "slot_bits",
        Kernel::TakeSlots => "take_slots",
        Kernel::CommitSlots => "commit_slots",
        Kernel::TimestepEmbed { .. } => "timestep_embed",
        Kernel::EulerStep { .. } => "euler_step",
        Kernel::DdimStep { .. } => "ddim_step",
    }
}
