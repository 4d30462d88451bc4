//! Panels of a matrix in few bits, and rows of one in fp8, as `dreamc_artifact::layout` draws them.

use dreamc_artifact::layout::PANEL;
use dreamc_num::Quant;
use dreamc_num::quant::{
    Errors, Group, fp8, fp8_scale, from_e4m3, int8, int8_scale, round_groups, row_inverse,
};
use half::bf16;
use std::ops::AddAssign;

/// How far stored weights, with the factors of their columns taken out again, are from what they were made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fidelity {
    /// Sum of the squares of the differences.
    pub error: f64,
    /// Sum of the squares of the weights.
    pub power: f64,
}

impl Fidelity {
    /// Root of the mean squared difference, relative to that of the weights.
    pub fn relative(self) -> f64 {
        if self.power > 0.0 { (self.error / self.power).sqrt() } else { 0.0 }
    }

    /// Adds weights that were multiplied by `factors`, and what is stored of those.
    fn add(&mut self, weights: &[f32], factors: &[f32], stored: impl Iterator<Item = f32>) {
        for ((x, factor), y) in weights.iter().zip(factors).zip(stored) {
            self.error += f64::from((x - y) / factor).powi(2);
            self.power += f64::from(x / factor).powi(2);
        }
    }
}

impl AddAssign for Fidelity {
    fn add_assign(&mut self, other: Fidelity) {
        self.error += other.error;
        self.power += other.power;
    }
}

/// What is known of the columns of a matrix; ones where nothing is.
pub(crate) struct Columns {
    /// What they are multiplied by before they are rounded.
    pub(crate) factors: Vec<f32>,
    /// How much their squared errors count.
    pub(crate) importance: Vec<f32>,
    /// How they are fed back; empty where they are not.
    pub(crate) feedback: Vec<f32>,
}

impl Columns {
    /// `k` columns of which nothing is known.
    pub(crate) fn of(k: usize) -> Columns {
        Columns { factors: vec![1.0; k], importance: vec![1.0; k], feedback: Vec::new() }
    }
}

/// The stored bytes of one panel: 16 rows one after another, those that do not exist being zeros, which are multiplied by
/// the factors of their columns here. Of fp8 there are as many rows as are given, and their scales, which stand behind all
/// rows of the matrix, go to `scales`. Adds to `fidelity`.
pub(crate) fn panel(
    quant: Quant,
    rows: &mut [f32],
    columns: &Columns,
    scales: &mut Vec<f32>,
    fidelity: &mut Fidelity,
) -> Vec<u8> {
    let (mut codes, k) = (Codes::default(), columns.factors.len());
    for row in rows.chunks_exact_mut(k) {
        row.iter_mut().zip(&columns.factors).for_each(|(x, factor)| *x *= factor);
        match quant {
            Quant::Int8 => codes.int8(row, columns, fidelity),
            Quant::Int4 { group, zero } => codes.int4(row, columns, group, zero, fidelity),
            Quant::Fp8 => codes.fp8(row, columns, fidelity),
        }
    }
    if quant == Quant::Fp8 {
        scales.extend(&codes.scales);
    }
    codes.to_bytes(quant, k)
}

/// The codes of some rows.
#[derive(Default)]
struct Codes {
    /// As bytes, whatever their width, row by row.
    codes: Vec<u8>,
    /// Of every row.
    scales: Vec<f32>,
    /// Sums of the 8-bit codes of every row.
    sums: Vec<i32>,
    /// Of every row.
    groups: Vec<Vec<Group>>,
}

impl Codes {
    fn int8(&mut self, row: &[f32], columns: &Columns, fidelity: &mut Fidelity) {
        let scale = int8_scale(row);
        let inverse = row_inverse(scale);
        let codes = row.iter().map(|x| int8(*x, inverse));
        self.sums.push(codes.clone().map(i32::from).sum());
        fidelity.add(row, &columns.factors, codes.clone().map(|code| f32::from(code) * scale));
        self.codes.extend(codes.map(|code| code as u8));
        self.scales.push(scale);
    }

    fn int4(&mut self, row: &[f32], columns: &Columns, group: u32, zero: bool, fidelity: &mut Fidelity) {
        let errors = Errors { importance: &columns.importance, feedback: &columns.feedback };
        let (mut groups, mut codes) = (Vec::new(), Vec::with_capacity(row.len()));
        let mut values = row.to_vec();
        round_groups(&mut values, group, zero, errors, &mut |of, code| {
            if codes.len() % group.max(1) as usize == 0 {
                groups.push(of);
            }
            codes.push(code);
        });
        fidelity.add(row, &columns.factors, values.iter().copied());
        // What the row becomes where codes of 8 bits are multiplied.
        let scale = int8_scale(&values);
        let inverse = row_inverse(scale);
        self.sums.push(values.iter().map(|x| i32::from(int8(*x, inverse))).sum());
        self.codes.extend(codes);
        self.scales.push(scale);
        self.groups.push(groups);
    }

    fn fp8(&mut self, row: &[f32], columns: &Columns, fidelity: &mut Fidelity) {
        let scale = fp8_scale(row);
        let inverse = row_inverse(scale);
        let codes = row.iter().map(|x| fp8(*x, inverse));
        fidelity.add(row, &columns.factors, codes.clone().map(|code| from_e4m3(code) * scale));
        self.codes.extend(codes);
        self.scales.push(scale);
    }

    /// What panels begin with.
    fn head(&self) -> Vec<u8> {
        let scales = self.scales.iter().flat_map(|scale| scale.to_le_bytes());
        scales.chain(self.sums.iter().flat_map(|sum| sum.to_le_bytes())).collect()
    }

    fn to_bytes(&self, quant: Quant, k: usize) -> Vec<u8> {
        let mut bytes = if quant == Quant::Fp8 { Vec::new() } else { self.head() };
        let code = |lane: usize, column: usize| match column < k {
            true => self.codes[lane * k + column],
            false => 0,
        };
        match quant {
            Quant::Fp8 => {
                let filling = k.next_multiple_of(16) - k;
                for row in self.codes.chunks_exact(k) {
                    bytes.extend_from_slice(row);
                    bytes.resize(bytes.len() + filling, 0);
                }
            }
            Quant::Int8 => {
                for column in (0..k).step_by(4) {
                    bytes.extend((0..PANEL).flat_map(|lane| (0..4).map(move |j| code(lane, column + j))));
                }
            }
            Quant::Int4 { group, zero } => {
                let group = group as usize;
                for (i, first) in (0..k).step_by(group).enumerate() {
                    let of = |part: fn(&Group) -> f32| {
                        self.groups
                            .iter()
                            .flat_map(move |groups| bf16::from_f32(part(&groups[i])).to_le_bytes())
                    };
                    bytes.extend(of(|group| group.scale));
                    if zero {
                        bytes.extend(of(|group| group.min));
                    }
                    for column in (first..first + group).step_by(8) {
                        let two =
                            |lane: usize, j: usize| code(lane, column + j) | code(lane, column + j + 4) << 4;
                        bytes.extend((0..PANEL).flat_map(|lane| (0..4).map(move |j| two(lane, j))));
                    }
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_artifact::layout::{Layout, quantized_panel_bytes};

    /// Factors of columns change what is stored; the error is that of the weights without them.
    #[test]
    fn factors_are_taken_out_of_the_error() {
        let k = 64;
        let rows: Vec<f32> = (0..PANEL * k).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let power = rows.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let of = |factors: Vec<f32>| {
            let (mut rows, mut fidelity) = (rows.clone(), Fidelity::default());
            let columns = Columns { factors, ..Columns::of(k) };
            panel(Quant::Int8, &mut rows, &columns, &mut Vec::new(), &mut fidelity);
            assert!((fidelity.power / power - 1.0).abs() < 1e-9);
            fidelity.relative()
        };
        let plain = of(vec![1.0; k]);
        assert_eq!(of(vec![8.0; k]), plain);
        // Columns that are made small lose bits.
        assert!(of((0..k).map(|i| if i % 2 == 0 { 1.0 } else { 0.125 }).collect()) > 2.0 * plain);
    }

    /// Every code lies where the layout says, for rows that fill neither the last group nor the last word.
    #[test]
    fn codes_lie_where_the_layout_says() {
        let k = 70;
        let rows: Vec<f32> = (0..PANEL * k).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        for quant in [
            Quant::Int8,
            Quant::Int4 { group: 32, zero: false },
            Quant::Int4 { group: 64, zero: true },
            Quant::Fp8,
        ] {
            let mut fidelity = Fidelity::default();
            let ones = Columns::of(k);
            let mut scales = Vec::new();
            let bytes = panel(quant, &mut rows.clone(), &ones, &mut scales, &mut fidelity);
            let most = match quant {
                Quant::Int8 => 0.006,
                Quant::Fp8 => 0.03,
                Quant::Int4 { .. } => 0.12,
            };
            assert!(fidelity.relative() < most && fidelity.power > 0.0, "{quant} {fidelity:?}");
            if quant == Quant::Fp8 {
                assert_eq!((bytes.len(), scales.len()), (PANEL * 80, PANEL));
            } else {
                assert_eq!(Some(bytes.len() as u64), quantized_panel_bytes(quant, k as u64));
            }
            for (i, x) in rows.iter().enumerate() {
                let (row, column) = (i / k, i % k);
                let at = Layout::Quantized(quant).index(k, row, column);
                let all = &rows[row * k..(row + 1) * k];
                match quant {
                    Quant::Int8 => assert_eq!(bytes[at] as i8, int8(*x, row_inverse(int8_scale(all)))),
                    Quant::Fp8 => {
                        assert_eq!(scales[row], fp8_scale(all));
                        assert_eq!(bytes[at], fp8(*x, row_inverse(fp8_scale(all))));
                    }
                    Quant::Int4 { group, zero } => {
                        let of = all.chunks(group as usize).nth(column / group as usize).unwrap();
                        let fitted = Group::fitting(of, &[1.0; 64][..of.len()], zero);
                        assert_eq!(bytes[at / 2] >> (at % 2 * 4) & 15, fitted.code(*x));
                    }
                }
            }
        }
    }
}
