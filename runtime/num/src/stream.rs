//! The random stream of the sampler: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011), used as a pure function of where a number is needed.
//!
//! ```text
//! key     = (seed low, seed high)
//! counter = (position in the row, row of the request, step, lane)
//! ```
//!
//! A number depends on nothing else: not on the batch a row is computed in, on the number of
//! threads, or on the device. The first of the four output words is used.

use serde::{Deserialize, Serialize};

/// What a random number is for. Numbers of different lanes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Which token a slot takes.
    Token,
    /// Which slots are committed.
    Slot,
}

/// The fourth counter word of [`normal`]. Fixed for ever, as [`Lane::word`].
const NOISE_WORD: u32 = 2;

impl Lane {
    /// Every lane, in declaration order.
    pub const ALL: [Lane; 2] = [Lane::Token, Lane::Slot];

    /// The fourth counter word. Fixed for ever: changing it would change every seeded result.
    pub const fn word(self) -> u32 {
        match self {
            Lane::Token => 0,
            Lane::Slot => 1,
        }
    }

    /// The spelling used in IR text.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::Token => "token",
            Lane::Slot => "slot",
        }
    }
}

/// State of the stream as the IR carries it, `u32[4]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The user's seed.
    pub seed: u64,
    /// Row of the request that row 0 of this batch is.
    pub first_row: u32,
    /// Denoising step, from 0.
    pub step: u32,
}

impl StreamState {
    /// The four words in the order they are stored.
    pub const fn words(self) -> [u32; 4] {
        [self.seed as u32, (self.seed >> 32) as u32, self.first_row, self.step]
    }

    /// Inverse of [`StreamState::words`].
    pub const fn from_words(words: [u32; 4]) -> Self {
        StreamState { seed: words[0] as u64 | (words[1] as u64) << 32, first_row: words[2], step: words[3] }
    }

    /// 32 random bits for `position` of batch row `row`.
    pub const fn bits(self, row: u32, position: u32, lane: Lane) -> u32 {
        let counter = [position, self.first_row.wrapping_add(row), self.step, lane.word()];
        philox4x32_10(counter, [self.seed as u32, (self.seed >> 32) as u32])[0]
    }
}

/// Uniform in `[0, 1)`: the upper 24 bits as a fraction, exact in f32.
pub const fn uniform(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Standard Gumbel variate: `-ln(-ln(u))` with `u = (upper 24 bits + 1/2) / 2^24`, never infinite.
///
/// The largest of `ln(w_i) + g_i` is distributed as a draw with probability proportional to `w_i`,
/// and the k largest as k draws without replacement.
pub fn gumbel(bits: u32) -> f32 {
    // In f64, since u next to 1 would round to 1 in f32.
    let u = (f64::from(bits >> 8) + 0.5) / 16_777_216.0;
    -libm::log(-libm::log(u)) as f32
}

/// Standard normal variate number `index` of a seed, by Box and Muller: `sqrt(-2 ln u) cos(2 pi v)`, where `u` and `v`
/// are made of the first two words of the counter `(index, 0, 0, 2)`. Rounded to bf16, as the reference's noise is.
pub fn normal(seed: u64, index: u32) -> f32 {
    let words = philox4x32_10([index, 0, 0, NOISE_WORD], [seed as u32, (seed >> 32) as u32]);
    let unit = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    let radius = libm::sqrt(-2.0 * libm::log(unit(words[0])));
    half::bf16::from_f64(radius * libm::cos(2.0 * core::f64::consts::PI * unit(words[1]))).to_f32()
}

/// Scale of [`weight`]: a probability of 1 becomes 2^32.
const WEIGHT_SCALE: f32 = 4_294_967_296.0;

/// A probability as a 32.32 fixed-point weight.
///
/// Categorical draws add weights as integers: integer sums do not depend on the order, so every
/// device and every split over threads draws the same token from the same probabilities.
pub const fn weight(probability: f32) -> u64 {
    (probability * WEIGHT_SCALE) as u64
}

/// Where in `0..total` a draw falls: the token is the first whose running weight sum exceeds this.
pub const fn draw_target(bits: u32, total: u64) -> u64 {
    ((bits as u128 * total as u128) >> 32) as u64
}

/// Philox4x32 with ten rounds: four random words for a counter and a key.
pub const fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut round = 0;
    while round < 10 {
        let p0 = 0xD251_1F53_u64 * counter[0] as u64;
        let p1 = 0xCD9E_8D57_u64 * counter[2] as u64;
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        round += 1;
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn words_round_trip() {
        let state = StreamState { seed: 0x0123_4567_89ab_cdef, first_row: 7, step: 3 };
        assert_eq!(StreamState::from_words(state.words()), state);
    }

    #[test]
    fn uniform_stays_below_one() {
        assert_eq!(uniform(0), 0.0);
        assert!(uniform(u32::MAX) < 1.0);
        assert!(gumbel(0).is_finite() && gumbel(u32::MAX).is_finite());
    }

    #[test]
    fn normal_is_normal() {
        let n = 100_000;
        let (mut sum, mut square) = (0.0_f64, 0.0_f64);
        for index in 0..n {
            let x = f64::from(normal(42, index));
            assert!(x.abs() < 7.0);
            (sum, square) = (sum + x, square + x * x);
        }
        assert!((sum / f64::from(n)).abs() < 0.01 && (square / f64::from(n) - 1.0).abs() < 0.02);
        // Fixed for ever.
        assert_eq!([0, 1, 2].map(|i| normal(7, i)), [0.398_437_5, -1.203_125, -0.220_703_13]);
    }

    #[test]
    fn draw_stays_inside() {
        assert_eq!(draw_target(0, 1 << 32), 0);
        assert_eq!(draw_target(u32::MAX, 1 << 32), (1 << 32) - 1);
        assert_eq!(weight(1.0), 1 << 32);
    }

    /// A mean and a spread that a broken stream would miss.
    #[test]
    fn uniform_is_uniform() {
        let state = StreamState { seed: 42, first_row: 0, step: 0 };
        let n = 100_000;
        let (mut sum, mut square) = (0.0_f64, 0.0_f64);
        for position in 0..n {
            let u = f64::from(uniform(state.bits(0, position, Lane::Token)));
            sum += u;
            square += u * u;
        }
        let mean = sum / f64::from(n);
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((square / f64::from(n) - 1.0 / 3.0).abs() < 0.005);
    }
}
