//! Norms against the interpreter.

use crate::common::{FLOATS, Launch, runners};
use crate::judge::{interpret, rounded, tensor};
use dreamc_interp::Tensor;
use dreamc_kernels::{Float, Kernel, Norm, Statistic};

/// Rows of one element, fewer than units, as many, more, and a decoder's.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [3, 7], [1, 256], [5, 257], [2, 896], [3, 3584]];

/// Types of the rows and of the result: as the residual stream is kept, and the tower's.
fn types() -> impl Iterator<Item = [Float; 2]> {
    FLOATS.into_iter().flat_map(|y| [[Float::F32, y], [y, y]])
}

/// On all runners, in all types.
fn judge(statistic: Statistic, text: &str, x: &Tensor, rest: &[(&'static str, Tensor)], tolerance: f32) {
    let [rows, columns] = x.dims[..] else { panic!("two dimensions") };
    for [from, to] in types() {
        let x = rounded(x, from);
        let inputs: Vec<&Tensor> = [&x].into_iter().chain(rest.iter().map(|(_, t)| t)).collect();
        let wanted = interpret(text, &inputs).remove(0);
        let kernel = Kernel::Norm(Norm { statistic, x: from, y: to });
        for on in runners(&kernel) {
            let mut launch = Launch::of(on, &kernel).tensor("x", &x).result("y", rows * columns);
            for (name, tensor) in rest {
                launch = launch.tensor(name, tensor);
            }
            let launch = launch.int("rows", rows).int("columns", columns).float("eps", 1e-6);
            launch.run().near("y", wanted.floats(), tolerance);
        }
    }
}

#[test]
fn rms_norm() {
    for [b, n] in SHAPES {
        let text = format!(
            "graph @f(%0: f32[{b}, {n}], %1: f32[{n}]) {{
              %2 = rms_norm %0, %1 {{eps=0.000001}} : f32[{b}, {n}]
              return %2
            }}"
        );
        judge(Statistic::RootMeanSquare, &text, &tensor(&[b, n], 1), &[("gain", tensor(&[n], 2))], 1e-5);
    }
}

#[test]
fn layer_norm() {
    for [b, n] in SHAPES {
        // Far from 0: the mean must be taken away before squaring.
        let x = Tensor::f32(&[b, n], tensor(&[b, n], 3).floats().iter().map(|x| x + 20.0).collect());
        let text = format!(
            "graph @f(%0: f32[{b}, {n}], %1: f32[{n}], %2: f32[{n}]) {{
              %3 = layer_norm %0, %1, %2 {{eps=0.000001}} : f32[{b}, {n}]
              return %3
            }}"
        );
        let rest = [("gain", tensor(&[n], 4)), ("bias", tensor(&[n], 5))];
        judge(Statistic::Variance, &text, &x, &rest, 2e-5);
    }
}
