//! Matmuls on matrix units against the interpreter: what `linear.rs` asks of units, in the types of 16 bits.

use crate::common::{Launch, Runner, runners};
use crate::judge::{interpret, near, tensor, tensor_of};
use dreamc_interp::Tensor;
use dreamc_kernels::{Activation, Engine, Float, Kernel, Linear, MatrixTile, Residual, Turned};
use half::bf16;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Single ones and odd ones, a tile exactly, tiles and a rest; K shorter than a step, several steps and a rest, whole steps,
/// more of them than there are stages.
const SHAPES: [[usize; 3]; 5] = [[1, 5, 8], [16, 64, 512], [35, 70, 328], [70, 131, 136], [130, 130, 128]];

/// Types of `x` and weights, and of the result.
const TYPES: [(Float, Float); 4] = [
    (Float::BF16, Float::BF16),
    (Float::BF16, Float::F32),
    (Float::F16, Float::F16),
    (Float::F16, Float::F32),
];

/// Tiles that suit the rows.
fn tiles([m, ..]: [usize; 3]) -> Vec<MatrixTile> {
    match m {
        0..=16 => vec![MatrixTile::FLAT, MatrixTile::LOW],
        17..=64 => vec![MatrixTile::LOW, MatrixTile::NARROW, MatrixTile::FLAT, MatrixTile::SMALL],
        65..=100 => {
            vec![MatrixTile::FIVE_EIGHTHS, MatrixTile::BROAD, MatrixTile::THREE_QUARTERS, MatrixTile::HALF]
        }
        _ => vec![MatrixTile::WIDE, MatrixTile::BROAD, MatrixTile::THREE_QUARTERS, MatrixTile::SMALL],
    }
}

/// Tiles of warpgroups that suit the rows: one of them, two and more, rows of the tile that no whole warp copies.
fn groups([m, ..]: [usize; 3]) -> Vec<MatrixTile> {
    match m {
        0..=16 => vec![MatrixTile::group(8, 64, 4), MatrixTile::group(16, 128, 3)],
        17..=64 => vec![MatrixTile::group(40, 64, 4), MatrixTile::group(24, 192, 5)],
        65..=100 => vec![MatrixTile::group(72, 64, 6), MatrixTile::group(40, 128, 4)],
        _ => vec![MatrixTile::group(136, 128, 4), MatrixTile::group(72, 192, 3)],
    }
}

fn plain((x, y): (Float, Float), [_, n, k]: [usize; 3], tile: MatrixTile) -> Linear {
    Linear { y, ..Linear::plain(x, n as u32, k as u32, Engine::Matrix(tile)) }
}

/// At least one.
fn runners_of(kernel: &Kernel) -> Vec<&'static Runner> {
    let all = runners(kernel);
    assert!(!all.is_empty(), "nothing runs {}", kernel.name());
    all
}

#[test]
fn bias_and_residual() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let [m, n, k] = shape;
        let bias = tensor(&[n], 3);
        let epilogues = [
            (false, Residual::None, "", ""),
            (true, Residual::None, ", %2", " {bias=1}"),
            (false, Residual::InPlace, ", %3", " {residual=1}"),
            (true, Residual::Apart, ", %2, %3", " {bias=1, residual=1}"),
        ];
        for (j, (has_bias, residual, operand, attributes)) in epilogues.into_iter().enumerate() {
            let text = format!(
                "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}], %3: f32[{m}, {n}]) {{
                  %4 = linear %0, %1{operand}{attributes} : f32[{m}, {n}]
                  return %4
                }}"
            );
            // Every shape with every epilogue; types and tiles take turns.
            let types = TYPES[(i + j) % TYPES.len()];
            let of_warps = tiles(shape)[j % tiles(shape).len()];
            let of_groups = groups(shape)[(i + j) % groups(shape).len()];
            let (x, w) = (tensor_of(types.0, &[m, k], 1), tensor_of(types.0, &[n, k], 2));
            let r = tensor_of(types.1, &[m, n], 4);
            let wanted = interpret(&text, &[&x, &w, &bias, &r]).remove(0);
            let kernels = [of_warps, of_groups]
                .map(|tile| Linear { bias: has_bias, residual, ..plain(types, shape, tile) })
                .map(Kernel::Linear);
            for (kernel, on) in
                kernels.iter().flat_map(|kernel| runners_of(kernel).into_iter().map(move |on| (kernel, on)))
            {
                let mut launch = Launch::of(on, kernel).tensor("x", &x).tensor("weight", &w);
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
fn activations() {
    let shape = SHAPES[0];
    let [m, n, k] = shape;
    let bias = tensor(&[n], 3);
    for (name, activation) in [("gelu", Activation::Gelu), ("relu", Activation::Relu)] {
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}]) {{
              %3 = linear %0, %1, %2 {{bias=1, activation={name}}} : f32[{m}, {n}]
              return %3
            }}"
        );
        for types in TYPES {
            let (x, w) = (tensor_of(types.0, &[m, k], 1), tensor_of(types.0, &[n, k], 2));
            let wanted = interpret(&text, &[&x, &w, &bias]).remove(0);
            let plain = plain(types, shape, tiles(shape)[0]);
            let kernel = Kernel::Linear(Linear { bias: true, activation: Some(activation), ..plain });
            for on in runners_of(&kernel) {
                let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w);
                let launch = launch.tensor("bias", &bias).result("y", m * n);
                let launch = launch.int("rows", m).int("stride", n).int("first", 0);
                launch.run().near("y", wanted.floats(), 3e-6);
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
              %3 = linear %0, %1, %2 {{weights=2, swiglu=1}} : f32[{m}, {n}]
              return %3
            }}"
        );
        for (j, tile) in tiles(shape).into_iter().chain(groups(shape)).enumerate() {
            let types = TYPES[(i + j) % TYPES.len()];
            let x = tensor_of(types.0, &[m, k], 1);
            let [gate, up] = [2, 3].map(|seed| tensor_of(types.0, &[n, k], seed));
            let wanted = interpret(&text, &[&x, &gate, &up]).remove(0);
            let kernel = Kernel::Linear(Linear { swiglu: true, ..plain(types, shape, tile) });
            for on in runners_of(&kernel) {
                let launch = Launch::of(on, &kernel).tensor("x", &x).result("y", m * n);
                let launch = launch.tensor("weight", &gate).tensor("up", &up);
                let launch = launch.int("rows", m).int("stride", n).int("first", 0);
                launch.run().near("y", wanted.floats(), 5e-6);
            }
        }
    }
}

/// Queries, keys and values: three launches into one row, each of which leaves the others' columns alone.
#[test]
fn several_weights() {
    let (m, k, ns) = (9, 48, [40_usize, 8, 8]);
    let (x, bias) = (tensor_of(Float::BF16, &[m, k], 1), tensor(&[56], 9));
    let weight = |(n, seed): (&usize, u32)| tensor_of(Float::BF16, &[*n, k], seed);
    let weights: Vec<Tensor> = ns.iter().zip(2..).map(weight).collect();
    let text = format!(
        "graph @f(%0: f32[{m}, {k}], %1: f32[40, {k}], %2: f32[8, {k}], %3: f32[8, {k}], %4: f32[56]) {{
          %5 = linear %0, %1, %2, %3, %4 {{weights=3, bias=1}} : f32[{m}, 56]
          return %5
        }}"
    );
    let wanted = interpret(&text, &[&x, &weights[0], &weights[1], &weights[2], &bias]).remove(0);
    let types = (Float::BF16, Float::F32);
    let kernel = |n| Kernel::Linear(Linear { bias: true, ..plain(types, [m, n, k], MatrixTile::FLAT) });
    for on in runners_of(&kernel(8)) {
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

/// The same in one launch.
#[test]
fn several_weights_at_once() {
    let (m, k, ns) = (20, 136, [128_usize, 64, 40]);
    let (x, bias) = (tensor_of(Float::BF16, &[m, k], 1), tensor(&[232], 9));
    let weight = |(n, seed): (&usize, u32)| tensor_of(Float::BF16, &[*n, k], seed);
    let weights: Vec<Tensor> = ns.iter().zip(2..).map(weight).collect();
    for count in [2, 3] {
        let all: usize = ns[..count].iter().sum();
        let operands = ["%1", "%1, %2", "%1, %2, %3"][count - 1];
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[128, {k}], %2: f32[64, {k}], %3: f32[40, {k}], %4: f32[{all}]) {{
              %5 = linear %0, {operands}, %4 {{weights={count}, bias=1}} : f32[{m}, {all}]
              return %5
            }}"
        );
        let bias = Tensor::f32(&[all], bias.floats()[..all].to_vec());
        let wanted = interpret(&text, &[&x, &weights[0], &weights[1], &weights[2], &bias]).remove(0);
        for tile in [MatrixTile::FLAT, MatrixTile::LOW, MatrixTile::SMALL, MatrixTile::group(16, 64, 4)] {
            let plain = plain((Float::BF16, Float::F32), [m, ns[0], k], tile);
            let more = [64, if count == 3 { 40 } else { 0 }];
            let kernel = Kernel::Linear(Linear { bias: true, more, ..plain });
            for on in runners_of(&kernel) {
                let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &weights[0]);
                let mut launch = launch.tensor("second", &weights[1]).tensor("bias", &bias);
                if count == 3 {
                    launch = launch.tensor("third", &weights[2]);
                }
                let launch = launch.result("y", m * all).int("rows", m).int("stride", all).int("first", 0);
                launch.run().near("y", wanted.floats(), 2e-6);
            }
        }
    }
}

/// Workgroups that share K: the last to come adds what all have, and leaves the counters as they were.
#[test]
fn shared_along_k() {
    let shape @ [m, n, k] = [100, 130, 2048];
    let (x, w) = (tensor_of(Float::BF16, &[m, k], 1), tensor_of(Float::BF16, &[n, k], 2));
    let (bias, r) = (tensor(&[n], 3), tensor(&[m, n], 4));
    let text = format!(
        "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{n}], %3: f32[{m}, {n}]) {{
          %4 = linear %0, %1, %2, %3 {{bias=1, residual=1}} : f32[{m}, {n}]
          return %4
        }}"
    );
    let wanted = interpret(&text, &[&x, &w, &bias, &r]).remove(0);
    let group = MatrixTile::group(56, 128, 4);
    for (tile, splits) in [(MatrixTile::HALF, 2), (MatrixTile::WIDE, 3), (MatrixTile::SMALL, 5), (group, 3)] {
        let tile = MatrixTile { splits, ..tile };
        let types = (Float::BF16, Float::F32);
        let plain = plain(types, shape, tile);
        let kernel = Kernel::Linear(Linear { bias: true, residual: Residual::InPlace, ..plain });
        let tiles = m.div_ceil(tile.rows as usize) * n.div_ceil(tile.columns as usize);
        let parts = tiles * (tile.rows * tile.columns * splits) as usize;
        for on in runners_of(&kernel) {
            let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w).tensor("bias", &bias);
            let launch = launch.tensor("y", &r).result("parts", parts).ints("counters", &vec![0; tiles]);
            let launch = launch.int("rows", m).int("stride", n).int("first", 0).run();
            launch.near("y", wanted.floats(), 4e-6);
            assert_eq!(launch.ints("counters"), vec![0; tiles]);
        }
    }
}

/// The barriers around the counting are needed too, and so is setting the counter back.
#[test]
fn an_arrival_is_missing() {
    let shape @ [m, n, k] = [64, 128, 1024];
    let tile = MatrixTile { splits: 2, ..MatrixTile::HALF };
    let kernel = Kernel::Linear(plain((Float::BF16, Float::F32), shape, tile));
    let (x, w) = (tensor_of(Float::BF16, &[m, k], 1), tensor_of(Float::BF16, &[n, k], 2));
    for on in runners_of(&kernel) {
        let with = |edit: &dyn Fn(&str) -> String| {
            let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w).result("y", m * n);
            let launch = launch.result("parts", 2 * 64 * 128).ints("counters", &[0]);
            let launch = launch.int("rows", m).int("stride", n).int("first", 0).edited(edit);
            catch_unwind(AssertUnwindSafe(|| {
                let results = launch.run();
                (results.floats("y"), results.ints("counters"))
            }))
            .ok()
        };
        let right = with(&str::to_owned).expect("it runs");
        // Behind those of the steps and of the sums: before a workgroup is counted, and before the count is looked at.
        let (fence, reset) = ("asm volatile(\"fence", "asm volatile(\"st.global.u32");
        for (piece, i) in [("__syncthreads();", 3), ("__syncthreads();", 4), (fence, 0), (reset, 0)] {
            let by = if piece.starts_with("asm") { format!("if (false) {piece}") } else { String::new() };
            let found = with(&|source| replaced(source, piece, i, &by));
            assert!(found.is_none_or(|found| found != right), "`{piece}` {i} is not missed");
        }
    }
}

/// `(a, b)` of the halves of the first heads become `(a cos - b sin, b cos + a sin)`.
#[test]
fn heads_are_turned() {
    let (m, k) = (35, 72);
    let (small, half) = (MatrixTile::SMALL, MatrixTile::HALF);
    // Queries, keys and values; and all in one weight, in heads that are no whole tiles.
    let forms = [
        (
            vec![256, 128, 64],
            Turned { heads: 12, head_dim: 32 },
            vec![MatrixTile::FLAT, MatrixTile::NARROW, small, half, MatrixTile::group(24, 64, 4)],
        ),
        (
            vec![832],
            Turned { heads: 8, head_dim: 80 },
            vec![small, MatrixTile::FIVE_EIGHTHS, MatrixTile::group(40, 128, 4)],
        ),
    ];
    for (ns, turned, tiles) in forms {
        let (all, width) = (ns.iter().sum::<usize>(), turned.head_dim as usize / 2);
        let (x, bias) = (tensor_of(Float::BF16, &[m, k], 1), tensor(&[all], 9));
        let weight = |(n, seed): (&usize, u32)| tensor_of(Float::BF16, &[*n, k], seed);
        let weights: Vec<Tensor> = ns.iter().zip(2..).map(weight).collect();
        let (cos, sin) = (tensor(&[m, width], 10), tensor(&[m, width], 11));
        let mut wanted = Vec::new();
        let rows: Vec<f32> = weights.iter().flat_map(|weight| weight.floats().to_vec()).collect();
        let whole = Tensor::f32(&[all, k], rows);
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[{all}, {k}], %2: f32[{all}]) {{
              %3 = linear %0, %1, %2 {{bias=1}} : f32[{m}, {all}]
              return %3
            }}"
        );
        let sums = interpret(&text, &[&x, &whole, &bias]).remove(0);
        for (row, of_row) in sums.floats().chunks(all).enumerate() {
            let mut of_row = of_row.to_vec();
            for head in of_row.chunks_mut(2 * width).take(turned.heads as usize) {
                let (first, second) = head.split_at_mut(width);
                let angles = (row * width..).map(|at| (cos.floats()[at], sin.floats()[at]));
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            wanted.extend(of_row);
        }
        // Two sums, each as far off as that of `bias_and_residual`. In bf16 the two are rounded and what comes of them is: three
        // times half of 2^-8.
        for (types, near) in [((Float::BF16, Float::F32), 4e-6), ((Float::BF16, Float::BF16), 6e-3)] {
            for tile in &tiles {
                let more = [1, 2].map(|i| ns.get(i).map_or(0, |n| *n as u32));
                let rope = Some(turned);
                let plain = plain(types, [m, ns[0], k], *tile);
                let kernel = Kernel::Linear(Linear { bias: true, more, rope, ..plain });
                for on in runners_of(&kernel) {
                    let mut launch = Launch::of(on, &kernel).tensor("x", &x).tensor("bias", &bias);
                    launch = launch.tensor("cos", &cos).tensor("sin", &sin);
                    for (name, weight) in ["weight", "second", "third"].into_iter().zip(&weights) {
                        launch = launch.tensor(name, weight);
                    }
                    let launch =
                        launch.result("y", m * all).int("rows", m).int("stride", all).int("first", 0);
                    launch.run().near("y", &wanted, near);
                }
            }
        }
    }
}

/// A result is left for a norm, in tiles of all widths and where workgroups share K: the result as ever, times the gain in
/// bf16, and the squares of 32 each.
#[test]
fn results_are_weighted() {
    for (m, n, k, tile, splits) in [
        (5, 32, 136, MatrixTile::FLAT, 1),
        (40, 160, 136, MatrixTile::NARROW, 1),
        (70, 160, 136, MatrixTile::SMALL, 1),
        (100, 288, 136, MatrixTile::BROAD, 1),
        (130, 160, 2048, MatrixTile::WIDE, 3),
        (70, 288, 136, MatrixTile::group(40, 192, 4), 1),
        (130, 160, 2048, MatrixTile::group(136, 128, 4), 2),
    ] {
        let (x, w) = (tensor_of(Float::BF16, &[m, k], 1), tensor_of(Float::BF16, &[n, k], 2));
        let (r, gain) = (tensor(&[m, n], 4), tensor(&[n], 5));
        let text = format!(
            "graph @f(%0: f32[{m}, {k}], %1: f32[{n}, {k}], %2: f32[{m}, {n}]) {{
              %3 = linear %0, %1, %2 {{residual=1}} : f32[{m}, {n}]
              return %3
            }}"
        );
        let wanted = interpret(&text, &[&x, &w, &r]).remove(0);
        let plain = plain((Float::BF16, Float::F32), [m, n, k], MatrixTile { splits, ..tile });
        let linear = Linear { residual: Residual::InPlace, weighted: true, ..plain };
        let kernel = Kernel::Linear(linear);
        let pitch = Linear::squares(n as u32) as usize;
        for on in runners_of(&kernel) {
            let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w).tensor("y", &r);
            let launch = launch.tensor("gain", &gain).result("weighted", m * n).result("squares", m * pitch);
            let launch = match linear.parts(m as u32) {
                Some((tiles, parts)) => {
                    launch.result("parts", parts as usize).ints("counters", &vec![0; tiles as usize])
                }
                None => launch,
            };
            let results = launch.int("rows", m).int("stride", n).int("first", 0).run();
            results.near("y", wanted.floats(), 4e-6);
            let y = results.floats("y");
            let products = y.iter().zip(gain.floats().iter().cycle()).map(|(y, gain)| y * gain);
            assert!(products.map(|p| bf16::from_f32(p).to_f32()).eq(results.floats("weighted")));
            let squares = results.floats("squares");
            for (row, of_row) in y.chunks(n).zip(squares.chunks(pitch)) {
                let sums: Vec<f32> = row.chunks(32).map(|of| of.iter().map(|y| y * y).sum()).collect();
                near(&of_row[..n / 32], &sums, 1e-6);
                assert!(of_row[n / 32..].iter().all(|x| x.is_nan()), "written behind the last");
            }
        }
    }
}

/// Rows that come weighted are divided by the root of their mean square, in every epilogue that stands behind a norm.
#[test]
fn weighted_rows_are_scaled() {
    let eps = 1e-3_f32;
    for (m, k) in [(3, 128), (70, 160), (130, 32)] {
        let (x, bias) = (tensor_of(Float::BF16, &[m, k], 1), tensor(&[192], 9));
        let pitch = Linear::squares(k as u32) as usize;
        // Sums of squares have nothing to do with the rows here; behind the last there may be anything.
        let mut squares: Vec<f32> = tensor(&[m, pitch], 6).floats().iter().map(|x| x * x * 9.0).collect();
        squares.chunks_mut(pitch).for_each(|row| row[k / 32..].fill(f32::NAN));
        let factor = |row: &[f32]| 1.0 / (row[..k / 32].iter().sum::<f32>() / k as f32 + eps).sqrt();
        let factors: Vec<f32> = squares.chunks(pitch).map(factor).collect();
        let weights = [2, 3].map(|seed| tensor_of(Float::BF16, &[192, k], seed));
        let (cos, sin) = (tensor(&[m, 16], 10), tensor(&[m, 16], 11));
        for tile in tiles([m, 0, 0]).into_iter().chain(groups([m, 0, 0])) {
            let plain = Linear { scaled: true, ..plain((Float::BF16, Float::F32), [m, 192, k], tile) };
            let rope = Some(Turned { heads: 4, head_dim: 32 });
            let mut forms = vec![
                Linear { bias: true, ..plain },
                Linear { swiglu: true, ..plain },
                Linear { bias: true, rope, ..plain },
            ];
            forms.retain(|form| form.rope.is_none() || 128_u32.is_multiple_of(tile.columns));
            for form in forms {
                let sums = |weight: &Tensor| {
                    let text = format!(
                        "graph @f(%0: f32[{m}, {k}], %1: f32[192, {k}]) {{
                          %2 = linear %0, %1 : f32[{m}, 192]
                          return %2
                        }}"
                    );
                    let sums = interpret(&text, &[&x, weight]).remove(0);
                    let rows = sums.floats().chunks(192).zip(&factors);
                    rows.map(|(row, factor)| row.iter().map(|s| s * factor).collect()).collect()
                };
                let mut wanted: Vec<Vec<f32>> = sums(&weights[0]);
                if form.bias {
                    wanted
                        .iter_mut()
                        .for_each(|row| row.iter_mut().zip(bias.floats()).for_each(|(y, b)| *y += b));
                }
                if form.swiglu {
                    let up: Vec<Vec<f32>> = sums(&weights[1]);
                    let all = wanted.iter_mut().flatten().zip(up.iter().flatten());
                    all.for_each(|(gate, up)| *gate = *gate / (1.0 + (-*gate).exp()) * up);
                }
                if form.rope.is_some() {
                    for (row, of_row) in wanted.iter_mut().enumerate() {
                        for head in of_row[..128].chunks_mut(32) {
                            for i in 0..16 {
                                let (cos, sin) = (cos.floats()[row * 16 + i], sin.floats()[row * 16 + i]);
                                let (a, b) = (head[i], head[16 + i]);
                                (head[i], head[16 + i]) = (a * cos - b * sin, b * cos + a * sin);
                            }
                        }
                    }
                }
                let kernel = Kernel::Linear(form);
                for on in runners_of(&kernel) {
                    let mut launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &weights[0]);
                    launch = launch.floats("squares", &squares).float("eps", eps);
                    if form.bias {
                        launch = launch.tensor("bias", &bias);
                    }
                    if form.swiglu {
                        launch = launch.tensor("up", &weights[1]);
                    }
                    if form.rope.is_some() {
                        launch = launch.tensor("cos", &cos).tensor("sin", &sin);
                    }
                    let launch =
                        launch.result("y", m * 192).int("rows", m).int("stride", 192).int("first", 0);
                    launch.run().near("y", &wanted.concat(), 4e-6);
                }
            }
        }
    }
}

/// Each of the barriers and of the waits is needed, and the host's runner would miss it.
#[test]
fn a_wait_is_missing() {
    // Steps enough for a stage to be filled again, the last of them where the sums will stand.
    let shape @ [m, n, k] = [16, 64, 1664];
    let kernel = Kernel::Linear(plain((Float::BF16, Float::F32), shape, MatrixTile::FLAT));
    let (x, w) = (tensor_of(Float::BF16, &[m, k], 1), tensor_of(Float::BF16, &[n, k], 2));
    for on in runners_of(&kernel) {
        let with = |edit: &dyn Fn(&str) -> String| {
            let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w).result("y", m * n);
            let launch = launch.int("rows", m).int("stride", n).int("first", 0).edited(edit);
            catch_unwind(AssertUnwindSafe(|| launch.run().floats("y"))).ok()
        };
        let right = with(&str::to_owned).expect("it runs");
        let missed = |piece: &str, i: usize, by: &str| {
            // Other results, or none.
            let found = with(&|source| replaced(source, piece, i, by));
            assert!(found.is_none_or(|found| found != right), "`{piece}` {i} is not missed");
        };
        // What begins a step, what is behind the last, what is before the sums are read.
        (0..3).for_each(|i| missed("__syncthreads();", i, ""));
        let [wait, group] =
            ["wait_group 2;", "commit_group;"].map(|end| format!("asm volatile(\"cp.async.{end}\""));
        missed(&wait, 0, "asm volatile(\"cp.async.wait_group 3;\"");
        missed(&wait, 0, &format!("if (false) {wait}"));
        // Groups of the first steps, and of those in the loop.
        (0..4).for_each(|i| missed(&group, i, &format!("if (false) {group}")));
    }
}

/// The source with occurrence `i` of a piece replaced.
fn replaced(source: &str, piece: &str, i: usize, by: &str) -> String {
    let (at, _) = source.match_indices(piece).nth(i).unwrap_or_else(|| panic!("no {piece} {i} in {source}"));
    format!("{}{by}{}", &source[..at], &source[at + piece.len()..])
}

/// Each wait, fence and field of a descriptor is needed where warpgroups multiply, and the host's runner would miss it.
#[test]
fn a_fence_is_missing() {
    // Two warpgroups, and steps enough for a stage to be filled again.
    let shape @ [m, n, k] = [24, 128, 640];
    let kernel = Kernel::Linear(plain((Float::BF16, Float::F32), shape, MatrixTile::group(24, 128, 4)));
    let (x, w) = (tensor_of(Float::BF16, &[m, k], 1), tensor_of(Float::BF16, &[n, k], 2));
    for on in runners_of(&kernel) {
        let with = |edit: &dyn Fn(&str) -> String| {
            let launch = Launch::of(on, &kernel).tensor("x", &x).tensor("weight", &w).result("y", m * n);
            let launch = launch.int("rows", m).int("stride", n).int("first", 0).edited(edit);
            catch_unwind(AssertUnwindSafe(|| launch.run().floats("y"))).ok()
        };
        let right = with(&str::to_owned).expect("it runs");
        let missed = |piece: &str, i: usize, by: &str| {
            let found = with(&|source| replaced(source, piece, i, by));
            assert!(found.is_none_or(|found| found != right), "`{piece}` {i} is not missed");
        };
        // What begins a step, what is behind the last, what is before the sums are read.
        (0..3).for_each(|i| missed("__syncthreads();", i, ""));
        let statement = |instruction: &str| format!("asm volatile(\"{instruction}\"");
        for (instruction, count) in [
            ("cp.async.wait_group 1;", 1),
            ("cp.async.commit_group;", 3),
            ("fence.proxy.async.shared::cta;", 1),
            ("wgmma.wait_group.sync.aligned 1;", 1),
        ] {
            let statement = statement(instruction);
            (0..count).for_each(|i| missed(&statement, i, &format!("if (false) {statement}")));
        }
        missed("cp.async.wait_group 1;", 0, "cp.async.wait_group 2;");
        missed("wgmma.wait_group.sync.aligned 1;", 0, "wgmma.wait_group.sync.aligned 2;");
        for instruction in
            ["fence.sync.aligned; ", "commit_group.sync.aligned; ", "wait_group.sync.aligned 0; "]
        {
            missed(&format!("wgmma.{instruction}"), 0, "");
        }
        missed("wgmma.wait_group.sync.aligned 0;", 0, "wgmma.wait_group.sync.aligned 1;");
        // The sums are moved before the fence.
        let moved = with(&|source| {
            let fence = "wgmma.fence.sync.aligned; ";
            source.replacen(fence, "", 1).replacen("{ mov.b32", &format!("{{ {fence}mov.b32"), 1)
        });
        assert!(moved.is_none_or(|found| found != right), "a move behind the fence is not missed");
        // No swizzle, one of 64 bytes, more and less between eight rows, more between columns, a pattern that begins within, a bit
        // of nothing.
        for wrong in [
            0x0000_0040_0001_0000,
            0x8000_0040_0001_0000,
            0x4000_0041_0001_0000,
            0x4000_0020_0001_0000,
            0x4000_0040_0002_0000,
            0x4002_0040_0001_0000,
            0x4000_0040_0011_0000_u64 | 1 << 30,
        ] {
            missed(&0x4000_0040_0001_0000_u64.to_string(), 0, &wrong.to_string());
        }
        missed("wgmma.mma_async.sync.aligned.m64n24k16", 0, "wgmma.mma_async.sync.aligned.m64n16k16");
    }
}
