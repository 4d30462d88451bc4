//! Rows as LLVM vectorises them, for every instruction set.

use super::{CHUNK, Pack, Rows, Strip, chunks};
use crate::isa::per_isa;
use crate::matmul::codes::code;
use crate::memory::{Buf, from_bf16, to_bf16};
use dreamc_num::DType;

per_isa! {
    /// Sum of the squares of a row: sixteen sums in a fixed order, the same bits on every instruction set.
    fn square_sum(x: &Buf, row: usize) -> f32 {
        let k = x.columns();
        let mut chunk = [0.0_f32; CHUNK];
        let mut sums = [0.0_f32; 16];
        for (from, n) in chunks(k) {
            chunk[n..].fill(0.0);
            x.load(row * k + from, &mut chunk[..n]);
            for lanes in chunk.chunks_exact(16) {
                for (s, v) in sums.iter_mut().zip(lanes) {
                    *s += v * v;
                }
            }
        }
        sums.iter().sum()
    }
}

per_isa! {
    /// The largest magnitude of each row; what is not a number is left out.
    fn largest(strip: &Strip<'_>, rms: &[f32; 16]) -> [f32; 16] {
        let k = strip.x.columns();
        let mut chunk = [0.0_f32; CHUNK];
        // One register a row, and the order does not matter.
        let mut largest = [[0.0_f32; 16]; 16];
        for (from, n) in chunks(k) {
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
    /// The words of `n` columns from `from` on of every row. What is beyond them is 0.
    fn words_of(strip: &Strip<'_>, from: usize, n: usize, rms: &[f32; 16], inverse: &[f32; 16], pack: Pack, words: &mut Rows) {
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
    }
}
