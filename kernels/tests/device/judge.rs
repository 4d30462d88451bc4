//! What tests compare: inputs, the interpreter's results, and how near a kernel must come.

use dreamc_interp::{Tensor, run};
use dreamc_ir::{parse, verify};
use dreamc_kernels::Float;

/// Results of graph `f` of an IR text in the interpreter.
pub(crate) fn interpret(text: &str, inputs: &[&Tensor]) -> Vec<Tensor> {
    let module = parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let inputs: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
    let mut none = |_: &str, _: &dreamc_ir::Type| None;
    run(verify(&module).unwrap_or_else(|e| panic!("{e}\n{text}")), "f", &inputs, &mut none, &mut ())
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The largest difference, relative to the largest wanted number or 1, is below `tolerance`.
#[track_caller]
pub(crate) fn near(found: &[f32], wanted: &[f32], tolerance: f32) {
    near_of("", Float::F32, found, wanted, tolerance);
}

/// As [`near`], when results are rounded to a type: each may be as far off as two neighbours are apart, since a sum in
/// another order may round the other way.
#[track_caller]
pub(crate) fn near_of(label: &str, float: Float, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len());
    let scale = wanted.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
    let (step, smallest) = match float {
        Float::F32 => (0.0, 0.0),
        Float::F16 => (2.0_f32.powi(-10), 2.0_f32.powi(-24)),
        Float::BF16 => (2.0_f32.powi(-8), 0.0),
    };
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        let allowed = tolerance * scale + step * w.abs() + smallest;
        assert!((f - w).abs() <= allowed || f == w, "{label}: element {i}: {f}, wanted {w} (scale {scale})");
    }
}

/// Floats in `[-1, 1)`, reproducible.
pub(crate) fn floats(n: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| {
        let mut x =
            (i as u32).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B).wrapping_add(0x1234_5678);
        for m in [0x7FEB_352D_u32, 0x846C_A68B] {
            x = (x ^ (x >> 16)).wrapping_mul(m);
        }
        x ^ (x >> 15)
    };
    (0..n).map(|i| (word(i) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// A float tensor of [`floats`].
pub(crate) fn tensor(dims: &[usize], seed: u32) -> Tensor {
    Tensor::f32(dims, floats(dims.iter().product(), seed))
}

/// A tensor rounded to a type.
pub(crate) fn rounded(tensor: &Tensor, float: Float) -> Tensor {
    let round = |x: &f32| match float {
        Float::F32 => *x,
        Float::F16 => half::f16::from_f32(*x).to_f32(),
        Float::BF16 => half::bf16::from_f32(*x).to_f32(),
    };
    Tensor::f32(&tensor.dims, tensor.floats().iter().map(round).collect())
}

/// [`tensor`], rounded.
pub(crate) fn tensor_of(float: Float, dims: &[usize], seed: u32) -> Tensor {
    rounded(&tensor(dims, seed), float)
}
