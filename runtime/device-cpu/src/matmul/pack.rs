//! Packing the rows of the left operand into strips, with what comes before the product on the way.

use super::micro::{Micro, Pack};
use crate::isa::per_isa;
use crate::memory::{Buf, Shared, from_bf16, to_bf16};
use dreamc_num::DType;

/// Elements converted at a time.
pub(super) const CHUNK: usize = 512;

/// RMS norm before the matmul.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) eps: f32,
    pub(crate) gain: Buf,
}

per_isa! {
    /// `1 / sqrt(mean(x^2) + eps)` of the `k` elements from `at` on.
    fn inverse_rms(x: &Buf, at: usize, k: usize, eps: f32) -> f32 {
        let mut chunk = [0.0_f32; CHUNK];
        // Sixteen sums in a fixed order: one register, the same bits on every instruction set with FMA.
        let mut sums = [0.0_f32; 16];
        for from in (0..k).step_by(CHUNK) {
            let n = CHUNK.min(k - from);
            chunk[n..].fill(0.0);
            x.load(at + from, &mut chunk[..n]);
            for lanes in chunk.chunks_exact(16) {
                for (s, v) in sums.iter_mut().zip(lanes) {
                    *s += v * v;
                }
            }
        }
        1.0 / (sums.iter().sum::<f32>() / k as f32 + eps).sqrt()
    }
}

/// What is done to rows before they are multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    pub(crate) norm: Option<Norm>,
    /// Factors of the columns, after the norm.
    pub(crate) smooth: Option<Buf>,
}

impl Before {
    /// Whether anything is done at all.
    pub(super) fn any(&self) -> bool {
        self.norm.is_some() || self.smooth.is_some()
    }

    /// Columns from `from` on of the row that starts at `row`; `rms` is its [`inverse_rms`] if there is a norm.
    #[inline(always)]
    pub(super) fn load(&self, x: &Buf, row: usize, from: usize, rms: f32, out: &mut [f32]) {
        let mut factors = [0.0_f32; CHUNK];
        let factors = &mut factors[..out.len()];
        x.load(row + from, out);
        if let Some(norm) = &self.norm {
            norm.gain.load(from, factors);
            for (v, g) in out.iter_mut().zip(factors.iter()) {
                *v = *v * rms * g;
            }
        }
        if let Some(smooth) = &self.smooth {
            smooth.load(from, factors);
            out.iter_mut().zip(factors.iter()).for_each(|(v, f)| *v *= f);
        }
    }
}

per_isa! {
    /// Packs rows `first..first + rows` of `x`, each of `k` columns, into the strip at `to`, which has
    /// room for `micro.steps(k) * micro.a_words()` words. Rows that something is done to are rounded to `dtype`.
    fn pack_strip(x: &Buf, k: usize, first: usize, rows: usize, micro: &Micro, before: &Before, rms: &[f32; 16], dtype: DType, to: Shared<f32>) {
        let mut chunk = [0.0_f32; CHUNK];
        for (r, rms) in rms.iter().enumerate().take(rows) {
            for from in (0..k).step_by(CHUNK) {
                let n = CHUNK.min(k - from);
                before.load(x, (first + r) * k, from, *rms, &mut chunk[..n]);
                if dtype == DType::BF16 && micro.pack == Pack::Wide && before.any() {
                    chunk[..n].iter_mut().for_each(|v| *v = from_bf16(to_bf16(*v)));
                }
                // An odd k is filled up; CHUNK is even, so this can only be the last chunk.
                let padded = if micro.pack == Pack::Single { n } else { n.next_multiple_of(2) };
                if padded > n {
                    chunk[n] = 0.0;
                }
                // SAFETY: row `r` of the strip, `r < micro.rows`.
                unsafe {
                    if micro.pack == Pack::Pairs {
                        let to = to.get().cast::<u32>().add(from / 2 * micro.rows + r);
                        for (i, pair) in chunk[..padded].chunks_exact(2).enumerate() {
                            *to.add(i * micro.rows) =
                                u32::from(to_bf16(pair[0])) | u32::from(to_bf16(pair[1])) << 16;
                        }
                    } else {
                        let to = to.get().add(from * micro.rows + r);
                        for (i, v) in chunk[..padded].iter().enumerate() {
                            *to.add(i * micro.rows) = *v;
                        }
                    }
                }
            }
        }
    }
}
