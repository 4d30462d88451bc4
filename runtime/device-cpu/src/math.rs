//! Elementary functions that LLVM vectorises.

/// Constants of [`exp`].
pub(crate) struct Exp {
    /// Below and above nothing changes.
    pub(crate) least: f32,
    pub(crate) most: f32,
    /// Minus ln 2, in two parts.
    pub(crate) ln_2: [f32; 2],
    /// Highest power first.
    pub(crate) polynomial: [f32; 6],
}

pub(crate) const EXP: Exp = Exp {
    least: -104.0,
    most: 89.0,
    ln_2: [-0.693_359_4, 2.121_944_4e-4],
    polynomial: [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5],
};

/// Of a polynomial near `2^r - 1` for `r` in 0..1, from `r` to `r^3`: the least largest error relative to `2^r`, 9e-5.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) const EXP2: [f32; 3] = [0.695_116_8, 0.227_644_86, 0.077_067_16];

/// The sum of sixteen, in pairs: one after another would wait for each.
#[inline]
pub(crate) fn sum(of: &[f32; 16]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| of[i] + of[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `e^x`, relative error below 2e-7; 0 far below, infinity far above, NaN for NaN.
///
/// Cody-Waite: `x = n ln 2 + r`, `|r| <= ln 2 / 2`, a polynomial in `r`, and `2^n` put together from bits
/// in two halves, so that subnormal results come out right.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = x.clamp(EXP.least, EXP.most);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(EXP.ln_2[0], clamped);
    let r = n.mul_add(EXP.ln_2[1], r);
    let [mut p, rest @ ..] = EXP.polynomial;
    for c in rest {
        p = p.mul_add(r, c);
    }
    let y = (p * r).mul_add(r, r) + 1.0;
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    let scale = |e: i32| f32::from_bits((e.wrapping_add(127) << 23) as u32);
    y * scale(half) * scale(n.wrapping_sub(half))
}

/// Natural logarithm of a normal positive number, relative error below 2e-7 (absolute near 1); NaN for NaN.
///
/// `x = m 2^n` with `m` between the roots of 1/2 and 2, and a polynomial in `m - 1` (Cephes, `logf`).
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    const POLYNOMIAL: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let bits = x.to_bits().wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits());
    let n = bits as i32 >> 23;
    let r = f32::from_bits(x.to_bits().wrapping_sub((n as u32) << 23)) - 1.0;
    let n = n as f32;
    let [mut p, rest @ ..] = POLYNOMIAL;
    for c in rest {
        p = p.mul_add(r, c);
    }
    let z = r * r;
    let y = (p * r).mul_add(z, n * -EXP.ln_2[1]);
    let y = z.mul_add(-0.5, y) + r;
    let y = n.mul_add(-EXP.ln_2[0], y);
    if x.is_nan() { x } else { y }
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `x * sigmoid(1.702 x)`.
#[inline(always)]
pub(crate) fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// `max(x, 0)`; NaN stays NaN.
#[inline(always)]
pub(crate) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `x * (1 + erf(x / sqrt(2))) / 2`, absolute error below 5e-7 for `|x| < 10`.
///
/// With `z = |x| / sqrt(2)` this is `max(x, 0) - |x| / 2 * erfc(z)`, so nothing cancels. `erfc(z) = p(t) e^(-z^2)` with
/// `t = 1 / (1 + 0.3275911 z)`: Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    // Far out the second part is 0 for every x; infinity times 0 would not be.
    let a = x.abs();
    let a = if a > 20.0 { 20.0 } else { a };
    let t = 1.0 / a.mul_add(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let mut p = 1.061_405_4_f32;
    p = p.mul_add(t, -1.453_152);
    p = p.mul_add(t, 1.421_413_7);
    p = p.mul_add(t, -0.284_496_74);
    p = p.mul_add(t, 0.254_829_6);
    relu(x) - 0.5 * a * (p * t) * exp(-0.5 * a * a)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everywhere against f64.
    #[test]
    fn activations_are_accurate() {
        let mut x = -10.0_f32;
        while x < 10.0 {
            let wide = f64::from(x);
            let want = 0.5 * wide * (1.0 + libm::erf(wide / 2.0_f64.sqrt()));
            assert!((f64::from(gelu(x)) - want).abs() < 5e-7, "{x}: {} {want}", gelu(x));
            let want = wide / (1.0 + (-1.702 * wide).exp());
            assert!((f64::from(quick_gelu(x)) - want).abs() < 2e-6, "{x}: {} {want}", quick_gelu(x));
            x += 0.000_37;
        }
        for f in [gelu, quick_gelu, relu] {
            assert!(f(f32::NAN).is_nan());
            assert_eq!((f(0.0), f(100.0), f(-1000.0)), (0.0, 100.0, 0.0));
            assert_eq!(f(f32::INFINITY), f32::INFINITY);
        }
        assert_eq!((gelu(f32::NEG_INFINITY), relu(f32::NEG_INFINITY)), (0.0, 0.0));
    }

    #[test]
    fn ln_is_accurate() {
        let mut x = 1e-10_f32;
        while x < 3.0 {
            let (got, want) = (f64::from(ln(x)), f64::from(x).ln());
            assert!((got - want).abs() < 2e-7 * want.abs().max(0.5), "{x}: {got} {want}");
            x *= 1.000_07;
        }
        assert_eq!(ln(1.0), 0.0);
        assert!(ln(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_accurate() {
        let mut x = -87.0_f32;
        while x < 88.0 {
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 2e-7, "{x}: {got} {want}");
            x += 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(silu(-200.0), 0.0);
    }
}
