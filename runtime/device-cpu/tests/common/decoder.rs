//! Cases of the decoder's kernels.

use super::{Case, Tensor, case, ints, numbers, plain, random, real, table, weight};
use dreamc_artifact::plan::{Activation, Attention, Kernel, Linear};
use dreamc_num::DType;
use dreamc_num::DType::{BF16, F32};

fn tolerance(dtypes: &[DType]) -> f64 {
    if dtypes.contains(&BF16) { 1.2e-2 } else { 3e-5 }
}

pub(crate) fn rows() -> Vec<Case> {
    let mut cases = vec![];
    for (a, b) in [(F32, F32), (F32, BF16), (BF16, F32), (BF16, BF16)] {
        let bound = tolerance(&[a, b]);
        let ids = ints(&[2, 3], &[0, 4, 2, 1, 4, 0]);
        let vocabulary = random(a, &[5, 300], 1);
        cases.push(case(Kernel::Embed, &[ids.clone(), vocabulary.clone()], b, &[2, 3, 300], bound));
        cases.push(case(Kernel::Embed, &[ids, table(vocabulary)], b, &[2, 3, 300], bound));
        for columns in [1, 17, 700] {
            let reads = [random(a, &[2, 3, columns], 1), random(F32, &[columns], 2)];
            cases.push(case(Kernel::RmsNorm { eps: 1e-6 }, &reads, b, &[2, 3, columns], bound));
        }
    }
    for (sections, axial) in [
        (vec![1], false),
        (vec![3], true),
        (vec![64], false),
        (vec![16, 24, 24], false),
        (vec![20, 20], true),
        (vec![1, 5, 2, 3], true),
    ] {
        let planes = sections.len();
        let positions = [0, 1, 7, 100, -3, 31].map(|p| (0..planes as i32).map(move |plane| p + 5 * plane));
        let positions: Vec<i32> = positions.into_iter().flatten().collect();
        let dims = if planes == 1 { vec![2, 3] } else { vec![planes as u32, 2, 3] };
        let n = sections.iter().sum();
        let kernel = Kernel::RopeTable { theta: 1e6, sections, axial };
        let mut case = case(kernel, &[ints(&dims, &positions)], F32, &[2, 3, n], 1e-4);
        case.writes.push(case.writes[0].clone());
        cases.push(case);
    }
    for dtype in [F32, BF16] {
        let bound = tolerance(&[dtype]);
        for (heads, d) in [(1, 2), (3, 6), (2, 80), (2, 136)] {
            let reads = [
                random(dtype, &[2, 3, heads * d], 1),
                random(F32, &[2, 3, d / 2], 2),
                random(F32, &[2, 3, d / 2], 3),
            ];
            cases.push(
                case(Kernel::Rope { head_dim: d }, &reads, dtype, &[2, 3, heads * d], bound).over(&[0]),
            );
        }
        let x = random(dtype, &[2, 5, 37], 1);
        cases.push(case(Kernel::Slice { start: 30 }, std::slice::from_ref(&x), dtype, &[2, 5, 7], 0.0));
        cases.push(case(Kernel::Slice { start: 0 }, std::slice::from_ref(&x), dtype, &[2, 5, 37], 0.0));
        cases.push(case(Kernel::ShiftRows, std::slice::from_ref(&x), dtype, &[2, 5, 37], 0.0));
        cases.push(case(Kernel::Copy, &[x], dtype, &[10, 37], 0.0));
        for n in [1, 40_000] {
            let reads = [random(dtype, &[n], 1), random(dtype, &[n], 2)];
            for kernel in [Kernel::Add, Kernel::Mul, Kernel::SwiGlu] {
                cases.push(case(kernel, &reads, dtype, &[n], bound).over(&[0, 1]));
            }
        }
    }
    cases
}

/// All combinations of element types, with everything that may stand before and after the product.
pub(crate) fn linear() -> Vec<Case> {
    let mut cases = vec![];
    let shapes = [
        (1, 17, 64),
        (5, 100, 3),
        (5, 20, 1),
        (13, 1, 257),
        (13, 100, 257),
        (270, 33, 520),
        (14, 18, 1100),
        (5, 300, 1100),
        (3, 18, 1176),
        (2, 5, 25_088),
    ];
    for (m, n, k) in shapes {
        for (x, w, y) in
            [(F32, F32, F32), (BF16, BF16, BF16), (F32, BF16, F32), (BF16, F32, BF16), (BF16, BF16, F32)]
        {
            let matrix = |rows: u32, seed: u32| {
                weight(w, rows as usize, k as usize, &numbers((rows * k) as usize, seed))
            };
            let (all, input) = (n + 7 + 16, random(x, &[m, k], 1));
            let reads = [
                input.clone(),
                random(F32, &[k], 2),
                matrix(n, 3),
                matrix(7, 4),
                matrix(16, 5),
                random(F32, &[all], 6),
                random(F32, &[m, all], 7),
            ];
            // Normed rows are rounded to the weights' bf16: the error grows with the root of k.
            let rounding = if w == BF16 { 4e-3 * f64::from(k).sqrt() } else { 0.0 };
            // Long sums of numbers of either sign lose more than their result shows.
            let long = (f64::from(k) / 1024.0).max(1.0);
            let bound = tolerance(&[x, w, y]) * long;
            let linear = Linear { norm_eps: Some(1e-6), weights: 3, bias: true, residual: true, ..plain() };
            let full = case(Kernel::Linear(linear.clone()), &reads, y, &[m, all], bound + rounding);
            cases.push(if y == F32 { full.over(&[6]) } else { full });
            let plain = Linear { norm_eps: None, weights: 1, bias: false, residual: false, ..linear };
            // Rows of f32 are not rounded to the weights' bf16.
            let exact = tolerance(&[x, y]) * long;
            let reads = [input.clone(), matrix(n, 3)];
            cases.push(case(Kernel::Linear(plain.clone()), &reads, y, &[m, n], exact));
            let reads = [input, matrix(n, 3), matrix(n, 4), random(F32, &[m, n], 8)];
            let swiglu = Linear { weights: 2, swiglu: true, residual: true, ..plain };
            cases.push(case(Kernel::Linear(swiglu), &reads, y, &[m, n], bound * 8.0));
        }
    }
    // One row with leading dimensions, and a bias alone, as projectors have it.
    for (x, w) in [(F32, F32), (F32, BF16), (BF16, BF16)] {
        let (n, k) = (33, 89);
        let matrix = weight(w, n as usize, k as usize, &numbers((n * k) as usize, 3));
        let linear = Linear { bias: true, ..plain() };
        let reads = [random(x, &[1, 1, k], 1), matrix, random(F32, &[n], 4)];
        cases.push(case(Kernel::Linear(linear), &reads, F32, &[1, 1, n], 3e-5));
    }
    activated(&mut cases);
    whole(&mut cases);
    cases
}

/// Panels in pairs, none cut off: ends of tiles may come late. Many rows of many columns are multiplied in blocks of both.
fn whole(cases: &mut Vec<Case>) {
    for (m, n, k) in [(29, 64, 70), (265, 64, 1100)] {
        for y in [BF16, F32] {
            let matrix = |seed| weight(BF16, n as usize, k as usize, &numbers((n * k) as usize, seed));
            let input = random(BF16, &[m, k], 1);
            let bound = tolerance(&[BF16, BF16, y]) * (f64::from(k) / 1024.0).max(1.0);
            let linear = Linear { bias: true, residual: true, ..plain() };
            let reads = [input.clone(), matrix(2), random(F32, &[n], 3), random(y, &[m, n], 4)];
            cases.push(case(Kernel::Linear(linear.clone()), &reads, y, &[m, n], bound).over(&[3]));
            let plain = Linear { bias: false, residual: false, ..linear };
            cases.push(case(Kernel::Linear(plain.clone()), &reads[..2], y, &[m, n], bound));
            let gated = Linear { weights: 2, swiglu: true, ..plain };
            let reads = [input, matrix(2), matrix(5)];
            cases.push(case(Kernel::Linear(gated), &reads, y, &[m, n], bound * 8.0));
        }
    }
}

/// Activations between bias and residual: several weights, odd columns, rounded once at the end.
fn activated(cases: &mut Vec<Case>) {
    let (m, n, k) = (7, 37, 89);
    for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu] {
        for (x, w, y) in [(F32, F32, F32), (BF16, BF16, BF16), (F32, BF16, F32)] {
            let matrix =
                |rows: u32, seed| weight(w, rows as usize, k as usize, &numbers((rows * k) as usize, seed));
            let bound = tolerance(&[x, y]);
            let linear = Linear { bias: true, activation: Some(kind), ..plain() };
            let reads = [random(x, &[m, k], 1), matrix(n, 2), random(F32, &[n], 3)];
            cases.push(case(Kernel::Linear(linear.clone()), &reads, y, &[m, n], bound));
            let two = Linear { weights: 2, bias: false, residual: true, ..linear };
            let all = n + 5;
            let reads = [random(x, &[m, k], 1), matrix(n, 2), matrix(5, 3), random(F32, &[m, all], 4)];
            let case = case(Kernel::Linear(two), &reads, y, &[m, all], bound);
            cases.push(if y == F32 { case.over(&[3]) } else { case });
        }
    }
}

/// The rows where `mask` is 0 hold no numbers, in queries, keys and values alike.
fn poison(tensor: &Tensor, mask: &[i32]) -> Tensor {
    let mut tensor = tensor.clone();
    let row = tensor.bytes.len() / mask.len();
    // All bits set are a NaN in both types.
    for (bytes, _) in tensor.bytes.chunks_mut(row).zip(mask).filter(|(_, m)| **m == 0) {
        bytes.fill(0xff);
    }
    tensor
}

pub(crate) fn attention() -> Vec<Case> {
    let mut cases = vec![];
    let shapes = [
        (4, 2, 20, 2, 37),
        (2, 2, 16, 1, 1),
        (3, 1, 2, 2, 5),
        (4, 1, 32, 1, 150),
        (1, 1, 48, 1, 129),
        (1, 1, 80, 1, 300),
        (1, 1, 16, 2, 280),
    ];
    for (heads, kv_heads, d, b, s) in shapes {
        let rows = b * s;
        // Padding in front, behind, everywhere in the last batch row, nowhere; what is not 0 is visible.
        // Segments one after the other, in any order, with padding between and inside, and all mixed up.
        let masks: [&dyn Fn(u32) -> i32; 8] = [
            &|i| i32::from(i % s >= s / 3),
            &|i| if i % s < s - s / 4 { -7 } else { 0 },
            &|i| i32::from(i < rows - s),
            &|_| 1,
            &|i| (i * 5 / rows) as i32 + 1,
            &|i| [i32::MAX, -3, 0, i32::MIN, 8][(i % s * 5 / s) as usize] * i32::from(i % 7 != 3),
            &|i| (i % 3) as i32,
            &|i| numbers(rows as usize, 9)[i as usize].mul_add(20.0, 0.5) as i32,
        ];
        for (i, mask) in masks.into_iter().enumerate() {
            let mask: Vec<i32> = (0..rows).map(mask).collect();
            let all = [(F32, true, true), (BF16, true, false), (F32, false, false), (BF16, false, true)];
            // Rotation comes before segments matter.
            for (dtype, rope, packed) in all.into_iter().take(if i < 4 { 4 } else { 2 }) {
                let operand = |heads: u32, seed| poison(&random(dtype, &[b, s, heads * d], seed), &mask);
                let mut reads = if packed {
                    vec![operand(heads + 2 * kv_heads, 1)]
                } else {
                    vec![operand(heads, 1), operand(kv_heads, 2), operand(kv_heads, 3)]
                };
                reads.push(ints(&[b, s], &mask));
                if rope {
                    let angles = numbers((rows * d / 2) as usize, 4);
                    let of = |f: fn(f32) -> f32| angles.iter().map(|a| f(*a)).collect::<Vec<_>>();
                    reads.push(real(F32, &[b, s, d / 2], &of(f32::cos)));
                    reads.push(real(F32, &[b, s, d / 2], &of(f32::sin)));
                }
                let kernel =
                    Kernel::Attention(Attention { heads, kv_heads, head_dim: d, packed, rope, rows: false });
                cases.push(case(kernel, &reads, dtype, &[b, s, heads * d], tolerance(&[dtype])));
            }
        }
    }
    cases
}

/// Queries at some rows: a few, all of them, more than a block, in any order, some of padding.
pub(crate) fn attention_rows() -> Vec<Case> {
    let mut cases = vec![];
    for (heads, kv_heads, d, b, s, r) in [
        (4, 2, 20, 2, 37, 5),
        (2, 2, 16, 1, 1, 1),
        (3, 1, 2, 2, 5, 5),
        (4, 1, 32, 1, 150, 131),
        (1, 1, 80, 2, 300, 49),
    ] {
        let masks: [&dyn Fn(u32) -> i32; 3] =
            [&|i| i32::from(i % s >= s / 3), &|i| (i % s * 5 / s) as i32, &|i| (i % 3) as i32];
        for (i, mask) in masks.into_iter().enumerate() {
            let mask: Vec<i32> = (0..b * s).map(mask).collect();
            let all = [(F32, true), (BF16, true), (F32, false), (BF16, false)];
            for (dtype, rope) in all.into_iter().take(if i < 2 { 4 } else { 2 }) {
                let index: Vec<i32> = (0..b * r).map(|i| ((i * 7 + 3) % s) as i32).collect();
                let own = (0..b * r).map(|i| mask[((i / r) * s) as usize + index[i as usize] as usize]);
                let own: Vec<i32> = own.collect();
                let key = |seed| poison(&random(dtype, &[b, s, kv_heads * d], seed), &mask);
                let q = poison(&random(dtype, &[b, r, heads * d], 1), &own);
                let mut reads = vec![q, key(2), key(3), ints(&[b, s], &mask)];
                if rope {
                    let angles = numbers((b * s * d / 2) as usize, 4);
                    let of = |f: fn(f32) -> f32| angles.iter().map(|a| f(*a)).collect::<Vec<_>>();
                    reads.push(real(F32, &[b, s, d / 2], &of(f32::cos)));
                    reads.push(real(F32, &[b, s, d / 2], &of(f32::sin)));
                }
                reads.push(ints(&[b, r], &index));
                let kernel = Attention { heads, kv_heads, head_dim: d, packed: false, rope, rows: true };
                let kernel = Kernel::Attention(kernel);
                cases.push(case(kernel, &reads, dtype, &[b, r, heads * d], tolerance(&[dtype])));
            }
        }
    }
    cases
}

/// The case where every position has a query: those at the rows of the index are the same.
pub(crate) fn at_all_rows(some: &Case) -> Case {
    let Kernel::Attention(attention) = &some.kernel else { panic!("an attention") };
    let (index, reads) = some.reads.split_last().expect("an index");
    let (q, mask) = (&reads[0], &reads[3]);
    let (r, s) = (index.dims[1] as usize, mask.dims[1] as usize);
    let row = q.bytes.len() / (q.dims[0] as usize * r);
    let mut bytes = vec![0; mask.dims[0] as usize * s * row];
    for (i, at) in index.bytes.chunks(4).enumerate() {
        let at = i / r * s + u32::from_le_bytes([at[0], at[1], at[2], at[3]]) as usize;
        bytes[at * row..][..row].copy_from_slice(&q.bytes[i * row..][..row]);
    }
    let dims = vec![q.dims[0], s as u32, q.dims[2]];
    let all = Tensor { bytes, dims: dims.clone(), ..q.clone() };
    let reads = [&[all], &reads[1..]].concat();
    case(Kernel::Attention(Attention { rows: false, ..attention.clone() }), &reads, q.dtype, &dims, 0.0)
}
