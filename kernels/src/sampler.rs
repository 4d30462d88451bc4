//! From logits to tokens: the distribution, the draw, the confidence.
//!
//! Logits and probabilities are f32 `[rows, columns]`, rows being all positions of all requests; a workgroup per row, and
//! a row that is not active costs nothing but the launch. What a request may set lies in buffers of one element.
//! Made for 152064 columns.

use crate::distribution::{Fold, fold, sampling_probs};
use crate::emit::{Element, Extent};
use crate::greedy::{certain, chosen, place, summary};
use crate::kernel::floats;
use crate::math::{UNITS, ln, mul_high};
use crate::record::Recorder;
use cubecl::prelude::*;
use dreamc_num::distribution::NO_TOKEN;

/// A kernel on logits or probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sampler {
    /// Buffers `y` f32, the logits, `penalty` f32 `[1]`, `index` i32 `[1]`, `factors` f32 `[steps]`: adds `penalty *
    /// factors[index]` to column `token`. The factors are computed at build time. Scalars `rows`, `columns`, `token`.
    EosPenalty,
    /// Buffers `y` f32, the logits, `marks` i32 `[rows]`: where the mark is not negative, every column but `first..first +
    /// length` becomes the lowest finite number. Scalars `rows`, `columns`, `first`, `length`.
    KeepTokens,
    /// Buffers `y` f32, the logits, `active` bool `[rows]`, `temperature` f32 `[1]`, `top_p` f32 `[1]`, `top_k` i32 `[1]`: what
    /// a token is drawn from, or [`NO_DISTRIBUTION`](dreamc_num::distribution) where a logit is not finite. Rows
    /// not active stay. Scalars `rows`, `columns`.
    ///
    /// Thresholds are found by bisection over the bits of a number: 32 passes for each filter that is asked for, and one
    /// for each bit of a column where equal logits lie on the edge of `top_p`. No row is sorted. Sums of probabilities are
    /// f32 in a tree: where they come within 1e-6 of `top_p`, one more or one fewer token may be kept than by the
    /// interpreter.
    ///
    /// With [`Behind::Greedy`] also `statistics`: greedy rows stay as they are, and filters that are not asked for cost nothing.
    SamplingProbs(Behind),
    /// Buffers `probs` f32, `active` bool, `temperature` f32 `[1]`, `bits` u32 `[rows]`, `y` i32 `[rows]`: the most probable
    /// token, lowest id on a tie, or a draw with the integer weights of `dreamc_num::stream`, exactly; -1 where not
    /// active, [`NO_TOKEN`] where the row is no distribution. Column 0 is the token `first`. Scalars `rows`, `columns`, `first`.
    ///
    /// With [`Behind::Greedy`] also `statistics` and `candidates`, by which greedy rows go.
    DrawToken(Behind),
    /// Buffers `probs` f32, `active` bool, `token` i32 `[rows]`, `y` f32 `[rows]`; 0 where not active or no
    /// distribution. Scalars `rows`, `columns`.
    ///
    /// With [`Behind::Greedy`] also `statistics` and `candidates`, by which greedy rows go.
    Confidence(Confidence, Behind),
}

/// What has been looked at before a kernel of the sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behind {
    /// Nothing.
    Nothing,
    /// The rows of greedy requests, by [`Greedy`](crate::Greedy).
    Greedy,
}

/// How certain a drawn token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    /// Its probability.
    Probability,
    /// Largest minus second largest probability.
    Margin,
    /// `sum p * ln(p + 1e-10)`.
    NegativeEntropy,
}

impl Confidence {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Confidence::Probability => "probability",
            Confidence::Margin => "margin",
            Confidence::NegativeEntropy => "entropy",
        }
    }
}

impl Behind {
    fn name(self) -> &'static str {
        match self {
            Behind::Nothing => "",
            Behind::Greedy => "_behind_greedy",
        }
    }
}

impl Sampler {
    pub(crate) fn name(self) -> String {
        match self {
            Sampler::EosPenalty => "f32_eos_penalty_inplace".into(),
            Sampler::KeepTokens => "f32_keep_tokens_inplace".into(),
            Sampler::SamplingProbs(behind) => format!("f32_sampling_probs_bisected{}", behind.name()),
            Sampler::DrawToken(behind) => format!("f32_draw_token_rowwise{}", behind.name()),
            Sampler::Confidence(kind, behind) => format!("f32_confidence_{}{}", kind.name(), behind.name()),
        }
    }

    pub(crate) fn launch(self, r: &Recorder) {
        let one = Extent::Constant(1);
        let by_row = [Extent::Ceil { of: "rows", per: 1, any: true }, one, one];
        let units = CubeDim::new_1d(UNITS);
        let parts = |behind, name| (behind == Behind::Greedy).then(|| r.buffer(name, Element::F32));
        match self {
            Sampler::EosPenalty => floats!(() => eos_penalty::launch_unchecked(
                r.client(),
                r.grid([Extent::Ceil { of: "rows", per: UNITS, any: true }, one, one]),
                units,
                r.buffer("y", Element::F32),
                r.buffer("penalty", Element::F32),
                r.buffer("index", Element::I32),
                r.buffer("factors", Element::F32),
                r.int("rows"),
                r.int("columns"),
                r.int("token"),
            )),
            Sampler::KeepTokens => floats!(() => keep_tokens::launch_unchecked(
                r.client(),
                r.grid(by_row),
                units,
                r.buffer("y", Element::F32),
                r.buffer("marks", Element::I32),
                r.int("rows"),
                r.int("columns"),
                r.int("first"),
                r.int("length"),
            )),
            Sampler::SamplingProbs(behind) => floats!(() => sampling_probs::launch_unchecked(
                r.client(),
                r.grid(by_row),
                units,
                r.buffer("y", Element::F32),
                r.buffer("active", Element::Bool),
                r.buffer("temperature", Element::F32),
                r.buffer("top_p", Element::F32),
                r.buffer("top_k", Element::I32),
                parts(behind, "statistics").into(),
                r.int("rows"),
                r.int("columns"),
            )),
            Sampler::DrawToken(behind) => floats!(() => draw_token::launch_unchecked(
                r.client(),
                r.grid(by_row),
                units,
                r.buffer("probs", Element::F32),
                r.buffer("active", Element::Bool),
                r.buffer("temperature", Element::F32),
                r.buffer("bits", Element::U32),
                parts(behind, "statistics").into(),
                parts(behind, "candidates").into(),
                r.buffer("y", Element::I32),
                r.int("rows"),
                r.int("columns"),
                r.int("first"),
            )),
            Sampler::Confidence(kind, behind) => floats!(() => certainty::launch_unchecked(
                r.client(),
                r.grid(by_row),
                units,
                r.buffer("probs", Element::F32),
                r.buffer("active", Element::Bool),
                r.buffer("token", Element::I32),
                parts(behind, "statistics").into(),
                parts(behind, "candidates").into(),
                r.buffer("y", Element::F32),
                r.int("rows"),
                r.int("columns"),
                kind,
            )),
        }
    }
}

#[cube(launch_unchecked)]
fn eos_penalty(
    y: &mut [f32],
    penalty: &[f32],
    index: &[i32],
    factors: &[f32],
    rows: u32,
    columns: u32,
    token: u32,
) {
    // One that overflows is as large as it can be.
    let limit = f32::new(3.402_823_5e38);
    let added = max(min(penalty[0] * factors[index[0] as usize], limit), -limit);
    let mut row = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while row < rows {
        y[(row * columns + token) as usize] += added;
        row += CUBE_DIM_X * CUBE_COUNT_X;
    }
}

#[cube(launch_unchecked)]
fn keep_tokens(y: &mut [f32], marks: &[i32], rows: u32, columns: u32, first: u32, length: u32) {
    let mut row = CUBE_POS_X;
    while row < rows {
        if marks[row as usize] >= 0 {
            let mut i = UNIT_POS_X;
            while i < columns {
                if i < first || i >= first + length {
                    y[(row * columns + i) as usize] = f32::new(-3.402_823_5e38);
                }
                i += UNITS;
            }
        }
        row += CUBE_COUNT_X;
    }
}

/// The lowest column of the largest entry of `start..end`.
#[cube]
fn argmax(probs: &[f32], start: u32, end: u32, scratch: &mut [u32]) -> u32 {
    let mut own = f32::new(-3.402_823_5e38);
    let mut i = start + UNIT_POS_X;
    while i < end {
        own = max(own, probs[i as usize]);
        i += UNITS;
    }
    let largest = fold(own, scratch, Fold::Max);
    // Columns are exact as f32 below 2^24.
    let mut own = f32::new(16_777_216.0);
    let mut i = start + UNIT_POS_X;
    while i < end {
        if probs[i as usize] == largest {
            own = min(own, f32::cast_from(i - start));
        }
        i += UNITS;
    }
    u32::cast_from(fold(own, scratch, Fold::Min))
}

#[cube(launch_unchecked)]
fn draw_token(
    probs: &[f32],
    active: &[u32],
    temperature: &[f32],
    bits: &[u32],
    statistics: ComptimeOption<Box<[f32]>>,
    candidates: ComptimeOption<Box<[f32]>>,
    y: &mut [i32],
    rows: u32,
    columns: u32,
    first: u32,
) {
    // Sums of all units: low words, then high words.
    let mut scratch = Shared::<[u32]>::new_slice(comptime!(2 * UNITS as usize));
    let drawn = temperature[0] > 0.0f32;
    let mut row = CUBE_POS_X;
    while row < rows {
        if comptime!(statistics.is_some()) {
            let statistics = statistics.as_ref().unwrap();
            let candidates = candidates.as_ref().unwrap();
            let mut parts = 0u32;
            if active[row as usize] != 0 {
                parts = u32::cast_from(statistics[place(row, 0u32) + 3]);
            }
            if parts > 0 {
                let (_largest, _total, sound) = summary(statistics, row, parts, &mut scratch);
                let token = chosen(candidates, row, parts, &mut scratch);
                if UNIT_POS_X == 0 {
                    y[row as usize] = select(sound, i32::cast_from(first + token), NO_TOKEN);
                }
            } else {
                draw(probs, active, drawn, bits, y, row, columns, first, &mut scratch);
            }
        } else {
            draw(probs, active, drawn, bits, y, row, columns, first, &mut scratch);
        }
        row += CUBE_COUNT_X;
    }
}

/// The token of a row, by its distribution.
#[cube]
fn draw(
    probs: &[f32],
    active: &[u32],
    drawn: bool,
    bits: &[u32],
    y: &mut [i32],
    row: u32,
    columns: u32,
    first: u32,
    scratch: &mut [u32],
) {
    let start = row * columns;
    let is_active = active[row as usize] != 0;
    let sound = is_active && probs[start as usize] >= 0.0f32;
    let end = start + select(sound, columns, 0u32);
    let best = argmax(probs, start, end, scratch);

    // A piece of neighbouring columns for every unit.
    let piece = (columns + UNITS - 1) / UNITS;
    let from = min(start + UNIT_POS_X * piece, end);
    let to = select(drawn, min(from + piece, end), from);
    let mut low = 0u32;
    let mut high = 0u32;
    for i in from..to {
        let p = probs[i as usize];
        let whole = f32::floor(p);
        let part = u32::cast_from((p - whole) * 4_294_967_296.0f32);
        low += part;
        high += u32::cast_from(whole) + select(low < part, 1u32, 0u32);
    }
    sync_cube();
    scratch[UNIT_POS_X as usize] = low;
    scratch[(UNITS + UNIT_POS_X) as usize] = high;
    sync_cube();
    // What stands before this unit, and the total.
    let mut before_low = 0u32;
    let mut before_high = 0u32;
    let mut total_low = 0u32;
    let mut total_high = 0u32;
    for i in 0..UNITS {
        if i == UNIT_POS_X {
            before_low = total_low;
            before_high = total_high;
        }
        let part = scratch[i as usize];
        total_low += part;
        total_high += scratch[(UNITS + i) as usize] + select(total_low < part, 1u32, 0u32);
    }
    // (bits * total) >> 32.
    let word = bits[row as usize];
    let carried = mul_high(word, total_low);
    let target_low = word * total_high + carried;
    let target_high = mul_high(word, total_high) + select(target_low < carried, 1u32, 0u32);
    let mut token = best;
    let mut mine = UNIT_POS_X == 0;
    if drawn && (total_low != 0 || total_high != 0) {
        mine = false;
        let mut sum_low = before_low;
        let mut sum_high = before_high;
        // Crossed before this unit: not this unit's.
        let mut done = sum_high > target_high || (sum_high == target_high && sum_low > target_low);
        for i in from..to {
            if !done {
                let p = probs[i as usize];
                let whole = f32::floor(p);
                let part = u32::cast_from((p - whole) * 4_294_967_296.0f32);
                sum_low += part;
                sum_high += u32::cast_from(whole) + select(sum_low < part, 1u32, 0u32);
                if sum_high > target_high || (sum_high == target_high && sum_low > target_low) {
                    done = true;
                    mine = true;
                    token = i - start;
                }
            }
        }
    }
    if is_active {
        if mine {
            y[row as usize] = select(sound, i32::cast_from(first + token), NO_TOKEN);
        }
    } else if UNIT_POS_X == 0 {
        y[row as usize] = -1i32;
    }
}

#[cube(launch_unchecked)]
fn certainty(
    probs: &[f32],
    active: &[u32],
    token: &[i32],
    statistics: ComptimeOption<Box<[f32]>>,
    candidates: ComptimeOption<Box<[f32]>>,
    y: &mut [f32],
    rows: u32,
    columns: u32,
    #[comptime] kind: Confidence,
) {
    let mut scratch = Shared::<[u32]>::new_slice(UNITS as usize);
    let mut row = CUBE_POS_X;
    while row < rows {
        let mut value = 0.0f32;
        if comptime!(statistics.is_some()) {
            if active[row as usize] != 0 {
                let statistics = statistics.as_ref().unwrap();
                let candidates = candidates.as_ref().unwrap();
                let parts = u32::cast_from(statistics[place(row, 0u32) + 3]);
                if parts > 0 {
                    value = certain(statistics, candidates, row, parts, &mut scratch, kind);
                } else {
                    value = certain_of(probs, active, token, row, columns, &mut scratch, kind);
                }
            }
        } else {
            value = certain_of(probs, active, token, row, columns, &mut scratch, kind);
        }
        if UNIT_POS_X == 0 {
            y[row as usize] = value;
        }
        row += CUBE_COUNT_X;
    }
}

/// How certain the token of a row is, by its distribution.
#[cube]
fn certain_of(
    probs: &[f32],
    active: &[u32],
    token: &[i32],
    row: u32,
    columns: u32,
    scratch: &mut [u32],
    #[comptime] kind: Confidence,
) -> f32 {
    let start = row * columns;
    let sound = active[row as usize] != 0 && probs[start as usize] >= 0.0f32;
    let end = start + select(sound, columns, 0u32);
    let mut value = 0.0f32;
    if comptime!(kind == Confidence::Probability) {
        let id = u32::cast_from(token[row as usize]);
        if start < end && id < columns {
            value = probs[(start + id) as usize];
        }
    } else if comptime!(kind == Confidence::Margin) {
        let best = argmax(probs, start, end, scratch);
        let mut own = 0.0f32;
        let mut i = start + UNIT_POS_X;
        while i < end {
            if i - start != best {
                own = max(own, probs[i as usize]);
            }
            i += UNITS;
        }
        let second = fold(own, scratch, Fold::Max);
        if start < end {
            value = probs[(start + best) as usize] - second;
        }
    } else {
        let mut own = 0.0f32;
        let mut i = start + UNIT_POS_X;
        while i < end {
            let p = probs[i as usize];
            own += p * ln(p + 1.0e-10f32);
            i += UNITS;
        }
        value = fold(own, scratch, Fold::Sum);
    }
    value
}
