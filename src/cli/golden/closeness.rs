//! How close two results are.

use dream::Output;
use serde::Serialize;

/// Of two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(in crate::cli) struct Closeness {
    /// Cosine of the angle between them as vectors: 1 if one is a multiple of the other.
    pub(in crate::cli) cosine: f64,
    /// Largest difference of two elements.
    pub(in crate::cli) max_abs: f64,
}

/// Sums in f64, in the order of the elements.
pub(in crate::cli) fn closeness(found: &[f32], wanted: &[f32]) -> Closeness {
    let (mut dot, mut of_found, mut of_wanted, mut max_abs) = (0.0, 0.0, 0.0, 0.0_f64);
    for (a, b) in found.iter().zip(wanted) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        dot += a * b;
        of_found += a * a;
        of_wanted += b * b;
        // Unlike `max`, what is no number stays so.
        let off = (a - b).abs();
        max_abs = if off > max_abs || off.is_nan() { off } else { max_abs };
    }
    // In one root, so that of equal vectors it is exactly their product.
    let norms = f64::sqrt(of_found * of_wanted);
    let cosine = if of_found == 0.0 && of_wanted == 0.0 { 1.0 } else { dot / norms };
    // Not `min`, which makes 1 of what is no number.
    let cosine = if cosine > 1.0 { 1.0 } else { cosine };
    Closeness { cosine, max_abs }
}

/// A margin between the two largest logits of a row is clear from this many standard deviations of the row on.
const CLEAR: f64 = 0.1;

/// Whether the largest logits are at the same places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Top1 {
    pub(in crate::cli) rows: u64,
    pub(in crate::cli) same: u64,
    /// Rows whose first is clearly ahead of its second, in the wanted logits.
    pub(in crate::cli) clear_rows: u64,
    pub(in crate::cli) clear_same: u64,
}

impl Top1 {
    /// Of the rows of logits.
    pub(in crate::cli) fn of(found: &[f32], wanted: &[f32], columns: usize) -> Top1 {
        let mut top = Top1::default();
        for (found, wanted) in found.chunks(columns.max(1)).zip(wanted.chunks(columns.max(1))) {
            let same = u64::from(first(found) == first(wanted));
            let clear = u64::from(is_clear(wanted));
            top.rows += 1;
            top.same += same;
            top.clear_rows += clear;
            top.clear_same += same * clear;
        }
        top
    }

    /// Of rows with a clear margin; where there is none, of all.
    pub(in crate::cli) fn agreement(&self) -> f64 {
        let (same, rows) =
            if self.clear_rows > 0 { (self.clear_same, self.clear_rows) } else { (self.same, self.rows) };
        same as f64 / rows.max(1) as f64
    }
}

/// The place of the largest, the lowest on a tie; none for a row with what is no number.
fn first(row: &[f32]) -> Option<usize> {
    if row.iter().any(|x| x.is_nan()) {
        return None;
    }
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best })
}

fn is_clear(row: &[f32]) -> bool {
    let n = row.len().max(1) as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let deviation = f64::sqrt(row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n);
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for x in row {
        if *x > best {
            (best, second) = (*x, best);
        } else if *x > second {
            second = *x;
        }
    }
    f64::from(best) - f64::from(second) >= CLEAR * deviation
}

/// The elements of a tensor `[B, S, ..]` at the rows that `keep` has, all of any other tensor.
pub(in crate::cli) fn kept(value: &Output, keep: Option<&[bool]>) -> Vec<f32> {
    let rows = value.dims.iter().take(2).product::<usize>();
    match keep {
        Some(keep) if value.dims.len() > 2 && rows == keep.len() => {
            let width = value.data.len() / rows.max(1);
            let rows = value.data.chunks(width.max(1)).zip(keep);
            rows.filter(|(_, keep)| **keep).flat_map(|(row, _)| row.iter().copied()).collect()
        }
        Some(_) | None => value.data.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_and_differences() {
        let close = closeness(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]);
        assert!((close.cosine - 1.0).abs() < 1e-12 && close.max_abs == 3.0);
        assert_eq!(closeness(&[1.0, 0.0], &[0.0, 1.0]), Closeness { cosine: 0.0, max_abs: 1.0 });
        assert_eq!(closeness(&[0.0], &[0.0]).cosine, 1.0);
        // Nothing that is no number passes for close.
        let broken = closeness(&[f32::NAN, 1.0], &[1.0, 1.0]);
        assert!(broken.cosine.is_nan() && broken.max_abs.is_nan());
        assert!(closeness(&[0.0, 0.0], &[1.0, 1.0]).cosine.is_nan());
    }

    #[test]
    fn largest_logits() {
        let wanted = [0.0, 1.0, 5.0, /**/ 2.0, 2.0, -4.0, /**/ 3.0, 0.0, 0.0];
        let found = [0.0, 1.0, 4.0, /**/ 1.0, 2.0, -4.0, /**/ 0.0, 1.0, 0.0];
        let top = Top1::of(&found, &wanted, 3);
        assert_eq!(top, Top1 { rows: 3, same: 1, clear_rows: 2, clear_same: 1 });
        assert_eq!(top.agreement(), 0.5);
        assert_eq!(Top1::of(&[f32::NAN, 0.0], &[1.0, 0.0], 2).same, 0);
    }

    #[test]
    fn padding_is_left_out() {
        let value = |dims: &[usize]| Output {
            name: "x".to_owned(),
            dims: dims.to_vec(),
            data: (0..6).map(|n| n as f32).collect(),
        };
        assert_eq!(kept(&value(&[1, 3, 2]), Some(&[true, false, true])), [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(kept(&value(&[3, 2]), Some(&[true, false, true])).len(), 6);
        assert_eq!(kept(&value(&[1, 3, 2]), None).len(), 6);
    }
}
