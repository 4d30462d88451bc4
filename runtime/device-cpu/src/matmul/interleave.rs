//! Rows of words laid side by side: word `i` of every row, then word `i + 1` of every row.

use crate::isa::Isa;

/// Words of a row that are interleaved at most.
pub(super) const WORDS: usize = 256;

/// Rows of words; those of a strip, and fillers.
pub(super) type Rows = [[u32; WORDS]; 16];

/// Writes the first `count` words of the first `rows` rows to `to`, word `i` of row `r` at `i * stride + r`. What lies between
/// `rows` and `stride` may be written too.
///
/// # Safety
///
/// `to` has room for `count * stride` words; `count <= WORDS` and `rows <= stride <= 16`.
pub(super) unsafe fn interleave(
    isa: Isa,
    words: &Rows,
    count: usize,
    rows: usize,
    stride: usize,
    to: *mut u32,
) {
    #[cfg(target_arch = "x86_64")]
    let whole = isa.is_avx512() && rows >= 4 && stride.is_multiple_of(4);
    #[cfg(not(target_arch = "x86_64"))]
    let (whole, _) = (false, isa);
    // Words that are transposed, 16 at a time.
    let done = if whole { count / 16 * 16 } else { 0 };
    #[cfg(target_arch = "x86_64")]
    for from in (0..done).step_by(16) {
        // SAFETY: the device was made with this set only after `is_available`; there are 16 words from here on.
        unsafe { avx512(words, from, rows, stride, to.add(from * stride)) };
    }
    for (r, row) in words.iter().enumerate().take(rows) {
        for (i, word) in row.iter().enumerate().take(count).skip(done) {
            // SAFETY: there is room.
            unsafe { *to.add(i * stride + r) = *word };
        }
    }
}

/// 16 words of each row: four rows at a time are transposed inside lanes of four words, and each lane is stored.
///
/// # Safety
///
/// `from + 16 <= WORDS`, `to` has room for `16 * stride` words, and `rows.next_multiple_of(4) <= stride`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(words: &Rows, from: usize, rows: usize, stride: usize, to: *mut u32) {
    use std::arch::x86_64::*;
    for first in (0..rows).step_by(4) {
        // SAFETY: 16 words from `from` on, of 4 rows of the 16.
        let [a, b, c, d] = std::array::from_fn(|r| unsafe {
            _mm512_loadu_si512(words[first + r].as_ptr().add(from).cast())
        });
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        // Lane `l` of the `j`-th holds word `4 l + j` of the four rows.
        let words = [
            _mm512_unpacklo_epi64(ab_low, cd_low),
            _mm512_unpackhi_epi64(ab_low, cd_low),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ];
        for (j, word) in words.into_iter().enumerate() {
            let lanes = [
                _mm512_extracti32x4_epi32::<0>(word),
                _mm512_extracti32x4_epi32::<1>(word),
                _mm512_extracti32x4_epi32::<2>(word),
                _mm512_extracti32x4_epi32::<3>(word),
            ];
            for (l, lane) in lanes.into_iter().enumerate() {
                // SAFETY: four words of word `4 l + j` of the strip.
                unsafe { _mm_storeu_si128(to.add((4 * l + j) * stride + first).cast(), lane) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_where_it_belongs() {
        let mut words: Rows = [[0; WORDS]; 16];
        for (r, row) in words.iter_mut().enumerate() {
            row.iter_mut().enumerate().for_each(|(i, word)| *word = (r * 1000 + i) as u32);
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for stride in [4, 6, 8, 12] {
                for rows in 1..=stride {
                    for count in [1, 15, 16, 17, 100, WORDS] {
                        let mut to = vec![0; count * stride];
                        // SAFETY: there is room.
                        unsafe { interleave(isa, &words, count, rows, stride, to.as_mut_ptr()) };
                        for (i, words) in to.chunks(stride).enumerate() {
                            for (r, word) in words.iter().enumerate().take(rows) {
                                assert_eq!(*word as usize, r * 1000 + i, "{isa} {stride} {rows} {count}");
                            }
                        }
                    }
                }
            }
        }
    }
}
