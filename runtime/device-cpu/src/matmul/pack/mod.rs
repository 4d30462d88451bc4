//! Packing the rows of the left operand into strips, with what comes before the product on the way.

mod any;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::micro::{Micro, Pack};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::memory::Window;
use crate::memory::{Buf, Shared};
use dreamc_num::DType;
use dreamc_num::quant::{INT8_MAX, row_inverse};

/// Elements of a row that are converted at a time: whole runs, however they are packed.
const CHUNK: usize = 256;

/// RMS norm before the matmul.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) eps: f32,
    pub(crate) gain: Buf,
}

/// What is done to rows before they are multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    pub(crate) norm: Option<Norm>,
    /// Factors of the columns, after the norm.
    pub(crate) smooth: Option<Buf>,
}

impl Before {
    /// Whether anything is done at all.
    fn any(&self) -> bool {
        self.norm.is_some() || self.smooth.is_some()
    }

    /// What the `n` columns from `from` on are multiplied with.
    #[inline(always)]
    fn factors(&self, from: usize, n: usize) -> [f32; CHUNK] {
        let mut factors = [1.0; CHUNK];
        if let Some(norm) = &self.norm {
            norm.gain.load(from, &mut factors[..n]);
        }
        if let Some(smooth) = &self.smooth {
            let mut other = [1.0; CHUNK];
            smooth.load(from, &mut other[..n]);
            factors.iter_mut().zip(&other).for_each(|(factor, other)| *factor *= other);
        }
        factors
    }
}

/// The rows of a strip.
pub(crate) struct Strip<'s> {
    pub(crate) x: &'s Buf,
    pub(crate) before: &'s Before,
    /// The first one, and how many there are.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// Type of what is multiplied: rows that something is done to are rounded to it.
    pub(crate) dtype: DType,
}

/// First column of each chunk of `k`, and how many there are.
fn chunks(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k).step_by(CHUNK).map(move |from| (from, CHUNK.min(k - from)))
}

impl Strip<'_> {
    /// Its elements.
    #[cfg(target_arch = "x86_64")]
    fn window(&self) -> Window {
        self.x.window(self.first..self.first + self.rows, 0..self.x.columns())
    }

    /// Elements of row `r` from column `from` on, with what comes before the product; `rms` is `1 / sqrt(mean(x^2) + eps)` of
    /// the row if there is a norm.
    #[inline(always)]
    fn load(&self, r: usize, from: usize, rms: f32, factors: &[f32; CHUNK], out: &mut [f32]) {
        self.x.load((self.first + r) * self.x.columns() + from, out);
        if self.before.any() {
            out.iter_mut().zip(factors).for_each(|(v, factor)| *v = *v * rms * factor);
        }
    }
}

/// Packs a strip into `to`, which has room for `micro.strip_words` of `k` columns. Where codes are multiplied the scale of
/// row `r` goes to `scales[r]`, which has room for the rows; their codes do not depend on the norm of the row, which is part
/// of the scale.
pub(super) fn pack_strip(isa: Isa, strip: &Strip<'_>, micro: &Micro, to: Shared<f32>, scales: Shared<f32>) {
    let rms = |squares: f32| match &strip.before.norm {
        Some(norm) => inverse_rms_of(squares, strip.x.columns(), norm.eps),
        None => 1.0,
    };
    let by = if micro.codes() {
        let Survey { largest, squares } = survey(isa, strip);
        let of_codes = largest.map(|largest| largest / INT8_MAX);
        for r in 0..strip.rows {
            // Of a row with NaN or infinity it is no number, and so are the row's results.
            // SAFETY: a row of the strip.
            unsafe { *scales.get().add(r) = of_codes[r] * rms(squares[r]) };
        }
        By::codes(of_codes)
    } else {
        let mut by = By { rows: [1.0; 16], exact: true };
        if strip.before.norm.is_some() {
            for (r, by) in by.rows.iter_mut().enumerate().take(strip.rows) {
                *by = rms(square_sum(isa, strip.x, strip.first + r));
            }
        }
        by
    };
    for (from, n) in chunks(strip.x.columns()) {
        // SAFETY: words of these columns, inside the strip.
        let to = unsafe { to.get().cast::<u32>().add(micro.steps(from) * micro.a_words()) };
        put(isa, strip, from, n, &by, micro, to);
    }
}

/// `1 / sqrt(mean(x^2) + eps)` of a row.
pub(crate) fn inverse_rms(isa: Isa, x: &Buf, row: usize, eps: f32) -> f32 {
    inverse_rms_of(square_sum(isa, x, row), x.columns(), eps)
}

/// The same of `k` columns whose squares add up to `squares`.
fn inverse_rms_of(squares: f32, k: usize, eps: f32) -> f32 {
    1.0 / (squares / k as f32 + eps).sqrt()
}

/// Sum of the squares of a row.
fn square_sum(isa: Isa, x: &Buf, row: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if isa.is_avx512() {
        // SAFETY: the device was made with this set only after `is_available`.
        return unsafe { avx512::square_sum(x, row) };
    }
    any::square_sum(isa, x, row)
}

/// What has to be known of each row before codes are made.
struct Survey {
    /// The largest magnitude, NaN being larger than all; not multiplied with what a norm multiplies the row with.
    largest: [f32; 16],
    /// The sum of the squares, if there is a norm.
    squares: [f32; 16],
}

/// Looks at all rows.
fn survey(isa: Isa, strip: &Strip<'_>) -> Survey {
    #[cfg(target_arch = "x86_64")]
    if isa.is_avx512() {
        // SAFETY: as above.
        return unsafe { avx512::survey(strip) };
    }
    any::survey(isa, strip)
}

/// What rows are multiplied with: what a norm multiplies them with, or for codes what makes the largest element the largest
/// code.
struct By {
    rows: [f32; 16],
    /// Whether no element becomes larger than the largest code, once it is rounded.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "only AVX-512 does without clamping")
    )]
    exact: bool,
}

impl By {
    /// For codes of rows with these scales.
    fn codes(scales: [f32; 16]) -> By {
        let rows = scales.map(row_inverse);
        // One that is subnormal, or no number, is not precise. 0 is that of a row of zeros.
        let exact = |scale: &f32, by: &f32| *scale == 0.0 || scale.is_normal() && by.is_normal();
        By { rows, exact: scales.iter().zip(&rows).fold(true, |all, (scale, by)| all & exact(scale, by)) }
    }
}

/// Writes the words of `n` columns from `from` on of every row to `to`; zeros up to a whole run.
fn put(isa: Isa, strip: &Strip<'_>, from: usize, n: usize, by: &By, micro: &Micro, to: *mut u32) {
    #[cfg(target_arch = "x86_64")]
    if isa.is_avx512() && !matches!(micro.pack, Pack::Single | Pack::Wide) {
        // SAFETY: as above.
        return unsafe { avx512::put(strip, from, n, by, micro, to) };
    }
    any::put(isa, strip, from, n, by, micro, to);
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use dreamc_artifact::layout::Layout;
    use dreamc_runtime::Shape;

    fn buf(bytes: &mut [u32], dtype: DType, dims: &[u32]) -> Buf {
        let shape = Shape::new(dims).expect("a few dimensions");
        // SAFETY: the caller's words outlive every use, and are enough.
        unsafe { Buf::new(bytes.as_mut_ptr().cast(), dtype, Layout::RowMajor, shape) }
    }

    /// Numbers of all sizes, some of them none; as bits of f32, or two bf16 in a word.
    fn words(n: usize, mut seed: u32) -> Vec<u32> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed
        };
        (0..n).map(|_| if next() >> 27 == 0 { next() } else { next() & 0x8fff_8fff | 0x3000_3000 }).collect()
    }

    /// What is not a number has one form here: which of two goes on is the instruction's business.
    fn one_nan(pair: u32) -> u32 {
        let of = |half: u32| if half & 0x7fff > 0x7f80 { 0x7fff } else { half };
        of(pair & 0xffff) | of(pair >> 16) << 16
    }

    #[test]
    fn registers_make_the_same_words() {
        if !Isa::Avx512.is_available() {
            return;
        }
        const ROWS: usize = 12;
        for (k, dtype) in
            [1, 15, 16, 33, 256, 300, 769].into_iter().zip([DType::F32, DType::BF16].into_iter().cycle())
        {
            let (mut x, mut gain, mut factors) = (words(ROWS * k, 1), words(k, 2), words(k, 3));
            let x = buf(&mut x, dtype, &[ROWS as u32, k as u32]);
            let norm = Norm { eps: 1e-6, gain: buf(&mut gain, DType::F32, &[k as u32]) };
            let smooth = buf(&mut factors, DType::F32, &[k as u32]);
            for (norm, smooth) in
                [(None, None), (Some(norm), None), (None, Some(smooth)), (Some(norm), Some(smooth))]
            {
                let before = Before { norm, smooth };
                for rows in [1, 7, ROWS] {
                    let strip =
                        Strip { x: &x, before: &before, first: ROWS - rows, rows, dtype: DType::BF16 };
                    let of = |isa: Isa| -> [u32; 16] {
                        std::array::from_fn(|r| inverse_rms(isa, &x, r % ROWS, 1e-6))
                            .map(|v: f32| if v.is_nan() { 0 } else { v.to_bits() })
                    };
                    assert_eq!(of(Isa::Avx512), of(Isa::Plain), "{k}");
                    let [found, same] = [Isa::Avx512, Isa::Plain].map(|isa| survey(isa, &strip));
                    let most = found.largest;
                    let bits = |v: f32| if v.is_nan() { 0 } else { v.to_bits() };
                    assert_eq!(most.map(bits), same.largest.map(bits), "{k}");
                    assert_eq!(found.squares.map(bits), same.squares.map(bits), "{k}");
                    for pack in [Pack::Pairs, Pack::Codes, Pack::ShiftedCodes] {
                        let micro = Micro { rows: ROWS, panels: 1, pack, run: |_| {}, late: None };
                        let by = if micro.codes() {
                            By::codes(most.map(|v| v / INT8_MAX))
                        } else {
                            By { rows: [0.7; 16], exact: true }
                        };
                        let pairs = pack == Pack::Pairs;
                        for (from, n) in chunks(k) {
                            let of = |isa: Isa| {
                                let mut words = vec![0; micro.strip_words(micro.steps(n))];
                                put(isa, &strip, from, n, &by, &micro, words.as_mut_ptr());
                                if pairs { words.into_iter().map(one_nan).collect() } else { words }
                            };
                            assert_eq!(of(Isa::Avx512), of(Isa::Plain), "{k} {rows} {pack:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rows_that_are_not_finite_stay_so() {
        const K: usize = 40;
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut x, mut gain) = ([1.0_f32.to_bits(); 2 * K], [1.0_f32.to_bits(); K]);
            x[K + 3] = bad.to_bits();
            let x = buf(&mut x, DType::F32, &[2, K as u32]);
            let norm = Norm { eps: 0.0, gain: buf(&mut gain, DType::F32, &[K as u32]) };
            for norm in [Some(norm), None] {
                let before = Before { norm, smooth: None };
                let strip = Strip { x: &x, before: &before, first: 0, rows: 2, dtype: DType::F32 };
                for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                    let micro = crate::matmul::int8::micro(isa);
                    let mut words = vec![0.0; micro.strip_words(micro.steps(K))];
                    let mut scales = [1.0; 16];
                    pack_strip(isa, &strip, &micro, Shared(words.as_mut_ptr()), Shared(scales.as_mut_ptr()));
                    assert_eq!(scales[0], 1.0 / INT8_MAX, "{isa} {bad}");
                    assert!(!scales[1].is_finite(), "{isa} {bad}");
                }
            }
        }
    }
}
