//! The table that is printed: shape, times, and how much longer ours takes.

use super::Row;

/// Stands where no number was measured.
const NONE: &str = "-";

/// A line of names and a line for each row. A ratio of more than 1 says that ours is slower.
pub(super) fn lines(rows: &[Row]) -> Vec<String> {
    let widest = rows.iter().map(|row| row.product.name.len()).max().unwrap_or(0);
    let mut lines = vec![format!(
        "{:widest$}  rows       n      k    ours us  Triton us  cuBLAS us  ours/Triton  ours/cuBLAS",
        ""
    )];
    for row in rows {
        let ours = row.ours.as_ref().ok().map(|ours| ours.us);
        let of = |time: &Result<f64, String>| time.as_ref().ok().copied();
        let triton = row.theirs.as_ref().and_then(|answer| of(&answer.triton));
        let cublas = row.theirs.as_ref().and_then(|answer| of(&answer.cublas));
        let ratio = |theirs: Option<f64>| ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
        lines.push(format!(
            "{:widest$}  {:4}  {:6}  {:5}  {:>9}  {:>9}  {:>9}  {:>11}  {:>11}",
            row.product.name,
            row.shape.rows,
            row.shape.n,
            row.shape.k,
            number(ours, 1),
            number(triton, 1),
            number(cublas, 1),
            number(ratio(triton), 2),
            number(ratio(cublas), 2),
        ));
    }
    lines
}

fn number(x: Option<f64>, digits: usize) -> String {
    x.map_or_else(|| NONE.to_owned(), |x| format!("{x:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yardstick::tests::{half, row};

    #[test]
    fn what_was_not_measured_is_no_number() {
        let rows = [row(Ok(100.0), Some(half())), row(Ok(100.0), None), row(Err("lost"), Some(half()))];
        assert_eq!(
            lines(&rows),
            [
                "      rows       n      k    ours us  Triton us  cuBLAS us  ours/Triton  ours/cuBLAS",
                "down   232    3584  18944      100.0       80.0          -         1.25            -",
                "down   232    3584  18944      100.0          -          -            -            -",
                "down   232    3584  18944          -       80.0          -            -            -",
            ]
        );
    }
}
