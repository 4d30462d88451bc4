//! Rows in registers of AVX-512; all but words of f32. The same bits as in [`super::any`].
//!
//! 32 elements are taken at a time. Of bf16 the even ones are in one register and the odd ones in another: that is how they
//! come apart, and go together, in the fewest instructions. Of f32 they are as they lie.

use super::{Before, By, CHUNK, Micro, Pack, Strip, Survey, chunks};
use crate::lanes::{LANES, even_odd, first_two, high, load, load_two, sum, to_bf16, to_bf16_high};
use crate::matmul::micro::{Next, RUN, ask};
use crate::memory::{Buf, Window};
use dreamc_num::DType;
use dreamc_num::quant::INT8_MAX;
use std::arch::x86_64::*;

/// Elements taken at a time.
const TWO: usize = 32;

/// What the columns of a chunk are multiplied with.
type Factors = [[__m512; 2]; CHUNK / TWO];

/// As [`super::any::square_sum`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn square_sum(x: &Buf, row: usize) -> f32 {
    let row = Row { x: &x.window(row..row + 1, 0..x.columns()), r: 0, from: 0, ahead: CHUNK };
    if row.x.bf16 { row.square_sum::<true>(x.columns()) } else { row.square_sum::<false>(x.columns()) }
}

/// As [`super::any::survey`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn survey(strip: &Strip<'_>) -> Survey {
    let x = strip.window();
    let plain = x.bf16 && !strip.before.any();
    let mut of_rows = [OfRow { largest: _mm512_setzero_si512(), squares: [_mm512_setzero_ps(); 2] }; 16];
    for (from, n) in chunks(strip.x.columns()) {
        let columns = Columns::of(strip.before, from, n);
        let mut factors = [[_mm512_set1_ps(1.0); 2]; CHUNK / TWO];
        if strip.before.any() {
            for (at, factors) in (0..n).step_by(TWO).zip(&mut factors) {
                // SAFETY: there are `n` columns.
                *factors = unsafe {
                    if x.bf16 {
                        columns.factors::<true>(at, first_two(n - at))
                    } else {
                        columns.factors::<false>(at, first_two(n - at))
                    }
                };
            }
        }
        for (r, of_row) in of_rows.iter_mut().enumerate().take(strip.rows) {
            let row = Row { x: &x, r, from, ahead: strip.ahead(from, n) };
            match (plain, x.bf16, strip.before.norm.is_some()) {
                (true, ..) => row.survey_halves(n, of_row),
                (_, true, true) => row.survey::<true, true>(n, &factors, of_row),
                (_, true, false) => row.survey::<true, false>(n, &factors, of_row),
                (_, false, true) => row.survey::<false, true>(n, &factors, of_row),
                (_, false, false) => row.survey::<false, false>(n, &factors, of_row),
            }
        }
    }
    let largest = of_rows.map(|OfRow { largest, .. }| {
        let [one, two] = if plain {
            [_mm512_slli_epi32::<16>(largest), _mm512_and_si512(largest, high())]
        } else {
            [largest, largest]
        };
        // Bits of f32 without a sign are in order.
        f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(one, two)))
    });
    Survey { largest, squares: of_rows.map(|OfRow { squares: [one, two], .. }| sum(_mm512_add_ps(one, two))) }
}

/// What is known of a row.
#[derive(Clone, Copy)]
struct OfRow {
    /// Bits of magnitudes, of f32 or bf16.
    largest: __m512i,
    squares: [__m512; 2],
}

/// See [`super::put`]; for pairs and codes. The words of a run of every row follow each other, so they are made in this order.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn put(strip: &Strip<'_>, from: usize, n: usize, by: &By, micro: &Micro, to: *mut u32) {
    let x = strip.window();
    let (rows, before, ahead) = (strip.rows, strip.before, strip.ahead(from, n));
    let chunk = Chunk { x: &x, rows, from, ahead, n, before, by, micro, to };
    // SAFETY: the strip has the columns, and room for their words.
    unsafe {
        match (micro.pack, strip.before.any(), x.bf16) {
            (Pack::Pairs, false, true) => chunk.halves(),
            (Pack::Pairs, _, true) => chunk.pairs::<true>(),
            (Pack::Pairs, _, false) => chunk.pairs::<false>(),
            (_, false, true) => chunk.codes::<true, false>(),
            (_, true, true) => chunk.codes::<true, true>(),
            (_, _, false) => chunk.codes::<false, true>(),
        }
    }
}

/// Where the factors of some columns are.
struct Columns([Option<Window>; 2]);

impl Columns {
    /// Those of `n` columns from `from` on.
    fn of(before: &Before, from: usize, n: usize) -> Columns {
        let gain = before.norm.as_ref().map(|norm| norm.gain);
        Columns([gain, before.smooth].map(|x| x.map(|x| x.window(0..1, from..from + n))))
    }

    /// Those of `mask`, of 32 from column `at` on, in the order of elements of bf16 or of f32.
    ///
    /// # Safety
    ///
    /// There are such columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn factors<const BF16: bool>(&self, at: usize, mask: u32) -> [__m512; 2] {
        let mut factors = [_mm512_set1_ps(1.0); 2];
        for x in self.0.iter().flatten() {
            let start = x.row(0).cast_const();
            // SAFETY: passed on from the caller; nothing is read where the mask is 0.
            let other = unsafe {
                match (x.bf16, BF16) {
                    (true, true) => load_two::<true>(start.wrapping_add(2 * at), mask),
                    (false, true) => even_odd(load_two::<false>(start.wrapping_add(4 * at), mask)),
                    (false, false) => load_two::<false>(start.wrapping_add(4 * at), mask),
                    (true, false) => {
                        [0, LANES].map(|i| load::<true>(start.wrapping_add(2 * (at + i)), (mask >> i) as u16))
                    }
                }
            };
            for (factor, other) in factors.iter_mut().zip(other) {
                *factor = _mm512_mul_ps(*factor, other);
            }
        }
        factors
    }
}

impl Strip<'_> {
    /// How many elements behind those of a chunk the ones lie that come next: in the same row, or in the next strip.
    fn ahead(&self, from: usize, n: usize) -> usize {
        if from + n < self.x.columns() { CHUNK } else { self.rows * self.x.columns() - from }
    }
}

/// A row of a strip from some column on.
struct Row<'r> {
    x: &'r Window,
    r: usize,
    from: usize,
    /// See [`Strip::ahead`].
    ahead: usize,
}

impl Row<'_> {
    /// Where element `at` is, if there is one.
    #[inline]
    fn at<const BF16: bool>(&self, at: usize) -> *mut u8 {
        let dtype = if BF16 { DType::BF16 } else { DType::F32 };
        self.x.row(self.r).wrapping_add((self.from + at) * dtype.bytes())
    }

    /// Asks for the 32 elements that come a chunk, or a strip, after those at `at`: other rows come before them, so the processor
    /// does not foresee them.
    #[inline]
    fn ask_ahead<const BF16: bool>(&self, at: usize) {
        let then = self.at::<BF16>(at + self.ahead).cast_const();
        ask(then);
        if !BF16 {
            ask(then.wrapping_add(Next::LINE));
        }
    }

    /// The elements from `at` on, of `n`.
    ///
    /// # Safety
    ///
    /// The row has them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load<const BF16: bool>(&self, at: usize, n: usize) -> [__m512; 2] {
        self.ask_ahead::<BF16>(at);
        // SAFETY: passed on from the caller.
        unsafe { load_two::<BF16>(self.at::<BF16>(at), first_two(n - at)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn square_sum<const BF16: bool>(&self, n: usize) -> f32 {
        let mut sums = [_mm512_setzero_ps(); 2];
        for at in (0..n).step_by(TWO) {
            // SAFETY: the row has `n`.
            let two = unsafe { self.load::<BF16>(at, n) };
            for (sum, v) in sums.iter_mut().zip(two) {
                *sum = _mm512_add_ps(*sum, _mm512_mul_ps(v, v));
            }
        }
        sum(_mm512_add_ps(sums[0], sums[1]))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn survey<const BF16: bool, const SQUARES: bool>(&self, n: usize, factors: &Factors, of_row: &mut OfRow) {
        let (mut max, [mut one, mut two]) = (of_row.largest, of_row.squares);
        let magnitude = |v: __m512| _mm512_castps_si512(_mm512_abs_ps(v));
        for (at, [of_one, of_two]) in (0..n).step_by(TWO).zip(factors) {
            // SAFETY: the row has `n`.
            let [v, w] = unsafe { self.load::<BF16>(at, n) };
            if SQUARES {
                one = _mm512_add_ps(one, _mm512_mul_ps(v, v));
                two = _mm512_add_ps(two, _mm512_mul_ps(w, w));
            }
            max = _mm512_max_epu32(magnitude(_mm512_mul_ps(v, *of_one)), max);
            max = _mm512_max_epu32(magnitude(_mm512_mul_ps(w, *of_two)), max);
        }
        *of_row = OfRow { largest: max, squares: [one, two] };
    }

    /// The same of bf16 that nothing is done to.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn survey_halves(&self, n: usize, of_row: &mut OfRow) {
        let mut max = of_row.largest;
        for at in (0..n).step_by(TWO) {
            self.ask_ahead::<true>(at);
            // SAFETY: the row has `n`.
            let halves = unsafe { _mm512_maskz_loadu_epi16(first_two(n - at), self.at::<true>(at).cast()) };
            max = _mm512_max_epu16(max, _mm512_and_si512(halves, _mm512_set1_epi16(i16::MAX)));
        }
        of_row.largest = max;
    }
}

/// Some columns of a strip, as in [`super::put`].
struct Chunk<'c> {
    x: &'c Window,
    rows: usize,
    from: usize,
    /// See [`Strip::ahead`].
    ahead: usize,
    n: usize,
    before: &'c Before,
    by: &'c By,
    micro: &'c Micro,
    to: *mut u32,
}

impl Chunk<'_> {
    fn row(&self, r: usize) -> Row<'_> {
        Row { x: self.x, r, from: self.from, ahead: self.ahead }
    }

    /// Writes the `run`-th run of row `r`.
    ///
    /// # Safety
    ///
    /// There is room for it.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(&self, run: usize, r: usize, words: __m512i) {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_storeu_si512(self.to.add((run * self.micro.rows + r) * RUN).cast(), words) };
    }

    /// Pairs of bf16 as they are.
    ///
    /// # Safety
    ///
    /// The rows have the columns, and there is room for their words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn halves(&self) {
        for at in (0..self.n).step_by(TWO) {
            let mask = first_two(self.n - at);
            for r in 0..self.rows {
                let row = self.row(r);
                row.ask_ahead::<true>(at);
                // SAFETY: by the contract.
                unsafe { self.store(at / TWO, r, _mm512_maskz_loadu_epi16(mask, row.at::<true>(at).cast())) };
            }
        }
    }

    /// Pairs of rows that something is done to.
    ///
    /// # Safety
    ///
    /// As for `halves`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn pairs<const BF16: bool>(&self) {
        let columns = Columns::of(self.before, self.from, self.n);
        for at in (0..self.n).step_by(TWO) {
            let mask = first_two(self.n - at);
            // SAFETY: by the contract.
            let factors = unsafe { columns.factors::<BF16>(at, mask) };
            for r in 0..self.rows {
                // SAFETY: by the contract.
                unsafe {
                    let mut two = load_two::<BF16>(self.row(r).at::<BF16>(at), mask);
                    if self.before.any() {
                        for (v, factor) in two.iter_mut().zip(factors) {
                            *v = _mm512_mul_ps(_mm512_mul_ps(*v, _mm512_set1_ps(self.by.rows[r])), factor);
                        }
                    }
                    let pairs = if BF16 {
                        let [even, odd] = two.map(|v| to_bf16_high(v));
                        _mm512_or_si512(_mm512_srli_epi32::<16>(even), _mm512_and_si512(odd, high()))
                    } else {
                        let [first, others] = two.map(|v| to_bf16(v));
                        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), others)
                    };
                    self.store(at / TWO, r, pairs);
                }
            }
        }
    }

    /// Codes, `ANY` saying whether there are factors.
    ///
    /// # Safety
    ///
    /// As for `halves`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn codes<const BF16: bool, const ANY: bool>(&self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.by.exact {
                self.codes_of::<BF16, ANY, false>();
            } else {
                self.codes_of::<BF16, ANY, true>();
            }
        }
    }

    /// # Safety
    ///
    /// As for `halves`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn codes_of<const BF16: bool, const ANY: bool, const CLAMP: bool>(&self) {
        let shift = _mm256_set1_epi8(if self.micro.pack == Pack::ShiftedCodes { i8::MIN } else { 0 });
        let (least, most) = (_mm512_set1_ps(-INT8_MAX), _mm512_set1_ps(INT8_MAX));
        let columns = Columns::of(self.before, self.from, self.n);
        for at in (0..self.n).step_by(2 * TWO) {
            let masks = [self.n - at, (self.n - at).saturating_sub(TWO)].map(first_two);
            let starts = [at, at + TWO];
            let mut of_columns = [[_mm512_set1_ps(1.0); 2]; 2];
            if ANY {
                for half in 0..2 {
                    // SAFETY: by the contract.
                    of_columns[half] = unsafe { columns.factors::<BF16>(starts[half], masks[half]) };
                }
            }
            for r in 0..self.rows {
                let by = _mm512_set1_ps(self.by.rows[r]);
                let mut halves = [_mm256_setzero_si256(); 2];
                for (half, to) in halves.iter_mut().enumerate() {
                    // SAFETY: by the contract; nothing is read where the mask is 0.
                    let mut two =
                        unsafe { load_two::<BF16>(self.row(r).at::<BF16>(starts[half]), masks[half]) };
                    if ANY {
                        for (v, factor) in two.iter_mut().zip(of_columns[half]) {
                            *v = _mm512_mul_ps(*v, factor);
                        }
                    }
                    let [one, two] = two.map(|v| {
                        let v = _mm512_mul_ps(v, by);
                        // What is not a number stays so, and becomes an integer whose low half is 0.
                        let v = if CLAMP { _mm512_max_ps(least, _mm512_min_ps(most, v)) } else { v };
                        _mm512_cvtps_epi32(v)
                    });
                    let codes = if BF16 {
                        let both = _mm512_mask_blend_epi16(0xaaaa_aaaa, one, _mm512_slli_epi32::<16>(two));
                        _mm512_cvtepi16_epi8(both)
                    } else {
                        let first = _mm256_castsi128_si256(_mm512_cvtepi32_epi8(one));
                        _mm256_inserti128_si256::<1>(first, _mm512_cvtepi32_epi8(two))
                    };
                    *to = _mm256_maskz_mov_epi8(masks[half], _mm256_xor_si256(codes, shift));
                }
                let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(halves[0]), halves[1]);
                // SAFETY: by the contract.
                unsafe { self.store(at / (2 * TWO), r, codes) };
            }
        }
    }
}
