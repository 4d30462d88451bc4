//! Attention against the interpreter, whose sums are f64.

use crate::common::{FLOATS, Launch, Runner, runners};
use crate::judge::{floats, interpret, rounded, tensor};
use dreamc_interp::Tensor;
use dreamc_kernels::{Attention, AttentionEngine, Float, Kernel, Segments};

#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    positions: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    mask: fn(usize) -> i32,
}

fn cases() -> Vec<Case> {
    let case =
        |rows, positions, heads, kv_heads, dim, mask| Case { rows, positions, heads, kv_heads, dim, mask };
    vec![
        case(1, 1, 1, 1, 16, |_| 1),
        case(2, 7, 2, 1, 16, |i| i32::from(i % 7 != 0)),
        case(1, 16, 4, 4, 32, |_| 1),
        case(1, 37, 7, 1, 64, |_| 3),
        // Segments, and a tile of keys that a query does not see at all.
        case(2, 45, 2, 2, 80, |i| (i % 45 / 15) as i32),
        case(1, 50, 4, 2, 128, |i| i32::from(i >= 20)),
        // Tiles of one segment, of several, and such as no query of another sees.
        case(2, 200, 2, 1, 32, |i| if i % 200 < 130 { 1 } else { (i % 200 / 20) as i32 }),
    ]
}

/// What computes them.
const ENGINES: [AttentionEngine; 3] = [
    AttentionEngine::Units { queries: 16, keys: 8 },
    AttentionEngine::Units { queries: 8, keys: 16 },
    AttentionEngine::Matrix,
];

/// Matrix units take weights that are rounded.
fn limit(float: Float, engine: AttentionEngine) -> f32 {
    match (engine, float) {
        (AttentionEngine::Units { .. }, _) | (_, Float::F32) => 5e-6,
        (AttentionEngine::Matrix, Float::BF16) => 1.0 / 256.0,
        (AttentionEngine::Matrix, Float::F16) => 1.0 / 2048.0,
    }
}

/// Attention with its mask, and on matrix units with what is found in it before.
fn of(on: &'static Runner, attention: Attention, b: usize, s: usize, mask: &Tensor) -> Launch {
    let launch = Launch::of(on, &Kernel::Attention(attention)).tensor("mask", mask);
    let launch = launch.int("rows", b).int("positions", s);
    if attention.engine != AttentionEngine::Matrix {
        return launch;
    }
    let room = b * s.div_ceil(64) * Segments::WORDS as usize;
    let found = Launch::of(on, &Kernel::Segments(Segments)).tensor("mask", mask).result("segments", room);
    let found = found.int("rows", b).int("positions", s).run().ints("segments");
    let tiles = mask.ints().chunks(s).flat_map(|row| row.chunks(64));
    for (tile, found) in tiles.zip(found.chunks(4)) {
        let there = || tile.iter().copied().filter(|segment| *segment != 0);
        let every = i32::from(tile.len() == 64 && there().count() == 64);
        let wanted = [there().min().unwrap_or(i32::MAX), there().max().unwrap_or(i32::MIN), every, 0];
        assert_eq!(found, wanted);
    }
    launch.ints("segments", &found)
}

#[test]
fn attention() {
    let all = cases().into_iter().flat_map(|case| FLOATS.map(|float| (case, float)));
    for (Case { rows: b, positions: s, heads, kv_heads, dim, mask }, float) in all {
        let (n, m) = (heads * dim, kv_heads * dim);
        // Scores of some size, so that the softmax is not flat.
        let scaled =
            |tensor: Tensor| Tensor::f32(&tensor.dims, tensor.floats().iter().map(|x| x * 3.0).collect());
        let [q, k] = [(n, 1), (m, 2)].map(|(n, seed)| rounded(&scaled(tensor(&[b, s, n], seed)), float));
        let v = rounded(&tensor(&[b, s, m], 3), float);
        let mask = Tensor::i32(&[b, s], (0..b * s).map(mask).collect());
        let text = format!(
            "graph @f(%0: f32[{b}, {s}, {n}], %1: f32[{b}, {s}, {m}], %2: f32[{b}, {s}, {m}], %3: i32[{b}, {s}]) {{
              %4 = attention %0, %1, %2, %3 {{heads={heads}, kv_heads={kv_heads}, head_dim={dim}}} : f32[{b}, {s}, {n}]
              return %4
            }}"
        );
        let wanted = interpret(&text, &[&q, &k, &v, &mask]).remove(0);
        for engine in ENGINES {
            for packed in [false, true] {
                // In 16 bits only loads and stores of units differ: fewer shapes.
                let few = packed != (engine == ENGINES[1]) || ![16, 80].contains(&dim);
                let matrix = engine == AttentionEngine::Matrix;
                // Long rows are for tiles as large as those of matrix units.
                let long = s > 64 && (packed || engine != ENGINES[0]);
                if if matrix { float == Float::F32 } else { long || float != Float::F32 && few } {
                    continue;
                }
                let kernel = Attention {
                    float,
                    heads: heads as u32,
                    kv_heads: kv_heads as u32,
                    head_dim: dim as u32,
                    packed,
                    rows: false,
                    engine,
                };
                let all = runners(&Kernel::Attention(kernel));
                assert!(!all.is_empty(), "nothing runs {kernel:?}");
                for on in all {
                    let launch = of(on, kernel, b, s, &mask).result("y", b * s * n);
                    let launch = if packed {
                        let row = |r: usize| {
                            let parts = [(&q, n), (&k, m), (&v, m)];
                            parts.map(|(t, n)| t.floats()[r * n..(r + 1) * n].to_vec()).concat()
                        };
                        launch.floats("qkv", &(0..b * s).flat_map(row).collect::<Vec<_>>())
                    } else {
                        launch.tensor("q", &q).tensor("k", &k).tensor("v", &v)
                    };
                    launch.run().near("y", wanted.floats(), limit(float, engine));
                }
            }
        }
    }
}

/// What is not seen may be anything: rows of padding hold what was there before.
#[test]
fn padding_is_not_looked_at() {
    let (s, n) = (20, 16);
    let mask: Vec<i32> = (0..s).map(|i| i32::from(i % 4 != 2)).collect();
    let mut v = floats(s * n, 5);
    v.chunks_mut(n).zip(&mask).filter(|(_, m)| **m == 0).for_each(|(row, _)| row.fill(f32::NAN));
    let units = AttentionEngine::Units { queries: 8, keys: 8 };
    for (float, engine) in [(Float::F32, units), (Float::BF16, AttentionEngine::Matrix)] {
        let (x, v) = (rounded(&tensor(&[s, n], 6), float), rounded(&Tensor::f32(&[s, n], v.clone()), float));
        let kernel = Attention {
            float,
            heads: 1,
            kv_heads: 1,
            head_dim: n as u32,
            packed: false,
            rows: false,
            engine,
        };
        for on in runners(&Kernel::Attention(kernel)) {
            let launch = of(on, kernel, 1, s, &Tensor::i32(&[1, s], mask.clone()));
            let launch = launch.tensor("q", &x).tensor("k", &x).tensor("v", &v).result("y", s * n);
            let y = launch.run().floats("y");
            assert!(y.iter().all(|y| y.is_finite()));
            assert!(y.chunks(n).zip(&mask).all(|(row, m)| *m != 0 || row.iter().all(|y| *y == 0.0)));
        }
    }
}

/// Queries at some rows, in any order, more than a tile; some that stand nowhere, which come out as 0.
#[test]
fn at_some_rows() {
    for (b, s, r, heads, kv_heads, dim) in [(1, 1, 1, 1, 1, 16), (2, 45, 19, 4, 2, 16), (1, 90, 70, 2, 1, 80)]
    {
        let (n, m) = (heads * dim, kv_heads * dim);
        let mask = Tensor::i32(&[b, s], (0..b * s).map(|i| (i % s / 15) as i32).collect());
        let index = Tensor::i32(&[b, r], (0..b * r).map(|i| ((i * 7 + 3) % s) as i32).collect());
        let matrix = [Float::BF16, Float::F16].map(|float| (float, AttentionEngine::Matrix));
        for (float, engine) in FLOATS.map(|float| (float, ENGINES[0])).into_iter().chain(matrix) {
            let q = rounded(&tensor(&[b, r, n], 1), float);
            let [k, v] = [2, 3].map(|seed| rounded(&tensor(&[b, s, m], seed), float));
            let text = format!(
                "graph @f(%0: f32[{b}, {r}, {n}], %1: f32[{b}, {s}, {m}], %2: f32[{b}, {s}, {m}], %3: i32[{b}, {s}], %4: i32[{b}, {r}]) {{
                  %5 = attention %0, %1, %2, %3, %4 {{heads={heads}, kv_heads={kv_heads}, head_dim={dim}, rows=1}} : f32[{b}, {r}, {n}]
                  return %5
                }}"
            );
            let mut wanted = interpret(&text, &[&q, &k, &v, &mask, &index]).remove(0).floats().to_vec();
            // Behind the last position, and before the first.
            let mut rows = index.ints().to_vec();
            for (i, outside) in [(0, s as i32), (r / 2, -1), (r - 1, i32::MIN)].into_iter().take(r) {
                rows[i] = outside;
                wanted[i * n..(i + 1) * n].fill(0.0);
            }
            let kernel = Attention {
                float,
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_dim: dim as u32,
                packed: false,
                rows: true,
                engine,
            };
            for on in runners(&Kernel::Attention(kernel)) {
                let launch = of(on, kernel, b, s, &mask).tensor("q", &q).tensor("k", &k).tensor("v", &v);
                let launch = launch.ints("index", &rows).result("y", b * r * n).int("taken", r);
                launch.run().near("y", &wanted, limit(float, engine));
            }
        }
    }
}
