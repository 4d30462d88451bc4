//! Matmuls against the interpreter, whose sums are f64.

use crate::common::{Launch, bf16, interpret, near, tensor};
use dreamc_interp::Tensor;
use dreamc_kernels::{Float, Kernel, Linear, Residual, Table, Tile, Weights};

/// Rows, features, steps: single ones, odd ones, whole tiles, tiles and a rest, a scaled-down MLP.
const SHAPES: [[usize; 3]; 6] =
    [[1, 1, 1], [3, 5, 7], [64, 64, 16], [65, 67, 34], [17, 130, 129], [2, 592, 112]];

fn plain(n: usize, k: usize, tile: Tile) -> Linear {
    Linear {
        x: Float::F32,
        weights: Table::Floats(Float::F32),
        y: Float::F32,
        n: n as u32,
        k: k as u32,
        bias: false,
        swiglu: false,
        residual: Residual::None,
        tile,
    }
}

fn weight(launch: Launch, name: &'static str, stored: Weights, tensor: &Tensor, packed: &[u32]) -> Launch {
    match stored {
        Table::Floats(_) => launch.tensor(name, tensor),
        Table::PackedBF16 | Table::PackedF16 => launch.words(name, packed.to_vec()),
    }
}

const STORED: [Weights; 2] = [Table::Floats(Float::F32), Table::PackedBF16];

#[test]
fn bias_and_residual() {
    for [m, n, k] in SHAPES {
        let (x, (w, packed)) = (tensor(&[m, k], 1), bf16(&tensor(&[n, k], 2)));
        let (bias, r) = (tensor(&[n], 3), tensor(&[m, n], 4));
        for (has_bias, residual) in [
            (false, Residual::None),
            (true, Residual::None),
            (false, Residual::InPlace),
            (true, Residual::Apart),
        ] {
            let (operand, attributes) = match (has_bias, residual) {
                (false, Residual::None) => ("", ""),
                (true, Residual::None) => (", %2", " {bias=1}"),
                (false, _) => (", %3", " {residual=1}"),
                (true, _) => (", %2, %3", " {bias=1, residual=1}"),
            };
            let text = format!(
                "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}], %3: f32[{m}, {n}]) {{
                  %4 = linear %0, %1{operand}{attributes} : f32[{m}, {n}]
                  return %4
                }}"
            );
            let wanted = interpret(&text, &[&x, &w, &bias, &r]).remove(0);
            for stored in STORED {
                for tile in [Tile::WIDE, Tile::FLAT] {
                    let kernel = Linear { weights: stored, bias: has_bias, residual, ..plain(n, k, tile) };
                    let launch = Launch::of(&Kernel::Linear(kernel)).tensor("x", &x);
                    let mut launch = weight(launch, "weight", stored, &w, &packed);
                    if has_bias {
                        launch = launch.tensor("bias", &bias);
                    }
                    launch = match residual {
                        Residual::None => launch.result("y", m * n),
                        Residual::Apart => launch.result("y", m * n).tensor("residual", &r),
                        Residual::InPlace => launch.tensor("y", &r),
                    };
                    let y = launch.int("rows", m).int("stride", n).int("first", 0).run();
                    near(&y.floats("y"), wanted.floats(), 2e-6);
                }
            }
        }
    }
}

#[test]
fn swiglu() {
    for [m, n, k] in SHAPES {
        let x = tensor(&[m, k], 1);
        let ((gate, gates), (up, ups)) = (bf16(&tensor(&[n, k], 2)), bf16(&tensor(&[n, k], 3)));
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}, {k}]) {{
              %3 = linear %0, %1, %2 {{weights=2, swiglu=1}} : f32[{m}, {n}]
              return %3
            }}"
        );
        let wanted = interpret(&text, &[&x, &gate, &up]).remove(0);
        for stored in STORED {
            for tile in [Tile::WIDE, Tile::FLAT] {
                let kernel = Linear { weights: stored, swiglu: true, ..plain(n, k, tile) };
                let launch = Launch::of(&Kernel::Linear(kernel)).tensor("x", &x).result("y", m * n);
                let launch = weight(launch, "weight", stored, &gate, &gates);
                let launch = weight(launch, "up", stored, &up, &ups);
                let y = launch.int("rows", m).int("stride", n).int("first", 0).run();
                near(&y.floats("y"), wanted.floats(), 5e-6);
            }
        }
    }
}

/// Queries, keys and values: three launches into one row.
#[test]
fn several_weights() {
    let (m, k, ns) = (9, 48, [40_usize, 8, 8]);
    let (x, bias) = (tensor(&[m, k], 1), tensor(&[56], 9));
    let weights: Vec<Tensor> = ns.iter().zip(2..).map(|(n, seed)| tensor(&[*n, k], seed)).collect();
    let text = format!(
        "graph @f(%0: f32[{m}, {k}], %1: f32[40, {k}], %2: f32[8, {k}], %3: f32[8, {k}], %4: f32[56]) {{
          %5 = linear %0, %1, %2, %3, %4 {{weights=3, bias=1}} : f32[{m}, 56]
          return %5
        }}"
    );
    let wanted = interpret(&text, &[&x, &weights[0], &weights[1], &weights[2], &bias]).remove(0);
    let (mut y, mut first) = (vec![u32::MAX; m * 56], 0);
    for (n, w) in ns.iter().zip(&weights) {
        let kernel = Kernel::Linear(Linear { bias: true, ..plain(*n, k, Tile::FLAT) });
        let launch =
            Launch::of(&kernel).tensor("x", &x).tensor("weight", w).tensor("bias", &bias).words("y", y);
        y = launch.int("rows", m).int("stride", 56).int("first", first).run().words("y");
        first += n;
    }
    let y: Vec<f32> = y.iter().map(|w| f32::from_bits(*w)).collect();
    near(&y, wanted.floats(), 2e-6);
}
