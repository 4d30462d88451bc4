//! Kernels that go over elements one by one.

use crate::context::Context;
use crate::isa::per_isa;
use crate::math::{gelu, quick_gelu, relu, silu};
use crate::memory::Buf;
use dreamc_artifact::plan::Activation;

/// Elements of a task.
const TASK: usize = 16 * 1024;
/// Elements converted at a time.
const CHUNK: usize = 256;

/// What is done to each element.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Add,
    Mul,
    SwiGlu,
    Activate(Activation),
    /// `a + b * dt`.
    Euler {
        dt: f32,
    },
    /// From the share `a` of the signal to the share `p`, with the noise found in it.
    Ddim {
        a: f32,
        p: f32,
    },
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
                Op::SwiGlu => pairs.for_each(|(x, y)| *x = silu(*x) * y),
                Op::Activate(Activation::Silu) => pairs.for_each(|(x, _)| *x = silu(*x)),
                Op::Activate(Activation::Gelu) => pairs.for_each(|(x, _)| *x = gelu(*x)),
                Op::Activate(Activation::QuickGelu) => pairs.for_each(|(x, _)| *x = quick_gelu(*x)),
                Op::Activate(Activation::Relu) => pairs.for_each(|(x, _)| *x = relu(*x)),
                Op::Euler { dt } => pairs.for_each(|(x, v)| *x += v * dt),
                Op::Ddim { a, p } => {
                    let (signal, rest) = (a.sqrt(), (1.0 - a).sqrt());
                    let (next_signal, next_rest) = (p.sqrt(), (1.0 - p).sqrt());
                    pairs.for_each(|(x, noise)| {
                        let first = ((*x - rest * noise) / signal).clamp(-1.0, 1.0);
                        *x = next_signal * first + next_rest * noise;
                    });
                }
            }
            out.store(at, &x[..n]);
        }
    }
}
