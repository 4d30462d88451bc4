//! What several families compute.

use cubecl::prelude::*;

/// Units of the workgroups that work along rows or over a flat range. Every device has as many.
pub(crate) const UNITS: u32 = 256;

/// `x * sigmoid(x)`.
#[cube]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0f32 + f32::exp(-x))
}

/// Element `index` of a list of `W`; with `packed`, of words of two bf16 each, the first in the low half.
#[cube]
pub(crate) fn load<W: Numeric>(list: &[W], index: usize, #[comptime] packed: bool) -> f32 {
    if comptime!(packed) {
        let word = u32::cast_from(list[index / 2]);
        let odd = (index % 2) as u32;
        f32::reinterpret((word >> (16u32 * odd)) << 16u32)
    } else {
        f32::cast_from(list[index])
    }
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
pub(crate) fn max_all(value: f32, scratch: &mut [f32], #[comptime] units: u32) -> f32 {
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
