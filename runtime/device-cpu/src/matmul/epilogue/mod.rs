//! What is done to the sums of a matmul before they are stored.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::micro::ask;
use super::panels::Slot;
use super::{GROUP, Matmul, PANEL};
use crate::isa::{Isa, per_isa};
use crate::math::{gelu, quick_gelu, relu, silu};
use dreamc_artifact::plan::Activation;
use std::ops::Range;

/// A tile of sums, and what is to become of it.
pub(super) struct Sums<'s> {
    pub(super) matmul: &'s Matmul<'s>,
    /// First row, and how many.
    pub(super) row: usize,
    pub(super) rows: usize,
    /// Sixteen for each panel, those of a row `GROUP` behind those of the row before. Codes add up to bits of i32.
    pub(super) sums: &'s [f32],
    /// One panel or two; with `swiglu` a gate and its up.
    pub(super) slots: &'s [Slot],
    /// Given where codes were multiplied.
    pub(super) rescale: Option<Rescale<'s>>,
}

/// What makes numbers of sums of codes.
#[derive(Clone, Copy)]
pub(super) struct Rescale<'r> {
    /// Of the rows' codes.
    pub(super) scales: &'r [f32],
    /// What was added to each of them.
    pub(super) shift: i32,
}

/// Asks for what will be added to the sums of some rows, before the last of them are there.
#[inline(always)]
pub(super) fn ask_for_residual(matmul: &Matmul<'_>, rows: Range<usize>, slots: &[Slot]) {
    if let Some(residual) = &matmul.residual {
        for slot in slots {
            let window = residual.window(rows.clone(), slot.columns());
            (0..rows.len()).for_each(|r| ask(window.row(r).cast_const()));
        }
    }
}

/// Scales of codes, SwiGLU, bias, activation, residual and rounding, right after a tile's last sums.
pub(super) fn epilogue(isa: Isa, tile: &Sums<'_>) {
    #[cfg(target_arch = "x86_64")]
    if isa.is_avx512() && tile.matmul.activation.is_none() {
        // SAFETY: the device was made with this set only after `is_available`.
        return unsafe { avx512::finish(tile) };
    }
    finish(isa, tile);
}

impl<'s> Sums<'s> {
    /// The panels that make columns, each with the one that it is the gate of.
    fn panels(&self) -> impl Iterator<Item = (&'s [f32], &'s Slot, &'s Slot)> {
        let stride = if self.matmul.swiglu { 2 } else { 1 };
        let sums = self.sums;
        let panels = self.slots.chunks_exact(stride).enumerate();
        panels.map(move |(i, slots)| (&sums[i * stride * PANEL..], &slots[0], &slots[stride - 1]))
    }
}

per_isa! {
    fn finish(tile: &Sums<'_>) {
        let matmul = tile.matmul;
        let n = matmul.out.columns();
        let mut other = [0.0_f32; PANEL];
        for (sums, slot, up) in tile.panels() {
            let codes = tile.rescale.map(|_| [Codes::of(slot), Codes::of(up)]);
            for r in 0..tile.rows {
                let load = |panel: usize, values: &mut [f32; PANEL]| {
                    values.copy_from_slice(&sums[r * GROUP + panel * PANEL..][..PANEL]);
                    if let (Some(codes), Some(rescale)) = (&codes, tile.rescale) {
                        codes[panel].rescale(rescale.scales[r], rescale.shift, values);
                    }
                };
                let mut values = [0.0_f32; PANEL];
                load(0, &mut values);
                if matmul.swiglu {
                    load(1, &mut other);
                    values.iter_mut().zip(&other).for_each(|(v, up)| *v = silu(*v) * up);
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
                let at = (tile.row + r) * n + slot.column;
                if let Some(residual) = &matmul.residual {
                    residual.load(at, &mut other[..slot.columns]);
                    values.iter_mut().zip(&other).for_each(|(v, o)| *v += o);
                }
                matmul.out.store(at, &values[..slot.columns]);
            }
        }
    }
}

/// What a panel in few bits begins with.
struct Codes {
    scales: [f32; PANEL],
    sums: [i32; PANEL],
}

impl Codes {
    #[inline(always)]
    fn of(slot: &Slot) -> Codes {
        let panel = slot.panel.get().cast_const();
        // SAFETY: codes are multiplied with panels in few bits only, which begin with scales and sums.
        unsafe {
            Codes {
                scales: panel.cast::<[f32; PANEL]>().read_unaligned(),
                sums: panel.add(4 * PANEL).cast::<[i32; PANEL]>().read_unaligned(),
            }
        }
    }

    /// The bits of sums of codes as numbers.
    #[inline(always)]
    fn rescale(&self, scale: f32, shift: i32, values: &mut [f32; PANEL]) {
        for ((v, of_panel), of_codes) in values.iter_mut().zip(&self.scales).zip(&self.sums) {
            let sum = (v.to_bits() as i32).wrapping_sub(shift.wrapping_mul(*of_codes));
            *v = sum as f32 * scale * of_panel;
        }
    }
}
