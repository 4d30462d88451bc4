//! Codes of 8 bits that are numbers by themselves: a sign, four bits of exponent with a bias of 7, three of mantissa. There is
//! no infinity, the largest is 448, and 0x7f and 0xff are no numbers (OCP's e4m3; not the variant without a negative zero).
//!
//! In integers throughout: a conversion by the type of a host, or of a GPU, differs in what it does beyond 448, and a sum with
//! a magic number may be fused with the product before it.

/// Largest value.
pub const FP8_MAX: f32 = 448.0;

/// Its code.
const LARGEST: u32 = 0x7e;
/// What is no number.
const NAN: u32 = 0x7f;
/// Bits of f32's mantissa that a code does not have.
const DROPPED: u32 = 20;
/// What f32's exponents are larger by, in the place of a code's exponent.
const BIAS: u32 = (127 - 7) << 3;
/// 2^-6, the smallest number with all bits of its mantissa.
const NORMAL: u32 = (127 - 6) << 23;
const INFINITY: u32 = 0x7f80_0000;

/// The code nearest to `x`, the even one on a tie; the largest beyond it, 0x7f for what is not a number.
pub const fn to_e4m3(x: f32) -> u8 {
    let bits = x.to_bits();
    let (sign, magnitude) = (bits >> 24 & 0x80, bits & 0x7fff_ffff);
    if magnitude > INFINITY {
        return NAN as u8;
    }
    let code = if magnitude >= NORMAL {
        nearest(magnitude, DROPPED) - BIAS
    } else {
        // Multiples of 2^-9, of which there is none nearer than 0 to what is below half of one.
        let shift = DROPPED + 1 + (NORMAL >> 23) - 1 - (magnitude >> 23);
        nearest(magnitude & 0x007f_ffff | 0x0080_0000, if shift > 25 { 25 } else { shift })
    };
    (sign | if code > LARGEST { LARGEST } else { code }) as u8
}

/// `n / 2^shift`, the even number on a tie.
const fn nearest(n: u32, shift: u32) -> u32 {
    (n + (1 << (shift - 1)) - 1 + (n >> shift & 1)) >> shift
}

/// What a code stands for.
pub const fn from_e4m3(code: u8) -> f32 {
    let (sign, magnitude) = ((code as u32 & 0x80) << 24, code as u32 & 0x7f);
    let value = if magnitude == NAN {
        f32::NAN.to_bits()
    } else if magnitude < 8 {
        // Exact: three bits times a power of two.
        (magnitude as f32 / 512.0).to_bits()
    } else {
        (magnitude + BIAS) << DROPPED
    };
    f32::from_bits(sign | value)
}

/// The scale by which a row is divided before it is rounded: its largest magnitude over 448, 0 for zeros.
pub fn fp8_scale(row: &[f32]) -> f32 {
    super::largest(row) / FP8_MAX
}

/// The code of `x`, `inverse` being [`row_inverse`](super::row_inverse) of the row's scale; 0 for what is not a number. Of a
/// row with NaN or infinity all codes are 0 and the scale is that, so that its results are no numbers.
pub fn fp8(x: f32, inverse: f32) -> u8 {
    let scaled = x * inverse;
    if scaled.is_nan() { 0 } else { to_e4m3(scaled) }
}

/// Rounds a row to codes times a scale: of a matrix, or of what is multiplied with it.
pub fn round_fp8(row: &mut [f32]) {
    let scale = fp8_scale(row);
    let inverse = super::row_inverse(scale);
    row.iter_mut().for_each(|x| *x = from_e4m3(fp8(*x, inverse)) * scale);
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    /// What the format says, in f64.
    fn meaning(code: u8) -> f64 {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
        let magnitude = match exponent {
            15 if mantissa == 7.0 => f64::NAN,
            0 => mantissa / 8.0 * f64::from(2.0_f32.powi(-6)),
            _ => (1.0 + mantissa / 8.0) * f64::from(2.0_f32.powi(exponent - 7)),
        };
        if code & 0x80 != 0 { -magnitude } else { magnitude }
    }

    /// The nearest of all codes of the sign, the even one of two that are as near.
    fn searched(x: f32) -> u8 {
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        let distance = |code: u8| (meaning(code) - f64::from(x)).abs();
        let mut best = sign;
        for code in sign..sign + 0x7f {
            let (d, least) = (distance(code), distance(best));
            if d < least || d == least && code % 2 == 0 {
                best = code;
            }
        }
        best
    }

    #[test]
    fn every_code_is_what_the_format_says() {
        for code in 0..=u8::MAX {
            let value = from_e4m3(code);
            if code & 0x7f == 0x7f {
                assert!(value.is_nan());
                continue;
            }
            assert_eq!(f64::from(value), meaning(code), "{code:#x}");
            assert_eq!(value.is_sign_negative(), code & 0x80 != 0);
            assert_eq!(to_e4m3(value), code);
        }
        assert_eq!((from_e4m3(0x7e), from_e4m3(1)), (FP8_MAX, 2.0_f32.powi(-9)));
    }

    /// Between any two neighbours: the middle, next to it, and next to the codes themselves.
    #[test]
    fn ties_go_to_the_even_code() {
        for code in 0..0x7e_u8 {
            let (low, high) = (from_e4m3(code), from_e4m3(code + 1));
            let middle = (low + high) / 2.0;
            for x in [low, middle, high] {
                for bits in [x.to_bits().saturating_sub(1), x.to_bits(), x.to_bits() + 1] {
                    let x = f32::from_bits(bits);
                    assert_eq!(to_e4m3(x), searched(x), "{x:e}");
                    assert_eq!(to_e4m3(-x), searched(-x), "{x:e}");
                }
            }
            assert_eq!(to_e4m3(middle) % 2, 0);
        }
    }

    #[test]
    fn what_is_out_of_range() {
        for x in [448.1, 464.0, 479.9, 1e9, f32::MAX, f32::INFINITY] {
            assert_eq!([to_e4m3(x), to_e4m3(-x)], [0x7e, 0xfe], "{x}");
        }
        for x in [0.0, f32::MIN_POSITIVE, 1e-40, 2.0_f32.powi(-11), 2.0_f32.powi(-10)] {
            assert_eq!([to_e4m3(x), to_e4m3(-x)], [0, 0x80], "{x}");
        }
        assert_eq!(to_e4m3(f32::NAN) & 0x7f, 0x7f);
    }

    /// Some of all magnitudes.
    #[test]
    fn codes_are_the_nearest_of_all() {
        for bits in (0..INFINITY).step_by(97_771) {
            let x = f32::from_bits(bits);
            assert_eq!(to_e4m3(x), searched(x), "{x:e}");
        }
    }

    #[test]
    fn rows() {
        let row = [0.0, 896.0, -896.0, 2.0, 0.003, -0.001];
        let inverse = super::super::row_inverse(fp8_scale(&row));
        let codes: Vec<u8> = row.iter().map(|x| fp8(*x, inverse)).collect();
        assert_eq!(codes, [0, 0x7e, 0xfe, 0x38, 1, 0x80]);
        assert_eq!(fp8(f32::NAN, inverse), 0);
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut row = [1.0, bad];
            round_fp8(&mut row);
            assert!(row.iter().all(|x| x.is_nan()));
        }
        let mut zeros = [0.0; 3];
        round_fp8(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }

    /// Rounded values are at most half a step of their own magnitude from what they were, and rounding them again changes
    /// their last bit at most.
    #[test]
    fn rounding_errs_by_a_sixteenth() {
        let row: [f32; 64] = core::array::from_fn(|i| ((i * 37 % 64) as f32 - 20.0) / 64.0);
        let mut rounded = row;
        round_fp8(&mut rounded);
        for (x, y) in row.iter().zip(&rounded) {
            assert!((x - y).abs() <= x.abs() / 16.0 + fp8_scale(&row) / 512.0, "{x} {y}");
        }
        let mut again = rounded;
        round_fp8(&mut again);
        assert!(rounded.iter().zip(&again).all(|(x, y)| (x - y).abs() <= x.abs() * f32::EPSILON));
    }
}
