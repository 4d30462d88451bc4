//! `dream7b_attention` at 2048 positions, attention of several models beside what one core can multiply in registers,
//! attention and activations of a vision tower, and the sampler's kernels on 64 rows of Dream 7B's vocabulary. Stored
//! results: `benches/results/`.
#![allow(missing_docs, reason = "criterion's macro makes a public function")]
#![allow(unsafe_code, reason = "the instructions that measure the peak")]

#[allow(dead_code, reason = "not every bench uses all of it")]
mod common;

use common::peak::{Product, peak};
use common::{Tensor, bytes, prepare, random};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dreamc_artifact::plan::{Activation, Attention, Confidence, Kernel};
use dreamc_num::DType;
use std::time::Duration;

const S: u32 = 2048;
const HEADS: u32 = 28;
const KV_HEADS: u32 = 4;
const HEAD_DIM: u32 = 128;
const ROWS: u32 = 64;
const VOCABULARY: u32 = 152_064;

fn ones(dtype: DType, dims: &[u32]) -> Tensor {
    let n: u32 = dims.iter().product();
    let one = if dtype == DType::Bool { vec![1] } else { 1_i32.to_le_bytes().to_vec() };
    bytes(dtype, dims, one.repeat(n as usize))
}

fn scalar(value: f32) -> Tensor {
    bytes(DType::F32, &[], value.to_le_bytes().to_vec())
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("dream7b_attention");
    group.throughput(Throughput::Elements(4 * u64::from(S) * u64::from(S) * u64::from(HEADS * HEAD_DIM)));
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let (heads, kv_heads, head_dim) = (HEADS, KV_HEADS, HEAD_DIM);
    for dtype in [DType::F32, DType::BF16] {
        let width = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
        let tensors = [
            random(dtype, &[1, S, width], 1, None),
            ones(DType::I32, &[1, S]),
            random(DType::F32, &[1, S, HEAD_DIM / 2], 2, None),
            random(DType::F32, &[1, S, HEAD_DIM / 2], 3, None),
            random(dtype, &[1, S, HEADS * HEAD_DIM], 4, None),
        ];
        let kernel =
            Kernel::Attention(Attention { heads, kv_heads, head_dim, packed: true, rope: true, rows: false });
        let mut prepared = prepare(kernel, &tensors, 0);
        group.bench_function(dtype.name(), |b| b.iter(|| prepared.run()));
    }
}

/// One attention over packed queries, keys and values.
struct Shape {
    name: &'static str,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    /// Segments, each of as many positions.
    segments: u32,
    positions: u32,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "small_s256", heads: 16, kv_heads: 4, head_dim: 64, segments: 1, positions: 256 },
    Shape { name: "dream7b_s512", heads: 28, kv_heads: 4, head_dim: 128, segments: 1, positions: 512 },
    Shape { name: "vision_2x256", heads: 16, kv_heads: 16, head_dim: 80, segments: 2, positions: 256 },
];

/// The shapes on one thread and on all, in the same run as the peak of one core's registers.
fn shapes(c: &mut Criterion) {
    for (dtype, product) in [(DType::F32, Product::F32), (DType::BF16, Product::Bf16)] {
        if let Some(rate) = peak(product) {
            eprintln!("register_peak/{dtype}: {:.0} GFLOP/s a core", rate / 1e9);
        }
    }
    for Shape { name, heads, kv_heads, head_dim, segments, positions } in SHAPES {
        let mut group = c.benchmark_group(format!("attention_{name}"));
        group.sample_size(20).measurement_time(Duration::from_secs(1));
        let (s, width) = (segments * positions, heads * head_dim);
        group.throughput(Throughput::Elements(4 * u64::from(s) * u64::from(positions) * u64::from(width)));
        for dtype in [DType::F32, DType::BF16] {
            let mask = (0..s).flat_map(|i| (1 + i / positions).to_le_bytes()).collect();
            let tensors = [
                random(dtype, &[1, s, width + 2 * kv_heads * head_dim], 1, None),
                bytes(DType::I32, &[1, s], mask),
                random(DType::F32, &[1, s, head_dim / 2], 2, None),
                random(DType::F32, &[1, s, head_dim / 2], 3, None),
                random(dtype, &[1, s, width], 4, None),
            ];
            let attention = Attention { heads, kv_heads, head_dim, packed: true, rope: true, rows: false };
            let all = std::thread::available_parallelism().map_or(1, usize::from);
            for threads in [1, all] {
                let mut prepared = prepare(Kernel::Attention(attention.clone()), &tensors, threads);
                let id = BenchmarkId::new(dtype.name(), threads);
                group.bench_function(id, |b| b.iter(|| prepared.run()));
            }
        }
    }
}

/// Images of 1024 patches: one by itself, eight in one row, and as many patches as one image. Width and heads are those
/// of Qwen2-VL's vision tower.
fn vision(c: &mut Criterion) {
    const PATCHES: u32 = 1024;
    let mut group = c.benchmark_group("vision_attention");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let (heads, head_dim) = (16, 80);
    for (name, images, patches) in
        [("1x1024", 1, PATCHES), ("8x1024", 8, PATCHES), ("1x8192", 1, 8 * PATCHES)]
    {
        let s = images * patches;
        group.throughput(Throughput::Elements(
            4 * u64::from(s) * u64::from(patches) * u64::from(heads * head_dim),
        ));
        let mask = (0..s).flat_map(|i| (1 + i / patches).to_le_bytes()).collect();
        let tensors = [
            random(DType::BF16, &[1, s, 3 * heads * head_dim], 1, None),
            bytes(DType::I32, &[1, s], mask),
            random(DType::F32, &[1, s, head_dim / 2], 2, None),
            random(DType::F32, &[1, s, head_dim / 2], 3, None),
            random(DType::BF16, &[1, s, heads * head_dim], 4, None),
        ];
        let attention = Attention { heads, kv_heads: heads, head_dim, packed: true, rope: true, rows: false };
        let mut prepared = prepare(Kernel::Attention(attention), &tensors, 0);
        group.bench_function(name, |b| b.iter(|| prepared.run()));
    }
}

/// 1024 patches of 5120 features.
fn activations(c: &mut Criterion) {
    let mut group = c.benchmark_group("vision_activation");
    let dims = [1, 1024, 5120];
    group.throughput(Throughput::Elements(1024 * 5120));
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    for kind in [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu] {
        for dtype in [DType::F32, DType::BF16] {
            let tensors = [random(dtype, &dims, 1, None), random(dtype, &dims, 2, None)];
            let mut prepared = prepare(Kernel::Activate(kind), &tensors, 0);
            group.bench_function(format!("{kind:?}_{}", dtype.name()), |b| b.iter(|| prepared.run()));
        }
    }
}

fn sampler(c: &mut Criterion) {
    let mut group = c.benchmark_group("dream7b_sampler_64_rows");
    group.throughput(Throughput::Elements(u64::from(ROWS * VOCABULARY)));
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let real = |seed| random(DType::F32, &[1, ROWS, VOCABULARY], seed, None);
    let active = || ones(DType::Bool, &[1, ROWS]);
    // Logits in -1..1 are flatter than a model's; at temperature 0.1 they are about as steep.
    let filters = [
        ("probs", 0.1, 1.0, 0),
        ("probs_top_k_50", 0.1, 1.0, 50),
        ("probs_top_p_0.95", 0.1, 0.95, 0),
        ("probs_top_p_0.95_flat", 1.0, 0.95, 0),
    ];
    for (name, temperature, top_p, top_k) in filters {
        let top_k = bytes(DType::I32, &[], i32::to_le_bytes(top_k).to_vec());
        let tensors = [real(1), active(), scalar(temperature), scalar(top_p), top_k, real(2)];
        let mut prepared = prepare(Kernel::SamplingProbs, &tensors, 0);
        group.bench_function(name, |b| b.iter(|| prepared.run()));
    }
    let probs = || {
        let p = (1.0 / VOCABULARY as f32).to_le_bytes();
        bytes(DType::F32, &[1, ROWS, VOCABULARY], p.repeat((ROWS * VOCABULARY) as usize))
    };
    for (name, temperature) in [("draw_token", 1.0), ("draw_token_greedy", 0.0)] {
        let bits = ones(DType::U32, &[1, ROWS]);
        let tensors = [probs(), active(), scalar(temperature), bits, ones(DType::I32, &[1, ROWS])];
        let mut prepared = prepare(Kernel::DrawToken { first: 0 }, &tensors, 0);
        group.bench_function(name, |b| b.iter(|| prepared.run()));
    }
    for kind in [Confidence::Margin, Confidence::NegativeEntropy] {
        let tensors =
            [probs(), active(), ones(DType::I32, &[1, ROWS]), random(DType::F32, &[1, ROWS], 3, None)];
        let mut prepared = prepare(Kernel::Confidence(kind), &tensors, 0);
        group.bench_function(format!("confidence_{kind:?}"), |b| b.iter(|| prepared.run()));
    }
}

criterion_group!(benches, shapes, attention, vision, activations, sampler);
criterion_main!(benches);
