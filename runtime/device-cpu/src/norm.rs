//! Norms over the last axis; they accumulate in f32.

use crate::context::Context;
use crate::isa::per_isa;
use crate::matmul::pack::inverse_rms;
use crate::memory::Buf;

/// Elements converted at a time.
const CHUNK: usize = 256;

/// RMS norm over the last axis.
pub(crate) fn rms_norm(context: &Context<'_>, x: &Buf, gain: &Buf, eps: f32, out: &Buf) {
    let k = x.columns();
    context.pool.run_rows(x.rows(), k, &|row, _| {
        let scale = inverse_rms(context.isa, x, row, eps);
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

/// Layer norm over the last axis.
pub(crate) fn layer_norm(context: &Context<'_>, x: &Buf, gain: &Buf, bias: &Buf, eps: f32, out: &Buf) {
    let k = x.columns();
    context.pool.run_rows(x.rows(), k, &|row, _| {
        let mean = sum(context.isa, x, row * k, k, 0.0, false) / k as f32;
        let variance = sum(context.isa, x, row * k, k, mean, true) / k as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        centred_row(context.isa, x, gain, bias, out, row * k, k, mean, scale);
    });
}

per_isa! {
    /// The sum of `v - centre`, or of its square, over the `k` elements from `at` on: sixteen sums in a fixed order.
    fn sum(x: &Buf, at: usize, k: usize, centre: f32, squared: bool) -> f32 {
        let mut chunk = [0.0_f32; CHUNK];
        let mut sums = [0.0_f32; 16];
        for from in (0..k).step_by(CHUNK) {
            let n = CHUNK.min(k - from);
            // What fills the last chunk up adds 0.
            chunk[n..].fill(centre);
            x.load(at + from, &mut chunk[..n]);
            for lanes in chunk.chunks_exact(16) {
                for (s, v) in sums.iter_mut().zip(lanes) {
                    let v = v - centre;
                    *s += if squared { v * v } else { v };
                }
            }
        }
        sums.iter().sum()
    }
}

per_isa! {
    fn centred_row(x: &Buf, gain: &Buf, bias: &Buf, out: &Buf, at: usize, k: usize, mean: f32, scale: f32) {
        let (mut v, mut g, mut b) = ([0.0_f32; CHUNK], [0.0_f32; CHUNK], [0.0_f32; CHUNK]);
        for from in (0..k).step_by(CHUNK) {
            let n = CHUNK.min(k - from);
            x.load(at + from, &mut v[..n]);
            gain.load(from, &mut g[..n]);
            bias.load(from, &mut b[..n]);
            for (v, (g, b)) in v.iter_mut().zip(g.iter().zip(&b)) {
                *v = (*v - mean) * scale * g + b;
            }
            out.store(at + from, &v[..n]);
        }
    }
}
