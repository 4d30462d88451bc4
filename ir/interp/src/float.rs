//! Ops of the decoder (`spec/text-model.md` sections 3, 4, 6).

use crate::rows;
use crate::run::RunError;
use crate::tensor::{Data, Tensor};
use dreamc_ir::{Activation, Attention, Linear, RopeTable};

pub(crate) fn map(x: &Tensor, f: impl Fn(f32) -> f32) -> Tensor {
    Tensor::f32(&x.dims, x.floats().iter().map(|x| f(*x)).collect())
}

pub(crate) fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Tensor {
    Tensor::f32(&a.dims, a.floats().iter().zip(b.floats()).map(|(a, b)| f(*a, *b)).collect())
}

pub(crate) fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let x = f64::from(x);
            (0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))) as f32
        }
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        // Written so that what is no number stays none.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

pub(crate) fn embed(ids: &Tensor, table: &Tensor) -> Result<Tensor, RunError> {
    let h = table.columns();
    let mut rows = Vec::new();
    for id in ids.ints() {
        let start = usize::try_from(*id).ok().filter(|i| *i < table.dims[0]).ok_or(RunError::Token(*id))? * h;
        rows.extend_from_slice(&table.floats()[start..start + h]);
    }
    Ok(Tensor::f32(&[ids.dims[0], ids.dims[1], h], rows))
}

pub(crate) fn rope_table(positions: &Tensor, table: &RopeTable) -> (Tensor, Tensor) {
    let RopeTable { theta, sections, axial } = table;
    let [.., b, s] = positions.dims[..] else { unreachable!("verified: rows of positions") };
    let n: u64 = sections.iter().sum();
    let mut frequencies = Vec::new();
    for (axis, section) in sections.iter().enumerate() {
        for j in 0..*section {
            let (j, n) = if *axial { (j, *section) } else { (frequencies.len() as u64, n) };
            frequencies.push((axis, 1.0 / theta.powf((2 * j) as f32 / (2 * n) as f32)));
        }
    }
    let mut angles = Vec::new();
    for row in 0..b * s {
        let position = |axis: usize| positions.ints()[axis * b * s + row] as f32;
        angles.extend(frequencies.iter().map(|(axis, frequency)| position(*axis) * frequency));
    }
    let dims = [b, s, n as usize];
    (
        Tensor::f32(&dims, angles.iter().map(|a| a.cos()).collect()),
        Tensor::f32(&dims, angles.iter().map(|a| a.sin()).collect()),
    )
}

pub(crate) fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, eps: f32) -> Tensor {
    let n = x.columns();
    let norm = |row: &[f32]| {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (variance as f32 + eps).sqrt();
        let affine = gain.floats().iter().zip(bias.floats());
        let centred = |x: &f32| (f64::from(*x) - mean) as f32 * scale;
        row.iter().zip(affine).map(|(x, (g, b))| centred(x) * g + b).collect::<Vec<_>>()
    };
    Tensor::f32(&x.dims, x.floats().chunks(n).flat_map(norm).collect())
}

pub(crate) fn rms_norm(x: &Tensor, gain: &Tensor, eps: f32) -> Tensor {
    let n = x.columns();
    let norm = |row: &[f32]| {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (mean as f32 + eps).sqrt();
        row.iter().zip(gain.floats()).map(|(x, g)| x * scale * g).collect::<Vec<_>>()
    };
    Tensor::f32(&x.dims, x.floats().chunks(n).flat_map(norm).collect())
}

/// `x W^T`, sums in f64: an oracle should not have rounding of its own.
fn matmul(x: &Tensor, weight: &Tensor) -> Tensor {
    let k = x.columns();
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
    };
    let row = |a: &[f32]| weight.floats().chunks(k).map(|b| dot(a, b)).collect::<Vec<_>>();
    let mut dims = x.dims.clone();
    *dims.last_mut().expect("a matmul has columns") = weight.dims[0];
    Tensor::f32(&dims, x.floats().chunks(k).flat_map(row).collect())
}

/// Puts the columns of several results side by side.
fn side_by_side(parts: &[Tensor]) -> Tensor {
    let rows = parts[0].floats().len() / parts[0].columns();
    let mut dims = parts[0].dims.clone();
    *dims.last_mut().expect("a matmul has columns") = parts.iter().map(Tensor::columns).sum();
    let row = |r: usize| {
        parts.iter().flat_map(move |p| &p.floats()[r * p.columns()..(r + 1) * p.columns()]).copied()
    };
    Tensor::f32(&dims, (0..rows).flat_map(row).collect())
}

pub(crate) fn linear(linear: &Linear, operands: &[&Tensor]) -> Tensor {
    let mut operands = operands.iter();
    let mut next = || *operands.next().expect("verified: as many operands as the op says");
    let mut x = next().clone();
    if let Some(eps) = linear.norm_eps {
        x = rms_norm(&x, next(), eps);
    }
    let k = x.columns();
    if linear.smooth {
        let factors = next();
        let products = x.floats().iter().enumerate().map(|(i, x)| x * factors.floats()[i % k]);
        x = Tensor::f32(&x.dims, products.collect());
    }
    let rounded = |tensor: Tensor| {
        let mut elements = tensor.floats().to_vec();
        if let Some(codes) = linear.codes {
            elements.chunks_mut(k).for_each(|row| codes.round(row));
        }
        Tensor::f32(&tensor.dims, elements)
    };
    let x = rounded(x);
    let weight = |weight: &Tensor| match linear.rows {
        None => rounded(weight.clone()),
        Some((first, len)) => {
            let (first, len) = (first as usize, len as usize);
            rounded(Tensor::f32(&[len, k], weight.floats()[first * k..(first + len) * k].to_vec()))
        }
    };
    let parts: Vec<Tensor> = (0..linear.weights).map(|_| matmul(&x, &weight(next()))).collect();
    let mut y = if linear.swiglu {
        zip(&parts[0], &parts[1], |gate, up| activate(Activation::Silu, gate) * up)
    } else {
        side_by_side(&parts)
    };
    if linear.bias {
        let bias = next();
        let n = y.columns();
        let biased = y.floats().iter().enumerate().map(|(i, y)| y + bias.floats()[i % n]).collect();
        y = Tensor::f32(&y.dims, biased);
    }
    if let Some(activation) = linear.activation {
        y = map(&y, |y| activate(activation, y));
    }
    if linear.residual {
        y = zip(&y, next(), |y, r| y + r);
    }
    y
}

pub(crate) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Tensor {
    let (n, half) = (x.columns(), head_dim / 2);
    let mut out = x.floats().to_vec();
    for (i, head) in out.chunks_mut(head_dim).enumerate() {
        let row = i / (n / head_dim) * half;
        for j in 0..half {
            let (c, s) = (cos.floats()[row + j], sin.floats()[row + j]);
            let (a, b) = (head[j], head[j + half]);
            head[j] = a * c - b * s;
            head[j + half] = b * c + a * s;
        }
    }
    Tensor::f32(&x.dims, out)
}

pub(crate) fn attention(attention: &Attention, operands: &[&Tensor]) -> Result<Tensor, RunError> {
    let Attention { heads, kv_heads, head_dim, packed, rope: rotate, rows: some } = *attention;
    let (heads, kv_heads, d) = (heads as usize, kv_heads as usize, head_dim as usize);
    let columns = |start: usize, heads: usize| {
        let n = operands[0].columns();
        let rows = operands[0].floats().chunks(n).flat_map(|r| r[start..start + heads * d].to_vec());
        Tensor::f32(&[operands[0].dims[0], operands[0].dims[1], heads * d], rows.collect())
    };
    let (mut q, mut k, v, rest) = if packed {
        (
            columns(0, heads),
            columns(heads * d, kv_heads),
            columns((heads + kv_heads) * d, kv_heads),
            &operands[1..],
        )
    } else {
        (operands[0].clone(), operands[1].clone(), operands[2].clone(), &operands[3..])
    };
    // What belongs to the rows of the queries: all rows, or those of the index.
    let index = rest.last().filter(|_| some);
    let of_queries = |x: &Tensor| index.map_or_else(|| Ok(x.clone()), |index| rows::take(x, index));
    if rotate {
        q = rope(&q, &of_queries(rest[1])?, &of_queries(rest[2])?, d);
        k = rope(&k, rest[1], rest[2], d);
    }
    let column = Tensor { dims: vec![k.dims[0], k.dims[1], 1], data: Data::I32(rest[0].ints().to_vec()) };
    let (mask, own) = (rest[0].ints(), of_queries(&column)?);
    let (batch, r, s) = (q.dims[0], q.dims[1], k.dims[1]);
    let mut out = vec![0.0; q.floats().len()];
    for b in 0..batch {
        for i in (0..r).filter(|i| own.ints()[b * r + i] != 0) {
            for h in 0..heads {
                let q = &q.floats()[((b * r + i) * heads + h) * d..][..d];
                let key = |j: usize| ((b * s + j) * kv_heads + h / (heads / kv_heads)) * d;
                let visible: Vec<usize> =
                    (0..s).filter(|j| mask[b * s + j] == own.ints()[b * r + i]).collect();
                let score = |j: &usize| {
                    let dot: f64 = q
                        .iter()
                        .zip(&k.floats()[key(*j)..])
                        .map(|(a, b)| f64::from(*a) * f64::from(*b))
                        .sum();
                    dot / (d as f64).sqrt()
                };
                let scores: Vec<f64> = visible.iter().map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..d {
                    let sum: f64 = visible
                        .iter()
                        .zip(&weights)
                        .map(|(j, w)| w * f64::from(v.floats()[key(*j) + c]))
                        .sum();
                    out[((b * r + i) * heads + h) * d + c] = (sum / total) as f32;
                }
            }
        }
    }
    Ok(Tensor::f32(&q.dims, out))
}
