//! Panels in few bits made into the words that tile kernels take, a block of steps at a time.
//!
//! A block is expanded once for a block of rows, so what it costs is spread over them.

use super::PANEL;
use super::codes::code;
use crate::isa::per_isa;
use crate::memory::{Shared, from_bf16};
use dreamc_artifact::layout::QUANTIZED_HEAD;
use dreamc_num::Quant;
use dreamc_num::quant::int8_inverse;

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

per_isa! {
    /// Writes `steps` steps from `from` on, a multiple of 8, of the panel to `to`; what follows them up to a multiple of 8 is
    /// unspecified.
    ///
    /// The caller vouches that the panel has as many columns.
    fn expand(expand: &Expand, panel: Shared<u8>, from: usize, steps: usize, to: &mut [[u32; PANEL]]) {
        let panel = panel.get().cast_const();
        // SAFETY: every panel in few bits begins with scales.
        let scales = unsafe { panel.cast::<[f32; PANEL]>().read_unaligned() };
        let columns = expand.words.columns();
        let first = from * columns;
        match expand.quant {
            Quant::Int8 => {
                for (i, to) in to[..steps.next_multiple_of(8)].chunks_exact_mut(4 / columns).enumerate() {
                    if i * 4 >= steps * columns {
                        break;
                    }
                    // SAFETY: a word of four columns of which one exists at least.
                    let codes = unsafe {
                        panel.add(QUANTIZED_HEAD + (first / 4 + i) * 4 * PANEL).cast::<[u32; PANEL]>().read_unaligned()
                    };
                    let mut values = [[0.0; PANEL]; 4];
                    for (j, values) in values.iter_mut().enumerate() {
                        for ((v, code), scale) in values.iter_mut().zip(&codes).zip(&scales) {
                            *v = ((code << (24 - 8 * j)) as i32 >> 24) as f32 * scale;
                        }
                    }
                    store(expand.words, &values, &scales, to);
                }
            }
            Quant::Int4 { group, zero } => {
                let group = group as usize;
                let head = if zero { 4 * PANEL } else { 2 * PANEL };
                let mut inverses = [0.0; PANEL];
                inverses.iter_mut().zip(&scales).for_each(|(i, s)| *i = int8_inverse(*s));
                let (mut scale, mut min) = ([0.0; PANEL], [0.0; PANEL]);
                let (mut number, mut of_group) = (first / group, first % group);
                let mut fresh = true;
                for (i, to) in to[..steps.next_multiple_of(8)].chunks_exact_mut(8 / columns).enumerate() {
                    if i * 8 >= steps * columns {
                        break;
                    }
                    // SAFETY: a group of which a column exists; its columns are a multiple of 8.
                    let (start, codes) = unsafe {
                        let start = panel.add(QUANTIZED_HEAD + number * (group * PANEL / 2 + head));
                        (start, start.add(head + of_group / 8 * 4 * PANEL).cast::<[u32; PANEL]>().read_unaligned())
                    };
                    if fresh {
                        // SAFETY: the head of the group.
                        (scale, min) = unsafe { head_of(start, zero) };
                    }
                    let mut values = [[0.0; PANEL]; 8];
                    for (j, values) in values.iter_mut().enumerate() {
                        let shift = j % 4 * 8 + j / 4 * 4;
                        for (lane, v) in values.iter_mut().enumerate() {
                            *v = min[lane] + scale[lane] * ((codes[lane] >> shift & 15) as i32 as f32);
                        }
                    }
                    store(expand.words, &values, &inverses, to);
                    of_group += 8;
                    fresh = of_group == group;
                    if fresh {
                        (number, of_group) = (number + 1, 0);
                    }
                }
            }
        }
    }
}

/// Scales and smallest values of a group.
///
/// # Safety
///
/// The group's head is there.
#[inline(always)]
unsafe fn head_of(start: *const u8, zero: bool) -> ([f32; PANEL], [f32; PANEL]) {
    // SAFETY: passed on.
    let wide = |at: usize| unsafe { start.add(at).cast::<[u16; PANEL]>().read_unaligned() }.map(from_bf16);
    let scale = wide(0);
    (scale, if zero { wide(2 * PANEL) } else { scale.map(|scale| -8.0 * scale) })
}

/// Stores the values of neighbouring columns as words.
#[inline(always)]
fn store(words: Words, values: &[[f32; PANEL]], inverses: &[f32; PANEL], to: &mut [[u32; PANEL]]) {
    match words {
        Words::Floats => {
            for (to, column) in to.iter_mut().zip(values) {
                to.iter_mut().zip(column).for_each(|(to, v)| *to = v.to_bits());
            }
        }
        Words::Pairs => {
            for (to, pair) in to.iter_mut().zip(values.chunks_exact(2)) {
                for ((to, low), high) in to.iter_mut().zip(&pair[0]).zip(&pair[1]) {
                    *to = rounded(*low) >> 16 | rounded(*high) & 0xffff_0000;
                }
            }
        }
        Words::Codes => {
            for (to, four) in to.iter_mut().zip(values.chunks_exact(4)) {
                *to = [0; PANEL];
                for (j, column) in four.iter().enumerate() {
                    for ((to, v), inverse) in to.iter_mut().zip(column).zip(inverses) {
                        *to |= u32::from(code(*v, *inverse)) << (8 * j);
                    }
                }
            }
        }
    }
}

/// Rounds to bf16 in the upper half; the lower half is unspecified. Scales are numbers, so there is no NaN to be kept.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1))
}
