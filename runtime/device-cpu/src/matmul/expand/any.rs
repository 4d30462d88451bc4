//! Words as LLVM vectorises them, for every instruction set.

use super::{Expand, Words};
use crate::isa::per_isa;
use crate::matmul::PANEL;
use crate::matmul::codes::code;
use crate::memory::{Shared, from_bf16};
use dreamc_artifact::layout::QUANTIZED_HEAD;
use dreamc_num::Quant;
use dreamc_num::quant::row_inverse;

per_isa! {
    /// As [`super::expand`].
    fn expand(expand: &Expand, panel: Shared<u8>, from: usize, steps: usize, to: &mut [[u32; PANEL]]) {
        let panel = panel.get().cast_const();
        // SAFETY: every panel in few bits begins with scales.
        let scales = unsafe { panel.cast::<[f32; PANEL]>().read_unaligned() };
        let columns = expand.words.columns();
        let first = from * columns;
        match expand.quant {
            // No panels: refused in `check.rs`.
            Quant::Fp8 => {}
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
                inverses.iter_mut().zip(&scales).for_each(|(i, s)| *i = row_inverse(*s));
                let (mut number, mut of_group) = (first / group, first % group);
                for (i, to) in to[..steps.next_multiple_of(8)].chunks_exact_mut(8 / columns).enumerate() {
                    if i * 8 >= steps * columns {
                        break;
                    }
                    // SAFETY: a group of which a column exists; its columns are a multiple of 8.
                    let (start, codes) = unsafe {
                        let start = panel.add(QUANTIZED_HEAD + number * (group * PANEL / 2 + head));
                        (start, start.add(head + of_group / 8 * 4 * PANEL).cast::<[u32; PANEL]>().read_unaligned())
                    };
                    // Read every time: kept, they would be 32 numbers to LLVM, not two vectors.
                    // SAFETY: the head of the group.
                    let (scale, min) = unsafe { head_of(start, zero) };
                    // Spelt out: in a loop over columns LLVM would put columns, not features, into vectors.
                    let of = |shift: u32| nibbles(&codes, shift, &scale, &min);
                    let (first, second) = to.split_at_mut(4 / columns);
                    store(expand.words, &[of(0), of(8), of(16), of(24)], &inverses, first);
                    store(expand.words, &[of(4), of(12), of(20), of(28)], &inverses, second);
                    of_group += 8;
                    if of_group == group {
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
    let halves = unsafe { start.cast::<[u16; PANEL]>().read_unaligned() };
    let (mut scale, mut min) = ([0.0; PANEL], [0.0; PANEL]);
    scale.iter_mut().zip(&halves).for_each(|(to, half)| *to = from_bf16(*half));
    if zero {
        // SAFETY: passed on.
        let halves = unsafe { start.add(2 * PANEL).cast::<[u16; PANEL]>().read_unaligned() };
        min.iter_mut().zip(&halves).for_each(|(to, half)| *to = from_bf16(*half));
    } else {
        min.iter_mut().zip(&scale).for_each(|(to, scale)| *to = -8.0 * scale);
    }
    (scale, min)
}

/// What the codes of 4 bits from `shift` on stand for.
#[inline(always)]
fn nibbles(codes: &[u32; PANEL], shift: u32, scale: &[f32; PANEL], min: &[f32; PANEL]) -> [f32; PANEL] {
    let mut values = [0.0; PANEL];
    for (((v, codes), scale), min) in values.iter_mut().zip(codes).zip(scale).zip(min) {
        *v = min + scale * (codes >> shift & 15) as i32 as f32;
    }
    values
}

/// Stores the values of four columns as words.
#[inline(always)]
fn store(words: Words, values: &[[f32; PANEL]; 4], inverses: &[f32; PANEL], to: &mut [[u32; PANEL]]) {
    match (words, to) {
        (Words::Floats, [a, b, c, d]) => {
            (*a, *b) = (bits(&values[0]), bits(&values[1]));
            (*c, *d) = (bits(&values[2]), bits(&values[3]));
        }
        (Words::Pairs, [a, b]) => {
            *a = pairs(&values[0], &values[1]);
            *b = pairs(&values[2], &values[3]);
        }
        (Words::Codes, [to]) => {
            let of = |j: usize| bytes(&values[j], inverses, 8 * j as u32);
            let columns = [of(0), of(1), of(2), of(3)];
            for (i, to) in to.iter_mut().enumerate() {
                *to = columns[0][i] | columns[1][i] | columns[2][i] | columns[3][i];
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn bits(values: &[f32; PANEL]) -> [u32; PANEL] {
    let mut bits = [0; PANEL];
    bits.iter_mut().zip(values).for_each(|(to, v)| *to = v.to_bits());
    bits
}

/// Pairs of bf16.
#[inline(always)]
fn pairs(low: &[f32; PANEL], high: &[f32; PANEL]) -> [u32; PANEL] {
    let mut pairs = [0; PANEL];
    for ((to, low), high) in pairs.iter_mut().zip(low).zip(high) {
        *to = rounded(*low) >> 16 | rounded(*high) & 0xffff_0000;
    }
    pairs
}

/// The codes of 8 bits of some values, moved up by `shift`.
#[inline(always)]
fn bytes(values: &[f32; PANEL], inverses: &[f32; PANEL], shift: u32) -> [u32; PANEL] {
    let mut bytes = [0; PANEL];
    for ((byte, v), inverse) in bytes.iter_mut().zip(values).zip(inverses) {
        *byte = u32::from(code(*v, *inverse)) << shift;
    }
    bytes
}

/// Rounds to bf16 in the upper half; the lower half is unspecified. Scales are numbers, so there is no NaN to be kept.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1))
}
