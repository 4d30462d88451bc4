//! What the error of a rounded weight takes from the weights behind it (GPTQ, Frantar et al. 2022).
//!
//! Where columns of the rows move together, one weight can make up for what another has lost. With `H` the mean products of
//! the columns and `U` upper triangular, `H^-1 = U^T U`: once column `j` of a weight's row is rounded with error `e`, the squared
//! error of the product is least if `e U[j][i] / U[j][j]` is taken from each later column `i`. Products are kept within blocks
//! of [`BLOCK`] columns, so that memory and time grow with the columns and not with their square.

use dreamc_num::quant::BLOCK;

/// What is added to the diagonal, of its mean: columns that were seldom seen are not trusted.
const DAMPING: f64 = 0.01;

/// Products of the columns of some rows, within blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Products {
    /// `[K, BLOCK]`, summed up over the rows: a column's with every column of its block.
    sums: Vec<f32>,
    /// Number of rows.
    count: u64,
}

impl Products {
    /// Adds rows of `k` elements. Rows with what is no number are left out.
    pub(super) fn add(&mut self, elements: &[f32], k: usize) {
        self.sums.resize(k * BLOCK, 0.0);
        for row in elements.chunks_exact(k).filter(|row| row.iter().all(|x| x.is_finite())) {
            for (block, sums) in row.chunks(BLOCK).zip(self.sums.chunks_mut(BLOCK * BLOCK)) {
                for (x, sums) in block.iter().zip(sums.chunks_exact_mut(BLOCK)) {
                    block.iter().zip(sums).for_each(|(y, sum)| *sum += x * y);
                }
            }
            self.count += 1;
        }
    }

    /// Adds those of other rows as wide.
    pub(super) fn merge(&mut self, other: &Products) {
        self.sums.resize(other.sums.len(), 0.0);
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        self.count += other.count;
    }

    /// `[K, BLOCK]`: what part of the error of a column is taken from each column of its block, where columns are divided by
    /// `factors`. Nothing without rows.
    pub(super) fn feedback(&self, factors: &[f32]) -> Option<Vec<f32>> {
        if self.count == 0 {
            return None;
        }
        let mut parts = vec![0.0; self.sums.len()];
        let blocks = factors.chunks(BLOCK).zip(self.sums.chunks(BLOCK * BLOCK));
        for ((factors, sums), parts) in blocks.zip(parts.chunks_mut(BLOCK * BLOCK)) {
            let n = factors.len();
            let mut h = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..n {
                    let divided =
                        f64::from(sums[i * BLOCK + j]) / (f64::from(factors[i]) * f64::from(factors[j]));
                    h[i * n + j] = divided / self.count as f64;
                }
            }
            let damping = DAMPING * (0..n).map(|i| h[i * n + i]).sum::<f64>() / n as f64;
            (0..n).for_each(|i| h[i * n + i] += damping);
            let Some(u) = inverse_factor(h, n) else { continue };
            for j in 0..n {
                for i in j + 1..n {
                    parts[j * BLOCK + i] = (u[j * n + i] / u[j * n + j]) as f32;
                }
            }
        }
        Some(parts)
    }
}

/// `U`, upper triangular with `H^-1 = U^T U`, of a symmetric matrix; nothing where it is not positive definite.
fn inverse_factor(mut h: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    // R upper triangular with H = R R^T, from the last column on; then U = R^-1.
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let known: f64 = (j + 1..n).map(|m| h[i * n + m] * h[j * n + m]).sum();
            let rest = h[i * n + j] - known;
            h[i * n + j] =
                if i < j { rest / h[j * n + j] } else { Some(rest.sqrt()).filter(|r| *r > 0.0)? };
        }
    }
    let mut u = vec![0.0; n * n];
    for j in 0..n {
        u[j * n + j] = 1.0 / h[j * n + j];
        for i in (0..j).rev() {
            let known: f64 = (i + 1..=j).map(|m| h[i * n + m] * u[m * n + j]).sum();
            u[i * n + j] = -known / h[i * n + i];
        }
    }
    u.iter().all(|x| x.is_finite()).then_some(u)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `H U^T U = 1`.
    #[test]
    fn the_factor_is_of_the_inverse() {
        let n = 5;
        let at = |i: usize, j: usize| if i == j { 3.0 } else { 1.0 / (1.0 + i.abs_diff(j) as f64) };
        let h: Vec<f64> = (0..n * n).map(|e| at(e / n, e % n)).collect();
        let u = inverse_factor(h.clone(), n).unwrap();
        for i in 0..n {
            for j in 0..n {
                let inverse = |a: usize, b: usize| (0..n).map(|m| u[m * n + a] * u[m * n + b]).sum::<f64>();
                let found: f64 = (0..n).map(|m| h[i * n + m] * inverse(m, j)).sum();
                assert!((found - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        assert_eq!(inverse_factor(vec![0.0; 4], 2), None);
        assert_eq!(inverse_factor(vec![1.0, f64::NAN, f64::NAN, 1.0], 2), None);
    }

    /// Of two columns that are always the same the second makes up for the first; one of another block does not.
    #[test]
    fn columns_that_move_together() {
        let k = BLOCK + 2;
        let (mut products, mut rows) = (Products::default(), vec![0.0; 4 * k]);
        for (i, row) in rows.chunks_mut(k).enumerate() {
            let x = i as f32 - 1.0;
            (row[3], row[7], row[BLOCK]) = (x, x, x);
        }
        products.add(&rows, k);
        let parts = products.feedback(&vec![1.0; k]).unwrap();
        assert_eq!(parts.len(), k * BLOCK);
        assert!((parts[3 * BLOCK + 7] + 1.0).abs() < 0.01, "{}", parts[3 * BLOCK + 7]);
        let others: f32 = parts.iter().map(|x| x.abs()).sum::<f32>() - parts[3 * BLOCK + 7].abs();
        assert_eq!(others, 0.0);
        assert_eq!(Products::default().feedback(&[1.0]), None);
    }
}
