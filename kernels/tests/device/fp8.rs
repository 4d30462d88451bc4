//! Rows as codes of fp8, and their matmuls, against what `dreamc_num` and the interpreter say.

use crate::common::{FLOATS, Launch, Runner, runners};
use crate::judge::{floats, interpret, near, rounded, tensor, tensor_of};
use dreamc_interp::Tensor;
use dreamc_kernels::{Activation, Float, Kernel, LinearFp8, MatrixTile, Residual, RoundRows};
use dreamc_num::quant::{fp8, fp8_scale, row_inverse};

/// Single ones and odd ones, a tile exactly, tiles and a rest; K shorter than a load and than a step, no multiple of 4, of 16,
/// of 32, several steps and a rest, whole steps.
const SHAPES: [[usize; 3]; 5] = [[1, 5, 7], [16, 64, 256], [35, 70, 300], [70, 131, 134], [130, 130, 128]];

/// Tiles that suit the rows.
fn tiles([m, ..]: [usize; 3]) -> Vec<MatrixTile> {
    match m {
        0..=16 => vec![MatrixTile::FLAT, MatrixTile::LOW],
        17..=64 => vec![MatrixTile::LOW, MatrixTile::NARROW, MatrixTile::FLAT, MatrixTile::SMALL],
        _ => [MatrixTile::WIDE, MatrixTile::BROAD, MatrixTile::THREE_QUARTERS, MatrixTile::HALF]
            .map(LinearFp8::tile)
            .to_vec(),
    }
}

/// The same for warpgroups.
fn groups([m, ..]: [usize; 3]) -> Vec<MatrixTile> {
    match m {
        0..=16 => vec![MatrixTile::group(8, 64, 4), MatrixTile::group(16, 128, 3)],
        17..=64 => vec![MatrixTile::group(40, 64, 4), MatrixTile::group(24, 192, 5)],
        _ => vec![MatrixTile::group(72, 64, 6), MatrixTile::group(40, 128, 4)],
    }
}

fn plain(y: Float, [_, n, k]: [usize; 3], tile: MatrixTile) -> LinearFp8 {
    let (n, k, residual) = (n as u32, k as u32, Residual::None);
    LinearFp8 { y, n, more: [0; 2], k, bias: false, swiglu: false, activation: None, residual, tile }
}

/// At least one.
fn runners_of(kernel: &Kernel) -> Vec<&'static Runner> {
    let all = runners(kernel);
    assert!(!all.is_empty(), "nothing runs {}", kernel.name());
    all
}

/// Codes, in words, and scales of the rows of a matrix.
fn encoded(matrix: &Tensor) -> (Vec<u32>, Vec<f32>) {
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    let k = matrix.columns();
    for row in matrix.floats().chunks(k) {
        let scale = fp8_scale(row);
        let mut codes: Vec<u8> = row.iter().map(|x| fp8(*x, row_inverse(scale))).collect();
        codes.resize(k.next_multiple_of(16), 0);
        words.extend(codes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])));
        scales.push(scale);
    }
    (words, scales)
}

/// Both as buffers.
fn given(launch: Launch, names: [&'static str; 2], matrix: &Tensor) -> Launch {
    let (words, scales) = encoded(matrix);
    launch.words(names[0], words).floats(names[1], &scales)
}

fn operands(launch: Launch, x: &Tensor, weight: &Tensor) -> Launch {
    given(given(launch, ["x", "x_scales"], x), ["weight", "weight_scales"], weight)
}

/// To the bit: ties, zeros, what is not a number, what is infinite, what is hardly there.
#[test]
fn rows_are_rounded() {
    for k in [1_usize, 5, 16, 37, 1100] {
        let mut x = floats(7 * k, 3);
        x[k..2 * k].fill(0.0);
        x[2 * k] = f32::NAN;
        x[3 * k] = f32::INFINITY;
        x[4 * k..5 * k].iter_mut().for_each(|x| *x *= 1e-30);
        // Multiples of half a step of the smallest codes, and the largest.
        x[5 * k..6 * k].iter_mut().enumerate().for_each(|(i, x)| *x = i as f32 / 1024.0);
        x[6 * k - 1] = 448.0;
        for float in FLOATS {
            let x = rounded(&Tensor::f32(&[7, k], x.clone()), float);
            let (words, scales) = encoded(&x);
            let kernel = Kernel::RoundRows(RoundRows { x: float });
            for on in runners_of(&kernel) {
                let launch = Launch::of(on, &kernel).tensor("x", &x).result("codes", words.len());
                let found = launch.result("scales", 7).int("rows", 7).int("columns", k).run();
                found.same("scales", &scales);
                assert_eq!(found.words("codes"), words, "{}, {k} columns", found.label());
            }
        }
    }
}

#[test]
fn bias_and_residual() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let [m, n, k] = shape;
        let bias = tensor(&[n], 3);
        let epilogues = [
            (false, Residual::None, "", "fp8=1"),
            (true, Residual::None, ", %2", "bias=1, fp8=1"),
            (false, Residual::InPlace, ", %3", "fp8=1, residual=1"),
            (true, Residual::Apart, ", %2, %3", "bias=1, fp8=1, residual=1"),
        ];
        for (j, (has_bias, residual, operand, attributes)) in epilogues.into_iter().enumerate() {
            let text = format!(
                "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}], %3: f32[{m}, {n}]) {{
                  %4 = linear %0, %1{operand} {{{attributes}}} : f32[{m}, {n}]
                  return %4
                }}"
            );
            let float = FLOATS[(i + j) % FLOATS.len()];
            let of_warps = tiles(shape)[j % tiles(shape).len()];
            let of_groups = groups(shape)[(i + j) % groups(shape).len()];
            let (x, w) = (tensor(&[m, k], 1), tensor(&[n, k], 2));
            let r = tensor_of(float, &[m, n], 4);
            let wanted = interpret(&text, &[&x, &w, &bias, &r]).remove(0);
            let kernels = [of_warps, of_groups]
                .map(|tile| LinearFp8 { bias: has_bias, residual, ..plain(float, shape, tile) })
                .map(Kernel::LinearFp8);
            for (kernel, on) in
                kernels.iter().flat_map(|it| runners_of(it).into_iter().map(move |on| (it, on)))
            {
                let mut launch = operands(Launch::of(on, kernel), &x, &w);
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

#[test]
fn swiglu() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let [m, n, k] = shape;
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}, {k}]) {{
              %3 = linear %0, %1, %2 {{weights=2, swiglu=1, fp8=1}} : f32[{m}, {n}]
              return %3
            }}"
        );
        for (j, tile) in tiles(shape).into_iter().chain(groups(shape)).enumerate() {
            let [x, gate, up] = [(m, 1), (n, 2), (n, 3)].map(|(rows, seed)| tensor(&[rows, k], seed));
            let wanted = interpret(&text, &[&x, &gate, &up]).remove(0);
            let plain = plain(FLOATS[(i + j) % FLOATS.len()], shape, tile);
            let kernel = Kernel::LinearFp8(LinearFp8 { swiglu: true, ..plain });
            for on in runners_of(&kernel) {
                let launch = operands(Launch::of(on, &kernel), &x, &gate);
                let launch = given(launch, ["up", "up_scales"], &up).result("y", m * n);
                let launch = launch.int("rows", m).int("stride", n).int("first", 0);
                launch.run().near("y", wanted.floats(), 5e-6);
            }
        }
    }
}

#[test]
fn activations() {
    let shape @ [m, n, k] = SHAPES[0];
    let bias = tensor(&[n], 3);
    for (name, activation) in [("gelu", Activation::Gelu), ("relu", Activation::Relu)] {
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}]) {{
              %3 = linear %0, %1, %2 {{bias=1, fp8=1, activation={name}}} : f32[{m}, {n}]
              return %3
            }}"
        );
        let (x, w) = (tensor(&[m, k], 1), tensor(&[n, k], 2));
        let wanted = interpret(&text, &[&x, &w, &bias]).remove(0);
        let plain = plain(Float::F32, shape, MatrixTile::FLAT);
        let kernel = Kernel::LinearFp8(LinearFp8 { bias: true, activation: Some(activation), ..plain });
        for on in runners_of(&kernel) {
            let launch = operands(Launch::of(on, &kernel), &x, &w).tensor("bias", &bias).result("y", m * n);
            let launch = launch.int("rows", m).int("stride", n).int("first", 0);
            launch.run().near("y", wanted.floats(), 3e-6);
        }
    }
}

/// Queries, keys and values: three launches into one row, each of which leaves the others' columns alone.
#[test]
fn several_weights() {
    let (m, k, ns) = (9, 48, [40_usize, 8, 8]);
    let (x, bias) = (tensor(&[m, k], 1), tensor(&[56], 9));
    let weights: Vec<Tensor> = ns.iter().zip(2..).map(|(n, seed)| tensor(&[*n, k], seed)).collect();
    let text = format!(
        "graph @f(%0: f32[{m}, {k}], %1: f32[40, {k}], %2: f32[8, {k}], %3: f32[8, {k}], %4: f32[56]) {{
          %5 = linear %0, %1, %2, %3, %4 {{weights=3, bias=1, fp8=1}} : f32[{m}, 56]
          return %5
        }}"
    );
    let wanted = interpret(&text, &[&x, &weights[0], &weights[1], &weights[2], &bias]).remove(0);
    let kernel = |n| {
        let plain = plain(Float::F32, [m, n, k], MatrixTile::FLAT);
        Kernel::LinearFp8(LinearFp8 { bias: true, ..plain })
    };
    for on in runners_of(&kernel(8)) {
        let (mut y, mut first) = (vec![f32::NAN; m * 56], 0);
        for (n, w) in ns.iter().zip(&weights) {
            let launch = operands(Launch::of(on, &kernel(*n)), &x, w).tensor("bias", &bias);
            let launch = launch.floats("y", &y).int("rows", m).int("stride", 56).int("first", first);
            y = launch.run().floats("y");
            first += n;
        }
        near(&y, wanted.floats(), 2e-6);
    }
}

/// The same in one launch, and where workgroups share K.
#[test]
fn several_weights_at_once() {
    let (m, k, ns) = (20, 1040, [128_usize, 64, 40]);
    let (x, bias) = (tensor(&[m, k], 1), tensor(&[232], 9));
    let weights: Vec<Tensor> = ns.iter().zip(2..).map(|(n, seed)| tensor(&[*n, k], seed)).collect();
    for count in [2, 3] {
        let all: usize = ns[..count].iter().sum();
        let operand = ["%1, %2", "%1, %2, %3"][count - 2];
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[128, {k}], %2: f32[64, {k}], %3: f32[40, {k}], %4: f32[{all}]) {{
              %5 = linear %0, {operand}, %4 {{weights={count}, bias=1, fp8=1}} : f32[{m}, {all}]
              return %5
            }}"
        );
        let bias = Tensor::f32(&[all], bias.floats()[..all].to_vec());
        let wanted = interpret(&text, &[&x, &weights[0], &weights[1], &weights[2], &bias]).remove(0);
        let shared = MatrixTile { splits: 2, ..MatrixTile::group(16, 64, 3) };
        for tile in [LinearFp8::tile(MatrixTile::SMALL), MatrixTile::group(24, 64, 4), shared] {
            let more = [64, if count == 3 { 40 } else { 0 }];
            let linear = LinearFp8 { bias: true, more, ..plain(Float::F32, [m, ns[0], k], tile) };
            let kernel = Kernel::LinearFp8(linear);
            for on in runners_of(&kernel) {
                let launch = operands(Launch::of(on, &kernel), &x, &weights[0]).tensor("bias", &bias);
                let mut launch = given(launch, ["second", "second_scales"], &weights[1]);
                if count == 3 {
                    launch = given(launch, ["third", "third_scales"], &weights[2]);
                }
                if let Some((tiles, parts)) = linear.parts(m as u32) {
                    launch =
                        launch.result("parts", parts as usize).ints("counters", &vec![0; tiles as usize]);
                }
                let launch = launch.result("y", m * all).int("rows", m).int("stride", all).int("first", 0);
                launch.run().near("y", wanted.floats(), 3e-6);
            }
        }
    }
}
