//! Sines and cosines: of positions, what they turn, and of times.

use crate::context::Context;
use crate::isa::per_isa;
use crate::memory::Buf;
use dreamc_num::frequency;

/// What a sine and a cosine cost, in elements that are moved.
const ANGLE_WORK: usize = 64;

/// Cosines and sines of every position.
pub(crate) fn rope_table(
    context: &Context<'_>,
    positions: &Buf,
    theta: f32,
    sections: &[u32],
    axial: bool,
    cos: &Buf,
    sin: &Buf,
) {
    /// Columns whose frequencies are known at a time.
    const N: usize = 64;
    let (rows, n) = (cos.rows(), cos.columns());
    let mut first = 0;
    for (plane, &m) in sections.iter().enumerate() {
        let m = m as usize;
        for from in (0..m).step_by(N) {
            let mut frequencies = [0.0_f32; N];
            let frequencies = &mut frequencies[..N.min(m - from)];
            for (j, frequency) in (from..).zip(&mut *frequencies) {
                let (j, n) = if axial { (j, m) } else { (first + j, n) };
                *frequency = frequency::rope(theta, j as u32, n as u32);
            }
            context.pool.run_rows(rows, ANGLE_WORK * frequencies.len(), &|row, _| {
                let p = positions.get::<i32>(plane * rows + row) as f32;
                for (column, frequency) in (row * n + first + from..).zip(&*frequencies) {
                    let (s, c) = libm::sincosf(p * frequency);
                    cos.set(column, c);
                    sin.set(column, s);
                }
            });
        }
        first += m;
    }
}

/// Rotates every head of every row.
pub(crate) fn rope(context: &Context<'_>, x: &Buf, cos: &Buf, sin: &Buf, out: &Buf) {
    let (half, n) = (cos.columns(), x.columns());
    context.pool.run_rows(x.rows(), n, &|row, _| {
        for head in (0..n).step_by(2 * half) {
            rotate(context.isa, x, row * n + head, cos, sin, row * half, half, out);
        }
    });
}

per_isa! {
    fn rotate(x: &Buf, at: usize, cos: &Buf, sin: &Buf, row: usize, half: usize, out: &Buf) {
        const N: usize = 64;
        let (mut a, mut b) = ([0.0_f32; N], [0.0_f32; N]);
        let (mut c, mut s) = ([0.0_f32; N], [0.0_f32; N]);
        for j in (0..half).step_by(N) {
            let n = N.min(half - j);
            x.load(at + j, &mut a[..n]);
            x.load(at + half + j, &mut b[..n]);
            cos.load(row + j, &mut c[..n]);
            sin.load(row + j, &mut s[..n]);
            for ((a, b), (c, s)) in a.iter_mut().zip(&mut b).zip(c.iter().zip(&s)) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
            out.store(at + j, &a[..n]);
            out.store(at + half + j, &b[..n]);
        }
    }
}

/// Sines, then cosines of a time at falling frequencies, as row `row`.
pub(crate) fn timestep_embed(time: f32, out: &Buf, row: usize) {
    let half = out.columns() / 2;
    let at = row * out.columns();
    for k in 0..half {
        let angle = time * frequency::timestep(k as u32, half as u32);
        out.set(at + k, libm::sinf(angle));
        out.set(at + half + k, libm::cosf(angle));
    }
}
