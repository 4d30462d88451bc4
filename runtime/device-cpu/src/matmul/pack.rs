//! Packing the rows of the left operand into strips, with what comes before the product on the way.

use super::codes::code;
use super::interleave::{Rows, WORDS, interleave};
use super::micro::{Micro, Pack};
use crate::isa::{Isa, per_isa};
use crate::memory::{Buf, Shared, from_bf16, to_bf16};
use dreamc_num::DType;
use dreamc_num::quant::{INT8_MAX, int8_inverse};

/// Elements of a row that are converted at a time: as many as make at most [`WORDS`] words.
const CHUNK: usize = WORDS;

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
    fn any(&self) -> bool {
        self.norm.is_some() || self.smooth.is_some()
    }

    /// What the `n` columns from `from` on are multiplied with.
    #[inline(always)]
    fn factors(&self, from: usize, n: usize) -> Factors {
        let mut factors = Factors { gain: [1.0; CHUNK], smooth: [1.0; CHUNK] };
        if let Some(norm) = &self.norm {
            norm.gain.load(from, &mut factors.gain[..n]);
        }
        if let Some(smooth) = &self.smooth {
            smooth.load(from, &mut factors.smooth[..n]);
        }
        factors
    }

    /// The elements of `x` from `at` on, their row's [`inverse_rms`] being `rms` if there is a norm.
    #[inline(always)]
    fn load(&self, x: &Buf, at: usize, rms: f32, factors: &Factors, out: &mut [f32]) {
        x.load(at, out);
        if self.norm.is_some() {
            out.iter_mut().zip(&factors.gain).for_each(|(v, g)| *v = *v * rms * g);
        }
        if self.smooth.is_some() {
            out.iter_mut().zip(&factors.smooth).for_each(|(v, f)| *v *= f);
        }
    }
}

/// What some columns are multiplied with.
struct Factors {
    gain: [f32; CHUNK],
    smooth: [f32; CHUNK],
}

/// The rows of a strip.
pub(crate) struct Strip<'s> {
    pub(crate) x: &'s Buf,
    pub(crate) before: &'s Before,
    /// The first one, and how many there are.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// Type of what is multiplied: rows that something is done to are rounded to it.
    pub(crate) dtype: DType,
}

/// Packs a strip into `to`, which has room for `micro.steps(k) * micro.a_words()` words of `k` columns. Where codes are
/// multiplied the scale of row `r` goes to `scales[r]`, which has room for `micro.rows`.
pub(super) fn pack_strip(isa: Isa, strip: &Strip<'_>, micro: &Micro, to: Shared<f32>, scales: Shared<f32>) {
    let k = strip.x.columns();
    let mut rms = [1.0; 16];
    if let Some(norm) = &strip.before.norm {
        for (r, rms) in rms.iter_mut().enumerate().take(strip.rows) {
            *rms = inverse_rms(isa, strip.x, (strip.first + r) * k, k, norm.eps);
        }
    }
    let mut inverse = [0.0; 16];
    if micro.codes() {
        let largest = largest(isa, strip, &rms);
        for (r, inverse) in inverse.iter_mut().enumerate().take(strip.rows) {
            let scale = largest[r] / INT8_MAX;
            *inverse = int8_inverse(scale);
            // SAFETY: `r < micro.rows`.
            unsafe { *scales.get().add(r) = scale };
        }
    }
    let mut words: Rows = [[0; WORDS]; 16];
    let mut to = to.get().cast::<u32>();
    for from in (0..k).step_by(CHUNK) {
        let n = CHUNK.min(k - from);
        let count = words_of(isa, strip, from, n, &rms, &inverse, micro.pack, &mut words);
        // SAFETY: words of these columns, inside the strip.
        unsafe {
            interleave(isa, &words, count, strip.rows, micro.rows, to);
            to = to.add(count * micro.rows);
        }
    }
}

per_isa! {
    /// The largest magnitude of each row; what is not a number is left out.
    fn largest(strip: &Strip<'_>, rms: &[f32; 16]) -> [f32; 16] {
        let k = strip.x.columns();
        let mut chunk = [0.0_f32; CHUNK];
        // One register a row, and the order does not matter.
        let mut largest = [[0.0_f32; 16]; 16];
        for from in (0..k).step_by(CHUNK) {
            let n = CHUNK.min(k - from);
            chunk[n..].fill(0.0);
            let factors = strip.before.factors(from, n);
            for r in 0..strip.rows {
                let at = (strip.first + r) * k + from;
                strip.before.load(strip.x, at, rms[r], &factors, &mut chunk[..n]);
                for lanes in chunk.chunks_exact(16) {
                    for (max, v) in largest[r].iter_mut().zip(lanes) {
                        *max = if v.abs() > *max { v.abs() } else { *max };
                    }
                }
            }
        }
        largest.map(|lanes| lanes.iter().fold(0.0_f32, |a, b| if *b > a { *b } else { a }))
    }
}

per_isa! {
    /// The words of `n` columns from `from` on of every row, and how many those are. What is beyond them is 0.
    fn words_of(strip: &Strip<'_>, from: usize, n: usize, rms: &[f32; 16], inverse: &[f32; 16], pack: Pack, words: &mut Rows) -> usize {
        let k = strip.x.columns();
        let before = strip.before;
        let factors = before.factors(from, n);
        let mut chunk = [0.0_f32; CHUNK];
        let mut halves = [0_u16; CHUNK];
        let mut codes = [0_u8; CHUNK];
        for r in 0..strip.rows {
            let at = (strip.first + r) * k + from;
            let words = &mut words[r];
            before.load(strip.x, at, rms[r], &factors, &mut chunk[..n]);
            match pack {
                Pack::Single | Pack::Wide => {
                    if pack == Pack::Wide && strip.dtype == DType::BF16 && before.any() {
                        chunk[..n].iter_mut().for_each(|v| *v = from_bf16(to_bf16(*v)));
                    }
                    words.iter_mut().zip(&chunk).for_each(|(word, v)| *word = v.to_bits());
                }
                Pack::Pairs => {
                    halves.iter_mut().zip(&chunk).for_each(|(half, v)| *half = to_bf16(*v));
                    for (word, pair) in words.iter_mut().zip(halves.chunks_exact(2)) {
                        *word = u32::from(pair[0]) | u32::from(pair[1]) << 16;
                    }
                }
                Pack::Codes | Pack::ShiftedCodes => {
                    let shift = if pack == Pack::ShiftedCodes { 0x80 } else { 0 };
                    for (to, v) in codes[..n].iter_mut().zip(&chunk) {
                        *to = code(*v, inverse[r]) ^ shift;
                    }
                    for (word, four) in words.iter_mut().zip(codes.chunks_exact(4)) {
                        *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                    }
                }
            }
        }
        match pack {
            Pack::Single => n,
            Pack::Wide => n.next_multiple_of(2),
            Pack::Pairs => n.div_ceil(2),
            Pack::Codes | Pack::ShiftedCodes => n.div_ceil(4),
        }
    }
}
