//! What operands a kernel can take. A validated plan always passes; anything else is refused here, before a kernel
//! computes an address from it.

use crate::memory::Buf;
use dreamc_artifact::INT8_COLUMNS_MAX;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Attention, Kernel, Linear};
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};

/// Whether the kernel can run on these operands: their number, types, layouts and dimensions fit, results lie apart
/// from each other, and lie over an operand only exactly and where the kernel allows it.
pub(crate) fn fits(kernel: &Kernel, reads: &[Buf], writes: &[Buf]) -> bool {
    let matrices = match kernel {
        Kernel::Linear(linear) => linear.weight_operands(),
        _ => 0..0,
    };
    let layouts = reads.iter().enumerate().all(|(i, read)| match read.layout {
        _ if !matrices.contains(&i) => read.layout == Layout::RowMajor,
        // For which there are no kernels here.
        Layout::Quantized(quant) => quant != Quant::Fp8,
        layout => Layout::of_matmul(read.dtype) == Some(layout),
    });
    layouts && shapes_fit(kernel, reads, writes).is_some_and(|over| apart(reads, writes, over))
}

/// The operands that a result may lie exactly over; `None` where something does not fit.
fn shapes_fit(kernel: &Kernel, reads: &[Buf], writes: &[Buf]) -> Option<&'static [usize]> {
    let (fits, over): (bool, &[usize]) = match (kernel, reads, writes) {
        (Kernel::Copy, [x], [y]) => (x.dtype == y.dtype && x.elements() == y.elements(), &[]),
        (Kernel::Embed, [ids, table], [y]) => (
            typed(ids, DType::I32, 2)
                && real(table)
                && real(y)
                && dims(table).len() == 2
                && dims(y).len() == 3
                && dims(y)[..2] == *dims(ids)
                && y.columns() == table.columns(),
            &[],
        ),
        (Kernel::RopeTable { sections, .. }, [positions], [cos, sin]) => {
            let n = sections.iter().try_fold(0_u32, |sum, n| sum.checked_add(*n))?;
            let outer = match (sections.len(), dims(positions)) {
                (1, [_, _]) => dims(positions),
                (planes, [first, outer @ ..]) if outer.len() == 2 && planes == *first as usize => outer,
                _ => return None,
            };
            (positions.dtype == DType::I32 && table(cos, sin, outer, n), &[])
        }
        (Kernel::RmsNorm { .. }, [x, gain], [y]) => {
            (real(x) && real(y) && dims(x) == dims(y) && vector(gain, x.columns()), &[])
        }
        (Kernel::LayerNorm { .. }, [x, gain, bias], [y]) => {
            let n = x.columns();
            (real(x) && real(y) && dims(x) == dims(y) && vector(gain, n) && vector(bias, n), &[])
        }
        (Kernel::Linear(linear), _, [y]) => (linear_fits(linear, reads, y), residual(linear)),
        (Kernel::Rope { head_dim }, [x, cos, sin], [y]) => (
            real(x)
                && like(y, x)
                && dims(x).len() == 3
                && even(*head_dim)
                && table(cos, sin, &dims(x)[..2], head_dim / 2)
                && x.columns().is_multiple_of(*head_dim as usize),
            &[0],
        ),
        (Kernel::Attention(attention), _, [y]) => (attention_fits(attention, reads, y), &[]),
        (Kernel::Add | Kernel::Mul | Kernel::SwiGlu, [a, b], [y]) => {
            (real(a) && like(b, a) && like(y, a), &[0, 1])
        }
        (Kernel::Activate(_), [x], [y]) => (real(x) && like(y, x), &[0]),
        (Kernel::Slice { start }, [x], [y]) => {
            let end = (*start as usize).checked_add(y.columns())?;
            (x.dtype == y.dtype && outer(x)? == outer(y)? && end <= x.columns(), &[])
        }
        (Kernel::Concat { axis }, [_, ..], [y]) => (concat_fits(*axis as usize, reads, y), &[]),
        (Kernel::DropRows { count }, [x], [y]) => (
            dims(x).len() == 3
                && x.dtype == y.dtype
                && equal_but(x, y, 1)
                && dims(y)[1].checked_add(*count) == Some(dims(x)[1]),
            &[],
        ),
        (Kernel::TakeRows, [x, index], [y]) => (
            dims(x).len() == 3
                && x.dtype == y.dtype
                && equal_but(x, y, 1)
                && (shaped(index, DType::I32, &dims(y)[..2])
                    || shaped(index, DType::I32, &[]) && dims(y)[..2] == [1, 1]),
            &[],
        ),
        (Kernel::Splice, [x, index, source], [y]) => (
            dims(x).len() == 3
                && like(y, x)
                && shaped(index, DType::I32, &dims(x)[..2])
                && source.dtype == x.dtype
                && !dims(source).is_empty()
                && source.columns() == x.columns(),
            &[0],
        ),
        (Kernel::ShiftRows, [x], [y]) => (dims(x).len() == 3 && like(y, x), &[]),
        (Kernel::IsToken { .. }, [canvas], [y]) => {
            (typed(canvas, DType::I32, 2) && shaped(y, DType::Bool, dims(canvas)), &[])
        }
        (Kernel::EosPenalty { token, .. }, [logits, penalty, index], [y]) => (
            vocabulary(logits)
                && (*token as usize) < logits.columns()
                && shaped(penalty, DType::F32, &[])
                && shaped(index, DType::I32, &[])
                && like(y, logits),
            &[0],
        ),
        (Kernel::KeepTokens { first, len }, [logits, chosen], [y]) => (
            vocabulary(logits)
                && (*first as usize).checked_add(*len as usize)? <= logits.columns()
                && shaped(chosen, DType::I32, &dims(logits)[..2])
                && like(y, logits),
            &[0],
        ),
        (Kernel::SamplingProbs, [logits, active, temperature, top_p, top_k], [y]) => (
            vocabulary(logits)
                && shaped(active, DType::Bool, &dims(logits)[..2])
                && shaped(temperature, DType::F32, &[])
                && shaped(top_p, DType::F32, &[])
                && shaped(top_k, DType::I32, &[])
                && like(y, logits),
            &[0],
        ),
        (Kernel::RandomBits { .. }, [canvas, stream], [y]) => (
            typed(canvas, DType::I32, 2)
                && shaped(stream, DType::U32, &[4])
                && shaped(y, DType::U32, dims(canvas)),
            &[],
        ),
        (Kernel::DrawToken { first }, [probs, active, temperature, bits], [y]) => (
            vocabulary(probs)
                && i32::try_from(*first as usize + probs.columns()).is_ok()
                && shaped(active, DType::Bool, &dims(probs)[..2])
                && shaped(temperature, DType::F32, &[])
                && shaped(bits, DType::U32, dims(active))
                && shaped(y, DType::I32, dims(active)),
            &[],
        ),
        (Kernel::Confidence(_), [probs, active, token], [y]) => (
            vocabulary(probs)
                && shaped(active, DType::Bool, &dims(probs)[..2])
                && shaped(token, DType::I32, dims(active))
                && shaped(y, DType::F32, dims(active)),
            &[],
        ),
        (Kernel::TransferCount { .. }, [active, index, joint], [y]) => (
            typed(active, DType::Bool, 2)
                && shaped(index, DType::I32, &[])
                && shaped(joint, DType::I32, &[])
                && shaped(y, DType::I32, &dims(active)[..1]),
            &[],
        ),
        (Kernel::SelectSlots, [confidence, active, count, alg_temp, bits, joint], [y]) => (
            typed(confidence, DType::F32, 2)
                && shaped(active, DType::Bool, dims(confidence))
                && shaped(count, DType::I32, &dims(confidence)[..1])
                && shaped(alg_temp, DType::F32, &[])
                && shaped(bits, DType::U32, dims(confidence))
                && shaped(joint, DType::I32, &[])
                && shaped(y, DType::Bool, dims(confidence)),
            &[],
        ),
        (Kernel::OriginSlots { .. }, [active, index, bits], [y]) => (
            typed(active, DType::Bool, 2)
                && shaped(index, DType::I32, &[])
                && shaped(bits, DType::U32, dims(active))
                && shaped(y, DType::Bool, dims(active)),
            &[],
        ),
        (Kernel::Commit, [select, token, canvas], [y]) => (
            typed(canvas, DType::I32, 2)
                && shaped(select, DType::Bool, dims(canvas))
                && like(token, canvas)
                && like(y, canvas),
            &[2],
        ),
        (Kernel::AdvanceStream, [stream], [y]) => (shaped(stream, DType::U32, &[4]) && like(y, stream), &[0]),
        (Kernel::OpenSlots { .. }, [canvas], [slots, open]) => (
            typed(canvas, DType::I32, 2)
                && typed(slots, DType::I32, 2)
                && dims(slots)[0] == dims(canvas)[0]
                && shaped(open, DType::Bool, dims(slots)),
            &[],
        ),
        (Kernel::ReadRows { .. }, [slots], [y]) => (typed(slots, DType::I32, 2) && like(y, slots), &[]),
        (Kernel::SlotBits { .. }, [slots, stream], [y]) => (
            typed(slots, DType::I32, 2)
                && shaped(stream, DType::U32, &[4])
                && shaped(y, DType::U32, dims(slots)),
            &[],
        ),
        (Kernel::TakeSlots, [x, slots], [y]) => (
            typed(x, DType::I32, 2)
                && typed(slots, DType::I32, 2)
                && dims(x)[0] == dims(slots)[0]
                && like(y, slots),
            &[],
        ),
        (Kernel::CommitSlots, [select, token, slots, canvas], [y]) => (
            typed(canvas, DType::I32, 2)
                && typed(slots, DType::I32, 2)
                && dims(canvas)[0] == dims(slots)[0]
                && shaped(select, DType::Bool, dims(slots))
                && like(token, slots)
                && like(y, canvas),
            &[3],
        ),
        (Kernel::TimestepEmbed { .. }, [index], [y]) => {
            let w = y.columns();
            let fits = w >= 4 && w.is_multiple_of(2) && dims(index).len() <= 1 && index.elements() > 0;
            let rows = !dims(y).is_empty() && y.rows() == index.elements();
            (index.dtype == DType::I32 && y.dtype == DType::F32 && rows && fits, &[])
        }
        (Kernel::EulerStep { .. }, [x, v], [y]) => (x.dtype == DType::F32 && like(v, x) && like(y, x), &[0]),
        (Kernel::DdimStep { .. }, [x, noise, index], [y]) => {
            (x.dtype == DType::F32 && like(noise, x) && shaped(index, DType::I32, &[]) && like(y, x), &[0])
        }
        _ => (false, &[]),
    };
    fits.then_some(over)
}

/// The residual's number among the operands, if it has one.
fn residual(linear: &Linear) -> &'static [usize] {
    const NUMBERS: [[usize; 1]; 8] = [[0], [1], [2], [3], [4], [5], [6], [7]];
    let number = linear.weight_operands().end + usize::from(linear.bias);
    NUMBERS.get(number).filter(|_| linear.residual).map_or(&[], |n| n)
}

fn linear_fits(linear: &Linear, reads: &[Buf], y: &Buf) -> bool {
    let matrices = linear.weight_operands();
    let count = matrices.end + usize::from(linear.bias) + usize::from(linear.residual);
    if !(1..=3).contains(&linear.weights)
        || linear.swiglu && (linear.weights != 2 || linear.bias || linear.activation.is_some())
        || reads.len() != count
    {
        return false;
    }
    let (x, weights) = (&reads[0], &reads[matrices.clone()]);
    let (k, first) = (x.columns(), &weights[0]);
    let alike = |w: &Buf| w.dtype == first.dtype && w.layout == first.layout;
    let matrix = |w: &Buf| dims(w).len() == 2 && w.columns() == k && real(w) && alike(w);
    // Sums of more columns do not fit an i32.
    let codes = matches!(first.layout, Layout::Quantized(_)) && k <= INT8_COLUMNS_MAX as usize;
    let n: usize = if linear.swiglu {
        first.rows()
    } else {
        weights.iter().map(Buf::rows).fold(0, usize::saturating_add)
    };
    real(x)
        && real(y)
        && outer(x).is_some_and(|rows| outer(y) == Some(rows))
        && (linear.norm_eps.is_none() || vector(&reads[1], k))
        && (!linear.smooth || vector(&reads[matrices.start - 1], k))
        && match linear.codes {
            None => true,
            Some(Codes::Int8) => codes,
            Some(Codes::Fp8) => false,
        }
        && weights.iter().all(matrix)
        && (!linear.swiglu || weights[1].rows() == n)
        && y.columns() == n
        && (!linear.bias || vector(&reads[matrices.end], n))
        && (!linear.residual || real(&reads[count - 1]) && dims(&reads[count - 1]) == dims(y))
}

fn attention_fits(attention: &Attention, reads: &[Buf], y: &Buf) -> bool {
    let Attention { heads, kv_heads, head_dim, packed, rope, rows } = *attention;
    let inputs = if packed { 1 } else { 3 };
    let count = inputs + 1 + if rope { 2 } else { 0 } + usize::from(rows);
    let settings = heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads);
    if !settings || !even(head_dim) || packed && rows || reads.len() != count {
        return false;
    }
    let (q, mask) = (&reads[0], &reads[inputs]);
    // As u64, for they may not fit 32 bits.
    let width = |heads: u64| heads * u64::from(head_dim);
    let wide = |x: &Buf, heads: u64| {
        x.dtype == q.dtype
            && dims(x).len() == 3
            && dims(x)[..2] == *dims(mask)
            && x.columns() as u64 == width(heads)
    };
    // Queries and result stand at the rows of the index, if there is one.
    let own = |x: &Buf, heads: u64| match reads.last().filter(|_| rows) {
        None => wide(x, heads),
        Some(index) => {
            x.dtype == q.dtype
                && dims(x).len() == 3
                && shaped(index, DType::I32, &dims(x)[..2])
                && dims(x)[0] == dims(mask)[0]
                && x.columns() as u64 == width(heads)
        }
    };
    let (h, kv) = (u64::from(heads), u64::from(kv_heads));
    real(q)
        && typed(mask, DType::I32, 2)
        && if packed { wide(q, h + 2 * kv) } else { own(q, h) && wide(&reads[1], kv) && wide(&reads[2], kv) }
        && own(y, h)
        && (!rope || table(&reads[inputs + 1], &reads[inputs + 2], dims(mask), head_dim / 2))
}

fn concat_fits(axis: usize, parts: &[Buf], y: &Buf) -> bool {
    let fits = |part: &Buf| part.dtype == y.dtype && equal_but(part, y, axis);
    // As u64, for the sum may not fit 32 bits.
    parts.iter().all(fits)
        && parts.iter().map(|part| u64::from(dims(part)[axis])).sum::<u64>() == u64::from(dims(y)[axis])
}

/// Whether the dimensions are equal but for `axis`, which both have.
fn equal_but(x: &Buf, other: &Buf, axis: usize) -> bool {
    let (a, b) = (dims(x), dims(other));
    a.len() == b.len() && axis < a.len() && a[..axis] == b[..axis] && a[axis + 1..] == b[axis + 1..]
}

/// Whether no result shares bytes with another, nor with an operand except exactly with one of `over`.
fn apart(reads: &[Buf], writes: &[Buf], over: &[usize]) -> bool {
    let overlap = |a: &Buf, b: &Buf| {
        let (a, b) = (a.addresses(), b.addresses());
        a.start < b.end && b.start < a.end
    };
    writes.iter().enumerate().all(|(i, w)| {
        let exact = |r: usize, read: &Buf| over.contains(&r) && read.start() == w.start() && like(read, w);
        writes[..i].iter().all(|other| !overlap(other, w))
            && reads.iter().enumerate().all(|(r, read)| !overlap(read, w) || exact(r, read))
    })
}

fn dims(x: &Buf) -> &[u32] {
    x.shape.dims()
}

/// All dimensions but the last.
fn outer(x: &Buf) -> Option<&[u32]> {
    dims(x).split_last().map(|(_, outer)| outer)
}

fn real(x: &Buf) -> bool {
    matches!(x.dtype, DType::F32 | DType::BF16)
}

fn shaped(x: &Buf, dtype: DType, shape: &[u32]) -> bool {
    x.dtype == dtype && dims(x) == shape
}

fn like(x: &Buf, other: &Buf) -> bool {
    shaped(x, other.dtype, dims(other))
}

fn typed(x: &Buf, dtype: DType, rank: usize) -> bool {
    x.dtype == dtype && dims(x).len() == rank
}

/// A vector of `n` numbers.
fn vector(x: &Buf, n: usize) -> bool {
    real(x) && dims(x).len() == 1 && x.columns() == n
}

/// `f32[B, S, V]`, ids of `V` being i32.
fn vocabulary(x: &Buf) -> bool {
    typed(x, DType::F32, 3) && i32::try_from(x.columns()).is_ok()
}

fn even(head_dim: u32) -> bool {
    head_dim > 0 && head_dim.is_multiple_of(2)
}

/// Cosines and sines of `n` frequencies for the rows `outer`.
fn table(cos: &Buf, sin: &Buf, outer: &[u32], n: u32) -> bool {
    typed(cos, DType::F32, 3) && dims(cos)[..2] == *outer && cos.columns() == n as usize && like(sin, cos)
}
