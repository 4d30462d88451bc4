//! Rows as LLVM vectorises them, for every instruction set.

use super::{By, CHUNK, Micro, Pack, Strip, Survey, chunks};
use crate::isa::{Isa, per_isa};
use crate::math;
use crate::matmul::codes::code;
use crate::matmul::micro::RUN;
use crate::memory::{Buf, from_bf16, to_bf16};
use dreamc_num::DType;

per_isa! {
    /// Sum of the squares of a row: 32 sums in a fixed order, the same bits on every instruction set.
    fn square_sum(x: &Buf, row: usize) -> f32 {
        let k = x.columns();
        let mut chunk = [0.0_f32; CHUNK];
        let mut sums = [0.0_f32; 32];
        for (from, n) in chunks(k) {
            chunk[n..].fill(0.0);
            x.load(row * k + from, &mut chunk[..n]);
            for lanes in chunk.chunks_exact(32) {
                for (s, v) in sums.iter_mut().zip(lanes) {
                    *s += v * v;
                }
            }
        }
        // As registers hold them: neighbours of bf16, and of f32 what is sixteen apart.
        let (step, other) = if x.dtype == DType::BF16 { (2, 1) } else { (1, 16) };
        math::sum(&std::array::from_fn(|i| sums[step * i] + sums[step * i + other]))
    }
}

/// See [`super::survey`].
pub(super) fn survey(isa: Isa, strip: &Strip<'_>) -> Survey {
    let mut squares = [0.0; 16];
    if strip.before.norm.is_some() {
        for (r, of_row) in squares.iter_mut().enumerate().take(strip.rows) {
            *of_row = square_sum(isa, strip.x, strip.first + r);
        }
    }
    Survey { largest: largest(isa, strip), squares }
}

per_isa! {
    /// The largest magnitude of each row; NaN is larger than all.
    fn largest(strip: &Strip<'_>) -> [f32; 16] {
        let k = strip.x.columns();
        let mut chunk = [0.0_f32; CHUNK];
        // One register a row, and the order does not matter.
        let mut largest = [[0_u32; 16]; 16];
        for (from, n) in chunks(k) {
            chunk[n..].fill(0.0);
            let factors = strip.before.factors(from, n);
            for (r, largest) in largest.iter_mut().enumerate().take(strip.rows) {
                strip.load(r, from, 1.0, &factors, &mut chunk[..n]);
                for lanes in chunk.chunks_exact(16) {
                    for (max, v) in largest.iter_mut().zip(lanes) {
                        // Bits of f32 without a sign are in order.
                        *max = (*max).max(v.abs().to_bits());
                    }
                }
            }
        }
        largest.map(|lanes| f32::from_bits(lanes.into_iter().fold(0, u32::max)))
    }
}

per_isa! {
    /// See [`super::put`].
    fn put(strip: &Strip<'_>, from: usize, n: usize, by: &By, micro: &Micro, to: *mut u32) {
        let factors = strip.before.factors(from, n);
        let mut chunk = [0.0_f32; CHUNK];
        let mut halves = [0_u16; CHUNK];
        let mut codes = [0_u8; CHUNK];
        let mut words = [0_u32; CHUNK];
        for r in 0..strip.rows {
            let rms = if micro.codes() { 1.0 } else { by.rows[r] };
            strip.load(r, from, rms, &factors, &mut chunk[..n]);
            match micro.pack {
                Pack::Single | Pack::Wide => {
                    if micro.pack == Pack::Wide && strip.dtype == DType::BF16 && strip.before.any() {
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
                    let shift = if micro.pack == Pack::ShiftedCodes { 0x80 } else { 0 };
                    for (to, v) in codes[..n].iter_mut().zip(&chunk) {
                        *to = code(*v, by.rows[r]) ^ shift;
                    }
                    for (word, four) in words.iter_mut().zip(codes.chunks_exact(4)) {
                        *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                    }
                }
            }
            let of_row = RUN * micro.pack.words();
            let runs = micro.steps(n).div_ceil(RUN);
            for (run, words) in words.chunks_exact(of_row).take(runs).enumerate() {
                // SAFETY: a run of this row, inside the strip.
                unsafe {
                    let to = to.add(micro.run_at(0, r, run * RUN));
                    to.copy_from_nonoverlapping(words.as_ptr(), of_row);
                }
            }
        }
    }
}
