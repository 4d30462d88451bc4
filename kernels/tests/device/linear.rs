//! Matmuls against the interpreter, whose sums are f64.

use crate::common::{Launch, runners};
use crate::judge::{interpret, near, rounded, tensor, tensor_of};
use dreamc_interp::Tensor;
use dreamc_kernels::{Activation, Engine, Float, Kernel, Linear, Residual, Table, Tile, Weights};

/// Rows, features, steps: single ones, odd ones, whole tiles, tiles and a rest, a scaled-down MLP.
const SHAPES: [[usize; 3]; 6] =
    [[1, 1, 1], [3, 5, 7], [64, 64, 16], [65, 67, 34], [17, 130, 129], [2, 592, 112]];

/// Types of `x`, stored weights and result: all in f32, the others where shapes are odd, for every shape of every type
/// is a kernel of its own, to be compiled in every form.
fn types(shape: [usize; 3]) -> Vec<(Float, Weights, Float)> {
    let (f32, f16, bf16) = (Float::F32, Float::F16, Float::BF16);
    let mut all = vec![(f32, Table::Floats(f32), f32)];
    let [_, odd_n, odd_k] = shape.map(|n| !n.is_multiple_of(2));
    if shape[2] > 1 && (odd_n || odd_k) {
        all.extend([(f32, Table::PackedBF16, f32), (f32, Table::PackedF16, f32)]);
    }
    if shape[2] > 1 && odd_n {
        all.extend([
            (bf16, Table::Floats(bf16), bf16),
            (bf16, Table::Floats(bf16), f32),
            (f16, Table::Floats(f16), f16),
        ]);
    }
    all
}

/// What its numbers are.
fn float_of(weights: Weights) -> Float {
    match weights {
        Table::Floats(float) => float,
        Table::PackedBF16 => Float::BF16,
        Table::PackedF16 => Float::F16,
    }
}

fn plain((x, weights, y): (Float, Weights, Float), [_, n, k]: [usize; 3], tile: Tile) -> Linear {
    let engine = Engine::Units(tile);
    Linear { weights, y, ..Linear::plain(x, n as u32, k as u32, engine) }
}

/// The tile that fits the rows; in f32, and where it is cheap, both.
fn tiles([m, n, _]: [usize; 3], y: Float, weights: Weights) -> Vec<Tile> {
    if m * n < 100 && y == Float::F32 && weights == Table::Floats(Float::F32) {
        vec![Tile::WIDE, Tile::FLAT]
    } else {
        vec![if m > 16 { Tile::WIDE } else { Tile::FLAT }]
    }
}

#[test]
fn bias_and_residual() {
    for shape in SHAPES {
        let [m, n, k] = shape;
        let bias = tensor(&[n], 3);
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
            for types in types(shape) {
                // The epilogue knows nothing of the weights.
                if types.1 != Table::Floats(Float::F32) && has_bias != (residual == Residual::Apart) {
                    continue;
                }
                let (x, w) = (tensor_of(types.0, &[m, k], 1), tensor_of(float_of(types.1), &[n, k], 2));
                let r = tensor_of(types.2, &[m, n], 4);
                let wanted = interpret(&text, &[&x, &w, &bias, &r]).remove(0);
                for tile in tiles(shape, types.2, types.1) {
                    let kernel =
                        Kernel::Linear(Linear { bias: has_bias, residual, ..plain(types, shape, tile) });
                    for on in runners(&kernel) {
                        let mut launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w);
                        if has_bias {
                            launch = launch.tensor("bias", &bias);
                        }
                        launch = match residual {
                            Residual::None => launch.result("y", m * n),
                            Residual::Apart => launch.result("y", m * n).tensor("residual", &r),
                            Residual::InPlace => launch.tensor("y", &r),
                        };
                        let launch = launch.int("rows", m).int("stride", n).int("first", 0);
                        launch.run().near("y", wanted.floats(), 2e-6);
                    }
                }
            }
        }
    }
}

/// Every activation, between bias and residual.
#[test]
fn activations() {
    let shape = [5, 33, 17];
    let [m, n, k] = shape;
    let (bias, r) = (tensor(&[n], 3), tensor(&[m, n], 4));
    for (name, activation) in [
        ("silu", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("quick_gelu", Activation::QuickGelu),
        ("relu", Activation::Relu),
    ] {
        for residual in [Residual::None, Residual::Apart] {
            let (operand, attribute) =
                if residual == Residual::None { ("", "") } else { (", %3", ", residual=1") };
            let text = format!(
                "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}], %3: f32[{m}, {n}]) {{
                  %4 = linear %0, %1, %2{operand} {{bias=1, activation={name}{attribute}}} : f32[{m}, {n}]
                  return %4
                }}"
            );
            for types in types(shape) {
                let (x, w) = (tensor_of(types.0, &[m, k], 1), tensor_of(float_of(types.1), &[n, k], 2));
                let r = rounded(&r, types.2);
                let wanted = interpret(&text, &[&x, &w, &bias, &r]).remove(0);
                let plain = plain(types, shape, Tile::FLAT);
                let kernel =
                    Kernel::Linear(Linear { bias: true, activation: Some(activation), residual, ..plain });
                for on in runners(&kernel) {
                    let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w);
                    let launch = launch.tensor("bias", &bias).result("y", m * n);
                    let launch =
                        if residual == Residual::None { launch } else { launch.tensor("residual", &r) };
                    let launch = launch.int("rows", m).int("stride", n).int("first", 0);
                    launch.run().near("y", wanted.floats(), 3e-6);
                }
            }
        }
    }
}

#[test]
fn swiglu() {
    for shape in SHAPES {
        let [m, n, k] = shape;
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}, {k}]) {{
              %3 = linear %0, %1, %2 {{weights=2, swiglu=1}} : f32[{m}, {n}]
              return %3
            }}"
        );
        for types in types(shape) {
            let x = tensor_of(types.0, &[m, k], 1);
            let [gate, up] = [2, 3].map(|seed| rounded(&tensor(&[n, k], seed), float_of(types.1)));
            let wanted = interpret(&text, &[&x, &gate, &up]).remove(0);
            for tile in tiles(shape, types.2, types.1) {
                let kernel = Kernel::Linear(Linear { swiglu: true, ..plain(types, shape, tile) });
                for on in runners(&kernel) {
                    let launch = Launch::of(on, &kernel).tensor("x", &x).result("y", m * n);
                    let launch = launch.tensor("weight", &gate).tensor("up", &up);
                    let launch = launch.int("rows", m).int("stride", n).int("first", 0);
                    launch.run().near("y", wanted.floats(), 5e-6);
                }
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
    let types = (Float::F32, Table::Floats(Float::F32), Float::F32);
    let kernel = |n| Kernel::Linear(Linear { bias: true, ..plain(types, [m, n, k], Tile::FLAT) });
    for on in runners(&kernel(8)) {
        let (mut y, mut first) = (vec![f32::NAN; m * 56], 0);
        for (n, w) in ns.iter().zip(&weights) {
            let launch = Launch::of(on, &kernel(*n)).tensor("x", &x).tensor("weight", w);
            let launch = launch.tensor("bias", &bias).floats("y", &y).int("rows", m);
            y = launch.int("stride", 56).int("first", first).run().floats("y");
            first += n;
        }
        near(&y, wanted.floats(), 2e-6);
    }
}
