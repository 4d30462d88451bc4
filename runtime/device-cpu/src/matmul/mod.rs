//! Matrix multiplication with packed weights: `x W^T`, norm before, epilogue after.
//!
//! The rows are packed once. Groups of panels are the tasks; inside a group go blocks of rows, blocks
//! of k, pairs of panels and strips of rows. Sums run along k in one order whatever the blocking.
//!
//! Weights in few bits are multiplied as codes of 8 bits, with sums in integers, or they are expanded to
//! their type, a block of k at a time, for the same tile kernels as weights of that type.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
mod epilogue;
mod expand;
mod int8;
pub(crate) mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_matrix;
pub(crate) mod pack;
mod panels;
mod plain;

use crate::context::{Context, Need};
use crate::isa::Isa;
use crate::memory::{Buf, Shared};
use dreamc_artifact::plan::Activation;
use dreamc_num::DType;
use epilogue::late::Late;
use epilogue::{Sums, ask_for_residual, epilogue};
use micro::{Micro, Next, Tile};
use pack::{Before, Strip, pack_strip};
use panels::{Panels, Slot};
use std::ops::Range;

/// Columns that one task computes at most.
const GROUP: usize = 128;
/// Rows in a block: a multiple of every strip height.
const ROWS: usize = 264;
/// Steps in a block: with as many rows as a block has, half of the second cache of 1 MiB. Between blocks sums go there and back.
const STEPS: usize = 512;
/// Columns of a panel.
const PANEL: usize = dreamc_artifact::layout::PANEL;
/// Words of a worker's scratch: the sums of a block, and a block of each of two panels where they are expanded.
const WORKER: usize = ROWS * GROUP + 2 * STEPS * PANEL;

/// One matmul.
pub(crate) struct Matmul<'m> {
    pub(crate) x: Buf,
    pub(crate) before: Before,
    /// Their rows follow each other, or with `swiglu` gate and up.
    pub(crate) weights: &'m [Buf],
    /// Whether codes of 8 bits are multiplied.
    pub(crate) int8: bool,
    pub(crate) bias: Option<Buf>,
    pub(crate) residual: Option<Buf>,
    pub(crate) swiglu: bool,
    pub(crate) activation: Option<Activation>,
    pub(crate) out: Buf,
}

/// What the scratch depends on.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) x: DType,
    pub(crate) weights: DType,
    pub(crate) normed: bool,
    pub(crate) int8: bool,
}

impl Operands {
    /// Type of the rows that are multiplied: what a norm makes has the weights' type, as the unfused norm's result.
    fn rows(self) -> DType {
        if self.normed { self.weights } else { self.x }
    }

    fn micro(self, isa: Isa) -> Micro {
        if self.int8 { int8::micro(isa) } else { Micro::select(isa, self.rows(), self.weights) }
    }
}

/// Scratch of a matmul of `m` rows and `k` columns.
pub(crate) fn need(isa: Isa, operands: Operands, m: usize, k: usize) -> Need {
    Need { shared: packed_words(&operands.micro(isa), m, k), worker: WORKER }
}

/// Words of the packed rows and of their scales, if they have any.
fn packed_words(micro: &Micro, m: usize, k: usize) -> usize {
    let strips = m.div_ceil(micro.rows);
    let scales = if micro.codes() { strips * micro.rows } else { 0 };
    strips * micro.strip_words(micro.steps(k)) + scales
}

/// Runs it.
pub(crate) fn run(context: &Context<'_>, matmul: &Matmul<'_>) {
    let (m, k) = (matmul.x.rows(), matmul.x.columns());
    let weights = matmul.weights[0].dtype;
    let normed = matmul.before.norm.is_some();
    let operands = Operands { x: matmul.x.dtype, weights, normed, int8: matmul.int8 };
    let micro = operands.micro(context.isa);
    let steps = micro.steps(k);
    let words = m.div_ceil(micro.rows) * micro.strip_words(steps);
    let packed = context.shared(packed_words(&micro, m, k));
    // Behind the packed rows; only looked at where there are scales.
    let scales = Shared(packed.get().wrapping_add(words));
    let packed = Packed { words: packed, scales, rows: m, steps };
    pack(context, matmul, &micro, operands.rows(), &packed);

    let panels = Panels::new(&matmul.weights[0], steps, matmul.int8);
    let slots = if matmul.swiglu {
        2 * matmul.out.columns().div_ceil(PANEL)
    } else {
        matmul.weights.iter().map(|w| w.rows().div_ceil(PANEL)).sum()
    };
    let strips = m.div_ceil(micro.rows);
    let of_part = strips.div_ceil(parts(context, m, &micro)).max(1);
    let parts = strips.div_ceil(of_part);
    let tasks = Tasks { slots, strips: of_part, threads: context.pool.threads().div_ceil(parts) };
    let count = tasks.count();
    context.pool.run_parts(parts, count, &|task, worker| {
        let part = task / count;
        let Task { slots: of_task, strips: of_part_strips } = tasks.get(task % count);
        let first = part * of_part;
        let of_rows = ((first + of_part_strips.start) * micro.rows).min(m)..((first + of_part_strips.end) * micro.rows).min(m);
        let mut of_group = [Slot::default(); GROUP / PANEL];
        for (i, slot) in of_group.iter_mut().enumerate().take(of_task.len()) {
            *slot = panels.slot(matmul, of_task.start + i);
        }
        let of_group = &of_group[..of_task.len()];
        // SAFETY: this task's worker; the last task's borrow has ended.
        let (sums, room) = unsafe { context.worker(worker, WORKER) }.split_at_mut(ROWS * GROUP);
        // SAFETY: as many words, of which every pattern of bits is a value.
        let room = unsafe { &mut *room.as_mut_ptr().cast::<[[[u32; PANEL]; STEPS]; 2]>() };
        for row in of_rows.clone().step_by(ROWS) {
            let rows = ROWS.min(of_rows.end - row);
            let after = |slots: &mut [Slot; 2]| {
                let next = if row + rows < of_rows.end { of_task.clone() } else { tasks.upcoming(context.pool.upcoming(part)) };
                let next = next.start..next.end.min(next.start + 2);
                for (slot, to) in next.clone().zip(&mut *slots) {
                    *to = panels.slot(matmul, slot);
                }
                next.len()
            };
            block(context.isa, matmul, &micro, &packed, row, rows, &panels, of_group, sums, room, &after);
        }
    });
}

/// Parts that so many rows are shared out in.
fn parts(context: &Context<'_>, rows: usize, micro: &Micro) -> usize {
    /// Strips of a part at least: fewer are not worth reading the panels for.
    const STRIPS: usize = 8;
    context.pool.parts(rows.div_ceil(micro.rows) / STRIPS)
}

/// What one task multiplies.
#[derive(Clone, Debug, Default, PartialEq)]
struct Task {
    slots: Range<usize>,
    strips: Range<usize>,
}

/// How the panels are shared out: as many as a task takes at first, and fewer towards the end, so that no thread waits long
/// for the last one. Always an even number, as a tile takes two; the last of these are shared out by rows.
#[derive(Clone, Copy)]
struct Tasks {
    slots: usize,
    strips: usize,
    threads: usize,
}

impl Tasks {
    const MOST: usize = GROUP / PANEL;

    /// Tasks of the most panels.
    fn large(self) -> usize {
        self.slots.saturating_sub(2 * self.threads * Tasks::MOST).div_ceil(Tasks::MOST)
    }

    /// Those behind them.
    fn small(self) -> impl Iterator<Item = Task> {
        /// Of rows, for which panels are read again; and fewer strips are not worth it.
        const PARTS: usize = 4;
        let mut start = self.large() * Tasks::MOST;
        let panels = std::iter::from_fn(move || {
            let left = self.slots - start;
            let even = (left / (2 * self.threads)).next_multiple_of(2).clamp(2, Tasks::MOST);
            let panels = start..start + even.min(left);
            start = panels.end;
            (!panels.is_empty()).then_some(panels)
        });
        panels.flat_map(move |slots| {
            let parts = if slots.len() > 2 { 1 } else { (self.strips / 3).clamp(1, PARTS) };
            let strips = self.strips.div_ceil(parts);
            let of_part = (0..self.strips).step_by(strips.max(1));
            of_part
                .map(move |from| Task { slots: slots.clone(), strips: from..self.strips.min(from + strips) })
        })
    }

    fn count(self) -> usize {
        self.large() + self.small().count()
    }

    fn upcoming(self, task: usize) -> Range<usize> {
        if task < self.count() { self.get(task).slots } else { 0..0 }
    }

    fn get(self, task: usize) -> Task {
        match task.checked_sub(self.large()) {
            Some(small) => self.small().nth(small).unwrap_or_default(),
            None => Task { slots: task * Tasks::MOST..(task + 1) * Tasks::MOST, strips: 0..self.strips },
        }
    }
}

/// The packed rows.
#[derive(Clone, Copy)]
struct Packed {
    words: Shared<f32>,
    /// Of the rows, if they are codes.
    scales: Shared<f32>,
    rows: usize,
    steps: usize,
}

/// Packs all rows.
fn pack(context: &Context<'_>, matmul: &Matmul<'_>, micro: &Micro, dtype: DType, packed: &Packed) {
    let strips = packed.rows.div_ceil(micro.rows);
    let of_part = strips.div_ceil(parts(context, packed.rows, micro)).max(1);
    context.pool.run_parts(strips.div_ceil(of_part), of_part, &|strip, _| {
        if strip >= strips {
            return;
        }
        let first = strip * micro.rows;
        let rows = micro.rows.min(packed.rows - first);
        // SAFETY: inside the scratch, whose size was checked.
        let to = Shared(unsafe { packed.words.get().add(strip * micro.strip_words(packed.steps)) });
        // Only written to where there are scales.
        let scales = Shared(packed.scales.get().wrapping_add(first));
        let strip = Strip { x: &matmul.x, before: &matmul.before, first, rows, dtype };
        pack_strip(context.isa, &strip, micro, to, scales);
    });
}

/// Multiplies rows of the packed operand with panels, with what comes after.
#[expect(clippy::too_many_arguments, reason = "one call")]
fn block(
    isa: Isa,
    matmul: &Matmul<'_>,
    micro: &Micro,
    packed: &Packed,
    row: usize,
    rows: usize,
    panels: &Panels,
    slots: &[Slot],
    sums: &mut [f32],
    room: &mut [[[u32; PANEL]; STEPS]; 2],
    after: &dyn Fn(&mut [Slot; 2]) -> usize,
) {
    let steps = packed.steps;
    // A single strip reads every panel once, from front to back.
    let most = if rows <= micro.rows && panels.expand.is_none() { steps } else { STEPS };
    let mut owed: Option<Late> = None;
    for from in (0..steps).step_by(most) {
        let count = most.min(steps - from);
        for (i, pair) in slots.chunks(micro.panels).enumerate() {
            let [one, two] = &mut *room;
            let first = panels.words(isa, &pair[0], from, count, one);
            let last = match pair {
                [_, last] => panels.words(isa, last, from, count, two),
                _ => first,
            };
            // What comes next, a part of it with every strip.
            let rest = slots.get((i + 1) * micro.panels..).filter(|rest| !rest.is_empty());
            let mut of_next = [Slot::default(); 2];
            let (next, then) = match rest {
                Some(rest) => (rest, from),
                None if from + count < steps => (slots, from + count),
                None => {
                    let count = after(&mut of_next);
                    (&of_next[..count], 0)
                }
            };
            let (next, bytes) = match next {
                [] => ([std::ptr::null(); 2], 0),
                [first, ..] => panels.stored(first, &next[next.len().min(micro.panels) - 1], then, most),
            };
            let mut next = Next::of(next, bytes, rows.div_ceil(micro.rows), count);
            // Gate and up are done together, whether a tile takes one panel or two.
            let until = i * micro.panels + pair.len();
            let ends = from + count == steps && (until.is_multiple_of(2) || until == slots.len());
            let done = ends.then(|| (until - 1) / 2 * 2..until);
            // Sums that nobody comes back to take turns in two places, which stay in the nearest cache.
            let once = from == 0 && done.as_ref().is_some_and(|done| done.len() == pair.len());
            let place = |strip: usize| {
                let row = if once { strip / micro.rows % 2 * micro.rows } else { strip };
                row * GROUP + i * micro.panels * PANEL
            };
            let of_strip = |strip: usize| strip..rows.min(strip + micro.rows);
            // Of the block's rows, one for each if there are any.
            let scales = micro.codes().then(|| packed.scales.get().wrapping_add(row).cast_const());
            let end = |strip: usize, done: &Range<usize>, sums: &[f32]| {
                let rows = of_strip(strip);
                let tile = Sums {
                    matmul,
                    row: row + strip,
                    rows: rows.len(),
                    sums: &sums[place(strip) + done.start * PANEL - i * micro.panels * PANEL..],
                    slots: &slots[done.clone()],
                    // SAFETY: there is a scale for every row.
                    scales: scales.map(|scales| unsafe { std::slice::from_raw_parts(scales.add(strip), rows.len()) }),
                };
                epilogue(isa, &tile);
            };
            // The end of a tile is left to the next one, if there is a kernel for that.
            let mut late = match (&done, &micro.late) {
                (Some(done), Some(_)) if pair.len() == micro.panels => {
                    Late::of(matmul, row..row + rows, &slots[done.clone()], scales)
                }
                _ => None,
            };
            let is_late = late.is_some();
            for strip in (0..rows).step_by(micro.rows) {
                let of_strip = of_strip(strip);
                if let Some(done) = &done {
                    ask_for_residual(matmul, row + of_strip.start..row + of_strip.end, &slots[done.clone()]);
                }
                let strip_at = (row + strip) / micro.rows * micro.strip_words(steps);
                let start = sums.as_mut_ptr();
                let tile = Tile {
                    steps: count,
                    next,
                    // SAFETY: the block's rows and steps are inside the packed operand.
                    a: unsafe { packed.words.get().cast::<u32>().add(strip_at + from * micro.a_words()) },
                    b: [first, last],
                    c: start.wrapping_add(place(strip)),
                    c_stride: GROUP,
                    rows: of_strip.len(),
                    panels: pair.len(),
                    sums: [&pair[0], &pair[pair.len() - 1]].map(Slot::sums),
                    resume: from > 0,
                };
                next.advance(count);
                // SAFETY: the words are those of `count` steps, and there are sums of `ROWS` rows of `GROUP` columns; what is
                // owed are sums of a tile before this one, in another place.
                unsafe {
                    match (&owed, &micro.late) {
                        (Some(late), Some(run)) if tile.rows.is_multiple_of(Late::ROWS) => (run.tile)(&tile, late),
                        (Some(late), Some(run)) => {
                            (micro.run)(&tile);
                            (run.alone)(late);
                        }
                        _ => (micro.run)(&tile),
                    }
                }
                if late.is_some() || !is_late {
                    owed = late.take();
                }
                match (&mut owed, &done) {
                    (Some(late), _) => late.take(of_strip, start.wrapping_add(place(strip))),
                    (None, Some(done)) => end(strip, done, sums),
                    (None, None) => {}
                }
            }
        }
    }
    if let (Some(late), Some(run)) = (owed, &micro.late) {
        // SAFETY: as above.
        unsafe { (run.alone)(&late) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_meets_every_strip_in_one_task() {
        for threads in [1, 2, 3, 64] {
            for slots in [1, 2, 3, 17, 64, 65, 1000] {
                for strips in [1, 2, 7, 8, 9, 22, 100] {
                    let tasks = Tasks { slots, strips, threads };
                    let mut seen = vec![0_u8; slots * strips];
                    for task in 0..tasks.count() {
                        let Task { slots, strips: of_task } = tasks.get(task);
                        assert!(slots.start.is_multiple_of(2) && (1..=Tasks::MOST).contains(&slots.len()));
                        let strips =
                            of_task.flat_map(|strip| slots.clone().map(move |slot| slot * strips + strip));
                        strips.for_each(|at| seen[at] += 1);
                    }
                    assert!(seen.iter().all(|times| *times == 1), "{slots} {strips} {threads}");
                }
            }
        }
    }
}
