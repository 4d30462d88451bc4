//! Packing the rows of the left operand as codes of 8 bits, with a scale per row.

use super::micro::{Micro, Pack};
use super::pack::{Before, CHUNK};
use crate::isa::per_isa;
use crate::memory::{Buf, Shared};
use dreamc_num::quant::{INT8_MAX, int8_inverse};

/// The byte of the code of `x`: the same as [`dreamc_num::quant::int8`], in operations that LLVM vectorises.
#[inline(always)]
pub(super) fn code(x: f32, inverse: f32) -> u8 {
    // 1.5 * 2^23: adding it rounds to an integer, the even one on a tie, in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let v = (x * inverse).clamp(-INT8_MAX, INT8_MAX);
    let v = if v.is_nan() { 0.0 } else { v };
    (v + MAGIC).to_bits() as u8
}

per_isa! {
    /// Packs rows `first..first + rows` of `x`, each of `k` columns, into the strip at `to`, which has room for
    /// `micro.steps(k) * micro.a_words()` words. The scale of row `r` of the strip goes to `scales[r]`, which has room for
    /// `micro.rows`.
    fn pack_codes(x: &Buf, k: usize, first: usize, rows: usize, micro: &Micro, before: &Before, rms: &[f32; 16], to: Shared<f32>, scales: Shared<f32>) {
        let mut chunk = [0.0_f32; CHUNK];
        let mut codes = [0_u8; CHUNK];
        let shift = if micro.pack == Pack::ShiftedCodes { 0x80 } else { 0 };
        for (r, rms) in rms.iter().enumerate().take(rows) {
            let row = (first + r) * k;
            // The largest of sixteen: one register, and the order does not matter. What is not a number is left out.
            let mut largest = [0.0_f32; 16];
            for from in (0..k).step_by(CHUNK) {
                let n = CHUNK.min(k - from);
                chunk[n..].fill(0.0);
                before.load(x, row, from, *rms, &mut chunk[..n]);
                for lanes in chunk.chunks_exact(16) {
                    for (max, v) in largest.iter_mut().zip(lanes) {
                        *max = if v.abs() > *max { v.abs() } else { *max };
                    }
                }
            }
            let scale = largest.iter().fold(0.0_f32, |a, b| if *b > a { *b } else { a }) / INT8_MAX;
            let inverse = int8_inverse(scale);
            // SAFETY: `r < micro.rows`.
            unsafe { *scales.get().add(r) = scale };
            for from in (0..k).step_by(CHUNK) {
                let n = CHUNK.min(k - from);
                // A single chunk is still there.
                if k > CHUNK {
                    before.load(x, row, from, *rms, &mut chunk[..n]);
                }
                for (to, v) in codes[..n].iter_mut().zip(&chunk[..n]) {
                    *to = code(*v, inverse) ^ shift;
                }
                // Beyond k no weight counts, whatever is stored there.
                let padded = n.next_multiple_of(4);
                codes[n..padded].fill(0);
                // SAFETY: row `r` of the strip.
                let to = unsafe { to.get().cast::<u32>().add(from / 4 * micro.rows + r) };
                for (i, four) in codes[..padded].chunks_exact(4).enumerate() {
                    // SAFETY: as above.
                    unsafe { *to.add(i * micro.rows) = u32::from_le_bytes([four[0], four[1], four[2], four[3]]) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::code;
    use dreamc_num::quant::int8;

    #[test]
    fn codes_are_those_of_the_packer() {
        for i in -70_000..70_000 {
            let x = i as f32 / 512.0;
            assert_eq!(code(x, 1.0) as i8, int8(x, 1.0), "{x}");
            assert_eq!(code(x, 0.7) as i8, int8(x, 0.7), "{x}");
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, -0.0] {
            for inverse in [0.0, 1.0, f32::INFINITY] {
                assert_eq!(code(x, inverse) as i8, int8(x, inverse), "{x} {inverse}");
            }
        }
    }
}
