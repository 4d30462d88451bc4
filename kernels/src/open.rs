//! The open slots of a canvas: where they are, and what is read and written there.
//!
//! Slots are positions, i32 `[rows, slots]`. Conditions are u32 words, 0 or 1. A slot outside of its row reads 0 and writes
//! nothing.
#![allow(
    clippy::collapsible_if,
    reason = "in a kernel both sides of `&&` are computed, also where there is no element"
)]

use crate::emit::{Element, Extent};
use crate::kernel::floats;
use crate::math::UNITS;
use crate::record::Recorder;
use crate::slots::philox;
use cubecl::prelude::*;
use dreamc_num::distribution::NO_TOKEN;
use dreamc_num::stream::Lane;

/// A kernel on open slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Open {
    /// Buffers `canvas` i32 `[rows, positions]`, `slots` i32, `open` bool `[rows, slots]`: positions of `token`, ascending, the
    /// first of each row; 0 and not open behind them. Every position counts those before it: as many reads as positions
    /// squared. Scalars `rows`, `positions`, `count` (slots of a row), `token`.
    Find,
    /// Buffers `slots` i32, `y` i32: `max(p - 1, 0) + before`; scalars `elements`, `before`.
    ReadRows,
    /// Buffers `slots` i32, `stream` u32 `[4]`, `y` u32: the bits of `dreamc_num::stream` at these positions, exactly; scalars
    /// `elements`, `count`.
    Bits(Lane),
    /// Buffers `x` i32 `[rows, positions]`, `slots` i32, `y` i32: the elements there; scalars `elements`, `count`, `positions`.
    Take,
    /// Buffers `select` bool, `token` i32, `slots` i32, `y` i32 `[rows, positions]`, the canvas: `token` at the slots selected,
    /// and wherever it is [`NO_TOKEN`]; scalars `elements`, `count`, `positions`.
    Commit,
}

impl Open {
    pub(crate) fn name(self) -> String {
        match self {
            Open::Find => "i32_open_slots_counted".into(),
            Open::ReadRows => "i32_read_rows_flat".into(),
            Open::Bits(lane) => format!("u32_slot_bits_{}", lane.name()),
            Open::Take => "i32_take_slots_flat".into(),
            Open::Commit => "i32_commit_slots_inplace".into(),
        }
    }

    pub(crate) fn launch(self, r: &Recorder) {
        let one = Extent::Constant(1);
        let flat = [Extent::Ceil { of: "elements", per: UNITS, any: true }, one, one];
        let units = CubeDim::new_1d(UNITS);
        match self {
            Open::Find => floats!(() => find::launch_unchecked(
                r.client(),
                r.grid([Extent::Ceil { of: "positions", per: UNITS, any: true }, Extent::each("rows"), one]),
                units,
                r.buffer("canvas", Element::I32),
                r.buffer("slots", Element::I32),
                r.buffer("open", Element::Bool),
                r.int("rows"),
                r.int("positions"),
                r.int("count"),
                r.int("token"),
            )),
            Open::ReadRows => floats!(() => read_rows::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("slots", Element::I32),
                r.buffer("y", Element::I32),
                r.int("elements"),
                r.int("before"),
            )),
            Open::Bits(lane) => floats!(() => bits::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("slots", Element::I32),
                r.buffer("stream", Element::U32),
                r.buffer("y", Element::U32),
                r.int("elements"),
                r.int("count"),
                lane.word(),
            )),
            Open::Take => floats!(() => take::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("x", Element::I32),
                r.buffer("slots", Element::I32),
                r.buffer("y", Element::I32),
                r.int("elements"),
                r.int("count"),
                r.int("positions"),
            )),
            Open::Commit => floats!(() => commit::launch_unchecked(
                r.client(),
                r.grid(flat),
                units,
                r.buffer("select", Element::Bool),
                r.buffer("token", Element::I32),
                r.buffer("slots", Element::I32),
                r.buffer("y", Element::I32),
                r.int("elements"),
                r.int("count"),
                r.int("positions"),
            )),
        }
    }
}

#[cube(launch_unchecked)]
fn find(
    canvas: &[i32],
    slots: &mut [i32],
    open: &mut [u32],
    rows: u32,
    positions: u32,
    count: u32,
    token: u32,
) {
    let row = CUBE_POS_Y;
    let start = row * positions;
    let mut p = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    // Units behind the last position have slots to close, should there be more of them.
    let end = select(row < rows, max(positions, count), 0u32);
    while p < end {
        let mut before = 0u32;
        let mut all = 0u32;
        for i in 0..positions {
            if u32::cast_from(canvas[(start + i) as usize]) == token {
                all += 1u32;
                before += select(i < p, 1u32, 0u32);
            }
        }
        if p < positions {
            if u32::cast_from(canvas[(start + p) as usize]) == token && before < count {
                slots[(row * count + before) as usize] = i32::cast_from(p);
                open[(row * count + before) as usize] = 1u32;
            }
        }
        if p >= all && p < count {
            slots[(row * count + p) as usize] = 0i32;
            open[(row * count + p) as usize] = 0u32;
        }
        p += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn read_rows(slots: &[i32], y: &mut [i32], elements: u32, before: u32) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        y[i as usize] = max(slots[i as usize], 1i32) - 1i32 + i32::cast_from(before);
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn bits(slots: &[i32], stream: &[u32], y: &mut [u32], elements: u32, count: u32, #[comptime] lane: u32) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        let position = u32::cast_from(slots[i as usize]);
        y[i as usize] = philox(position, stream[2] + i / count, stream[3], lane, stream[0], stream[1]);
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn take(x: &[i32], slots: &[i32], y: &mut [i32], elements: u32, count: u32, positions: u32) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        let p = u32::cast_from(slots[i as usize]);
        let mut value = 0i32;
        if p < positions {
            value = x[(i / count * positions + p) as usize];
        }
        y[i as usize] = value;
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn commit(
    chosen: &[u32],
    token: &[i32],
    slots: &[i32],
    y: &mut [i32],
    elements: u32,
    count: u32,
    positions: u32,
) {
    let mut i = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while i < elements {
        let p = u32::cast_from(slots[i as usize]);
        let commits = chosen[i as usize] != 0 || token[i as usize] == NO_TOKEN;
        if commits && p < positions {
            y[(i / count * positions + p) as usize] = token[i as usize];
        }
        i += CUBE_DIM_X * CUBE_COUNT_X;
    }
}
