//! What several families compute.

use cubecl::prelude::*;

/// Units of the workgroups that work along rows or over a flat range. Every device has as many.
pub(crate) const UNITS: u32 = 256;

/// `x * sigmoid(x)`.
#[cube]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0f32 + f32::exp(-x))
}

/// `x * (1 + erf(x / sqrt(2))) / 2`, the error function to 2e-7.
#[cube]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5f32 * x * (1.0f32 + Erf::erf(x * 0.707_106_77f32))
}

/// `x * sigmoid(1.702 x)`.
#[cube]
pub(crate) fn quick_gelu(x: f32) -> f32 {
    x / (1.0f32 + f32::exp(-1.702f32 * x))
}

/// `max(x, 0)`.
#[cube]
pub(crate) fn relu(x: f32) -> f32 {
    // Written so that what is no number stays none.
    select(x < 0.0f32, 0.0f32, x)
}

/// What is done to the sums of a matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`; what is not a number stays so.
    Relu,
}

impl Activation {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::QuickGelu => "quick_gelu",
            Activation::Relu => "relu",
        }
    }
}

/// `x` where there is nothing to do.
#[cube]
pub(crate) fn activate(x: f32, #[comptime] activation: Option<Activation>) -> f32 {
    if comptime!(activation == Some(Activation::Silu)) {
        silu(x)
    } else if comptime!(activation == Some(Activation::Gelu)) {
        gelu(x)
    } else if comptime!(activation == Some(Activation::QuickGelu)) {
        quick_gelu(x)
    } else if comptime!(activation == Some(Activation::Relu)) {
        relu(x)
    } else {
        x
    }
}

/// Whether a list is of words of two elements each, the first in the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Packed {
    /// One by one.
    No,
    /// Two bf16.
    BF16,
    /// Two f16.
    F16,
}

/// Element `index` of a list of `W`.
#[cube]
pub(crate) fn load<W: Numeric>(list: &[W], index: usize, #[comptime] packed: Packed) -> f32 {
    if comptime!(packed == Packed::No) {
        f32::cast_from(list[index])
    } else {
        let word = u32::cast_from(list[index / 2]);
        let odd = (index % 2) as u32;
        unpack(word >> (16u32 * odd), packed)
    }
}

/// The low half of `word`. The high half may hold anything.
#[cube]
pub(crate) fn unpack(word: u32, #[comptime] packed: Packed) -> f32 {
    if comptime!(packed == Packed::F16) { half_to_float(word) } else { f32::reinterpret(word << 16u32) }
}

/// The f16 in the low half of `word`: to the bit, whatever it is.
#[cube]
fn half_to_float(word: u32) -> f32 {
    let sign = (word & 0x8000u32) << 16u32;
    let magnitude = word & 0x7fffu32;
    // Another bias of the exponent; infinity and what is no number have the largest in both.
    let bias = select(magnitude < 0x7c00u32, 0x3800_0000u32, 0x7000_0000u32) + sign;
    let normal = (magnitude << 13u32) + bias;
    // Below the normal ones stand multiples of 2^-24, which are normal in f32.
    let small = u32::reinterpret(f32::cast_from(magnitude) * 5.960_464_5e-8f32) + sign;
    f32::reinterpret(select(magnitude < 0x0400u32, small, normal))
}

/// Sum over all units of the workgroup, the same in each. `scratch` has a place for every unit.
#[cube]
pub(crate) fn sum_all(value: f32, scratch: &mut [f32], #[comptime] units: u32) -> f32 {
    let unit = UNIT_POS;
    // The last result may still be read.
    sync_cube();
    scratch[unit as usize] = value;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width {
            scratch[unit as usize] += scratch[(unit + width) as usize];
        }
        sync_cube();
        width /= 2;
    }
    scratch[0]
}

/// Largest over all units of the workgroup, as [`sum_all`].
#[cube]
pub(crate) fn max_all(value: u32, scratch: &mut [u32], #[comptime] units: u32) -> u32 {
    let unit = UNIT_POS;
    sync_cube();
    scratch[unit as usize] = value;
    sync_cube();
    let mut width = comptime!(units / 2).runtime();
    while width > 0 {
        if unit < width {
            scratch[unit as usize] = max(scratch[unit as usize], scratch[(unit + width) as usize]);
        }
        sync_cube();
        width /= 2;
    }
    scratch[0]
}

/// The upper word of `a * b`, from halves: not every target multiplies to 64 bits.
#[cube]
pub(crate) fn mul_high(a: u32, b: u32) -> u32 {
    let (a0, a1) = (a & 0xffffu32, a >> 16u32);
    let (b0, b1) = (b & 0xffffu32, b >> 16u32);
    let low = a0 * b0;
    let cross = a1 * b0 + (low >> 16u32);
    let other = a0 * b1 + (cross & 0xffffu32);
    a1 * b1 + (cross >> 16u32) + (other >> 16u32)
}

/// Natural logarithm of a normal number above 0, to 1e-7 of its value: next to 1, a driver's own is off by 5e-7.
#[cube]
pub(crate) fn ln(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    // The mantissa is brought to between sqrt(1/2) and sqrt(2).
    let shifted = bits - 0x3f35_04f3u32;
    let exponent = f32::cast_from(i32::reinterpret(shifted) >> 23i32);
    let mantissa = f32::reinterpret((shifted & 0x007f_ffffu32) + 0x3f35_04f3u32);
    // ln 2 in two parts, the first of few bits.
    let small = ln_1p(mantissa - 1.0f32) - exponent * 2.121_944_4e-4f32;
    small + exponent * 0.693_359_4f32
}

/// `ln(1 + z)` for `z` between -0.3 and 0.42.
#[cube]
pub(crate) fn ln_1p(z: f32) -> f32 {
    let mut p = 7.037_683_6e-2f32 * z - 1.151_461e-1f32;
    p = p * z + 1.167_699_9e-1f32;
    p = p * z - 1.242_014_1e-1f32;
    p = p * z + 1.424_932_3e-1f32;
    p = p * z - 1.666_805_8e-1f32;
    p = p * z + 2.000_071_5e-1f32;
    p = p * z - 2.499_999_4e-1f32;
    p = p * z + 3.333_333e-1f32;
    let s = z * z;
    p * z * s - 0.5f32 * s + z
}
