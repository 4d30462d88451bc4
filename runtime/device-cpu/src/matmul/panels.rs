//! The panels of a matmul's weights: where they lie, and how they become words for tile kernels.

use super::expand::{Expand, Words, expand};
use super::micro::Micro;
use super::{Matmul, PANEL, STEPS};
use crate::isa::Isa;
use crate::memory::{Buf, Shared};
use dreamc_artifact::layout::{Layout, QUANTIZED_HEAD, quantized_panel_bytes};
use dreamc_num::DType;

/// How the panels of all weights of a matmul are stored.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    /// Bytes of one.
    bytes: usize,
    /// Bytes before the words.
    head: usize,
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

impl Default for Slot {
    fn default() -> Slot {
        Slot { panel: Shared(std::ptr::null_mut()), column: 0, columns: 0 }
    }
}

impl Panels {
    /// Those of `weight`, whose layout the device has checked.
    pub(super) fn new(weight: &Buf, micro: &Micro, int8: bool) -> Panels {
        let k = weight.columns();
        let Layout::Quantized(quant) = weight.layout else {
            return Panels { bytes: micro.steps(k) * PANEL * 4, head: 0, expand: None };
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
        self.stored(slot, from)
    }

    /// Where the words of step `from` are stored.
    pub(super) fn stored(&self, slot: &Slot, from: usize) -> *const u32 {
        // Only an address; whoever reads there knows that the panel has this step.
        slot.panel.get().wrapping_add(self.head + from * PANEL * 4).cast_const().cast()
    }
}
