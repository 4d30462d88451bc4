//! Norms against the interpreter.

use crate::common::{FLOATS, Launch, runners};
use crate::judge::{interpret, rounded, tensor};
use dreamc_interp::Tensor;
use dreamc_kernels::{Float, Kernel, Linear, Norm, Statistic, Weigh};

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

/// Rows times a gain, and the sums of their squares, 32 at a time; what is behind the last sum of a row stays.
#[test]
fn rows_left_for_a_norm() {
    for [rows, columns] in [[1, 32], [3, 40], [2, 3584]] {
        let gain = tensor(&[columns], 2);
        let pitch = Linear::squares(columns as u32) as usize;
        for from in FLOATS {
            let y = rounded(&tensor(&[rows, columns], 1), from);
            let kernel = Kernel::Weigh(Weigh { y: from });
            let weighted: Vec<f32> = y
                .floats()
                .chunks(columns)
                .flat_map(|row| row.iter().zip(gain.floats()).map(|(y, gain)| y * gain))
                .collect();
            let sums = |row: &[f32]| -> Vec<f32> {
                row.chunks(Linear::SQUARES as usize).map(|part| part.iter().map(|y| y * y).sum()).collect()
            };
            for on in runners(&kernel) {
                let launch = Launch::of(on, &kernel).tensor("y", &y).tensor("gain", &gain);
                let launch = launch.result("weighted", rows * columns).result("squares", rows * pitch);
                let found = launch.int("rows", rows).int("columns", columns).run();
                found.near("weighted", &weighted, 4e-3);
                let squares = found.floats("squares");
                for (found, row) in squares.chunks(pitch).zip(y.floats().chunks(columns)) {
                    for (found, wanted) in found.iter().zip(sums(row)) {
                        assert!((found - wanted).abs() <= 1e-5 * wanted, "{found} is no {wanted}");
                    }
                }
            }
        }
    }
}
