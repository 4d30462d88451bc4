//! Cases of what the vision tower, the projectors and the action head add to the decoder.

use super::{Case, Tensor, case, ints, random, real};
use dreamc_artifact::plan::{Activation, Kernel};
use dreamc_num::DType::{BF16, F32, I32};

/// Norms and activations.
pub(crate) fn layers() -> Vec<Case> {
    let mut cases = vec![];
    for (x, y) in [(F32, F32), (F32, BF16), (BF16, F32), (BF16, BF16)] {
        let bound = if y == BF16 { 1.2e-2 } else { 3e-5 };
        for columns in [1, 17, 80, 1280] {
            let reads =
                [random(x, &[2, 3, columns], 1), random(F32, &[columns], 2), random(F32, &[columns], 3)];
            cases.push(case(Kernel::LayerNorm { eps: 1e-5 }, &reads, y, &[2, 3, columns], bound));
        }
    }
    // A mean far from 0, where a variance of squares alone would cancel.
    let far: Vec<f32> = super::numbers(2 * 300, 1).iter().map(|v| v + 1000.0).collect();
    let reads = [real(F32, &[2, 300], &far), random(F32, &[300], 2), random(F32, &[300], 3)];
    cases.push(case(Kernel::LayerNorm { eps: 1e-6 }, &reads, F32, &[2, 300], 1e-3));
    for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu] {
        for dtype in [F32, BF16] {
            let bound = if dtype == BF16 { 1.2e-2 } else { 1e-6 };
            for n in [1, 40_000] {
                let values: Vec<f32> = super::numbers(n as usize, 1).iter().map(|v| v * 9.0).collect();
                let x = real(dtype, &[n], &values);
                cases.push(case(Kernel::Activate(kind), &[x], dtype, &[n], bound).over(&[0]));
            }
        }
    }
    let odd = real(F32, &[2], &[f32::NAN, f32::INFINITY]);
    for kind in [Activation::Gelu, Activation::QuickGelu, Activation::Relu] {
        cases.push(case(Kernel::Activate(kind), std::slice::from_ref(&odd), F32, &[2], 0.0).over(&[0]));
    }
    cases
}

/// Rows that are joined, left out or picked.
pub(crate) fn moves() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in [F32, BF16] {
        let part = |n: u32, seed: u32| random(dtype, &[2, n, 7], seed);
        let parts: Vec<Tensor> = (1..=8).map(|n| part(n, n)).collect();
        for count in [1, 2, 8] {
            let rows = (1..=count).sum();
            let kernel = Kernel::Concat { axis: 1 };
            cases.push(case(kernel, &parts[..count as usize], dtype, &[2, rows, 7], 0.0));
        }
        for (axis, dims) in [(0, [4, 5000, 7]), (1, [2, 10_000, 7]), (2, [2, 5000, 14])] {
            let parts = [part(5000, 1), part(5000, 2)];
            cases.push(case(Kernel::Concat { axis }, &parts, dtype, &dims, 0.0));
        }
        for (count, s) in [(1, 4), (4, 1), (0, 3)] {
            let x = part(s + count, 1);
            cases.push(case(Kernel::DropRows { count }, &[x], dtype, &[2, s, 7], 0.0));
        }
        let table = random(dtype, &[1, 5, 7], 3);
        cases.push(case(Kernel::TakeRows, &[table, ints(&[], &[3])], dtype, &[1, 1, 7], 0.0));
        let x = part(5, 1);
        let index = ints(&[2, 3], &[4, 0, 0, 2, 4, 1]);
        cases.push(case(Kernel::TakeRows, &[x.clone(), index], dtype, &[2, 3, 7], 0.0));
        for rows in [random(dtype, &[3, 7], 2), random(dtype, &[1, 3, 2, 7], 2)] {
            let index = ints(&[2, 5], &[-1, 0, 1, 2, -1, 2, i32::MIN, 0, -7, 1]);
            let reads = [x.clone(), index, rows];
            cases.push(case(Kernel::Splice, &reads, dtype, &[2, 5, 7], 0.0).over(&[0]));
        }
    }
    let words = [ints(&[2, 1], &[1, 2]), ints(&[2, 2], &[3, 4, 5, 6])];
    cases.push(case(Kernel::Concat { axis: 1 }, &words, I32, &[2, 3], 0.0));
    cases
}

/// The loops of the action heads.
pub(crate) fn actions() -> Vec<Case> {
    let mut cases = vec![];
    for width in [4, 6, 130] {
        for step in 0..3 {
            let kernel = Kernel::TimestepEmbed { times: vec![0.0, 0.25, 999.0] };
            cases.push(case(kernel, &[ints(&[], &[step])], F32, &[1, 1, width], 1e-4));
        }
    }
    let kernel = Kernel::TimestepEmbed { times: vec![0.0, 0.25, 999.0] };
    cases.push(case(kernel, &[ints(&[5], &[2, 0, 1, 1, 2])], F32, &[1, 5, 6], 1e-4));
    for n in [7, 40_000] {
        let reads = [random(F32, &[1, n], 1), random(F32, &[1, n], 2)];
        cases.push(case(Kernel::EulerStep { dt: -0.1 }, &reads, F32, &[1, n], 1e-6).over(&[0]));
        for step in 0..3 {
            let [x, noise] = reads.clone();
            let kernel = Kernel::DdimStep { alphas: vec![0.01, 0.4, 0.9, 1.0] };
            let reads = [x, noise, ints(&[], &[step])];
            cases.push(case(kernel, &reads, F32, &[1, n], 1e-5).over(&[0]));
        }
    }
    cases
}
