//! The panels of a matmul's weights: where they lie, and how they become words for tile kernels.

use super::expand::{Expand, Words, expand};
use super::{Matmul, PANEL, STEPS};
use crate::isa::Isa;
use crate::memory::{Buf, Shared};
use dreamc_artifact::layout::{Layout, QUANTIZED_HEAD, quantized_panel_bytes};
use dreamc_num::DType;
use std::ops::Range;

/// How the panels of all weights of a matmul are stored.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    /// Bytes of one.
    bytes: usize,
    /// Bytes before the words.
    head: usize,
    /// Steps of one.
    steps: usize,
    /// What is to be done where the words are not stored.
    pub(super) expand: Option<Expand>,
}

/// One panel of weights and the columns it makes.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) panel: Shared<u8>,
    /// First output column.
    pub(super) column: usize,
    /// How many of its 16 columns exist.
    pub(super) columns: usize,
}

impl Slot {
    /// The columns it makes.
    pub(super) fn columns(&self) -> Range<usize> {
        self.column..self.column + self.columns
    }

    /// Where a panel in few bits has the sums of its codes: behind the scales.
    pub(super) fn sums(&self) -> *const i32 {
        self.panel.get().wrapping_add(4 * PANEL).cast_const().cast()
    }
}

impl Default for Slot {
    fn default() -> Slot {
        Slot { panel: Shared(std::ptr::null_mut()), column: 0, columns: 0 }
    }
}

impl Panels {
    /// Those of `weight`, whose layout the device has checked.
    pub(super) fn new(weight: &Buf, steps: usize, int8: bool) -> Panels {
        let k = weight.columns();
        let Layout::Quantized(quant) = weight.layout else {
            return Panels { bytes: steps * PANEL * 4, head: 0, steps, expand: None };
        };
        let words = match (int8, weight.dtype) {
            (true, _) => Words::Codes,
            (false, DType::BF16) => Words::Pairs,
            (false, _) => Words::Floats,
        };
        let stored = int8 && quant == dreamc_num::Quant::Int8;
        Panels {
            bytes: quantized_panel_bytes(quant, k as u64).map_or(0, |bytes| bytes as usize),
            head: QUANTIZED_HEAD,
            steps,
            expand: if stored { None } else { Some(Expand { quant, words }) },
        }
    }

    /// Slot `slot` of the matmul. A slot is one panel; with `swiglu` gate and up panels alternate.
    pub(super) fn slot(&self, matmul: &Matmul<'_>, slot: usize) -> Slot {
        let (mut part, mut panel, mut column) = (0, slot, 0);
        if matmul.swiglu {
            (part, panel) = (slot % 2, slot / 2);
        } else {
            while panel >= matmul.weights[part].rows().div_ceil(PANEL) {
                panel -= matmul.weights[part].rows().div_ceil(PANEL);
                column += matmul.weights[part].rows();
                part += 1;
            }
        }
        let weight = &matmul.weights[part];
        // SAFETY: panel `panel` of the weight, whose size the device has checked.
        let start = Shared(unsafe { weight.start().add(panel * self.bytes) });
        let columns = PANEL.min(weight.rows() - panel * PANEL);
        Slot { panel: start, column: column + panel * PANEL, columns }
    }

    /// The words of `steps` steps of a panel from `from` on: where they are stored, or made in `room`.
    pub(super) fn words(
        &self,
        isa: Isa,
        slot: &Slot,
        from: usize,
        steps: usize,
        room: &mut [[u32; PANEL]; STEPS],
    ) -> *const u32 {
        if let Some(how) = &self.expand {
            expand(isa, how, slot.panel, from, steps, room);
            return room.as_ptr().cast();
        }
        // Only an address; the panel has these steps.
        slot.panel.get().wrapping_add(self.head + from * PANEL * 4).cast_const().cast()
    }

    /// Where what is stored of at most `steps` steps from `from` on begins in two panels, and how many bytes it takes in each.
    pub(super) fn stored(
        &self,
        one: &Slot,
        two: &Slot,
        from: usize,
        steps: usize,
    ) -> ([*const u8; 2], usize) {
        let at = |step: usize| self.head + (self.bytes - self.head) * step.min(self.steps) / self.steps;
        let start = |slot: &Slot| slot.panel.get().wrapping_add(at(from)).cast_const();
        ([start(one), start(two)], at(from + steps) - at(from))
    }
}
