//! Made-up weights: a pseudo-random stream for each tensor, shaped to a normal distribution by a table.

/// Entries of the quantile table; an index is 16 bits of the random stream.
const TABLE_ENTRIES: usize = 1 << 16;
/// The increment and the two multipliers of splitmix64.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// Ends of the names of gains, which lie around 1: of the decoder, the vision tower and the heads.
const GAINS: [&str; 7] = [
    "norm.weight",
    ".norm1.weight",
    ".norm2.weight",
    ".ln_q.weight",
    "layer_norm1.weight",
    "layer_norm2.weight",
    ".ffn.0.weight",
];

/// Normal quantiles, scaled for each kind of tensor and rounded to bf16.
pub(super) struct Tables {
    weight: Vec<[u8; 2]>,
    bias: Vec<[u8; 2]>,
    gain: Vec<[u8; 2]>,
}

impl Tables {
    /// Computes all tables.
    pub(super) fn new() -> Tables {
        let normal: Vec<f64> =
            (0..TABLE_ENTRIES).map(|i| quantile((i as f64 + 0.5) / TABLE_ENTRIES as f64)).collect();
        let scaled = |centre: f64, deviation: f64| {
            normal.iter().map(|z| half::bf16::from_f64(centre + deviation * z).to_le_bytes()).collect()
        };
        Tables { weight: scaled(0.0, 0.02), bias: scaled(0.0, 0.005), gain: scaled(1.0, 0.02) }
    }

    /// The table for a tensor.
    pub(super) fn of(&self, name: &str) -> &[[u8; 2]] {
        if name.ends_with(".bias") {
            &self.bias
        } else if GAINS.iter().any(|end| name.ends_with(end)) {
            &self.gain
        } else {
            &self.weight
        }
    }
}

/// The quantile of the standard normal distribution at `p`: rational approximations by Abramowitz and Stegun
/// (26.2.23), off by less than 0.00045. The logarithm is computed in software, so hosts agree.
fn quantile(p: f64) -> f64 {
    let tail = p.min(1.0 - p);
    let t = libm::sqrt(-2.0 * libm::log(tail));
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    let z = t - above / below;
    if p < 0.5 { -z } else { z }
}

/// splitmix64, started from the seed and the tensor's name.
pub(super) struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of one tensor.
    pub(super) fn new(seed: u64, name: &str) -> Stream {
        // FNV-1a; mixed with the seed so that nearby seeds have unrelated streams.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Stream { state: mix(hash ^ mix(seed.wrapping_add(GOLDEN_GAMMA))) }
    }

    /// Fills bytes with table entries, four for each draw. All calls but the last must ask for whole draws.
    pub(super) fn fill(&mut self, table: &[[u8; 2]], bytes: &mut [u8]) {
        for draw in bytes.chunks_mut(8) {
            self.state = self.state.wrapping_add(GOLDEN_GAMMA);
            let bits = mix(self.state);
            for (i, element) in draw.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                // 16 bits: always within the table.
                *element = table[usize::from((bits >> (16 * i)) as u16)];
            }
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(MIX[0]);
    z = (z ^ (z >> 27)).wrapping_mul(MIX[1]);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_normal() {
        assert!((quantile(0.975) - 1.96).abs() < 1e-3);
        assert!((quantile(0.025) + 1.96).abs() < 1e-3);
        assert!(quantile(0.5).abs() < 1e-3);
    }

    #[test]
    fn first_elements_never_change() {
        // Pinned: other hosts and later versions must write the same bytes.
        let mut bytes = [0; 8];
        Stream::new(7, "lm_head.weight").fill(&Tables::new().weight, &mut bytes);
        assert_eq!(bytes, [121, 188, 40, 189, 201, 60, 124, 58]);
    }
}
