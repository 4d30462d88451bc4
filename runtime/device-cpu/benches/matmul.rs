//! `dream7b_mlp_gate`: 256 rows by the gate matrix of Dream 7B, ours against the `gemm` crate.
//!
//! Both get the same number of threads in the same run. Our weights are packed when a model is built, those of
//! `gemm` lie as checkpoints store them; it packs at every call. Stored results: `benches/results/`.
#![allow(missing_docs, reason = "criterion's macro makes a public function")]
#![allow(unsafe_code, reason = "the interface of the gemm crate")]

#[allow(dead_code, reason = "not every bench uses all of it")]
mod common;

use common::{prepare, random};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Kernel, Linear};
use dreamc_num::DType;
use std::hint::black_box;
use std::time::Duration;

const M: u32 = 256;
const K: u32 = 3584;
const N: u32 = 18944;

fn ours(c: &mut Criterion, threads: usize, dtype: DType) {
    let kernel = Kernel::Linear(Linear {
        norm_eps: None,
        weights: 1,
        bias: false,
        residual: false,
        swiglu: false,
        smooth: false,
        int8: false,
        activation: None,
    });
    let tensors = [
        random(dtype, &[M, K], 1, None),
        random(dtype, &[N, K], 2, Layout::of_matmul(dtype)),
        random(dtype, &[M, N], 3, None),
    ];
    let mut prepared = prepare(kernel, &tensors, threads);
    let id = BenchmarkId::new(format!("ours_{dtype}"), threads);
    group(c, |g| {
        g.bench_function(id, |b| b.iter(|| prepared.run()));
    });
}

fn gemm_crate(c: &mut Criterion, threads: usize) {
    let (m, k, n) = (M as usize, K as usize, N as usize);
    let (x, w) = (vec![0.5_f32; m * k], vec![0.25_f32; n * k]);
    let mut out = vec![0.0_f32; m * n];
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    let id = BenchmarkId::new("gemm_f32", threads);
    group(c, |g| {
        g.bench_function(id, |b| {
            b.iter(|| {
                let (k_stride, n_stride) = (k as isize, n as isize);
                // SAFETY: `x` is m by k, `w` n by k read as k by n, `out` m by n, all row-major.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        out.as_mut_ptr(),
                        1,
                        n_stride,
                        false,
                        x.as_ptr(),
                        1,
                        k_stride,
                        w.as_ptr(),
                        k_stride,
                        1,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        parallelism,
                    );
                }
                black_box(&mut out);
            });
        });
    });
}

fn group(
    c: &mut Criterion,
    run: impl FnOnce(&mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>),
) {
    let mut group = c.benchmark_group("dream7b_mlp_gate_256x3584x18944");
    group.throughput(Throughput::Elements(2 * u64::from(M) * u64::from(K) * u64::from(N)));
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    run(&mut group);
    group.finish();
}

fn matmul(c: &mut Criterion) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let counts = if cores > 1 { vec![1, cores] } else { vec![1] };
    for threads in counts {
        ours(c, threads, DType::F32);
        gemm_crate(c, threads);
        ours(c, threads, DType::BF16);
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
