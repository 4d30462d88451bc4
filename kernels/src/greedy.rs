//! The most probable token of each row without its distribution: for requests at temperature 0 that ask for no filter.
//!
//! Logits are read twice, 16 bytes at a time, and nothing is written over them. [`Greedy::Statistics`] finds of each part of a
//! row the maximum, the sum of exponentials and whether all is finite; [`Greedy::Candidates`] puts those of a row together and
//! finds of each part what of it may be the row's answer. [`Sampler::DrawToken`](crate::Sampler::DrawToken) and
//! [`Sampler::Confidence`](crate::Sampler::Confidence) choose among the parts. What is written is as the distribution would have
//! it: a probability is `exp(x - maximum) / sum`, and of equal ones the lowest id wins.
//!
//! As many workgroups as keep a device busy go through all parts, which are the fewer the more rows there are. Parts of a row
//! are `f32 [rows, PARTS, WORDS]` in `statistics` and in `candidates`.
//!
//! For CUDA and ROCm. Whether a row is greedy is read from memory, and in WebGPU no barrier may depend on that; of Metal's
//! vectors the generator does not know the names.

use crate::distribution::{Fold, fold, is_filter, is_infinite};
use crate::emit::{Element, Extent, Form};
use crate::kernel::floats;
use crate::math::{UNITS, ln};
use crate::record::Recorder;
use crate::sampler::Confidence;
use crate::target::Target;
use cubecl::prelude::*;

/// A kernel on the logits of greedy requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Greedy {
    /// Buffers `logits` f32, `active` bool `[rows]`, `temperature` f32 `[1]`, `top_p` f32 `[1]`, `top_k` i32 `[1]`,
    /// `statistics`: of each part of an active row its maximum, the sum of `exp(x - maximum)`, 1 if not all is finite, and
    /// how many parts a row has: 0 if the request is not greedy, and then nothing else. Scalars `rows`, `columns`, a multiple
    /// of [`Greedy::VECTOR`].
    Statistics(Groups),
    /// Buffers `logits`, `active`, `statistics`, `candidates`: of each part its lowest most probable column or
    /// [`Greedy::NONE`], the largest probability of its other columns (for a margin), its part of the entropy's sum (for an
    /// entropy). Scalars `rows`, `columns`. Nothing is read or written if the request is not greedy.
    Candidates(Confidence, Groups),
}

/// How many workgroups go through all parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Groups(pub u32);

/// Numbers of a part.
pub(crate) const WORDS: u32 = 4;
/// Most parts of a row: a unit has one.
const PARTS: u32 = UNITS;
/// Parts that a workgroup has at least, if rows can be cut so fine: the last are not waited for by many.
const TURNS: u32 = 8;
/// Loads of a unit that are under way at once.
const LOADS: usize = 4;
/// The least finite number.
const LOWEST: f32 = -3.402_823_5e38;

impl Groups {
    /// Workgroups of a multiprocessor.
    const EACH: u32 = 2;
    /// Multiprocessors where the target's file does not say.
    const PROCESSORS: u32 = 64;

    /// As many as keep `target` busy.
    pub fn of(target: &Target) -> Groups {
        let processors = target.capabilities().processors;
        Groups(Groups::EACH * if processors > 0 { processors } else { Groups::PROCESSORS })
    }
}

impl Greedy {
    /// Logits that are read at once: rows are a multiple of them.
    pub const VECTOR: u32 = 4;
    /// Words that `statistics` and `candidates` have for a row.
    pub const ROW: u32 = PARTS * WORDS;
    /// A column that no row has. Columns are exact as f32 below.
    pub const NONE: f32 = 16_777_216.0;

    pub(crate) fn name(self) -> String {
        match self {
            Greedy::Statistics(Groups(groups)) => format!("f32_greedy_statistics_by{groups}"),
            Greedy::Candidates(kind, Groups(groups)) => {
                format!("f32_greedy_candidates_{}_by{groups}", kind.name())
            }
        }
    }

    /// What it needs and `target` does not have.
    pub(crate) fn lacks(target: &Target) -> Option<String> {
        (!Greedy::runs(target)).then(|| "loads of 16 bytes and barriers behind branches".to_owned())
    }

    /// Whether `target` has these kernels.
    pub fn runs(target: &Target) -> bool {
        matches!(target.form(), Form::Cuda | Form::Hip)
    }

    pub(crate) fn launch(self, r: &Recorder) {
        let units = CubeDim::new_1d(UNITS);
        let grid = |Groups(groups): Groups| {
            r.grid([Extent::Constant(groups), Extent::Constant(1), Extent::Constant(1)])
        };
        match self {
            Greedy::Statistics(groups) => floats!(() => statistics::launch_unchecked(
                r.client(),
                grid(groups),
                units,
                r.buffer("logits", Element::F32),
                r.buffer("active", Element::Bool),
                r.buffer("temperature", Element::F32),
                r.buffer("top_p", Element::F32),
                r.buffer("top_k", Element::I32),
                r.buffer("statistics", Element::F32),
                r.int("rows"),
                r.int("columns"),
            )),
            Greedy::Candidates(kind, groups) => floats!(() => candidates::launch_unchecked(
                r.client(),
                grid(groups),
                units,
                r.buffer("logits", Element::F32),
                r.buffer("active", Element::Bool),
                r.buffer("statistics", Element::F32),
                r.buffer("candidates", Element::F32),
                r.int("rows"),
                r.int("columns"),
                kind,
            )),
        }
    }
}

/// In how many parts a row is looked at.
#[cube]
fn parts_of(rows: u32) -> u32 {
    min(max(CUBE_COUNT_X * TURNS / rows, 1u32), PARTS)
}

/// Where the numbers of a part of a row begin.
#[cube]
pub(crate) fn place(row: u32, part: u32) -> usize {
    ((row * PARTS + part) * WORDS) as usize
}

#[cube(launch_unchecked)]
fn statistics(
    logits: &[Vector<f32, Const<1>>],
    active: &[u32],
    temperature: &[f32],
    top_p: &[f32],
    top_k: &[i32],
    statistics: &mut [f32],
    rows: u32,
    columns: u32,
) {
    let mut scratch = Shared::<[u32]>::new_slice(UNITS as usize);
    let logits = logits.with_vector_size::<Const<4>>();
    let vectors = columns / Greedy::VECTOR;
    let greedy = temperature[0] <= 0.0f32 && !is_filter(top_p[0], top_k[0], columns);
    let parts = parts_of(rows);
    let mut task = CUBE_POS_X;
    while task < rows * parts {
        let row = task / parts;
        let part = task % parts;
        let to = place(row, part);
        if active[row as usize] != 0 && greedy {
            let start = row * vectors;
            let end = start + (part + 1u32) * vectors / parts;
            let mut own = f32::new(LOWEST);
            let mut sum = 0.0f32;
            let mut bad = 0.0f32;
            let mut i = start + part * vectors / parts + UNIT_POS_X;
            while i < end {
                let mut loaded = Array::<Vector<f32, Const<4>>>::new(LOADS);
                #[unroll]
                for l in 0..LOADS {
                    let at = i + comptime!(l as u32 * UNITS);
                    // Behind the end the unit's first once more, which changes no maximum.
                    loaded[l] = logits[select(at < end, at, i) as usize];
                }
                let mut now = own;
                #[unroll]
                for l in 0..LOADS {
                    #[unroll]
                    for e in 0..4usize {
                        let x = loaded[l].extract(e);
                        now = max(now, x);
                        bad = select(is_infinite(x), 1.0f32, bad);
                    }
                }
                sum *= f32::exp(own - now);
                own = now;
                #[unroll]
                for l in 0..LOADS {
                    let there = i + comptime!(l as u32 * UNITS) < end;
                    #[unroll]
                    for e in 0..4usize {
                        sum += select(there, f32::exp(loaded[l].extract(e) - own), 0.0f32);
                    }
                }
                i += comptime!(LOADS as u32 * UNITS);
            }
            let largest = fold(own, &mut scratch, Fold::Max);
            let total = fold(sum * f32::exp(own - largest), &mut scratch, Fold::Sum);
            let bad = fold(bad, &mut scratch, Fold::Max);
            if UNIT_POS_X == 0 {
                statistics[to] = largest;
                statistics[to + 1] = total;
                statistics[to + 2] = bad;
                statistics[to + 3] = f32::cast_from(parts);
            }
        } else if UNIT_POS_X == 0 {
            statistics[to + 3] = 0.0f32;
        }
        task += CUBE_COUNT_X;
    }
}

/// Of a row, once all its parts were looked at: the maximum, the sum of exponentials, and whether all was finite.
#[cube]
pub(crate) fn summary(statistics: &[f32], row: u32, parts: u32, scratch: &mut [u32]) -> (f32, f32, bool) {
    let mut own = f32::new(LOWEST);
    let mut sum = 0.0f32;
    let mut bad = 0.0f32;
    if UNIT_POS_X < parts {
        let at = place(row, UNIT_POS_X);
        own = statistics[at];
        sum = statistics[at + 1];
        bad = statistics[at + 2];
    }
    let largest = fold(own, scratch, Fold::Max);
    let total = fold(sum * f32::exp(own - largest), scratch, Fold::Sum);
    (largest, total, fold(bad, scratch, Fold::Max) == 0.0f32)
}

#[cube(launch_unchecked)]
fn candidates(
    logits: &[Vector<f32, Const<1>>],
    active: &[u32],
    statistics: &[f32],
    candidates: &mut [f32],
    rows: u32,
    columns: u32,
    #[comptime] kind: Confidence,
) {
    let mut scratch = Shared::<[u32]>::new_slice(UNITS as usize);
    let logits = logits.with_vector_size::<Const<4>>();
    let vectors = columns / Greedy::VECTOR;
    let parts = parts_of(rows);
    let mut task = CUBE_POS_X;
    while task < rows * parts {
        let row = task / parts;
        let part = task % parts;
        if active[row as usize] != 0 && statistics[place(row, 0u32) + 3] > 0.0f32 {
            let (largest, total, _sound) = summary(statistics, row, parts, &mut scratch);
            let highest = 1.0f32 / total;
            let start = row * vectors;
            let end = start + (part + 1u32) * vectors / parts;
            let mut best = f32::new(Greedy::NONE);
            let mut second = 0.0f32;
            let mut entropy = 0.0f32;
            let mut i = start + part * vectors / parts + UNIT_POS_X;
            while i < end {
                let mut loaded = Array::<Vector<f32, Const<4>>>::new(LOADS);
                #[unroll]
                for l in 0..LOADS {
                    let at = i + comptime!(l as u32 * UNITS);
                    loaded[l] = logits[select(at < end, at, i) as usize];
                }
                #[unroll]
                for l in 0..LOADS {
                    let at = i + comptime!(l as u32 * UNITS);
                    if at < end {
                        #[unroll]
                        for e in 0..4usize {
                            let p = f32::exp(loaded[l].extract(e) - largest) / total;
                            let first = p == highest && best == f32::new(Greedy::NONE);
                            if comptime!(kind == Confidence::Margin) {
                                second = select(first, second, max(second, p));
                            }
                            if comptime!(kind == Confidence::NegativeEntropy) {
                                entropy += p * ln(p + 1.0e-10f32);
                            }
                            let column = (at - start) * Greedy::VECTOR + comptime!(e as u32);
                            best = select(first, f32::cast_from(column), best);
                        }
                    }
                }
                i += comptime!(LOADS as u32 * UNITS);
            }
            let lowest = fold(best, &mut scratch, Fold::Min);
            if comptime!(kind == Confidence::Margin) {
                // As probable, but not the one.
                let other = best != lowest && best != f32::new(Greedy::NONE);
                second = fold(select(other, highest, second), &mut scratch, Fold::Max);
            }
            if comptime!(kind == Confidence::NegativeEntropy) {
                entropy = fold(entropy, &mut scratch, Fold::Sum);
            }
            if UNIT_POS_X == 0 {
                let to = place(row, part);
                candidates[to] = lowest;
                candidates[to + 1] = second;
                candidates[to + 2] = entropy;
            }
        }
        task += CUBE_COUNT_X;
    }
}

/// The most probable column of a row, by the candidates of its parts.
#[cube]
pub(crate) fn chosen(candidates: &[f32], row: u32, parts: u32, scratch: &mut [u32]) -> u32 {
    let mut own = f32::new(Greedy::NONE);
    if UNIT_POS_X < parts {
        own = candidates[place(row, UNIT_POS_X)];
    }
    u32::cast_from(fold(own, scratch, Fold::Min))
}

/// How certain that column is, as [`Confidence`] has it.
#[cube]
pub(crate) fn certain(
    statistics: &[f32],
    candidates: &[f32],
    row: u32,
    parts: u32,
    scratch: &mut [u32],
    #[comptime] kind: Confidence,
) -> f32 {
    let (_largest, total, sound) = summary(statistics, row, parts, scratch);
    let highest = 1.0f32 / total;
    let mut value = highest;
    if comptime!(kind == Confidence::Margin) {
        let mut own = f32::new(Greedy::NONE);
        let mut second = 0.0f32;
        if UNIT_POS_X < parts {
            let at = place(row, UNIT_POS_X);
            own = candidates[at];
            second = candidates[at + 1];
        }
        let best = fold(own, scratch, Fold::Min);
        let other = own != best && own != f32::new(Greedy::NONE);
        value = highest - fold(select(other, highest, second), scratch, Fold::Max);
    }
    if comptime!(kind == Confidence::NegativeEntropy) {
        let mut own = 0.0f32;
        if UNIT_POS_X < parts {
            own = candidates[place(row, UNIT_POS_X) + 2];
        }
        value = fold(own, scratch, Fold::Sum);
    }
    select(sound, value, 0.0f32)
}
