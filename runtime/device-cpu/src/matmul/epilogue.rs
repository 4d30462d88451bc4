//! What is done to the sums of a matmul before they are stored.

use super::panels::Slot;
use super::{Matmul, PANEL};
use crate::isa::per_isa;
use crate::math::{gelu, quick_gelu, relu, silu};
use dreamc_artifact::plan::Activation;

/// What makes numbers of sums of codes.
#[derive(Clone, Copy)]
pub(super) struct Rescale {
    /// Of the row's codes.
    pub(super) scale: f32,
    /// What was added to each of them.
    pub(super) shift: i32,
}

/// The sums of a panel as numbers.
#[inline(always)]
fn load(sums: &[f32], slot: &Slot, rescale: Option<Rescale>, values: &mut [f32; PANEL]) {
    values.copy_from_slice(sums);
    let Some(Rescale { scale, shift }) = rescale else { return };
    // SAFETY: codes are multiplied with panels in few bits only, which begin with scales and sums.
    let (scales, of_codes) = unsafe {
        let panel = slot.panel.get().cast_const();
        let of_codes = panel.add(4 * PANEL).cast::<[i32; PANEL]>().read_unaligned();
        (panel.cast::<[f32; PANEL]>().read_unaligned(), of_codes)
    };
    for ((v, of_panel), of_codes) in values.iter_mut().zip(&scales).zip(&of_codes) {
        let sum = (v.to_bits() as i32).wrapping_sub(shift.wrapping_mul(*of_codes));
        *v = sum as f32 * scale * of_panel;
    }
}

per_isa! {
    /// Scales of codes, SwiGLU, bias, activation, residual and rounding for one row of a group.
    fn epilogue(matmul: &Matmul<'_>, row: usize, sums: &[f32], slots: &[Slot], rescale: Option<Rescale>) {
        let n = matmul.out.columns();
        let mut values = [0.0_f32; PANEL];
        let mut other = [0.0_f32; PANEL];
        let stride = if matmul.swiglu { 2 } else { 1 };
        for (i, slot) in slots.iter().enumerate().step_by(stride) {
            load(&sums[i * PANEL..][..PANEL], slot, rescale, &mut values);
            if matmul.swiglu {
                load(&sums[(i + 1) * PANEL..][..PANEL], &slots[i + 1], rescale, &mut other);
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
