//! The distribution that a token is drawn from: temperature, top-p and top-k, by bisection.
//!
//! See [`Sampler::SamplingProbs`](crate::Sampler::SamplingProbs).

use crate::greedy::place;
use crate::math::UNITS;
use crate::slots::order;
use cubecl::prelude::*;
use dreamc_num::distribution::NO_DISTRIBUTION;

/// What a reduction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fold {
    /// Adds.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// A number of every unit becomes one, the same in each. `scratch` has a word for every unit.
#[cube]
pub(crate) fn fold(value: f32, scratch: &mut [u32], #[comptime] fold: Fold) -> f32 {
    let unit = UNIT_POS_X;
    // The last result may still be read.
    sync_cube();
    scratch[unit as usize] = u32::reinterpret(value);
    sync_cube();
    let mut width = comptime!(UNITS / 2).runtime();
    while width > 0 {
        if unit < width {
            let a = f32::reinterpret(scratch[unit as usize]);
            let b = f32::reinterpret(scratch[(unit + width) as usize]);
            let both = if comptime!(fold == Fold::Sum) {
                a + b
            } else if comptime!(fold == Fold::Max) {
                max(a, b)
            } else {
                min(a, b)
            };
            scratch[unit as usize] = u32::reinterpret(both);
        }
        sync_cube();
        width /= 2;
    }
    f32::reinterpret(scratch[0])
}

/// The probability or number of the entries that stand before one with this key.
#[cube]
fn before(
    y: &mut [f32],
    start: u32,
    end: u32,
    temperature: f32,
    shift: f32,
    largest: f32,
    key: u32,
    scratch: &mut [u32],
    #[comptime] counted: bool,
) -> f32 {
    let mut own = 0.0f32;
    let mut i = start + UNIT_POS_X;
    while i < end {
        let z = scaled(y[i as usize] - shift, temperature);
        if order(z) > key {
            if comptime!(counted) {
                own += 1.0f32;
            } else {
                own += f32::exp(z - largest);
            }
        }
        i += UNITS;
    }
    fold(own, scratch, Fold::Sum)
}

/// Whether a request asks for top-p or top-k.
#[cube]
pub(crate) fn is_filter(top_p: f32, top_k: i32, columns: u32) -> bool {
    is_top_p(top_p) || is_top_k(top_k, columns)
}

#[cube]
fn is_top_p(top_p: f32) -> bool {
    top_p > 0.0f32 && top_p < 1.0f32
}

#[cube]
fn is_top_k(top_k: i32, columns: u32) -> bool {
    top_k > 0 && u32::cast_from(top_k) < columns
}

/// Whether a number is infinite or none. In integers: a GPU's compiler may take floats for finite.
#[cube]
pub(crate) fn is_infinite(x: f32) -> bool {
    u32::reinterpret(x) & 0x7fff_ffffu32 >= 0x7f80_0000u32
}

/// A logit over the temperature; -0 becomes 0.
#[cube]
fn scaled(x: f32, temperature: f32) -> f32 {
    let mut z = x;
    if temperature > 0.0f32 {
        z = x / temperature;
    }
    select(z == 0.0f32, 0.0f32, z)
}

/// The lowest key of which something is kept by top-p, and the last id of just this key that is.
#[cube]
fn top_p_edge(
    y: &mut [f32],
    start: u32,
    end: u32,
    columns: u32,
    temperature: f32,
    shift: f32,
    largest: f32,
    top_p: f32,
    scratch: &mut [u32],
) -> (u32, u32) {
    let total = before(y, start, end, temperature, shift, largest, 0u32, scratch, false);
    let limit = top_p * total;
    let mut key = 0u32;
    let mut bit = 0x8000_0000u32.runtime();
    while bit > 0 {
        // The lowest key is above this one if too much stands before all keys up to it.
        let tried = key + (bit - 1);
        let mass = before(y, start, end, temperature, shift, largest, tried, scratch, false);
        if mass > limit {
            key += bit;
        }
        bit /= 2;
    }
    // Entries of just this key: as many as still fit, those of the lowest ids.
    let mass = before(y, start, end, temperature, shift, largest, key, scratch, false);
    let mut equal = 0.0f32;
    let mut each = 0.0f32;
    let mut i = start + UNIT_POS_X;
    while i < end {
        let z = scaled(y[i as usize] - shift, temperature);
        if order(z) == key {
            equal += 1.0f32;
            each = f32::exp(z - largest);
        }
        i += UNITS;
    }
    let equal = fold(equal, scratch, Fold::Sum);
    let each = fold(each, scratch, Fold::Max);
    let mut fitting = equal;
    if each > 0.0f32 {
        fitting = min(equal, f32::floor((limit - mass) / each) + 1.0f32);
    }
    let tied_end = select(fitting < equal, end, start);
    // The end of the ids that are kept: the lowest below which `fitting` stand.
    let mut last = 0u32;
    let mut bit = 0x0080_0000u32.runtime();
    while bit > 0 {
        let tried = last + (bit - 1);
        let mut own = 0.0f32;
        let mut i = start + UNIT_POS_X;
        while i < tied_end {
            if i - start <= tried && order(scaled(y[i as usize] - shift, temperature)) == key {
                own += 1.0f32;
            }
            i += UNITS;
        }
        if fold(own, scratch, Fold::Sum) < fitting {
            last += bit;
        }
        bit /= 2;
    }
    (key, select(fitting < equal, last, columns))
}

/// The highest key from which on at least `top_k` stand; below it, nothing is kept.
#[cube]
fn top_k_edge(
    y: &mut [f32],
    start: u32,
    end: u32,
    temperature: f32,
    shift: f32,
    largest: f32,
    top_k: i32,
    scratch: &mut [u32],
) -> u32 {
    let mut key = 0u32;
    let mut bit = 0x8000_0000u32.runtime();
    while bit > 0 {
        let tried = key + bit;
        let count = before(y, start, end, temperature, shift, largest, tried - 1, scratch, true);
        if count >= f32::cast_from(top_k) && top_k > 0 {
            key = tried;
        }
        bit /= 2;
    }
    key
}

#[cube(launch_unchecked)]
pub(crate) fn sampling_probs(
    y: &mut [f32],
    active: &[u32],
    temperature: &[f32],
    top_p: &[f32],
    top_k: &[i32],
    statistics: ComptimeOption<Box<[f32]>>,
    rows: u32,
    columns: u32,
) {
    let mut scratch = Shared::<[u32]>::new_slice(UNITS as usize);
    let temperature = temperature[0];
    let top_p = top_p[0];
    let top_k = top_k[0];
    let mut row = CUBE_POS_X;
    while row < rows {
        if comptime!(statistics.is_some()) {
            let statistics = statistics.as_ref().unwrap();
            if active[row as usize] != 0 && statistics[place(row, 0u32) + 3] == 0.0f32 {
                distribute(y, row, columns, columns, temperature, top_p, top_k, &mut scratch, true);
            }
        } else {
            // All units meet at every exchange, so what is not needed is an empty range and not a branch.
            let length = select(active[row as usize] != 0, columns, 0u32);
            distribute(y, row, columns, length, temperature, top_p, top_k, &mut scratch, false);
        }
        row += CUBE_COUNT_X;
    }
}

/// A row's distribution, of its first `length` columns. `branches`: whether what is not asked for may be passed over.
#[cube]
fn distribute(
    y: &mut [f32],
    row: u32,
    columns: u32,
    length: u32,
    temperature: f32,
    top_p: f32,
    top_k: i32,
    scratch: &mut [u32],
    #[comptime] branches: bool,
) {
    let start = row * columns;
    let end = start + length;
    let mut own = f32::new(-3.402_823_5e38);
    let mut bad = 0.0f32;
    let mut i = start + UNIT_POS_X;
    while i < end {
        let x = y[i as usize];
        own = max(own, x);
        bad = select(is_infinite(x), 1.0f32, bad);
        i += UNITS;
    }
    let highest = fold(own, scratch, Fold::Max);
    let bad = fold(bad, scratch, Fold::Max);
    // As `dreamc_num::distribution::overflow_shift`.
    let overflows = temperature > 0.0f32 && is_infinite(highest / temperature);
    let shift = select(overflows, highest, 0.0f32);
    let largest = scaled(highest - shift, temperature);

    let mut p_key = 0u32;
    let mut last = columns;
    let mut k_key = 0u32;
    if comptime!(branches) {
        if is_top_p(top_p) {
            let edge = top_p_edge(y, start, end, columns, temperature, shift, largest, top_p, scratch);
            p_key = edge.0;
            last = edge.1;
        }
        if is_top_k(top_k, columns) {
            k_key = top_k_edge(y, start, end, temperature, shift, largest, top_k, scratch);
        }
    } else {
        let p_end = select(is_top_p(top_p), end, start);
        let edge = top_p_edge(y, start, p_end, columns, temperature, shift, largest, top_p, scratch);
        p_key = edge.0;
        last = edge.1;
        let k_end = select(is_top_k(top_k, columns), end, start);
        k_key = top_k_edge(y, start, k_end, temperature, shift, largest, top_k, scratch);
    }

    let mut own = 0.0f32;
    let mut i = start + UNIT_POS_X;
    while i < end {
        let z = scaled(y[i as usize] - shift, temperature);
        let key = order(z);
        let kept = key >= k_key && (key > p_key || (key == p_key && i - start <= last));
        let weight = select(kept, f32::exp(z - largest), 0.0f32);
        y[i as usize] = weight;
        own += weight;
        i += UNITS;
    }
    let total = fold(own, scratch, Fold::Sum);
    let sound = bad == 0.0f32;
    let mut i = start + UNIT_POS_X;
    while i < end {
        y[i as usize] = select(sound, y[i as usize] / total, f32::new(NO_DISTRIBUTION));
        i += UNITS;
    }
}
