//! Panels in few bits made into the words that tile kernels take, a block of steps at a time.
//!
//! A block is expanded once for a block of rows, so what it costs is spread over them.

mod any;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::PANEL;
use crate::isa::Isa;
use crate::memory::Shared;
use dreamc_num::Quant;

/// What panels become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// f32, one column a step.
    Floats,
    /// bf16, two columns a step.
    Pairs,
    /// Codes of 8 bits, four columns a step.
    Codes,
}

impl Words {
    /// Columns of a step.
    const fn columns(self) -> usize {
        match self {
            Words::Floats => 1,
            Words::Pairs => 2,
            Words::Codes => 4,
        }
    }
}

/// From what is stored to words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expand {
    pub(super) quant: Quant,
    pub(super) words: Words,
}

/// Writes `steps` steps from `from` on, a multiple of 8, of the panel to `to`; what follows them up to a multiple of 8 is
/// unspecified.
///
/// The caller vouches that the panel has as many columns.
pub(super) fn expand(
    isa: Isa,
    how: &Expand,
    panel: Shared<u8>,
    from: usize,
    steps: usize,
    to: &mut [[u32; PANEL]],
) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512Bf16 && how.words != Words::Floats {
        // SAFETY: the device was made with this set only after `is_available`; the panel by the contract.
        return unsafe { avx512::expand(how, panel, from, steps, to) };
    }
    any::expand(isa, how, panel, from, steps, to);
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use dreamc_artifact::layout::quantized_panel_bytes;

    /// Any codes, scales that are numbers.
    fn panel(quant: Quant, k: usize) -> Vec<u8> {
        let bytes = quantized_panel_bytes(quant, k as u64).unwrap_or(0) as usize;
        let mut seed = 1_u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed
        };
        let mut panel: Vec<u8> = (0..bytes).map(|_| (next() >> 24) as u8).collect();
        for scale in panel[..4 * PANEL].chunks_exact_mut(4) {
            scale.copy_from_slice(&((next() >> 24) as f32 / 4096.0 + 0.002).to_le_bytes());
        }
        if let Quant::Int4 { group, zero } = quant {
            let head = if zero { 4 * PANEL } else { 2 * PANEL };
            let bytes = group as usize * PANEL / 2 + head;
            for group in panel[dreamc_artifact::layout::QUANTIZED_HEAD..].chunks_exact_mut(bytes) {
                for half in group[..head].chunks_exact_mut(2) {
                    half[1] = half[1] & 0x81 | 0x3c;
                }
            }
        }
        panel
    }

    #[test]
    fn registers_make_the_same_words() {
        if !Isa::Avx512Bf16.is_available() {
            return;
        }
        let int4 = |group, zero| Quant::Int4 { group, zero };
        for quant in [Quant::Int8, int4(32, true), int4(64, false), int4(128, true)] {
            for words in [Words::Pairs, Words::Codes] {
                if (quant, words) == (Quant::Int8, Words::Codes) {
                    continue;
                }
                for k in [8, 70, 128, 1000] {
                    let mut panel = panel(quant, k);
                    let how = Expand { quant, words };
                    let steps = k.div_ceil(words.columns());
                    for from in [0, 8, 64].into_iter().filter(|from| *from < steps) {
                        let mut of = |isa: Isa| {
                            let mut to = [[0; PANEL]; 512];
                            expand(isa, &how, Shared(panel.as_mut_ptr()), from, steps - from, &mut to);
                            to[..steps - from].to_vec()
                        };
                        assert_eq!(of(Isa::Avx512Bf16), of(Isa::Plain), "{quant} {words:?} {k} {from}");
                    }
                }
            }
        }
    }
}
