//! Kernels that go over elements or rows one by one.

use crate::context::Context;
use crate::isa::per_isa;
use crate::math::silu;
use crate::matmul::pack::inverse_rms;
use crate::memory::Buf;
use dreamc_runtime::DeviceError;

/// Elements of a task.
const TASK: usize = 16 * 1024;
/// Elements converted at a time.
const CHUNK: usize = 256;

/// What is done to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Mul,
    Silu,
    SwiGlu,
}

/// `out = op(a, b)`; a unary op reads `a` twice.
pub(crate) fn run(context: &Context<'_>, op: Op, a: &Buf, b: &Buf, out: &Buf) {
    let n = out.elements();
    context.pool.run(n.div_ceil(TASK), &|task, _| {
        range(context.isa, op, a, b, out, task * TASK, n.min((task + 1) * TASK));
    });
}

per_isa! {
    fn range(op: Op, a: &Buf, b: &Buf, out: &Buf, from: usize, to: usize) {
        let (mut x, mut y) = ([0.0_f32; CHUNK], [0.0_f32; CHUNK]);
        for at in (from..to).step_by(CHUNK) {
            let n = CHUNK.min(to - at);
            a.load(at, &mut x[..n]);
            b.load(at, &mut y[..n]);
            let pairs = x.iter_mut().zip(&y);
            match op {
                Op::Add => pairs.for_each(|(x, y)| *x += y),
                Op::Mul => pairs.for_each(|(x, y)| *x *= y),
                Op::Silu => pairs.for_each(|(x, _)| *x = silu(*x)),
                Op::SwiGlu => pairs.for_each(|(x, y)| *x = silu(*x) * y),
            }
            out.store(at, &x[..n]);
        }
    }
}

/// RMS norm over the last axis.
pub(crate) fn rms_norm(context: &Context<'_>, x: &Buf, gain: &Buf, eps: f32, out: &Buf) {
    let k = x.columns();
    context.pool.run(x.rows(), &|row, _| {
        let scale = inverse_rms(context.isa, x, row * k, k, eps);
        norm_row(context.isa, x, gain, out, row * k, k, scale);
    });
}

per_isa! {
    fn norm_row(x: &Buf, gain: &Buf, out: &Buf, at: usize, k: usize, scale: f32) {
        let (mut v, mut g) = ([0.0_f32; CHUNK], [0.0_f32; CHUNK]);
        for from in (0..k).step_by(CHUNK) {
            let n = CHUNK.min(k - from);
            x.load(at + from, &mut v[..n]);
            gain.load(from, &mut g[..n]);
            v.iter_mut().zip(&g).for_each(|(v, g)| *v = *v * scale * g);
            out.store(at + from, &v[..n]);
        }
    }
}

per_isa! {
    /// Converts `n` elements from one place to another.
    fn convert(x: &Buf, from: usize, out: &Buf, to: usize, n: usize) {
        let mut v = [0.0_f32; CHUNK];
        for at in (0..n).step_by(CHUNK) {
            let n = CHUNK.min(n - at);
            x.load(from + at, &mut v[..n]);
            out.store(to + at, &v[..n]);
        }
    }
}

/// Copies a whole tensor.
pub(crate) fn copy_all(context: &Context<'_>, x: &Buf, out: &Buf) {
    let n = x.elements();
    context.pool.run(n.div_ceil(TASK), &|task, _| {
        let from = task * TASK;
        copy(x, from, out, from, TASK.min(n - from));
    });
}

/// Copies bytes of elements; the two may not overlap unless they are the same.
pub(crate) fn copy(x: &Buf, from: usize, out: &Buf, to: usize, n: usize) {
    assert!(x.dtype == out.dtype && from + n <= x.elements() && to + n <= out.elements());
    let size = x.dtype.bytes();
    // SAFETY: inside both tensors by the assertion.
    unsafe { std::ptr::copy(x.start().add(from * size), out.start().add(to * size), n * size) };
}

/// Columns `start..` of every row.
pub(crate) fn slice(context: &Context<'_>, x: &Buf, start: usize, out: &Buf) {
    let (from, n) = (x.columns(), out.columns());
    context.pool.run(out.rows(), &|row, _| copy(x, row * from + start, out, row * n, n));
}

/// Row `p` takes row `p - 1`, row 0 stays.
pub(crate) fn shift_rows(context: &Context<'_>, x: &Buf, out: &Buf) {
    let (s, n) = (x.shape.dims()[1] as usize, x.columns());
    context.pool.run(x.rows(), &|row, _| {
        let from = if row % s == 0 { row } else { row - 1 };
        copy(x, from * n, out, row * n, n);
    });
}

/// Rows of the table.
pub(crate) fn embed(context: &Context<'_>, ids: &Buf, table: &Buf, out: &Buf) -> Result<(), DeviceError> {
    let (vocabulary, h) = (table.rows(), table.columns());
    for row in 0..ids.elements() {
        let id = ids.get::<i32>(row);
        if !usize::try_from(id).is_ok_and(|id| id < vocabulary) {
            return Err(DeviceError::TokenOutOfRange { id, vocabulary: vocabulary as u32 });
        }
    }
    context.pool.run(ids.elements(), &|row, _| {
        convert(context.isa, table, ids.get::<i32>(row) as usize * h, out, row * h, h);
    });
    Ok(())
}

/// Cosines and sines of every position.
pub(crate) fn rope_table(context: &Context<'_>, positions: &Buf, theta: f32, cos: &Buf, sin: &Buf) {
    let half = cos.columns();
    context.pool.run(positions.elements(), &|row, _| {
        let p = positions.get::<i32>(row) as f32;
        for j in 0..half {
            let inv_freq = 1.0 / libm::powf(theta, (2 * j) as f32 / (2 * half) as f32);
            let angle = p * inv_freq;
            cos.set(row * half + j, libm::cosf(angle));
            sin.set(row * half + j, libm::sinf(angle));
        }
    });
}

/// Rotates every head of every row.
pub(crate) fn rope(context: &Context<'_>, x: &Buf, cos: &Buf, sin: &Buf, out: &Buf) {
    let (half, n) = (cos.columns(), x.columns());
    context.pool.run(x.rows(), &|row, _| {
        for head in (0..n).step_by(2 * half) {
            rotate(context.isa, x, row * n + head, cos, sin, row * half, half, out);
        }
    });
}

per_isa! {
    fn rotate(x: &Buf, at: usize, cos: &Buf, sin: &Buf, row: usize, half: usize, out: &Buf) {
        const N: usize = 64;
        let (mut a, mut b) = ([0.0_f32; N], [0.0_f32; N]);
        let (mut c, mut s) = ([0.0_f32; N], [0.0_f32; N]);
        for j in (0..half).step_by(N) {
            let n = N.min(half - j);
            x.load(at + j, &mut a[..n]);
            x.load(at + half + j, &mut b[..n]);
            cos.load(row + j, &mut c[..n]);
            sin.load(row + j, &mut s[..n]);
            for ((a, b), (c, s)) in a.iter_mut().zip(&mut b).zip(c.iter().zip(&s)) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
            out.store(at + j, &a[..n]);
            out.store(at + half + j, &b[..n]);
        }
    }
}
