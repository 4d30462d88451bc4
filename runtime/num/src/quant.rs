//! Rounding of matrices and rows to few bits: what the packer stores, devices compute with and the interpreter means.

mod fit;
mod fp8;

pub use fp8::{FP8_MAX, fp8, fp8_scale, from_e4m3, round_fp8, to_e4m3};

use core::fmt;
use half::bf16;
use libm::rintf;
use serde::{Deserialize, Serialize};

/// Columns of a block. Errors of weights of 4 bits are fed back within blocks.
pub const BLOCK: usize = 128;

/// Largest 8-bit code. The smallest is its negative, so that codes and their signs can be swapped.
pub const INT8_MAX: f32 = 127.0;

/// Codes of 4 bits that a symmetric group subtracts.
const INT4_MIDDLE: f32 = 8.0;
/// Largest 4-bit code.
const INT4_MAX: f32 = 15.0;

/// How a weight matrix `[n, k]` is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Quant {
    /// Codes of 8 bits, -127 to 127, one f32 scale a row.
    Int8,
    /// Codes of 4 bits, 0 to 15, in groups of neighbouring columns, each with a scale in bf16.
    Int4 {
        /// Columns of a group; the last may be shorter.
        group: u32,
        /// Each group also has a smallest value in bf16, code 0. Without it code 8 is 0.
        zero: bool,
    },
    /// Codes of e4m3 ([`to_e4m3`]), one f32 scale a row.
    Fp8,
}

/// The codes by which rows are multiplied, each with an f32 scale: rows of activations are rounded to them as they come, rows
/// of weights that are not stored so as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Codes {
    /// Those of [`int8`], with sums in integers.
    Int8,
    /// Those of [`fp8()`], with sums in f32.
    Fp8,
}

impl Codes {
    /// Rounds a row.
    pub fn round(self, row: &mut [f32]) {
        match self {
            Codes::Int8 => round_int8(row),
            Codes::Fp8 => round_fp8(row),
        }
    }
}

impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codes::Int8 => "int8",
            Codes::Fp8 => "fp8",
        })
    }
}

impl Quant {
    /// Lengths of groups that there are kernels for.
    pub const GROUPS: [u32; 3] = [32, 64, 128];
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quant::Int8 => f.write_str("int8"),
            Quant::Int4 { group, zero: false } => write!(f, "int4g{group}"),
            Quant::Int4 { group, zero: true } => write!(f, "int4g{group}z"),
            Quant::Fp8 => f.write_str("fp8"),
        }
    }
}

/// The scale by which a row is divided before it is rounded to 8 bits: its largest magnitude over 127, 0 for zeros. Of a row
/// with NaN or infinity it is that, so that the row's results are no numbers either.
pub fn int8_scale(row: &[f32]) -> f32 {
    largest(row) / INT8_MAX
}

/// The largest magnitude of a row; NaN is larger than all.
fn largest(row: &[f32]) -> f32 {
    // Bits of f32 without a sign are in order.
    f32::from_bits(row.iter().fold(0, |max, x| max.max(x.abs().to_bits())))
}

/// What a row of this scale is multiplied by before it is rounded.
pub fn row_inverse(scale: f32) -> f32 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

/// The code of `x`, `inverse` being [`row_inverse`]: the nearest, the even one on a tie; 0 for what is not a number.
pub fn int8(x: f32, inverse: f32) -> i8 {
    rintf(x * inverse).clamp(-INT8_MAX, INT8_MAX) as i8
}

/// Scale and smallest value of a group of 4-bit codes; both are values of bf16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// From code to code.
    pub scale: f32,
    /// What code 0 stands for.
    pub min: f32,
}

impl Group {
    /// The symmetric group of this scale, which becomes a value of bf16.
    pub fn symmetric(scale: f32) -> Group {
        let scale = bf16::from_f32(scale).to_f32();
        Group { scale, min: -INT4_MIDDLE * scale }
    }

    /// The group of this scale and smallest value, which become values of bf16.
    pub fn with_zero(scale: f32, min: f32) -> Group {
        Group { scale: bf16::from_f32(scale).to_f32(), min: bf16::from_f32(min).to_f32() }
    }

    /// The group that spans `values`: from the smallest to the largest, or symmetric so that the value of largest magnitude
    /// has code 0.
    pub fn spanning(values: &[f32], zero: bool) -> Group {
        if zero {
            let (min, max) = bounds(values);
            Group::with_zero((max - min) / INT4_MAX, min)
        } else {
            let extreme = values.iter().fold(0.0_f32, |a, b| if b.abs() > a.abs() { *b } else { a });
            Group::symmetric(extreme / -INT4_MIDDLE)
        }
    }

    /// The nearest code, the even one on a tie.
    pub fn code(self, x: f32) -> u8 {
        if self.scale == 0.0 { 0 } else { rintf((x - self.min) / self.scale).clamp(0.0, INT4_MAX) as u8 }
    }

    /// What a code stands for.
    pub fn value(self, code: u8) -> f32 {
        self.min + self.scale * f32::from(code)
    }
}

/// Smallest and largest value, 0 among them.
fn bounds(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0, 0.0), |(min, max): (f32, f32), x| (min.min(*x), max.max(*x)))
}

/// What is known of the errors of the columns of a matrix in groups.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors<'a> {
    /// `[K]`: how much their squares count.
    pub importance: &'a [f32],
    /// `[K, BLOCK]`: by how much of the error of a column the columns behind it in its block become smaller. Empty where errors
    /// are not fed back.
    pub feedback: &'a [f32],
}

impl Errors<'_> {
    /// Takes the error of column `from` from those behind it.
    fn feed(&self, error: f32, from: usize, row: &mut [f32]) {
        let Some(parts) = self.feedback.get(from * BLOCK..(from + 1) * BLOCK) else { return };
        let block = from - from % BLOCK;
        let behind = from + 1..row.len().min(block + BLOCK);
        let parts = &parts[behind.start - block..behind.end - block];
        row[behind].iter_mut().zip(parts).for_each(|(x, part)| *x -= error * part);
    }
}

/// Rounds a row of a matrix to what `quant` stores; `errors` matter in groups.
pub fn round_row(quant: Quant, row: &mut [f32], errors: Errors<'_>) {
    match quant {
        Quant::Int8 => round_int8(row),
        Quant::Int4 { group, zero } => round_groups(row, group, zero, errors, &mut |_, _| ()),
        Quant::Fp8 => round_fp8(row),
    }
}

/// Rounds a row in groups of `columns` columns; `stored` is told of each element in turn its group and code.
pub fn round_groups(
    row: &mut [f32],
    columns: u32,
    zero: bool,
    errors: Errors<'_>,
    stored: &mut dyn FnMut(Group, u8),
) {
    let columns = columns.max(1) as usize;
    for first in (0..row.len()).step_by(columns) {
        let of_group = first..row.len().min(first + columns);
        let group = Group::fitting(&row[of_group.clone()], &errors.importance[of_group.clone()], zero);
        for column in of_group {
            let code = group.code(row[column]);
            let value = group.value(code);
            errors.feed(row[column] - value, column, row);
            row[column] = value;
            stored(group, code);
        }
    }
}

/// Rounds a row to 8 bits: of a matrix, or of what is multiplied with it.
pub fn round_int8(row: &mut [f32]) {
    let scale = int8_scale(row);
    let inverse = row_inverse(scale);
    row.iter_mut().for_each(|x| *x = f32::from(int8(*x, inverse)) * scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_nearest() {
        let row = [0.0, 1.27, -1.27, 0.005, 0.015, -0.0149];
        let inverse = row_inverse(int8_scale(&row));
        assert_eq!(row.map(|x| int8(x, inverse)), [0, 127, -127, 0, 2, -1]);
        assert_eq!(int8(f32::NAN, 1.0), 0);
        assert_eq!(row_inverse(int8_scale(&[0.0; 4])), 0.0);
        let mut row = [1.0, f32::NAN, 2.0];
        round_int8(&mut row);
        assert!(row.iter().all(|x| x.is_nan()));
    }

    /// Of two equal columns the second makes up for what the first has lost, within its block.
    #[test]
    fn errors_are_fed_back() {
        const K: usize = BLOCK + 32;
        let row: [f32; K] = core::array::from_fn(|i| (i * 37 % 64) as f32 / 64.0 - 0.3);
        let mut feedback = [0.0; K * BLOCK];
        for i in (0..K).step_by(2) {
            feedback[i * BLOCK + i % BLOCK + 1] = -1.0;
        }
        let error = |feedback: &[f32]| {
            let mut rounded = row;
            let errors = Errors { importance: &[1.0; K], feedback };
            round_row(Quant::Int4 { group: 32, zero: true }, &mut rounded, errors);
            let lost = |i: usize| row[i] - rounded[i];
            (0..K).step_by(2).map(|i| (lost(i) + lost(i + 1)).powi(2)).sum::<f32>()
        };
        assert!(error(&feedback) < 0.7 * error(&[]), "{} {}", error(&feedback), error(&[]));
    }

    /// Values rounded to 8 bits are at most half a step from what they were, but for the rounding of f32 itself. How 4-bit
    /// groups err is tested where they are fitted.
    #[test]
    fn rounding_errs_by_half_a_step() {
        let row: [f32; 64] = core::array::from_fn(|i| ((i * 37 % 64) as f32 - 20.0) / 64.0);
        let half = int8_scale(&row) / 2.0;
        let mut rounded = row;
        round_row(Quant::Int8, &mut rounded, Errors::default());
        for (x, y) in row.iter().zip(&rounded) {
            assert!((x - y).abs() <= half + f32::EPSILON, "{x} {y}");
        }
    }
}
