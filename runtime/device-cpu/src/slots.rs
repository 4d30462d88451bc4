//! Which slots of the canvas are committed, and the random stream.

use crate::context::Context;
use crate::memory::Buf;
use crate::sampler::as_u32;
use dreamc_num::distribution::NO_TOKEN;
use dreamc_num::schedule::{transfer_count, transfer_share};
use dreamc_num::stream::{Lane, StreamState, gumbel, uniform};

/// The state that a `u32[4]` holds.
fn state(stream: &Buf) -> StreamState {
    StreamState::from_words(std::array::from_fn(|i| stream.get(i)))
}

/// Random bits for every position.
pub(crate) fn random_bits(stream: &Buf, lane: Lane, out: &Buf) {
    let (state, s) = (state(stream), out.columns());
    for i in 0..out.elements() {
        out.set(i, state.bits((i / s) as u32, (i % s) as u32, lane));
    }
}

/// The stream of the next step.
pub(crate) fn advance(stream: &Buf, out: &Buf) {
    let mut next = state(stream);
    next.step = next.step.wrapping_add(1);
    next.words().into_iter().enumerate().for_each(|(i, word)| out.set(i, word));
}

/// Where the token is `token`.
pub(crate) fn is_token(canvas: &Buf, token: u32, out: &Buf) {
    (0..out.elements()).for_each(|i| out.set(i, u8::from(canvas.get::<i32>(i) == token as i32)));
}

/// How many slots each row commits; if `joint`, row 0 has the count of all rows' slots together.
pub(crate) fn count(active: &Buf, step: u32, steps: u32, eps: f32, joint: bool, out: &Buf) {
    let (rows, s) = groups(active, joint);
    (rows..out.elements()).for_each(|row| out.set(row, 0_i32));
    for row in 0..rows {
        let masks = (0..s).filter(|p| active.get::<u8>(row * s + p) != 0).count();
        out.set(row, transfer_count(masks as u32, step, steps, eps) as i32);
    }
}

/// Rows and their slots: if `joint`, all slots are those of one row.
fn groups(active: &Buf, joint: bool) -> (usize, usize) {
    if joint { (1, active.elements()) } else { (active.rows(), active.columns()) }
}

/// Floats of the scratch that [`select`] needs for `slots` slots: a score and a place in the order for each.
pub(crate) fn need(slots: usize) -> usize {
    2 * slots
}

/// What [`select`] chooses by.
pub(crate) struct Choice<'c> {
    pub(crate) confidence: &'c Buf,
    pub(crate) active: &'c Buf,
    pub(crate) count: &'c Buf,
    pub(crate) alg_temp: f32,
    pub(crate) bits: &'c Buf,
    pub(crate) joint: bool,
}

/// The most confident active slots of each row, or of all rows together.
pub(crate) fn select(context: &Context<'_>, choice: &Choice<'_>, out: &Buf) {
    let Choice { confidence, active, count, alg_temp, bits, joint } = *choice;
    let (rows, s) = groups(active, joint);
    let scratch = context.shared(need(rows * s));
    context.pool.run(rows, &|row, _| {
        // SAFETY: inside the scratch, whose size was just checked; the part of this row, which one task works on.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch.get().add(need(row * s)), need(s)) };
        let (scores, order) = scratch.split_at_mut(s);
        let order = as_u32(order);
        let mut slots = 0;
        for (p, score) in scores.iter_mut().enumerate() {
            let at = row * s + p;
            out.set(at, 0_u8);
            if active.get::<u8>(at) != 0 {
                let conf = confidence.get::<f32>(at);
                *score = if alg_temp > 0.0 { conf / alg_temp + gumbel(bits.get(at)) } else { conf };
                order[slots] = p as u32;
                slots += 1;
            }
        }
        let order = &mut order[..slots];
        // Adding 0 makes the two zeros equal.
        let score = |p: &u32| scores[*p as usize] + 0.0;
        order.sort_unstable_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        let count = |row: usize| usize::try_from(count.get::<i32>(row)).unwrap_or(0);
        let all = if joint { 0..active.rows() } else { row..row + 1 };
        let k = all.map(count).fold(0, usize::saturating_add);
        order.iter().take(k).for_each(|p| out.set(row * s + *p as usize, 1_u8));
    });
}

/// Each active slot with the step's share as probability.
pub(crate) fn origin(active: &Buf, step: u32, steps: u32, eps: f32, bits: &Buf, out: &Buf) {
    let share = transfer_share(step, steps, eps);
    for i in 0..out.elements() {
        out.set(i, u8::from(active.get::<u8>(i) != 0 && uniform(bits.get(i)) < share));
    }
}

/// Whether slot `i` is written: it is selected, or its row has no token.
pub(crate) fn commits(select: &Buf, token: &Buf, i: usize) -> bool {
    select.get::<u8>(i) != 0 || token.get::<i32>(i) == NO_TOKEN
}

/// The token where selected, else what the canvas holds.
pub(crate) fn commit(select: &Buf, token: &Buf, canvas: &Buf, out: &Buf) {
    for i in 0..out.elements() {
        let from = if commits(select, token, i) { token } else { canvas };
        out.set(i, from.get::<i32>(i));
    }
}
