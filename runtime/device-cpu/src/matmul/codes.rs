//! Codes of 8 bits for what is multiplied.

use dreamc_num::quant::INT8_MAX;

/// The byte of the code of `x`: the same as [`dreamc_num::quant::int8`], in operations that LLVM vectorises.
#[inline(always)]
pub(super) fn code(x: f32, inverse: f32) -> u8 {
    // 1.5 * 2^23: adding it rounds to an integer, the even one on a tie, in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let v = (x * inverse).clamp(-INT8_MAX, INT8_MAX);
    let v = if v.is_nan() { 0.0 } else { v };
    (v + MAGIC).to_bits() as u8
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
