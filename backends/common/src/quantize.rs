//! Panels of a matrix in few bits, as `dreamc_artifact::layout` draws them.

use dreamc_artifact::layout::PANEL;
use dreamc_num::Quant;
use dreamc_num::quant::{Group, int8, int8_inverse, int8_scale};
use half::bf16;
use std::ops::AddAssign;

/// How far stored weights are from what they were made of.
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

    fn add(&mut self, weights: &[f32], stored: impl Iterator<Item = f32>) {
        for (x, y) in weights.iter().zip(stored) {
            self.error += f64::from(x - y).powi(2);
            self.power += f64::from(*x).powi(2);
        }
    }
}

impl AddAssign for Fidelity {
    fn add_assign(&mut self, other: Fidelity) {
        self.error += other.error;
        self.power += other.power;
    }
}

/// The stored bytes of one panel: 16 rows of `k` columns one after another, those that do not exist being zeros. Adds to
/// `fidelity`.
pub(crate) fn panel(quant: Quant, rows: &[f32], k: usize, fidelity: &mut Fidelity) -> Vec<u8> {
    let mut codes = Codes::default();
    for row in rows.chunks_exact(k) {
        match quant {
            Quant::Int8 => codes.int8(row, fidelity),
            Quant::Int4 { group, zero } => codes.int4(row, group as usize, zero, fidelity),
        }
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
    fn int8(&mut self, row: &[f32], fidelity: &mut Fidelity) {
        let scale = int8_scale(row);
        let inverse = int8_inverse(scale);
        let codes = row.iter().map(|x| int8(*x, inverse));
        self.sums.push(codes.clone().map(i32::from).sum());
        fidelity.add(row, codes.clone().map(|code| f32::from(code) * scale));
        self.codes.extend(codes.map(|code| code as u8));
        self.scales.push(scale);
    }

    fn int4(&mut self, row: &[f32], columns: usize, zero: bool, fidelity: &mut Fidelity) {
        let groups: Vec<Group> = row.chunks(columns).map(|values| Group::fitting(values, zero)).collect();
        let codes: Vec<u8> = row.iter().enumerate().map(|(i, x)| groups[i / columns].code(*x)).collect();
        let values: Vec<f32> =
            codes.iter().enumerate().map(|(i, code)| groups[i / columns].value(*code)).collect();
        fidelity.add(row, values.iter().copied());
        // What the row becomes where codes of 8 bits are multiplied.
        let scale = int8_scale(&values);
        let inverse = int8_inverse(scale);
        self.sums.push(values.iter().map(|x| i32::from(int8(*x, inverse))).sum());
        self.codes.extend(codes);
        self.scales.push(scale);
        self.groups.push(groups);
    }

    fn to_bytes(&self, quant: Quant, k: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        bytes.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        let code = |lane: usize, column: usize| match column < k {
            true => self.codes[lane * k + column],
            false => 0,
        };
        match quant {
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

    /// Every code lies where the layout says, for rows that fill neither the last group nor the last word.
    #[test]
    fn codes_lie_where_the_layout_says() {
        let k = 70;
        let rows: Vec<f32> = (0..PANEL * k).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        for quant in
            [Quant::Int8, Quant::Int4 { group: 32, zero: false }, Quant::Int4 { group: 64, zero: true }]
        {
            let mut fidelity = Fidelity::default();
            let bytes = panel(quant, &rows, k, &mut fidelity);
            let most = if quant == Quant::Int8 { 0.006 } else { 0.12 };
            assert!(fidelity.relative() < most && fidelity.power > 0.0, "{quant} {fidelity:?}");
            assert_eq!(Some(bytes.len() as u64), quantized_panel_bytes(quant, k as u64));
            for (i, x) in rows.iter().enumerate() {
                let (row, column) = (i / k, i % k);
                let at = Layout::Quantized(quant).index(k, row, column);
                let all = &rows[row * k..(row + 1) * k];
                match quant {
                    Quant::Int8 => assert_eq!(bytes[at] as i8, int8(*x, int8_inverse(int8_scale(all)))),
                    Quant::Int4 { group, zero } => {
                        let of = all.chunks(group as usize).nth(column / group as usize).unwrap();
                        assert_eq!(bytes[at / 2] >> (at % 2 * 4) & 15, Group::fitting(of, zero).code(*x));
                    }
                }
            }
        }
    }
}
