//! The open slots of the canvas: where they are, and what is read and written there.

use crate::memory::Buf;
use crate::rows::pick;
use crate::slots::commits;
use dreamc_num::stream::{Lane, StreamState};
use dreamc_runtime::DeviceError;

/// Positions of `token` in each row, the first ones; position 0 and not open behind them.
pub(crate) fn find(canvas: &Buf, token: u32, slots: &Buf, open: &Buf) {
    let (s, k) = (canvas.columns(), slots.columns());
    for row in 0..canvas.rows() {
        let mut found = 0;
        for p in 0..s {
            if found < k && canvas.get::<i32>(row * s + p) == token as i32 {
                slots.set(row * k + found, p as i32);
                open.set(row * k + found, 1_u8);
                found += 1;
            }
        }
        for i in row * k + found..(row + 1) * k {
            slots.set(i, 0_i32);
            open.set(i, 0_u8);
        }
    }
}

/// The row whose logits each slot reads.
pub(crate) fn read_rows(slots: &Buf, before: u32, out: &Buf) {
    let row = |p: i32| p.saturating_sub(1).max(0).saturating_add_unsigned(before);
    (0..out.elements()).for_each(|i| out.set(i, row(slots.get(i))));
}

/// Random bits for the position of each slot.
pub(crate) fn bits(slots: &Buf, stream: &Buf, lane: Lane, out: &Buf) {
    let (state, k) = (StreamState::from_words(std::array::from_fn(|i| stream.get(i))), out.columns());
    for i in 0..out.elements() {
        out.set(i, state.bits((i / k) as u32, slots.get::<i32>(i) as u32, lane));
    }
}

/// The element of `x` at each slot.
pub(crate) fn take(x: &Buf, slots: &Buf, out: &Buf) -> Result<(), DeviceError> {
    (0..out.elements()).try_for_each(|i| {
        out.set(i, x.get::<i32>(place(slots, i, x)?));
        Ok(())
    })
}

/// The token at each slot that is selected, else what the canvas holds.
pub(crate) fn commit(
    select: &Buf,
    token: &Buf,
    slots: &Buf,
    canvas: &Buf,
    out: &Buf,
) -> Result<(), DeviceError> {
    (0..slots.elements()).try_for_each(|i| place(slots, i, canvas).map(|_| ()))?;
    (0..out.elements()).for_each(|i| out.set(i, canvas.get::<i32>(i)));
    (0..slots.elements()).filter(|i| commits(select, token, *i)).try_for_each(|i| {
        out.set(place(slots, i, canvas)?, token.get::<i32>(i));
        Ok(())
    })
}

/// The element of `x` that slot `i` stands for.
fn place(slots: &Buf, i: usize, x: &Buf) -> Result<usize, DeviceError> {
    let s = x.columns();
    Ok(i / slots.columns() * s + pick(slots.get(i), s)?)
}
