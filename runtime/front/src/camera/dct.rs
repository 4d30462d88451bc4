//! The cosine transforms of JPEG in libjpeg's integer arithmetic: the accurate one forward, the fast one back.
//!
//! Which roundings happen where is what makes them libjpeg's; the formulas are those of Loeffler, Ligtenberg and
//! Moschytz (forward) and of Arai, Agui and Nakajima (back).

/// How coarsely coefficients are kept, row by row.
pub(super) struct Quantiser {
    steps: [i32; 64],
    /// Steps with the scale factors of the fast transform in them.
    scaled: [i32; 64],
}

/// The tables of the JPEG standard, annex K.
const LUMA: [i32; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17,
    22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78,
    87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA: [i32; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];
/// Scale factors of the fast transform, in 14 bits: 1 and sqrt(2) cos(k pi / 16).
const FAST_SCALES: [i64; 8] = [16384, 22725, 21407, 19266, 16384, 12873, 8867, 4520];

impl Quantiser {
    pub(super) fn luma() -> Quantiser {
        Quantiser::new(&LUMA)
    }

    pub(super) fn chroma() -> Quantiser {
        Quantiser::new(&CHROMA)
    }

    /// A table at quality 95, which is a tenth of it.
    fn new(table: &[i32; 64]) -> Quantiser {
        let steps = table.map(|step| ((10 * step + 50) / 100).max(1));
        let scaled = std::array::from_fn(|at| {
            // First in 14 bits, like the table of libjpeg; then 2 bits stay.
            let scale = (FAST_SCALES[at / 8] * FAST_SCALES[at % 8] + (1 << 13)) >> 14;
            ((i64::from(steps[at]) * scale + (1 << 11)) >> 12) as i32
        });
        Quantiser { steps, scaled }
    }

    /// Coefficients of [`forward`] to those for [`inverse`].
    pub(super) fn apply(&self, block: &mut [i32; 64]) {
        for ((value, step), scaled) in block.iter_mut().zip(self.steps).zip(self.scaled) {
            // The forward transform is 8 times too large.
            let step = 8 * step;
            let level = (value.abs() + step / 2) / step * value.signum();
            *value = level * scaled;
        }
    }
}

/// Applies `column` to every column.
fn columns(block: &mut [i32; 64], column: fn(&mut [i32; 8])) {
    for x in 0..8 {
        let mut values = std::array::from_fn(|y| block[8 * y + x]);
        column(&mut values);
        for (y, value) in values.into_iter().enumerate() {
            block[8 * y + x] = value;
        }
    }
}

/// Samples around 0 to coefficients, 8 times too large.
pub(super) fn forward(block: &mut [i32; 64]) {
    for values in block.as_chunks_mut().0 {
        forward_line::<2, 0>(values);
    }
    columns(block, forward_line::<0, 2>);
}

/// One row (which keeps `UP` bits more) or one column (which gives up `DOWN` bits).
fn forward_line<const UP: u32, const DOWN: u32>(v: &mut [i32; 8]) {
    let rounded = |x: i32, bits: u32| if bits == 0 { x } else { (x + (1 << (bits - 1))) >> bits };
    let plain = |x: i32| rounded(x << UP, DOWN);
    let scaled = |x: i32| rounded(x, 13 - UP + DOWN);
    let sums: [i32; 4] = std::array::from_fn(|k| v[k] + v[7 - k]);
    let [d0, d1, d2, d3]: [i32; 4] = std::array::from_fn(|k| v[k] - v[7 - k]);
    let (even, even_odd) = (sums[0] + sums[3], sums[0] - sums[3]);
    let (mid, mid_odd) = (sums[1] + sums[2], sums[1] - sums[2]);
    v[0] = plain(even + mid);
    v[4] = plain(even - mid);
    let turn = 4_433 * (mid_odd + even_odd);
    v[2] = scaled(turn + 6_270 * even_odd);
    v[6] = scaled(turn - 15_137 * mid_odd);

    let turn = 9_633 * (d3 + d1 + d2 + d0);
    let (z1, z2) = (-7_373 * (d3 + d0), -20_995 * (d2 + d1));
    let (z3, z4) = (turn - 16_069 * (d3 + d1), turn - 3_196 * (d2 + d0));
    v[7] = scaled(2_446 * d3 + z1 + z3);
    v[5] = scaled(16_819 * d2 + z2 + z4);
    v[3] = scaled(25_172 * d1 + z2 + z3);
    v[1] = scaled(12_299 * d0 + z1 + z4);
}

/// Scaled coefficients to samples around 0, not yet cut to 8 bits.
pub(super) fn inverse(block: &mut [i32; 64]) {
    columns(block, inverse_line);
    for values in block.as_chunks_mut().0 {
        inverse_line(values);
        // 2 bits were kept, and the transform is 8 times too large. The fast transform does not round.
        for value in values {
            *value >>= 5;
        }
    }
}

fn inverse_line(v: &mut [i32; 8]) {
    let times = |x: i32, factor: i32| (x * factor) >> 8;
    let (sum, difference) = (v[0] + v[4], v[0] - v[4]);
    let inner = v[2] + v[6];
    let outer = times(v[2] - v[6], 362) - inner;
    let even = [sum + inner, difference + outer, difference - outer, sum - inner];

    let (z13, z10) = (v[5] + v[3], v[5] - v[3]);
    let (z11, z12) = (v[1] + v[7], v[1] - v[7]);
    let o7 = z11 + z13;
    let z5 = times(z10 + z12, 473);
    let o6 = times(z10, -669) + z5 - o7;
    let o5 = times(z11 - z13, 362) - o6;
    let o4 = times(z12, 277) - z5 + o5;
    // The last one enters with the other sign.
    for (k, (even, odd)) in even.into_iter().zip([o7, o6, o5, -o4]).enumerate() {
        v[k] = even + odd;
        v[7 - k] = even - odd;
    }
}
