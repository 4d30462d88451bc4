//! The canvas: which slots are masked, which are committed, and the random stream.
//!
//! Conditions are u32 words, 0 or 1. What a request may set (`alg_temp`, `joint`) and the loop's number lie in buffers of
//! one element; what the schedule says for each step (`shares`) in a buffer that is computed at build time by
//! `dreamc_num::schedule`, so that all devices agree to the bit.

use crate::emit::{Element, Extent};
use crate::kernel::floats;
use crate::math::{UNITS, ln, ln_1p, mul_high, sum_all};
use crate::record::Recorder;
use cubecl::prelude::*;
use dreamc_num::distribution::NO_TOKEN;
use dreamc_num::stream::Lane;

/// A kernel on slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slots {
    /// Buffers `canvas` i32, `y` bool: where the canvas holds `token`; scalars `elements`, `token`.
    IsToken,
    /// Buffers `stream` u32 `[4]`, `y` u32 `[B, S]`: the bits of `dreamc_num::stream`, exactly; scalars `elements` (`B *
    /// S`), `positions` (S).
    RandomBits(Lane),
    /// Buffer `y` u32 `[4]`: the stream, of the next step afterwards.
    AdvanceStream,
    /// Buffers `select` bool, `token` i32, `y` i32, the canvas: `token` where selected, and wherever it is [`NO_TOKEN`]; scalar `elements`.
    Commit,
    /// Buffers `active` bool `[B, S]`, `index` i32 `[1]`, `joint` i32 `[1]`, `shares` f32 `[steps]`, `y` i32 `[B]`: the number
    /// of active slots times the step's share, in f32, rounded down; all at the last step; with `joint` those of all
    /// rows, in row 0. Scalars `rows`, `positions`, `steps`.
    TransferCount,
    /// Buffers `active` bool, `index` i32 `[1]`, `bits` u32, `shares` f32 `[steps]`, `y` bool: each active slot with the
    /// step's share as probability; scalar `elements`.
    OriginSlots,
    /// Buffers `confidence` f32 `[B, S]`, `active` bool, `count` i32 `[B]`, `alg_temp` f32 `[1]`, `bits` u32, `joint` i32
    /// `[1]`, `y` bool: the `count` most confident active slots of each row, or with `joint` of all rows; lowest position on
    /// a tie. With `alg_temp` above 0 by `confidence / alg_temp` plus a Gumbel variate, which is f32 here and may differ
    /// in its last bits from the interpreter's. Every slot counts those before it: as many comparisons as slots squared.
    /// Scalars `rows`, `positions`.
    SelectSlots,
}

impl Slots {
    pub(crate) fn name(self) -> String {
        match self {
            Slots::IsToken => "i32_is_token_flat".into(),
            Slots::RandomBits(lane) => format!("u32_random_bits_{}", lane.name()),
            Slots::AdvanceStream => "u32_advance_stream_inplace".into(),
            Slots::Commit => "i32_commit_inplace".into(),
            Slots::TransferCount => "bool_transfer_count_rowwise".into(),
            Slots::OriginSlots => "bool_origin_slots_flat".into(),
            Slots::SelectSlots => "f32_select_slots_ranked".into(),
        }
    }

    pub(crate) fn launch(self, r: &Recorder) {
        let one = Extent::Constant(1);
        let flat = [Extent::Ceil { of: "elements", per: UNITS, any: true }, one, one];
        let units = CubeDim::new_1d(UNITS);
        match self {
            Slots::IsToken => floats!(() => is_token::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("canvas", Element::I32),
                r.buffer("y", Element::Bool),
                r.int("elements"),
                r.int("token"),
            )),
            Slots::RandomBits(lane) => floats!(() => random_bits::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("stream", Element::U32),
                r.buffer("y", Element::U32),
                r.int("elements"),
                r.int("positions"),
                lane.word(),
            )),
            Slots::AdvanceStream => floats!(() => advance_stream::launch_unchecked(
                r.client(),
                r.grid([one; 3]),
                CubeDim::new_1d(1),
                r.buffer("y", Element::U32),
            )),
            Slots::Commit => floats!(() => commit::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("select", Element::Bool),
                r.buffer("token", Element::I32),
                r.buffer("y", Element::I32),
                r.int("elements"),
            )),
            Slots::TransferCount => floats!(() => transfer_count::launch_unchecked(
                r.client(),
                r.grid([Extent::each("rows"), one, one]),
                units,
                r.buffer("active", Element::Bool),
                r.buffer("index", Element::I32),
                r.buffer("joint", Element::I32),
                r.buffer("shares", Element::F32),
                r.buffer("y", Element::I32),
                r.int("rows"),
                r.int("positions"),
                r.int("steps"),
            )),
            Slots::OriginSlots => floats!(() => origin_slots::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("active", Element::Bool),
                r.buffer("index", Element::I32),
                r.buffer("bits", Element::U32),
                r.buffer("shares", Element::F32),
                r.buffer("y", Element::Bool),
                r.int("elements"),
            )),
            Slots::SelectSlots => floats!(() => select_slots::launch_unchecked(
                r.client(),
                r.grid([Extent::Ceil { of: "positions", per: UNITS, any: true }, Extent::each("rows"), one]),
                units,
                r.buffer("confidence", Element::F32),
                r.buffer("active", Element::Bool),
                r.buffer("count", Element::I32),
                r.buffer("alg_temp", Element::F32),
                r.buffer("bits", Element::U32),
                r.buffer("joint", Element::I32),
                r.buffer("y", Element::Bool),
                r.int("rows"),
                r.int("positions"),
            )),
        }
    }
}

#[cube(launch_unchecked)]
fn is_token(canvas: &[i32], y: &mut [u32], elements: u32, token: u32) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        y[i as usize] = select(u32::cast_from(canvas[i as usize]) == token, 1u32, 0u32);
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn random_bits(stream: &[u32], y: &mut [u32], elements: u32, positions: u32, #[comptime] lane: u32) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        let row = stream[2] + i / positions;
        y[i as usize] = philox(i % positions, row, stream[3], lane, stream[0], stream[1]);
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

/// The first word of Philox4x32-10.
#[cube]
pub(crate) fn philox(c0: u32, c1: u32, c2: u32, #[comptime] lane: u32, k0: u32, k1: u32) -> u32 {
    let mut c0 = c0;
    let mut c1 = c1;
    let mut c2 = c2;
    let mut c3 = lane.runtime();
    let mut k0 = k0;
    let mut k1 = k1;
    for _ in 0..10u32 {
        let p0 = 0xD251_1F53u32 * c0;
        let p1 = 0xCD9E_8D57u32 * c2;
        let n0 = mul_high(0xCD9E_8D57u32, c2) ^ c1 ^ k0;
        let n2 = mul_high(0xD251_1F53u32, c0) ^ c3 ^ k1;
        c0 = n0;
        c1 = p1;
        c2 = n2;
        c3 = p0;
        k0 += 0x9E37_79B9u32;
        k1 += 0xBB67_AE85u32;
    }
    c0
}

#[cube(launch_unchecked)]
fn advance_stream(y: &mut [u32]) {
    if UNIT_POS_X == 0 {
        y[3] += 1u32;
    }
}

#[cube(launch_unchecked)]
fn commit(chosen: &[u32], token: &[i32], y: &mut [i32], elements: u32) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        if chosen[i as usize] != 0 || token[i as usize] == NO_TOKEN {
            y[i as usize] = token[i as usize];
        }
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn transfer_count(
    active: &[u32],
    index: &[i32],
    joint: &[i32],
    shares: &[f32],
    y: &mut [i32],
    rows: u32,
    positions: u32,
    steps: u32,
) {
    let mut scratch = Shared::<[f32]>::new_slice(UNITS as usize);
    let row = CUBE_POS_X;
    let start = row * positions;
    let mut end = start + positions;
    if joint[0] != 0 {
        end = select(row == 0, rows * positions, start);
    }
    let mut i = start + UNIT_POS_X;
    // A sum of ones, exact below 2^24.
    let mut own = 0.0f32;
    while i < end {
        own += f32::cast_from(active[i as usize]);
        i += UNITS;
    }
    let masks = sum_all(own, &mut scratch, UNITS);
    if UNIT_POS_X == 0 {
        let step = u32::cast_from(index[0]);
        let mut count = masks;
        if step + 1 < steps {
            count = masks * shares[step as usize];
        }
        y[row as usize] = i32::cast_from(count);
    }
}

#[cube(launch_unchecked)]
fn origin_slots(active: &[u32], index: &[i32], bits: &[u32], shares: &[f32], y: &mut [u32], elements: u32) {
    let share = shares[index[0] as usize];
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        let uniform = f32::cast_from(bits[i as usize] >> 8u32) * 5.960_464_5e-8f32;
        y[i as usize] = select(active[i as usize] != 0 && uniform < share, 1u32, 0u32);
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

/// `-ln(-ln(u))`, `u = (upper 24 bits + 1/2) / 2^24`.
#[cube]
fn gumbel(bits: u32) -> f32 {
    let k = bits >> 8u32;
    // Next to 1, `u` is not an f32, but what is missing to 1 is.
    let missing = (f32::cast_from(0x0100_0000u32 - k) - 0.5f32) * 5.960_464_5e-8f32;
    let mut inner = -ln_1p(-min(missing, 0.25f32));
    if missing >= 0.25f32 {
        inner = -ln((f32::cast_from(k) + 0.5f32) * 5.960_464_5e-8f32);
    }
    -ln(inner)
}

/// An integer of the same order as the numbers, as `total_cmp` has it.
#[cube]
pub(crate) fn order(x: f32) -> u32 {
    let bits = u32::reinterpret(x);
    select(bits >> 31u32 == 1u32, bits ^ 0xffff_ffffu32, bits | 0x8000_0000u32)
}

#[cube]
fn score(confidence: f32, bits: u32, alg_temp: f32) -> u32 {
    let mut value = confidence;
    if alg_temp > 0.0f32 {
        value = confidence / alg_temp + gumbel(bits);
    }
    // -0 ties with 0.
    order(select(value == 0.0f32, 0.0f32, value))
}

#[cube(launch_unchecked)]
fn select_slots(
    confidence: &[f32],
    active: &[u32],
    count: &[i32],
    alg_temp: &[f32],
    bits: &[u32],
    joint: &[i32],
    y: &mut [u32],
    rows: u32,
    positions: u32,
) {
    let row = CUBE_POS_Y;
    let alg_temp = alg_temp[0];
    let mut start = row * positions;
    let mut end = start + positions;
    let mut wanted = u32::cast_from(count[row as usize]);
    if joint[0] != 0 {
        start = 0u32;
        end = rows * positions;
        wanted = 0u32;
        for i in 0..rows {
            wanted += u32::cast_from(count[i as usize]);
        }
    }
    let mut p = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while p < positions {
        let own = row * positions + p;
        let mut chosen = 0u32;
        if active[own as usize] != 0 {
            let own_score = score(confidence[own as usize], bits[own as usize], alg_temp);
            let mut before = 0u32;
            for i in start..end {
                if active[i as usize] != 0 {
                    let other = score(confidence[i as usize], bits[i as usize], alg_temp);
                    if other > own_score || (other == own_score && i < own) {
                        before += 1u32;
                    }
                }
            }
            chosen = select(before < wanted, 1u32, 0u32);
        }
        y[own as usize] = chosen;
        p += CUBE_DIM_X * CUBE_COUNT_X;
    }
}
