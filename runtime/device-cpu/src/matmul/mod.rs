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
pub(crate) mod pack;
mod panels;
mod plain;

use crate::context::{Context, Need};
use crate::isa::Isa;
use crate::memory::{Buf, Shared};
use codes::pack_codes;
use dreamc_artifact::plan::Activation;
use dreamc_num::DType;
use epilogue::{Rescale, epilogue};
use micro::{Micro, Pack, Tile};
use pack::{Before, inverse_rms, pack_strip};
use panels::{Panels, Slot};

/// Columns that one task computes at most.
const GROUP: usize = 128;
/// Rows in a block: a multiple of every strip height.
const ROWS: usize = 264;
/// Steps in a block.
const STEPS: usize = 256;
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
    strips * micro.steps(k) * micro.a_words() + scales
}

/// Runs it.
pub(crate) fn run(context: &Context<'_>, matmul: &Matmul<'_>) {
    let (m, k) = (matmul.x.rows(), matmul.x.columns());
    let weights = matmul.weights[0].dtype;
    let normed = matmul.before.norm.is_some();
    let operands = Operands { x: matmul.x.dtype, weights, normed, int8: matmul.int8 };
    let micro = operands.micro(context.isa);
    let steps = micro.steps(k);
    let words = m.div_ceil(micro.rows) * steps * micro.a_words();
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
    // Fewer columns a task where there are few tasks; two panels at least, as a tile takes.
    let even = slots.div_ceil(4 * context.pool.threads()).next_multiple_of(2);
    let group = even.clamp(2, GROUP / PANEL);
    context.pool.run(slots.div_ceil(group), &|task, worker| {
        let first = task * group;
        let count = group.min(slots - first);
        let mut of_group = [Slot::default(); GROUP / PANEL];
        for (i, slot) in of_group.iter_mut().enumerate().take(count) {
            *slot = panels.slot(matmul, first + i);
        }
        let of_group = &of_group[..count];
        // SAFETY: this task's worker; the last task's borrow has ended.
        let (sums, room) = unsafe { context.worker(worker, WORKER) }.split_at_mut(ROWS * GROUP);
        // SAFETY: as many words, of which every pattern of bits is a value.
        let room = unsafe { &mut *room.as_mut_ptr().cast::<[[[u32; PANEL]; STEPS]; 2]>() };
        for row in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - row);
            block(context.isa, &micro, &packed, row, rows, &panels, of_group, sums, room);
            for r in 0..rows {
                let rescale = micro.codes().then(|| {
                    // SAFETY: there is a scale for every row.
                    let scale = unsafe { *packed.scales.get().add(row + r) };
                    Rescale { scale, shift: if micro.pack == Pack::ShiftedCodes { 128 } else { 0 } }
                });
                let sums = &sums[r * GROUP..][..count * PANEL];
                epilogue(context.isa, matmul, row + r, sums, of_group, rescale);
            }
        }
    });
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
    let (x, before) = (&matmul.x, &matmul.before);
    let k = x.columns();
    context.pool.run(packed.rows.div_ceil(micro.rows), &|strip, _| {
        let first = strip * micro.rows;
        let rows = micro.rows.min(packed.rows - first);
        let mut rms = [0.0; 16];
        if let Some(norm) = &before.norm {
            for (r, rms) in rms.iter_mut().enumerate().take(rows) {
                *rms = inverse_rms(context.isa, x, (first + r) * k, k, norm.eps);
            }
        }
        // SAFETY: inside the scratch, whose size was checked.
        let to = Shared(unsafe { packed.words.get().add(strip * packed.steps * micro.a_words()) });
        if micro.codes() {
            // SAFETY: as above.
            let scales = Shared(unsafe { packed.scales.get().add(first) });
            pack_codes(context.isa, x, k, first, rows, micro, before, &rms, to, scales);
        } else {
            pack_strip(context.isa, x, k, first, rows, micro, before, &rms, dtype, to);
        }
    });
}

/// `sums = rows of the packed operand x panels`.
#[expect(clippy::too_many_arguments, reason = "one call")]
fn block(
    isa: Isa,
    micro: &Micro,
    packed: &Packed,
    row: usize,
    rows: usize,
    panels: &Panels,
    slots: &[Slot],
    sums: &mut [f32],
    room: &mut [[[u32; PANEL]; STEPS]; 2],
) {
    let (a_words, steps) = (micro.a_words(), packed.steps);
    // A single strip reads every panel once, from front to back.
    let most = if rows <= micro.rows && panels.expand.is_none() { steps } else { STEPS };
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
            let next = slots.get((i + 1) * micro.panels..).filter(|rest| !rest.is_empty());
            let (next, then) = next.map_or((slots, from + count), |rest| (rest, from));
            let next = &next[..next.len().min(micro.panels)];
            let strips = rows.div_ceil(micro.rows);
            for strip in (0..rows).step_by(micro.rows) {
                let a = packed.words.get().cast::<u32>();
                next.iter().for_each(|slot| panels.prefetch(slot, then, most, strip / micro.rows, strips));
                // SAFETY: the block's rows and steps are inside the packed operand, the words are those of
                // `count` steps, and there are sums of `ROWS` rows of `GROUP` columns.
                unsafe {
                    (micro.run)(&Tile {
                        steps: count,
                        a: a.add(((row + strip) / micro.rows * steps + from) * a_words),
                        b: [first, last],
                        c: sums.as_mut_ptr().add(strip * GROUP + i * micro.panels * PANEL),
                        c_stride: GROUP,
                        rows: micro.rows.min(rows - strip),
                        panels: pair.len(),
                        resume: from > 0,
                    });
                }
            }
        }
    }
}
