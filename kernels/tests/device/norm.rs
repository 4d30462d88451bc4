//! Norms against the interpreter.

use crate::common::{Launch, interpret, near, tensor};
use dreamc_interp::Tensor;
use dreamc_kernels::{Float, Kernel, Norm, Statistic};

/// Rows of one element, fewer than units, as many, more, and a decoder's.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [3, 7], [1, 256], [5, 257], [2, 896], [3, 3584]];

fn launch(statistic: Statistic, x: &Tensor, [rows, columns]: [usize; 2]) -> Launch {
    let kernel = Kernel::Norm(Norm { statistic, x: Float::F32, y: Float::F32 });
    let launch = Launch::of(&kernel).tensor("x", x).result("y", rows * columns);
    launch.int("rows", rows).int("columns", columns).float("eps", 1e-6)
}

#[test]
fn rms_norm() {
    for [b, n] in SHAPES {
        let (x, gain) = (tensor(&[b, n], 1), tensor(&[n], 2));
        let text = format!(
            "graph @f(%0: f32[{b}, {n}], %1: f32[{n}]) {{
              %2 = rms_norm %0, %1 {{eps=0.000001}} : f32[{b}, {n}]
              return %2
            }}"
        );
        let y = launch(Statistic::RootMeanSquare, &x, [b, n]).tensor("gain", &gain).run();
        near(&y.floats("y"), interpret(&text, &[&x, &gain])[0].floats(), 1e-5);
    }
}

#[test]
fn layer_norm() {
    for [b, n] in SHAPES {
        // Far from 0: the mean must be taken away before squaring.
        let x = tensor(&[b, n], 3).floats().iter().map(|x| x + 20.0).collect();
        let (x, gain, bias) = (Tensor::f32(&[b, n], x), tensor(&[n], 4), tensor(&[n], 5));
        let text = format!(
            "graph @f(%0: f32[{b}, {n}], %1: f32[{n}], %2: f32[{n}]) {{
              %3 = layer_norm %0, %1, %2 {{eps=0.000001}} : f32[{b}, {n}]
              return %3
            }}"
        );
        let y = launch(Statistic::Variance, &x, [b, n]).tensor("gain", &gain).tensor("bias", &bias).run();
        near(&y.floats("y"), interpret(&text, &[&x, &gain, &bias])[0].floats(), 2e-5);
    }
}
