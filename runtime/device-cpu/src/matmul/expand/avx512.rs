//! Sixteen rows of a panel in a register of AVX-512, columns one after another; pairs and codes. The same words as in
//! [`super::any`], but for numbers too small for bf16's exponent, which become 0, and scales that are no numbers.

use super::{Expand, Words};
use crate::matmul::PANEL;
use crate::memory::Shared;
use dreamc_artifact::layout::QUANTIZED_HEAD;
use dreamc_num::Quant;
use dreamc_num::quant::row_inverse;
use std::arch::x86_64::*;

/// As [`super::expand`].
///
/// # Safety
///
/// The host has the instructions, the panel the columns, and `how.words` are pairs or codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn expand(
    how: &Expand,
    panel: Shared<u8>,
    from: usize,
    steps: usize,
    to: &mut [[u32; PANEL]],
) {
    let panel = panel.get().cast_const();
    // SAFETY: every panel in few bits begins with scales.
    let scales = unsafe { panel.cast::<[f32; PANEL]>().read_unaligned() };
    let columns = how.words.columns();
    let (first, last) = (from * columns, (from + steps) * columns);
    let to = &mut to[..steps.next_multiple_of(8)];
    let mut inverses = [0.0; PANEL];
    inverses.iter_mut().zip(&scales).for_each(|(i, s)| *i = row_inverse(*s));
    // SAFETY: sixteen of each.
    let (scales, inverses) =
        unsafe { (_mm512_loadu_ps(scales.as_ptr()), _mm512_loadu_ps(inverses.as_ptr())) };
    match how.quant {
        // No panels: refused in `check.rs`.
        Quant::Fp8 => {}
        Quant::Int8 => {
            for (column, to) in (first..last).step_by(4).zip(to.chunks_exact_mut(4 / columns)) {
                // SAFETY: a word of four columns of which one exists at least.
                let codes = unsafe { _mm512_loadu_si512(panel.add(QUANTIZED_HEAD + column * PANEL).cast()) };
                store(how.words, of_bytes(codes, scales), inverses, to);
            }
        }
        Quant::Int4 { group, zero } => {
            let group = group as usize;
            let head = if zero { 4 * PANEL } else { 2 * PANEL };
            let mut to = to.chunks_exact_mut(8 / columns);
            let mut column = first;
            while column < last {
                // SAFETY: a group of which a column exists; its columns are a multiple of 8.
                unsafe {
                    let start = panel.add(QUANTIZED_HEAD + column / group * (group * PANEL / 2 + head));
                    let scale = halves(start);
                    let min = if zero {
                        halves(start.add(2 * PANEL))
                    } else {
                        _mm512_mul_ps(scale, _mm512_set1_ps(-8.0))
                    };
                    let end = last.min((column / group + 1) * group);
                    for (column, to) in (column..end).step_by(8).zip(&mut to) {
                        let codes = start.add(head + column % group / 8 * 4 * PANEL);
                        let codes = _mm512_loadu_si512(codes.cast());
                        let (low, high) = to.split_at_mut(4 / columns);
                        store(how.words, of_nibbles(codes, scale, min), inverses, low);
                        store(
                            how.words,
                            of_nibbles(_mm512_srli_epi32::<4>(codes), scale, min),
                            inverses,
                            high,
                        );
                    }
                    column = end;
                }
            }
        }
    }
}

/// Sixteen numbers of bf16.
///
/// # Safety
///
/// They are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn halves(from: *const u8) -> __m512 {
    // SAFETY: passed on from the caller.
    unsafe { crate::lanes::load::<true>(from, u16::MAX) }
}

/// What the lower half of each byte of `codes` stands for, byte by byte.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_nibbles(codes: __m512i, scale: __m512, min: __m512) -> [__m512; 4] {
    let numbers =
        _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
    // Only the lowest four bits of a lane choose. A scale of bf16 times a code is exact, so it does not matter whether the
    // product is rounded before the sum.
    let value = |code| _mm512_fmadd_ps(scale, _mm512_permutexvar_ps(code, numbers), min);
    [
        value(codes),
        value(_mm512_srli_epi32::<8>(codes)),
        value(_mm512_srli_epi32::<16>(codes)),
        value(_mm512_srli_epi32::<24>(codes)),
    ]
}

/// What the bytes of `codes` stand for.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_bytes(codes: __m512i, scale: __m512) -> [__m512; 4] {
    let value = |code| _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(code)), scale);
    [
        value(_mm512_slli_epi32::<24>(codes)),
        value(_mm512_slli_epi32::<16>(codes)),
        value(_mm512_slli_epi32::<8>(codes)),
        value(codes),
    ]
}

/// Stores the values of four columns as words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store(words: Words, [a, b, c, d]: [__m512; 4], inverses: __m512, to: &mut [[u32; PANEL]]) {
    let put = |to: &mut [u32; PANEL], words| {
        // SAFETY: sixteen words.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) };
    };
    match (words, to) {
        (Words::Pairs, [one, two]) => {
            put(one, pairs(a, b));
            put(two, pairs(c, d));
        }
        (Words::Codes, [to]) => {
            let code = |v| _mm512_cvtps_epi32(_mm512_mul_ps(v, inverses));
            // In each quarter of a register: four of `a` and of `b`, then four of each.
            let (ab, cd) = (_mm512_packs_epi32(code(a), code(b)), _mm512_packs_epi32(code(c), code(d)));
            let by_column = _mm512_max_epi8(_mm512_packs_epi16(ab, cd), _mm512_set1_epi8(-127));
            let by_row = _mm512_set4_epi32(0x0f0b_0703, 0x0e0a_0602, 0x0d09_0501, 0x0c08_0400);
            put(to, _mm512_shuffle_epi8(by_column, by_row));
        }
        _ => {}
    }
}

/// Pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs(low: __m512, high: __m512) -> __m512i {
    // Element `2 i` is the `i`-th of the first half, `2 i + 1` of the second.
    const TURNS: [u16; 32] = {
        let mut turns = [0; 32];
        let mut i = 0;
        while i < 32 {
            turns[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        turns
    };
    // SAFETY: 64 bytes each, and every pattern of bits is a value.
    unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
        _mm512_permutexvar_epi16(_mm512_loadu_si512(TURNS.as_ptr().cast()), halves)
    }
}
