//! What is done to the sums of a matmul before they are stored.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod late;

use super::micro::{Next, ask};
use super::panels::Slot;
use super::{GROUP, Matmul, PANEL};
use crate::isa::{Isa, per_isa};
use crate::math::{gelu, quick_gelu, relu, silu};
use dreamc_artifact::plan::Activation;
use dreamc_num::DType;
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
    /// Those of the rows, where codes were multiplied.
    pub(super) scales: Option<&'s [f32]>,
}

/// Asks for what will be added to the sums of some rows, before the last of them are there.
#[inline(always)]
pub(super) fn ask_for_residual(matmul: &Matmul<'_>, rows: Range<usize>, slots: &[Slot]) {
    if let (Some(residual), Some(first), Some(last)) = (&matmul.residual, slots.first(), slots.last()) {
        let columns = first.column..last.columns().end;
        let window = residual.window(rows.clone(), columns.clone());
        for line in (0..columns.len() * residual.dtype.bytes()).step_by(Next::LINE) {
            (0..rows.len()).for_each(|r| ask(window.row(r).wrapping_add(line)));
        }
    }
}

/// Scales of codes, SwiGLU, bias, activation, residual and rounding, right after a tile's last sums.
pub(super) fn epilogue(isa: Isa, tile: &Sums<'_>) {
    #[cfg(target_arch = "x86_64")]
    if isa.is_avx512() && tile.matmul.activation.is_none() {
        // SAFETY: the device was made with this set only after `is_available`.
        return unsafe {
            if isa == Isa::Avx512Bf16 { avx512::bf16::finish(tile) } else { avx512::any::finish(tile) }
        };
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
            let codes = tile.scales.map(|scales| (scales, [scales_of(slot), scales_of(up)]));
            for r in 0..tile.rows {
                let load = |panel: usize, values: &mut [f32; PANEL]| {
                    values.copy_from_slice(&sums[r * GROUP + panel * PANEL..][..PANEL]);
                    if let Some((scales, panels)) = &codes {
                        for (v, of_panel) in values.iter_mut().zip(&panels[panel]) {
                            *v = v.to_bits() as i32 as f32 * scales[r] * of_panel;
                        }
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

/// The scales that a panel in few bits begins with.
#[inline(always)]
fn scales_of(slot: &Slot) -> [f32; PANEL] {
    // SAFETY: codes are multiplied with panels in few bits only.
    unsafe { slot.panel.get().cast_const().cast::<[f32; PANEL]>().read_unaligned() }
}

/// What gate and up of codes are multiplied with besides, where SwiGLU is made for bf16: a power of 2 then needs no factor, and the
/// two make 1.
const IN_SILU: [f32; 2] = [-std::f32::consts::LOG2_E, -std::f32::consts::LN_2];

/// The factors of a pair of panels of codes.
fn factors_of(matmul: &Matmul<'_>, slots: [&Slot; 2]) -> [[f32; PANEL]; 2] {
    let mut factors = slots.map(scales_of);
    if matmul.swiglu && matmul.out.dtype == DType::BF16 {
        for (factors, by) in factors.iter_mut().zip(IN_SILU) {
            factors.iter_mut().for_each(|factor| *factor *= by);
        }
    }
    factors
}
