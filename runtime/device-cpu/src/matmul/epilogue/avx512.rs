//! A row of a panel in one register of AVX-512; all but activations other than SwiGLU's.

use super::{Codes, Rescale, Slot, Sums};
use crate::lanes::{self, first, to_bf16};
use crate::math::EXP;
use crate::matmul::{GROUP, PANEL};
use crate::memory::Window;
use std::arch::x86_64::*;

/// What is done to the sums of a tile before they are stored.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn finish(tile: &Sums<'_>) {
    match (tile.matmul.swiglu, tile.rescale) {
        (false, None) => of_panels::<false, false>(tile, None),
        (true, None) => of_panels::<true, false>(tile, None),
        (false, rescale) => of_panels::<false, true>(tile, rescale),
        (true, rescale) => of_panels::<true, true>(tile, rescale),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn of_panels<const SWIGLU: bool, const CODES: bool>(tile: &Sums<'_>, rescale: Option<Rescale<'_>>) {
    let matmul = tile.matmul;
    let rows = tile.row..tile.row + tile.rows;
    let rescale = rescale.filter(|_| CODES);
    for (sums, slot, up) in tile.panels() {
        let columns = slot.columns();
        let mask = first(slot.columns);
        let out = matmul.out.window(rows.clone(), columns.clone());
        let residual = matmul.residual.map(|residual| residual.window(rows.clone(), columns.clone()));
        let bias = matmul.bias.map(|bias| load(&bias.window(0..1, columns), 0, mask));
        let codes =
            rescale.map(|r| (&r.scales[..tile.rows], [slot, up].map(|slot| Panel::of(slot, r.shift))));
        let sums = &sums[..(tile.rows - 1) * GROUP + if SWIGLU { 2 * PANEL } else { PANEL }];
        for r in 0..tile.rows {
            let value = |panel: usize| {
                // SAFETY: sixteen of the last row's or of one before it.
                let sums = unsafe { _mm512_loadu_ps(sums.as_ptr().add(r * GROUP + panel * PANEL)) };
                codes.map_or(sums, |(scales, panels)| panels[panel].rescale(scales[r], sums))
            };
            let mut v = value(0);
            if SWIGLU {
                v = _mm512_mul_ps(silu(v), value(1));
            }
            if let Some(bias) = bias {
                v = _mm512_add_ps(v, bias);
            }
            if let Some(residual) = &residual {
                v = _mm512_add_ps(v, load(residual, r, mask));
            }
            store(&out, r, mask, v);
        }
    }
}

/// What a panel in few bits begins with; what was added to codes times the sums of the weights' codes.
#[derive(Clone, Copy)]
struct Panel {
    scales: __m512,
    shifts: __m512i,
}

impl Panel {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(slot: &Slot, shift: i32) -> Panel {
        let codes = Codes::of(slot);
        // SAFETY: sixteen of each.
        let (scales, sums) = unsafe {
            (_mm512_loadu_ps(codes.scales.as_ptr()), _mm512_loadu_si512(codes.sums.as_ptr().cast()))
        };
        Panel { scales, shifts: _mm512_mullo_epi32(sums, _mm512_set1_epi32(shift)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rescale(&self, scale: f32, sums: __m512) -> __m512 {
        let sums = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_castps_si512(sums), self.shifts));
        _mm512_mul_ps(_mm512_mul_ps(sums, _mm512_set1_ps(scale)), self.scales)
    }
}

/// As [`crate::math::silu`].
#[inline]
#[target_feature(enable = "avx512f")]
fn silu(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    let minus = _mm512_sub_ps(_mm512_set1_ps(-0.0), x);
    _mm512_div_ps(x, _mm512_add_ps(one, exp(minus)))
}

/// As [`crate::math::exp`].
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    // The second operand is the result where one is not a number.
    let x = _mm512_max_ps(_mm512_set1_ps(EXP.least), _mm512_min_ps(_mm512_set1_ps(EXP.most), x));
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(EXP.ln_2[0]), x);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(EXP.ln_2[1]), r);
    let [first, rest @ ..] = EXP.polynomial;
    let mut p = _mm512_set1_ps(first);
    for c in rest {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let y = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r);
    _mm512_scalef_ps(_mm512_add_ps(y, _mm512_set1_ps(1.0)), n)
}

/// The elements of `mask` in row `r`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load(from: &Window, r: usize, mask: u16) -> __m512 {
    let start = from.row(r).cast_const();
    // SAFETY: a row of the window, which is as wide as the mask.
    unsafe { if from.bf16 { lanes::load::<true>(start, mask) } else { lanes::load::<false>(start, mask) } }
}

/// Writes them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store(to: &Window, r: usize, mask: u16, v: __m512) {
    let start = to.row(r);
    // SAFETY: as above.
    unsafe {
        match (to.bf16, mask) {
            // Narrowing into memory under a mask is many times slower than the two apart.
            (true, u16::MAX) => _mm256_storeu_si256(start.cast(), to_bf16(v)),
            (true, _) => _mm256_mask_storeu_epi16(start.cast(), mask, to_bf16(v)),
            (false, _) => _mm512_mask_storeu_ps(start.cast(), mask, v),
        }
    }
}
