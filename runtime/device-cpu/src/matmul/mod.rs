//! Matrix multiplication with packed weights: `x W^T`, norm before, epilogue after.
//!
//! The rows are packed once. Each part of them has groups of panels for tasks, and mostly its own threads; inside a group go
//! blocks of rows, blocks of k, pairs of panels and strips of rows. Sums run along k in one order whatever the blocking.
//!
//! Weights in few bits are multiplied as codes of 8 bits, with sums in integers, or they are expanded to
//! their type, a block of k at a time, for the same tile kernels as weights of that type.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
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
mod parts;
mod plain;
mod tasks;

use crate::context::{Context, Need};
use crate::isa::Isa;
use crate::memory::{Buf, Shared};
use block::Block;
use dreamc_artifact::plan::Activation;
use dreamc_num::DType;
use micro::Micro;
use pack::{Before, Strip, pack_strip};
use panels::{Panels, Slot};
use parts::Parts;
use tasks::Tasks;

/// Columns that one task computes at most.
const GROUP: usize = 128;
/// Rows in a block: a multiple of every strip height.
const ROWS: usize = 264;
/// Strips of a part, about, at least: fewer are not worth reading the panels for.
const PART: usize = 8;
/// Steps in a block of [`ROWS`] rows, which then are half of the second cache of 1 MiB. Between blocks sums go there and back.
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

/// Words of the packed rows and of their scales, if they have any, for however many threads.
fn packed_words(micro: &Micro, m: usize, k: usize) -> usize {
    let strips = m.div_ceil(micro.rows);
    let scales = if micro.codes() { m } else { 0 };
    // The last strip of each part may have few rows.
    (strips + strips / PART) * micro.strip_words(micro.steps(k)) + scales
}

/// The packed rows, part by part.
#[derive(Clone, Copy)]
struct Packed {
    words: Shared<f32>,
    /// Of the rows, if they are codes.
    scales: Shared<f32>,
    steps: usize,
    parts: Parts,
}

/// Runs it.
pub(crate) fn run(context: &Context<'_>, matmul: &Matmul<'_>) {
    let (m, k) = (matmul.x.rows(), matmul.x.columns());
    let weights = matmul.weights[0].dtype;
    let normed = matmul.before.norm.is_some();
    let operands = Operands { x: matmul.x.dtype, weights, normed, int8: matmul.int8 };
    let micro = operands.micro(context.isa);
    let steps = micro.steps(k);
    let parts = Parts::new(m, micro.rows, context.pool.parts(m.div_ceil(micro.rows), PART));
    let before = parts.all_strips() * micro.strip_words(steps);
    let words = context.shared(before + if micro.codes() { m } else { 0 });
    // Behind the packed rows; only looked at where there are scales.
    let scales = Shared(words.get().wrapping_add(before));
    let packed = Packed { words, scales, steps, parts };
    pack(context, matmul, &micro, operands.rows(), &packed);

    let panels = Panels::new(&matmul.weights[0], steps, matmul.int8);
    let slots = if matmul.swiglu {
        2 * matmul.out.columns().div_ceil(PANEL)
    } else {
        matmul.weights.iter().map(|w| w.rows().div_ceil(PANEL)).sum()
    };
    let threads = context.pool.threads().div_ceil(parts.count());
    let tasks = Tasks { slots, strips: parts.strips(), threads };
    let count = tasks.count();
    context.pool.run_parts(parts.count(), count, &|task, worker| {
        let part = task / count;
        let task = tasks.get(task % count);
        let mut of_group = [Slot::default(); GROUP / PANEL];
        for (slot, to) in task.slots.clone().zip(&mut of_group) {
            *to = panels.slot(matmul, slot);
        }
        let slots = &of_group[..task.slots.len()];
        // SAFETY: this task's worker; the last task's borrow has ended.
        let (sums, room) = unsafe { context.worker(worker, WORKER) }.split_at_mut(ROWS * GROUP);
        // SAFETY: as many words, of which every pattern of bits is a value.
        let room = unsafe { &mut *room.as_mut_ptr().cast::<[[[u32; PANEL]; STEPS]; 2]>() };
        let most = ROWS / micro.rows;
        for from in task.strips.clone().step_by(most) {
            let until = task.strips.end.min(from + most);
            let rows = parts.rows(part, from..until);
            if rows.is_empty() {
                break;
            }
            let after = || {
                let last = until == task.strips.end;
                let next = if last { tasks.get(context.pool.upcoming(part)) } else { task.clone() };
                let mut slots = next.slots.map(|slot| panels.slot(matmul, slot));
                slots.next().map(|first| [first, slots.next().unwrap_or(first)])
            };
            let isa = context.isa;
            let block = Block {
                isa,
                matmul,
                micro: &micro,
                packed: &packed,
                panels: &panels,
                strip: part * parts.strips() + from,
                rows,
                slots,
            };
            block.run(sums, room, &after);
        }
    });
}

/// Packs all rows.
fn pack(context: &Context<'_>, matmul: &Matmul<'_>, micro: &Micro, dtype: DType, packed: &Packed) {
    let parts = &packed.parts;
    context.pool.run_parts(parts.count(), parts.strips(), &|strip, _| {
        let (part, of_part) = (strip / parts.strips(), strip % parts.strips());
        let rows = parts.rows(part, of_part..of_part + 1);
        if rows.is_empty() {
            return;
        }
        // SAFETY: inside the scratch, whose size was checked.
        let to = Shared(unsafe { packed.words.get().add(strip * micro.strip_words(packed.steps)) });
        // Only written to where there are scales.
        let scales = Shared(packed.scales.get().wrapping_add(rows.start));
        let strip =
            Strip { x: &matmul.x, before: &matmul.before, first: rows.start, rows: rows.len(), dtype };
        pack_strip(context.isa, &strip, micro, to, scales);
    });
}
