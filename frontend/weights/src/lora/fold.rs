//! The product of an adapter's matrices, added to elements of a weight.

use crate::TensorRef;

/// The two matrices of one weight in f32: `r (in + out)` numbers, of which the weight itself has `in * out`.
#[derive(Debug)]
pub(crate) struct Folded {
    /// `[r, in]`.
    a: Vec<f32>,
    /// `[out, r]`.
    b: Vec<f32>,
    columns: usize,
    rank: usize,
    scale: f32,
    /// Of the product, before scaling.
    row: Vec<f32>,
}

impl Folded {
    /// Converts the matrices A `[r, in]` and B `[out, r]`.
    pub(super) fn new(a: TensorRef<'_>, b: TensorRef<'_>, scale: f32) -> Folded {
        let values = |t: TensorRef<'_>| {
            let mut values = vec![0.0; t.len()];
            t.to_f32(0..t.len(), &mut values);
            t.release();
            values
        };
        let rank = a.shape.first().map_or(0, |r| *r as usize);
        let columns = a.shape.last().map_or(0, |n| *n as usize);
        Folded { a: values(a), b: values(b), columns, rank, scale, row: vec![0.0; columns] }
    }

    /// Adds `scale B A` to elements of the weight from `start` on, in row-major order. Each is summed over the rank in
    /// the same order whatever the range is, so pieces give the bits of the whole.
    pub(crate) fn add(&mut self, start: usize, out: &mut [f32]) {
        let mut done = 0;
        while done < out.len() {
            let (row, column) = ((start + done) / self.columns, (start + done) % self.columns);
            let count = (self.columns - column).min(out.len() - done);
            let sums = &mut self.row[..count];
            sums.fill(0.0);
            for (k, b) in self.b[row * self.rank..][..self.rank].iter().enumerate() {
                let a = &self.a[k * self.columns + column..][..count];
                sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
            for (out, sum) in out[done..][..count].iter_mut().zip(sums.iter()) {
                *out += self.scale * sum;
            }
            done += count;
        }
    }
}
