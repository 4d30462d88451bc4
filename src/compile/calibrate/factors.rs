//! What the columns of matrices are multiplied by before they are rounded, and how much their errors count.
//!
//! Rows whose largest columns are always the same lose the others when they are rounded to 8 bits. Dividing those columns,
//! and multiplying the weights' by the same factors, moves what is hard to round from rows to weights (SmoothQuant): by
//! `max|x|^a / max|w|^(1 - a)` (Xiao et al. 2022). For each matmul several `a` are tried, and no factors at all, and those are taken by which
//! the product errs least, as the statistics have it.

use super::{Products, Rows, Statistics};
use crate::compile::reader::CheckpointReader;
use dreamc_backend::{PackError, WeightReader};
use dreamc_num::Quant;
use dreamc_passes::quantize::{Columns, Decision, Decisions, Matmul, Rounding};
use std::collections::{BTreeMap, BTreeSet};

/// `a` in eighths, whose powers are made of square roots: the same on every host.
const EIGHTHS: [u32; 7] = [2, 3, 4, 5, 6, 7, 8];
/// Factors are between this and its inverse, their median being 1.
const FACTOR_MAX: f32 = 4096.0;
/// Errors of columns that were never seen count as much as this part of the mean.
const IMPORTANCE_MIN: f64 = 0.01;
/// Elements read at a time.
const CHUNK: usize = 1 << 18;

/// What calibration has for a build: vectors by name, and which of them belong to each tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::compile) struct Calibrated {
    pub(in crate::compile) vectors: BTreeMap<String, Vec<f32>>,
    pub(in crate::compile) tensors: BTreeMap<String, Columns>,
    /// Tensors that are rounded and that no request reached.
    pub(in crate::compile) unreached: Vec<String>,
}

/// Works out what the matmuls need that are rounded as `rounding` says.
pub(in crate::compile) fn calibrated(
    statistics: &Statistics,
    matmuls: &BTreeSet<Matmul>,
    decisions: &Decisions,
    rounding: Rounding,
    reader: &mut CheckpointReader<'_>,
) -> Result<Calibrated, PackError> {
    let mut made = Calibrated::default();
    for Together { names, rows } in together(matmuls, decisions) {
        let mut seen = Rows::default();
        names.iter().filter_map(|name| statistics.tensors.get(name)).for_each(|rows| seen.merge(rows));
        if seen.count == 0 {
            made.unreached.extend(names);
            continue;
        }
        let class = names.first().cloned().unwrap_or_default();
        let mean = |squares: &f64| squares / seen.count as f64;
        let squares: Vec<f64> = seen.squares.iter().map(mean).collect();
        let (mut columns, mut factors) = (Columns::default(), vec![1.0; squares.len()]);
        if rounding.codes.is_some() {
            let weights = Weights { names: &names, rows, k: squares.len() };
            if let Some(chosen) = choose(&weights, &seen.max, &squares, rounding.quant, reader)? {
                let name = format!("{class}.columns");
                made.vectors.insert(name.clone(), chosen.clone());
                columns.factors = Some(name);
                factors = chosen;
            }
        }
        if matches!(rounding.quant, Quant::Int4 { .. }) {
            let name = format!("{class}.importance");
            made.vectors.insert(name.clone(), importance(&squares, &factors));
            columns.importance = Some(name);
            let mut products = Products::default();
            names.iter().filter_map(|name| statistics.products.get(name)).for_each(|p| products.merge(p));
            columns.feedback = products.feedback(&factors).map(|parts| {
                let name = format!("{class}.feedback");
                made.vectors.insert(name.clone(), parts);
                name
            });
        }
        made.tensors.extend(names.into_iter().map(|name| (name, columns.clone())));
    }
    Ok(made)
}

/// Tensors that share factors, since somewhere they are multiplied together.
struct Together {
    names: BTreeSet<String>,
    /// The rows that are multiplied, of a tensor that is alone and never multiplied otherwise.
    rows: Option<(u64, u64)>,
}

fn together(matmuls: &BTreeSet<Matmul>, decisions: &Decisions) -> Vec<Together> {
    let rounded = |name: &String| decisions.tensors.get(name) == Some(&Decision::Rounded);
    let mut sets: Vec<Together> = Vec::new();
    for Matmul { names, rows } in matmuls.iter().filter(|matmul| matmul.names.iter().all(rounded)) {
        let mut all = Together { names: names.iter().cloned().collect(), rows: *rows };
        let (touched, apart): (Vec<_>, Vec<_>) =
            sets.into_iter().partition(|set| !set.names.is_disjoint(&all.names));
        sets = apart;
        for mut set in touched {
            all.names.append(&mut set.names);
            all.rows = all.rows.filter(|_| all.rows == set.rows);
        }
        sets.push(all);
    }
    sets
}

/// How much squared errors of columns count where rows have these mean squares and are divided by these factors; 1 in the
/// mean.
fn importance(squares: &[f64], factors: &[f32]) -> Vec<f32> {
    let of = squares.iter().zip(factors).map(|(square, factor)| square / f64::from(*factor).powi(2));
    let all: Vec<f64> = of.collect();
    let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
    let relative = |x: &f64| if mean > 0.0 { x / mean } else { 0.0 };
    all.iter().map(|x| (relative(x) + IMPORTANCE_MIN) as f32).collect()
}

/// The matrices that share factors.
struct Weights<'a> {
    names: &'a BTreeSet<String>,
    rows: Option<(u64, u64)>,
    k: usize,
}

impl Weights<'_> {
    /// Shows all rows in turn.
    fn each(&self, reader: &mut CheckpointReader<'_>, see: &mut dyn FnMut(&[f32])) -> Result<(), PackError> {
        let mut elements = Vec::new();
        for name in self.names {
            let all = reader.elements(name).ok_or_else(|| PackError::Missing(name.clone()))?;
            let (first, count) = self.rows.unwrap_or((0, all / self.k as u64));
            let step = (CHUNK / self.k).max(1) as u64;
            for row in (first..first + count).step_by(step as usize) {
                elements.resize(step.min(first + count - row) as usize * self.k, 0.0);
                reader.read(name, row * self.k as u64, &mut elements).map_err(PackError::Read)?;
                elements.chunks_exact(self.k).for_each(&mut *see);
            }
        }
        Ok(())
    }
}

/// The factors by which the product errs least; none where it errs least without.
fn choose(
    weights: &Weights<'_>,
    rows_max: &[f32],
    squares: &[f64],
    quant: Quant,
    reader: &mut CheckpointReader<'_>,
) -> Result<Option<Vec<f32>>, PackError> {
    let (mut max, mut sums) = (vec![0.0_f32; weights.k], vec![0.0_f64; weights.k]);
    weights.each(reader, &mut |row| {
        for ((x, max), sum) in row.iter().zip(&mut max).zip(&mut sums) {
            *max = max.max(x.abs());
            *sum += f64::from(*x).powi(2);
        }
    })?;
    let candidate = |factors| Candidate::new(factors, &sums, squares, quant);
    let mut tried = vec![candidate(vec![1.0; weights.k])];
    tried.extend(EIGHTHS.map(|a| candidate(balanced(rows_max, &max, a))));
    let mut scaled = vec![0.0; weights.k];
    weights
        .each(reader, &mut |row| tried.iter_mut().for_each(|candidate| candidate.see(row, &mut scaled)))?;
    let mut best = 0;
    for (i, candidate) in tried.iter().enumerate() {
        if candidate.error < tried[best].error {
            best = i;
        }
    }
    Ok((best > 0).then(|| tried.swap_remove(best).factors))
}

/// `rows^a / weights^(1 - a)`, `a` in eighths; 1 for columns of zeros.
fn balanced(rows: &[f32], weights: &[f32], eighths: u32) -> Vec<f32> {
    let factor = |(row, weight): (&f32, &f32)| {
        let seen = *row > 0.0 && *weight > 0.0;
        seen.then(|| power(f64::from(*row), eighths) / power(f64::from(*weight), 8 - eighths))
    };
    let factors: Vec<Option<f64>> = rows.iter().zip(weights).map(factor).collect();
    let mut sorted: Vec<f64> = factors.iter().flatten().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(1.0);
    let relative = |x: f64| ((x / median) as f32).clamp(1.0 / FACTOR_MAX, FACTOR_MAX);
    factors.into_iter().map(|factor| factor.map_or(1.0, relative)).collect()
}

/// `x^(eighths / 8)`.
fn power(x: f64, eighths: u32) -> f64 {
    let half = x.sqrt();
    let quarter = half.sqrt();
    let roots = [(8, x), (4, half), (2, quarter), (1, quarter.sqrt())];
    roots.into_iter().filter(|(bit, _)| eighths & bit != 0).map(|(_, root)| root).product()
}

/// Factors that are tried.
struct Candidate {
    factors: Vec<f32>,
    quant: Quant,
    /// Mean squares of the divided rows, summed up for each group of columns.
    power: Vec<f64>,
    /// The mean squared error of the product so far, summed up over its columns. A value that is rounded in steps of `d`
    /// errs by `d^2 / 12` in the mean square.
    error: f64,
}

impl Candidate {
    /// `sums`: of the squares of each column of the weights.
    fn new(factors: Vec<f32>, sums: &[f64], squares: &[f64], quant: Quant) -> Candidate {
        let columns = match quant {
            Quant::Int8 | Quant::Fp8 => factors.len(),
            Quant::Int4 { group, .. } => group as usize,
        };
        let divided: Vec<f64> =
            squares.iter().zip(&factors).map(|(x, f)| x / f64::from(*f).powi(2)).collect();
        let power = divided.chunks(columns.max(1)).map(|group| group.iter().sum()).collect();
        // A row is as large as its largest column is in the mean: the largest magnitudes of all rows are not of one row.
        let largest = divided.iter().copied().fold(0.0, f64::max).sqrt();
        let weights: f64 = sums.iter().zip(&factors).map(|(sum, f)| sum * f64::from(*f).powi(2)).sum();
        let error = mean_error(largest / 127.0) * weights;
        Candidate { factors, quant, power, error }
    }

    /// Adds the error of a row of the weights.
    fn see(&mut self, row: &[f32], scaled: &mut [f32]) {
        for ((scaled, x), factor) in scaled.iter_mut().zip(row).zip(&self.factors) {
            *scaled = x * factor;
        }
        let largest = scaled.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        self.error += mean_error(f64::from(largest) / 127.0) * self.power.iter().sum::<f64>();
        if let Quant::Int4 { group, .. } = self.quant {
            for (values, power) in scaled.chunks(group.max(1) as usize).zip(&self.power) {
                let (min, max) = values.iter().fold((0.0_f32, 0.0_f32), |(a, b), x| (a.min(*x), b.max(*x)));
                self.error += mean_error(f64::from(max - min) / 15.0) * power;
            }
        }
    }
}

/// Mean squared error of what is rounded to multiples of `step`.
fn mean_error(step: f64) -> f64 {
    step.powi(2) / 12.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_eighths() {
        for (eighths, found) in [(0, 1.0), (1, 2.0), (2, 4.0), (4, 16.0), (6, 64.0), (8, 256.0)] {
            assert_eq!(power(256.0, eighths), found);
        }
    }

    /// What is hard to round moves from rows to weights, columns of zeros stay as they are, and no factor is out of bounds.
    #[test]
    fn balanced_columns() {
        let (rows, weights) = ([1.0, 256.0, 0.0, 1.0, f32::MAX], [1.0, 1.0, 1.0, 0.0, 1.0]);
        assert_eq!(balanced(&rows, &weights, 8), [1.0 / 256.0, 1.0, 1.0, 1.0, FACTOR_MAX]);
        assert_eq!(balanced(&[1.0, 256.0, 1.0], &[1.0, 0.0625, 1.0], 4), [1.0, 64.0, 1.0]);
        assert_eq!(balanced(&[0.0; 3], &[1.0; 3], 4), [1.0; 3]);
    }

    #[test]
    fn a_large_column_is_divided() {
        let (mut rows, weights) = (vec![1.0; 64], vec![1.0_f32; 64]);
        rows[5] = 256.0;
        let squares: Vec<f64> = rows.iter().map(|x| f64::from(*x).powi(2)).collect();
        let errors = |quant: Quant| {
            [vec![1.0; 64], balanced(&rows, &weights, 4)].map(|factors| {
                let mut candidate = Candidate::new(factors, &[16.0; 64], &squares, quant);
                (0..16).for_each(|_| candidate.see(&weights, &mut [0.0; 64]));
                candidate.error
            })
        };
        let [plain, divided] = errors(Quant::Int8);
        assert!(divided < 0.1 * plain, "{divided} {plain}");
        assert!(
            errors(Quant::Int4 { group: 32, zero: true }).iter().all(|error| *error > plain.min(divided))
        );
    }

    /// Errors count as the rows that are multiplied have it, those of columns that were never seen a little.
    #[test]
    fn importance_of_columns() {
        let found = importance(&[3.0, 0.0, 9.0, 0.0], &[1.0, 1.0, 3.0, 1.0]);
        assert_eq!(found, [3.01, 0.01, 1.01, 0.01]);
        assert_eq!(importance(&[0.0; 2], &[1.0; 2]), [0.01; 2]);
    }

    #[test]
    fn tensors_that_share_factors() {
        let matmul =
            |names: &[&str], rows| Matmul { names: names.iter().map(|n| (*n).to_owned()).collect(), rows };
        let matmuls = BTreeSet::from([
            matmul(&["q"], None),
            matmul(&["k", "v"], None),
            matmul(&["k", "q", "v"], None),
            matmul(&["head"], Some((3, 4))),
            matmul(&["twice"], Some((3, 4))),
            matmul(&["twice"], None),
            matmul(&["kept"], None),
        ]);
        let decisions = dreamc_passes::quantize::decide(&matmuls, &|name| name == "kept");
        let found: Vec<(String, Option<(u64, u64)>)> = together(&matmuls, &decisions)
            .into_iter()
            .map(|t| (Vec::from_iter(t.names).join(" "), t.rows))
            .collect();
        let mut sorted = found.clone();
        sorted.sort();
        let wanted = [("head", Some((3, 4))), ("k q v", None), ("twice", None)];
        assert_eq!(sorted, wanted.map(|(names, rows)| (names.to_owned(), rows)));
    }
}
