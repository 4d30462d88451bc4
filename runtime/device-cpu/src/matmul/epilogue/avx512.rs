//! A row of a panel in one register of AVX-512; all but activations other than SwiGLU's.

use super::late::{Late, Rest, Runs};
use super::{IN_SILU, Sums, factors_of};
use crate::lanes::{self, exp2_of_tile, first, to_bf16, to_bf16_at_once};
use crate::math::EXP;
use crate::matmul::micro::{Tile, ask};
use crate::matmul::{GROUP, PANEL};
use crate::memory::Window;
use std::arch::x86_64::*;

/// The functions that store, for each way of rounding to bf16.
macro_rules! storing {
    ($name:ident, $features:literal, $to_bf16:ident) => {
        pub(super) mod $name {
            use super::*;

            /// What is done to the sums of a tile before they are stored.
            #[target_feature(enable = $features)]
            pub(in super::super) fn finish(tile: &Sums<'_>) {
                match (tile.matmul.swiglu, tile.scales) {
                    (false, None) => of_panels::<false, false>(tile, &[]),
                    (true, None) => of_panels::<true, false>(tile, &[]),
                    (false, Some(scales)) => of_panels::<false, true>(tile, scales),
                    (true, Some(scales)) => of_panels::<true, true>(tile, scales),
                }
            }

            #[target_feature(enable = $features)]
            fn of_panels<const SWIGLU: bool, const CODES: bool>(tile: &Sums<'_>, scales: &[f32]) {
                let matmul = tile.matmul;
                let rows = tile.row..tile.row + tile.rows;
                for (sums, slot, up) in tile.panels() {
                    let (columns, mask) = (slot.columns(), first(slot.columns));
                    let panel = Panel {
                        sums: &sums[..(tile.rows - 1) * GROUP + if SWIGLU { 2 * PANEL } else { PANEL }],
                        scales: if CODES { &scales[..tile.rows] } else { &[] },
                        factors: if CODES { factors_of(matmul, [slot, up]) } else { [[0.0; PANEL]; 2] },
                        bias: matmul.bias.map(|bias| load(&bias.window(0..1, columns.clone()), mask)),
                        residual: matmul
                            .residual
                            .map(|residual| residual.window(rows.clone(), columns.clone())),
                        out: matmul.out.window(rows.clone(), columns),
                        mask,
                    };
                    let mut r = 0;
                    while r < tile.rows {
                        r += match tile.rows - r {
                            12.. => of_rows::<12, SWIGLU, CODES>(&panel, r),
                            4.. => of_rows::<4, SWIGLU, CODES>(&panel, r),
                            _ => of_rows::<1, SWIGLU, CODES>(&panel, r),
                        };
                    }
                }
            }

            /// `R` rows from `from` on; returns how many. All is loaded before anything is stored: rows are often half a page
            /// apart, and a load waits for a store to the same place of another page.
            #[inline]
            #[target_feature(enable = $features)]
            fn of_rows<const R: usize, const SWIGLU: bool, const CODES: bool>(
                panel: &Panel<'_>,
                from: usize,
            ) -> usize {
                let value = |r: usize, of: usize| panel.value::<CODES>(from + r, of);
                let mut values = [_mm512_setzero_ps(); R];
                for (r, v) in values.iter_mut().enumerate() {
                    *v = match (SWIGLU, panel.out.bf16) {
                        (false, _) => value(r, 0),
                        (true, true) => silu_to_bf16::<CODES>(value(r, 0), value(r, 1)),
                        (true, false) => _mm512_mul_ps(silu(value(r, 0)), value(r, 1)),
                    };
                }
                if let Some(bias) = panel.bias {
                    values.iter_mut().for_each(|v| *v = _mm512_add_ps(*v, bias));
                }
                match &panel.residual {
                    Some(residual) if residual.bf16 => {
                        add::<R, true>(&mut values, residual, from, panel.mask)
                    }
                    Some(residual) => add::<R, false>(&mut values, residual, from, panel.mask),
                    None => {}
                }
                for (r, v) in values.into_iter().enumerate() {
                    store(&panel.out, from + r, panel.mask, v);
                }
                R
            }

            /// Writes the elements of `mask` in row `r`.
            #[inline]
            #[target_feature(enable = $features)]
            fn store(to: &Window, r: usize, mask: u16, v: __m512) {
                let start = to.row(r);
                // SAFETY: a row of the window, which is as wide as the mask.
                unsafe {
                    if to.bf16 {
                        lanes::store_halves(start.cast(), mask, $to_bf16(v));
                    } else {
                        _mm512_mask_storeu_ps(start.cast(), mask, v);
                    }
                }
            }
        }
    };
}
storing!(any, "avx512f,avx512bw,avx512dq,avx512vl", to_bf16);
storing!(bf16, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", to_bf16_at_once);

/// The rows that are done with the next run.
///
/// # Safety
///
/// There are sums of its rows, and it is of that form: [`BF16`], [`F32`] or [`SWIGLU`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(in crate::matmul) unsafe fn late_rows<const FORM: u8, const CODES: bool>(late: &Late, rest: &mut Rest) {
    // What SwiGLU needs would stay in registers from run to run, and a tile's sums would have to leave theirs.
    let late = if FORM == SWIGLU { std::hint::black_box(late) } else { late };
    for r in rest.part() {
        let row = late.rows.start + r;
        // SAFETY: sums of the row, and as many elements of the windows.
        unsafe {
            let value = |panel: usize| {
                let sums = _mm512_loadu_ps(late.sums.add(r * GROUP + panel * PANEL));
                if CODES { scaled(sums, *late.scales.add(row), &late.factors[panel]) } else { sums }
            };
            let to = late.out.row(row);
            if FORM == SWIGLU {
                let v = silu_to_bf16::<CODES>(value(0), value(1));
                _mm256_storeu_si256(to.cast(), to_bf16_at_once(v));
                continue;
            }
            let mut two = [value(0), value(1)];
            if let Some(bias) = &late.bias {
                for (v, bias) in two.iter_mut().zip(bias) {
                    *v = _mm512_add_ps(*v, _mm512_loadu_ps(bias.as_ptr()));
                }
            }
            let bytes = if FORM == F32 { 4 * PANEL } else { 2 * PANEL };
            if let Some(residual) = &late.residual {
                for (i, v) in two.iter_mut().enumerate() {
                    let at = |row: usize| residual.row(row).wrapping_add(i * bytes).cast_const();
                    let other = if FORM == F32 {
                        _mm512_loadu_ps(at(row).cast())
                    } else {
                        lanes::load::<true>(at(row), u16::MAX)
                    };
                    *v = _mm512_add_ps(*v, other);
                    // That of the tile that is multiplied now.
                    ask(at(row + late.rows.len()));
                }
            }
            for (i, v) in two.into_iter().enumerate() {
                let to = to.wrapping_add(i * bytes);
                if FORM == F32 {
                    _mm512_storeu_ps(to.cast(), v);
                } else {
                    _mm256_storeu_si256(to.cast(), to_bf16_at_once(v));
                }
            }
        }
    }
}

/// Forms of [`Late`].
pub(in crate::matmul) const BF16: u8 = 0;
pub(in crate::matmul) const F32: u8 = 1;
pub(in crate::matmul) const SWIGLU: u8 = 2;

impl Late {
    /// Which it is of.
    #[inline]
    pub(in crate::matmul) fn form(&self) -> u8 {
        if self.swiglu {
            SWIGLU
        } else if self.out.bf16 {
            BF16
        } else {
            F32
        }
    }
}

/// All rows.
///
/// # Safety
///
/// As for `late_rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn alone<const CODES: bool>(late: &Late) {
    let mut all = late.all();
    // SAFETY: passed on from the caller.
    unsafe {
        match late.form() {
            SWIGLU => late_rows::<SWIGLU, CODES>(late, &mut all),
            F32 => late_rows::<F32, CODES>(late, &mut all),
            _ => late_rows::<BF16, CODES>(late, &mut all),
        }
    }
}

/// Calls `$kernel::<form, rows, panels>` for `$late`'s form and the tile's rows, with the tile and those that follow.
macro_rules! late_by_rows {
    ($tile:ident, $late:ident, $kernel:ident) => {{
        macro_rules! each {
            ($form:ident, $rows:literal) => {
                $tile.each(|tile| {
                    // SAFETY: passed on from the caller.
                    unsafe { $kernel::<$form, $rows, 2>(tile, $late) };
                    $late.follow(tile);
                })
            };
        }
        match ($late.form(), $tile.rows) {
            (BF16, 4) => each!(BF16, 4),
            (BF16, 8) => each!(BF16, 8),
            (BF16, _) => each!(BF16, 12),
            (F32, 4) => each!(F32, 4),
            (F32, 8) => each!(F32, 8),
            (F32, _) => each!(F32, 12),
            (_, 4) => each!(SWIGLU, 4),
            (_, 8) => each!(SWIGLU, 8),
            (_, _) => each!(SWIGLU, 12),
        }
    }};
}
pub(in crate::matmul) use late_by_rows;

/// With the kernels for tiles of codes, or of pairs of bf16.
pub(in crate::matmul) const fn late_runs<const CODES: bool>(tile: unsafe fn(&Tile, &mut Late)) -> Runs {
    Runs { tile, alone: alone::<CODES> }
}

/// Sums of codes, times the scales of their row and their columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn scaled(sums: __m512, scale: f32, factors: &[f32; PANEL]) -> __m512 {
    let sums = _mm512_cvtepi32_ps(_mm512_castps_si512(sums));
    // SAFETY: sixteen of them.
    let factors = unsafe { _mm512_loadu_ps(factors.as_ptr()) };
    _mm512_mul_ps(_mm512_mul_ps(sums, _mm512_set1_ps(scale)), factors)
}

/// What becomes of the sums of a panel, or with SwiGLU of a gate and its up.
struct Panel<'p> {
    sums: &'p [f32],
    /// Of the rows, where codes were multiplied.
    scales: &'p [f32],
    /// Of the panels, where codes were multiplied.
    factors: [[f32; PANEL]; 2],
    bias: Option<__m512>,
    residual: Option<Window>,
    out: Window,
    /// Columns that exist.
    mask: u16,
}

impl Panel<'_> {
    /// The product of row `r` with the first panel or the second.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn value<const CODES: bool>(&self, r: usize, panel: usize) -> __m512 {
        // SAFETY: sixteen of the last row's or of one before it.
        let sums = unsafe { _mm512_loadu_ps(self.sums.as_ptr().add(r * GROUP + panel * PANEL)) };
        if CODES { scaled(sums, self.scales[r], &self.factors[panel]) } else { sums }
    }
}

/// `silu(x) * up`, off by less than 2e-4 of it, where rounding to bf16 adds 2e-3. Of codes `x` has been multiplied with the first
/// one of [`IN_SILU`] and `up` with the other.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn silu_to_bf16<const CODES: bool>(x: __m512, up: __m512) -> __m512 {
    let power = if CODES { x } else { _mm512_mul_ps(x, _mm512_set1_ps(*std::hint::black_box(&IN_SILU[0]))) };
    // Off by 2^-14; 0 where the power is too large for a number.
    let sigmoid = _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0), exp2_of_tile(power)));
    // `x` first: its product with `up` may be too large where the sigmoid is 0.
    _mm512_mul_ps(_mm512_mul_ps(x, sigmoid), up)
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

/// Adds the elements of `mask` in the rows from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn add<const R: usize, const BF16: bool>(values: &mut [__m512; R], from: &Window, first: usize, mask: u16) {
    for (r, v) in values.iter_mut().enumerate() {
        // SAFETY: a row of the window, which is as wide as the mask.
        let other = unsafe { lanes::load::<BF16>(from.row(first + r).cast_const(), mask) };
        *v = _mm512_add_ps(*v, other);
    }
}

/// The elements of `mask` in the first row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load(from: &Window, mask: u16) -> __m512 {
    let start = from.row(0).cast_const();
    // SAFETY: a row of the window, which is as wide as the mask.
    unsafe { if from.bf16 { lanes::load::<true>(start, mask) } else { lanes::load::<false>(start, mask) } }
}
