//! Matrix multiplication with packed weights: `x W^T`, norm before, epilogue after.
//!
//! The rows are packed once. Groups of panels are the tasks; inside a group go blocks of rows, blocks
//! of k, strips of rows and pairs of panels. Sums run along k in one order whatever the blocking.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod pack;
mod plain;

use crate::context::{Context, Need};
use crate::isa::{Isa, per_isa};
use crate::math::{gelu, quick_gelu, relu, silu};
use crate::memory::{Buf, Shared};
use dreamc_artifact::plan::Activation;
use dreamc_num::DType;
use micro::{Micro, Tile};
use pack::{Norm, inverse_rms, pack_strip};

/// Columns that one task computes at most.
const GROUP: usize = 128;
/// Rows in a block: a multiple of every strip height.
const ROWS: usize = 264;
/// Steps in a block.
const STEPS: usize = 256;
/// Columns of a panel.
const PANEL: usize = dreamc_artifact::layout::PANEL;

/// One matmul.
pub(crate) struct Matmul<'m> {
    pub(crate) x: Buf,
    /// Their rows follow each other, or with `swiglu` gate and up.
    pub(crate) weights: &'m [Buf],
    pub(crate) norm: Option<Norm>,
    pub(crate) bias: Option<Buf>,
    pub(crate) residual: Option<Buf>,
    pub(crate) swiglu: bool,
    pub(crate) activation: Option<Activation>,
    pub(crate) out: Buf,
}

/// Type of the rows that are multiplied: what a norm makes has the weights' type, as the unfused norm's result.
fn operand(x: DType, weights: DType, normed: bool) -> DType {
    if normed { weights } else { x }
}

/// Scratch of a matmul of `m` rows and `k` columns.
pub(crate) fn need(isa: Isa, x: DType, weights: DType, normed: bool, m: usize, k: usize) -> Need {
    let micro = Micro::select(isa, operand(x, weights, normed), weights);
    let shared = m.div_ceil(micro.rows) * micro.steps(k) * micro.a_words();
    Need { shared, worker: ROWS * GROUP }
}

/// Runs it.
pub(crate) fn run(context: &Context<'_>, matmul: &Matmul<'_>) {
    let x = matmul.x;
    let (m, k) = (x.rows(), x.columns());
    let n = matmul.out.columns();
    let weights_dtype = matmul.weights[0].dtype;
    let operand = operand(x.dtype, weights_dtype, matmul.norm.is_some());
    let micro = Micro::select(context.isa, operand, weights_dtype);
    let (steps, a_words) = (micro.steps(k), micro.a_words());
    let strips = m.div_ceil(micro.rows);
    let packed = context.shared(strips * steps * a_words);

    context.pool.run(strips, &|strip, _| {
        let first = strip * micro.rows;
        let rows = micro.rows.min(m - first);
        let norm = matmul.norm.map(|norm| {
            let mut scales = [0.0; 16];
            for (r, scale) in scales.iter_mut().enumerate().take(rows) {
                *scale = inverse_rms(context.isa, &x, (first + r) * k, k, norm.eps);
            }
            (norm, scales)
        });
        // SAFETY: inside the scratch, whose size was checked above.
        let to = Shared(unsafe { packed.get().add(strip * steps * a_words) });
        pack_strip(context.isa, &x, k, first, rows, &micro, norm.as_ref(), operand, to);
    });

    // A slot is one panel; with `swiglu` gate and up panels alternate.
    let slots = if matmul.swiglu {
        2 * n.div_ceil(PANEL)
    } else {
        matmul.weights.iter().map(|w| w.rows().div_ceil(PANEL)).sum()
    };
    // Fewer columns a task where there are few tasks; two panels at least, as a tile takes.
    let even = slots.div_ceil(4 * context.pool.threads()).next_multiple_of(2);
    let group = even.clamp(2, GROUP / PANEL);
    context.pool.run(slots.div_ceil(group), &|task, worker| {
        let first = task * group;
        let count = group.min(slots - first);
        let mut panels = [Slot::default(); GROUP / PANEL];
        for (i, slot) in panels.iter_mut().enumerate().take(count) {
            *slot = matmul.slot(first + i, steps);
        }
        // SAFETY: this task's worker; the last task's borrow has ended.
        let tile = unsafe { context.worker(worker, ROWS * GROUP) };
        for row in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - row);
            block(&micro, Shared(packed.get()), steps, row, rows, &panels[..count], tile);
            for r in 0..rows {
                let sums = &tile[r * GROUP..][..count * PANEL];
                epilogue(context.isa, matmul, row + r, sums, &panels[..count]);
            }
        }
    });
}

/// One panel of weights and the columns it makes.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    panel: Shared<u32>,
    /// First output column.
    column: usize,
    /// How many of its 16 columns exist.
    columns: usize,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot { panel: Shared(std::ptr::null_mut()), column: 0, columns: 0 }
    }
}

impl Matmul<'_> {
    /// Finds slot `slot` in the weights.
    fn slot(&self, slot: usize, steps: usize) -> Slot {
        let (mut part, mut panel, mut column) = (0, slot, 0);
        if self.swiglu {
            (part, panel) = (slot % 2, slot / 2);
        } else {
            while panel >= self.weights[part].rows().div_ceil(PANEL) {
                panel -= self.weights[part].rows().div_ceil(PANEL);
                column += self.weights[part].rows();
                part += 1;
            }
        }
        let weight = &self.weights[part];
        // SAFETY: panel `panel` of the weight, whose size the device has checked.
        let start = Shared(unsafe { weight.start().cast::<u32>().add(panel * steps * PANEL) });
        let columns = PANEL.min(weight.rows() - panel * PANEL);
        Slot { panel: start, column: column + panel * PANEL, columns }
    }
}

/// `tile = rows of the packed operand x panels`.
fn block(
    micro: &Micro,
    packed: Shared<f32>,
    steps: usize,
    row: usize,
    rows: usize,
    panels: &[Slot],
    tile: &mut [f32],
) {
    let a_words = micro.a_words();
    for from in (0..steps).step_by(STEPS) {
        for (i, pair) in panels.chunks(micro.panels).enumerate() {
            for strip in (0..rows).step_by(micro.rows) {
                // SAFETY: the block's rows and steps are inside the packed operand, the panels hold
                // `steps` steps, and the tile has `ROWS` rows of `GROUP` columns.
                unsafe {
                    let b = |p: &Slot| p.panel.get().add(from * PANEL).cast_const();
                    (micro.run)(&Tile {
                        steps: STEPS.min(steps - from),
                        a: packed
                            .get()
                            .cast::<u32>()
                            .add(((row + strip) / micro.rows * steps + from) * a_words),
                        b: [b(&pair[0]), b(&pair[pair.len() - 1])],
                        c: tile.as_mut_ptr().add(strip * GROUP + i * micro.panels * PANEL),
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

per_isa! {
    /// SwiGLU, bias, activation, residual and rounding for one row of a group.
    fn epilogue(matmul: &Matmul<'_>, row: usize, sums: &[f32], slots: &[Slot]) {
        let n = matmul.out.columns();
        let mut values = [0.0_f32; PANEL];
        let mut other = [0.0_f32; PANEL];
        let stride = if matmul.swiglu { 2 } else { 1 };
        for (i, slot) in slots.iter().enumerate().step_by(stride) {
            values.copy_from_slice(&sums[i * PANEL..][..PANEL]);
            if matmul.swiglu {
                other.copy_from_slice(&sums[(i + 1) * PANEL..][..PANEL]);
                for (v, up) in values.iter_mut().zip(&other) {
                    *v = silu(*v) * up;
                }
            }
            if let Some(bias) = &matmul.bias {
                bias.load(slot.column, &mut other[..slot.columns]);
                values.iter_mut().zip(&other).for_each(|(v, o)| *v += o);
            }
            match matmul.activation {
                None => {}
                Some(Activation::Silu) => values.iter_mut().for_each(|v| *v = silu(*v)),
                Some(Activation::Gelu) => values.iter_mut().for_each(|v| *v = gelu(*v)),
                Some(Activation::QuickGelu) => values.iter_mut().for_each(|v| *v = quick_gelu(*v)),
                Some(Activation::Relu) => values.iter_mut().for_each(|v| *v = relu(*v)),
            }
            if let Some(residual) = &matmul.residual {
                residual.load(row * n + slot.column, &mut other[..slot.columns]);
                values.iter_mut().zip(&other).for_each(|(v, o)| *v += o);
            }
            matmul.out.store(row * n + slot.column, &values[..slot.columns]);
        }
    }
}
