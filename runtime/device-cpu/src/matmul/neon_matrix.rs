//! Tile kernels of NEON's products of matrices: 6 rows x 1 panel, 24 accumulators of 2 rows x 2 columns.
//!
//! A product takes two words of each row and column, so words of neighbouring steps are put side by side. Here are pairs of
//! bf16; codes go the same way. A row by itself would fill half a product: dot products add it up, in the same order.

use super::micro::{Micro, Pack, RUN, Tile, by_rows};
use std::arch::aarch64::*;
use std::arch::asm;

/// Rows of a tile, and of a strip of the matmul.
pub(crate) const ROWS: usize = 6;

/// Sums of three pairs of rows by eight pairs of columns.
pub(crate) type Sums = [[uint32x4_t; 8]; ROWS / 2];

/// The words beside the last ones of an odd number of steps.
pub(crate) static ZEROS: [u32; 16] = [0; 16];

pub(crate) fn micro() -> Micro {
    Micro { rows: ROWS, panels: 1, pack: Pack::Pairs, run, late: None }
}

unsafe fn run(tile: &Tile) {
    by_rows!(tile, pairs_tile, 1, 6: 1 2 3 4 5)
}

unsafe fn pairs_tile<const R: usize, const P: usize>(tile: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { if R == 1 { dot_tile(tile) } else { bfmmla_tile::<R>(tile) } }
}

/// Two products from four columns of each of two rows, or the other way round.
#[inline(always)]
pub(crate) fn swap([a, b]: [uint32x4_t; 2]) -> [uint32x4_t; 2] {
    // SAFETY: NEON is part of the target.
    unsafe {
        let (a, b) = (vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b));
        [vreinterpretq_u32_u64(vzip1q_u64(a, b)), vreinterpretq_u32_u64(vzip2q_u64(a, b))]
    }
}

/// # Safety
///
/// The tile's pointers cover what it says, which is `R` rows.
#[inline(always)]
pub(super) unsafe fn start<const R: usize>(tile: &Tile) -> Sums {
    // SAFETY: NEON is part of the target; the result covers the rows.
    unsafe {
        let zero = vdupq_n_u32(0);
        let mut sums = [[zero; 8]; ROWS / 2];
        if tile.resume {
            for (p, pair) in sums.iter_mut().enumerate().take(R.div_ceil(2)) {
                for (q, two) in pair.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let c = tile.c.add(2 * p * tile.c_stride + q * 4).cast::<u32>();
                    let second = if 2 * p + 1 < R { vld1q_u32(c.add(tile.c_stride)) } else { zero };
                    *two = swap([vld1q_u32(c), second]);
                }
            }
        }
        sums
    }
}

/// Writes the sums of `R` rows.
///
/// # Safety
///
/// `c` has room for sixteen numbers in each row.
#[inline(always)]
pub(crate) unsafe fn finish<const R: usize>(c: *mut f32, c_stride: usize, sums: &Sums) {
    for (p, pair) in sums.iter().enumerate().take(R.div_ceil(2)) {
        for (q, two) in pair.as_chunks::<2>().0.iter().enumerate() {
            let [first, second] = swap(*two);
            // SAFETY: quarter `q` of two rows of the result, or of the last one.
            unsafe {
                let c = c.add(2 * p * c_stride + q * 4).cast::<u32>();
                vst1q_u32(c, first);
                if 2 * p + 1 < R {
                    vst1q_u32(c.add(c_stride), second);
                }
            }
        }
    }
}

/// The words of three pairs of rows, or as many as hold `R`, at two steps from `a` on.
///
/// # Safety
///
/// Words of a strip, the first step an even one of a run.
#[inline(always)]
pub(super) unsafe fn rows<const R: usize>(a: *const u32) -> [uint32x4_t; ROWS / 2] {
    const { assert!(RUN.is_multiple_of(2)) };
    // SAFETY: NEON is part of the target; a strip has six rows and whole runs, whether they are used or not.
    unsafe {
        let mut pairs = [vdupq_n_u32(0); ROWS / 2];
        for (p, pair) in pairs.iter_mut().enumerate().take(R.div_ceil(2)) {
            let row = a.add(2 * p * RUN);
            *pair = vcombine_u32(vld1_u32(row), vld1_u32(row.add(RUN)));
        }
        pairs
    }
}

/// Adds to the sums of `$rows` rows their products with the words of a panel at two steps, `$a` being pairs of rows.
macro_rules! add_products {
    ($product:literal, $sums:ident, $rows:ident, $a:expr, $b:expr) => {
        for q in 0..4 {
            let [low, high] = $b.map(|words: *const u32| vld1q_u32(words.add(q * 4)));
            let b = [vzip1q_u32(low, high), vzip2q_u32(low, high)];
            for (a, sums) in $a.iter().zip(&mut $sums).take($rows.div_ceil(2)) {
                for (b, v) in b.iter().zip(&mut sums[q * 2..]) {
                    // The intrinsic is not stable. Not `pure`, so that loads stay between products: all of them first
                    // would take the registers of sums.
                    asm!(
                        $product,
                        v = inout(vreg) *v,
                        a = in(vreg) *a,
                        b = in(vreg) *b,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            }
        }
    };
}
pub(crate) use add_products;

/// Defines the tile kernel of a product of matrices, which hosts with some features have.
macro_rules! matrix_tile {
    ($name:ident, $features:literal, $product:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(tile: &Tile) {
            use $crate::matmul::neon_matrix::{ROWS, ZEROS, finish, rows, start};
            // SAFETY: every access below is inside the tile, which the caller vouches for, or to zeros.
            unsafe {
                let mut sums = start::<R>(tile);
                for run in tile.runs(ROWS) {
                    for k in (0..run.steps).step_by(2) {
                        // Packed rows have zeros behind their last step.
                        let (a, b) = (rows::<R>(run.a.add(k)), run.b[0].add(k * 16));
                        let next = if k + 1 < run.steps { b.add(16) } else { ZEROS.as_ptr() };
                        $crate::matmul::neon_matrix::add_products!($product, sums, R, a, [b, next]);
                    }
                }
                finish::<R>(tile.c, tile.c_stride, &sums);
            }
        }
    };
}
pub(super) use matrix_tile;

matrix_tile!(bfmmla_tile, "neon,bf16", "bfmmla {v:v}.4s, {a:v}.8h, {b:v}.8h");

/// A single row.
#[target_feature(enable = "neon,bf16")]
unsafe fn dot_tile(tile: &Tile) {
    // SAFETY: every access below is inside the tile, which the caller vouches for.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 4];
        if tile.resume {
            for (q, v) in sums.iter_mut().enumerate() {
                *v = vld1q_f32(tile.c.add(q * 4));
            }
        }
        for run in tile.runs(ROWS) {
            for k in 0..run.steps {
                let a = vdupq_n_u32(*run.a.add(k));
                for (q, v) in sums.iter_mut().enumerate() {
                    // The intrinsic is not stable.
                    asm!(
                        "bfdot {v:v}.4s, {a:v}.8h, {b:v}.8h",
                        v = inout(vreg) *v,
                        a = in(vreg) a,
                        b = in(vreg) vld1q_u32(run.b[0].add(k * 16 + q * 4)),
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        for (q, v) in sums.iter().enumerate() {
            vst1q_f32(tile.c.add(q * 4), *v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::matmul::int8;
    use crate::matmul::micro::{More, Next};

    /// Whatever the number of rows, each has the same bits, and what is behind the last one stays.
    #[test]
    fn rows_do_not_depend_on_each_other() {
        if !Isa::NeonMatrix.is_available() {
            return;
        }
        let mut seed = 1_u32;
        let mut word = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Numbers of bf16 near 1, or any codes.
            seed & 0x8fff_8fff | 0x3000_3000
        };
        for micro in [micro(), int8::micro(Isa::NeonMatrix)] {
            for (steps, resume) in [(1, false), (2, true), (3, true), (16, false), (17, true), (35, false)] {
                let mut a: Vec<u32> = (0..micro.strip_words(steps)).map(|_| word()).collect();
                let last = steps % RUN;
                if last > 0 {
                    let rows = a.chunks_mut(RUN).rev().take(ROWS);
                    rows.for_each(|row| row[last..].fill(0));
                }
                let b: Vec<u32> = (0..steps * 16).map(|_| word()).collect();
                let before: Vec<f32> = (0..ROWS * 16).map(|i| i as f32).collect();
                let of = |rows: usize| {
                    let mut c = before.clone();
                    let tile = Tile {
                        steps,
                        next: Next::NONE,
                        a: a.as_ptr(),
                        b: [b.as_ptr(); 2],
                        c: c.as_mut_ptr(),
                        c_stride: 16,
                        rows,
                        panels: 1,
                        sums: [std::ptr::null(); 2],
                        resume,
                        more: More::NONE,
                    };
                    // SAFETY: a strip, a panel and a result of that many steps and rows.
                    unsafe { (micro.run)(&tile) };
                    c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let all = of(ROWS);
                for rows in 1..ROWS {
                    let (some, kept) = (of(rows), before.iter().map(|v| v.to_bits()).skip(rows * 16));
                    assert_eq!(some[..rows * 16], all[..rows * 16], "{:?} {steps} {rows}", micro.pack);
                    assert!(some[rows * 16..].iter().copied().eq(kept), "{:?} {steps} {rows}", micro.pack);
                }
            }
        }
    }
}
