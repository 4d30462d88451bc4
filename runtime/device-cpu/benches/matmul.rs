//! `dream7b_mlp_gate`: rows by the gate matrix of Dream 7B: every form of weights against what a core can do at most, and
//! 256 rows against the `gemm` crate.
//!
//! The first part prints operations a second over those of a loop in registers, measured in turn with them, one thread. With
//! `DREAMC_BENCH_ROWS` set to numbers with commas between, those are the numbers of rows, and there is no second part;
//! `DREAMC_BENCH_FORMS` names some forms, `DREAMC_BENCH_SHAPE` another matrix, as `1024x2816`: columns, then rows. `DREAM_BLESS=1`
//! writes what was measured to `benches/results/matmul-over-peak-*.json`.
//!
//! With `-- --measure FORM` it prints `dreamc M1 FORM seconds megabytes` instead, for the bench `units` of `dreamc-golden`: 512
//! rows on two threads, the median of five medians of nine; the megabytes are those of the operands.
//!
//! Both get the same number of threads in the same run. Our weights are packed when a model is built, those of
//! `gemm` lie as checkpoints store them; it packs at every call. Stored results: `benches/results/`.
#![allow(missing_docs, reason = "criterion's macro makes a public function")]
#![allow(clippy::print_stdout, reason = "a line for another bench")]
#![allow(unsafe_code, reason = "the interface of the gemm crate")]

#[allow(dead_code, reason = "not every bench uses all of it")]
mod common;
#[allow(dead_code, reason = "not every bench uses all of it")]
#[path = "../../../golden/benches/common/mod.rs"]
mod place;

use common::peak::{Product, peak, thread_time};
use common::{Tensor, prepare, random};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Kernel, Linear};
use dreamc_num::quant::Codes;
use dreamc_num::{DType, Quant};
use std::hint::black_box;
use std::time::{Duration, Instant};

const M: u32 = 256;
const K: u32 = 3584;
const N: u32 = 18944;

/// What is multiplied, in the order of the table.
const FORMS: [(&str, DType, Option<Quant>, bool, Product); 6] = [
    ("f32", DType::F32, None, false, Product::F32),
    ("bf16", DType::BF16, None, false, Product::Bf16),
    ("w8a8", DType::BF16, Some(Quant::Int8), true, Product::Int8),
    ("w8a16", DType::BF16, Some(Quant::Int8), false, Product::Bf16),
    ("w4a16", DType::BF16, Some(INT4), false, Product::Bf16),
    ("w4a8", DType::BF16, Some(INT4), true, Product::Int8),
];
const INT4: Quant = Quant::Int4 { group: 128, zero: true };

fn linear(int8: bool) -> Kernel {
    Kernel::Linear(Linear {
        norm_eps: None,
        weights: 1,
        bias: false,
        residual: false,
        swiglu: false,
        smooth: false,
        codes: int8.then_some(Codes::Int8),
        activation: None,
    })
}

fn tensors(m: u32, (k, n): (u32, u32), dtype: DType, quant: Option<Quant>) -> [Tensor; 3] {
    let layout = quant.map_or(Layout::of_matmul(dtype), |quant| Some(Layout::Quantized(quant)));
    [random(dtype, &[m, k], 1, None), random(dtype, &[n, k], 2, layout), random(dtype, &[m, n], 3, None)]
}

/// Columns and rows of the matrix of the first part.
fn shape() -> (u32, u32) {
    let Ok(text) = std::env::var("DREAMC_BENCH_SHAPE") else { return (K, N) };
    let numbers = text.split_once('x').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    numbers.unwrap_or_else(|| panic!("DREAMC_BENCH_SHAPE is `{text}`; give two numbers, as 1024x2816"))
}

/// Prints every form at every number of rows: the best of some runs over the best of as many runs of the peak between them.
fn over_peak(rows: &[u32]) {
    let only = std::env::var("DREAMC_BENCH_FORMS").unwrap_or_default();
    let (k, n) = shape();
    let mut results = Vec::new();
    for (name, dtype, quant, int8, product) in FORMS {
        if !only.is_empty() && !only.split(',').any(|form| form == name) {
            continue;
        }
        for &m in rows {
            let tensors = tensors(m, (k, n), dtype, quant);
            let mut prepared = prepare(linear(int8), &tensors, 1);
            prepared.run();
            let (mut best, mut most) = (f64::INFINITY, 0.0_f64);
            for _ in 0..(4096 / m).clamp(8, 64) {
                most = most.max(peak(product).unwrap_or(f64::NAN));
                let start = thread_time();
                prepared.run();
                best = best.min((thread_time() - start).as_secs_f64());
            }
            let done = 2.0 * f64::from(m) * f64::from(k) * f64::from(n) / best;
            let bytes = tensors[1].bytes.len() as f64 / best;
            eprintln!(
                "{name:6} {m:4} rows: {:8.3} ms, {:7.1} Gop/s of {:7.1}: {:5.1} %, weights {:5.1} GB/s",
                best * 1e3,
                done / 1e9,
                most / 1e9,
                100.0 * done / most,
                bytes / 1e9,
            );
            results.push(format!(
                "    {{ \"form\": \"{name}\", \"rows\": {m}, \"ms\": {:.3}, \"gop_per_s\": {:.1}, \"peak_gop_per_s\": {:.1}, \"of_peak\": {:.3} }}",
                best * 1e3,
                done / 1e9,
                most / 1e9,
                done / most,
            ));
        }
    }
    if std::env::var_os(place::BLESS).is_some() {
        write(&results, k, n);
    }
}

/// Writes the results of one shape, `rows x k` by `k x n`.
fn write(results: &[String], k: u32, n: u32) {
    let (device, slug) = place::processor();
    let name = format!("benches/results/matmul-over-peak-{k}x{n}-{slug}.json");
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let commit = place::commit().unwrap_or_default();
    let text = format!(
        "{{\n  \"bench\": \"matmul over peak\",\n  \"device\": \"{device}\",\n  \"commit\": \"{commit}\",\n  \"threads\": 1,\n  \
         \"columns\": {k},\n  \"matrix_rows\": {n},\n  \"statistic\": \"best of runs in turns with the peak\",\n  \"results\": [\n{}\n  ]\n}}\n",
        results.join(",\n")
    );
    std::fs::write(&file, text).expect("the results can be written");
    eprintln!("written: {}", file.display());
}

fn ours(c: &mut Criterion, threads: usize, dtype: DType) {
    let tensors = tensors(M, (K, N), dtype, None);
    let mut prepared = prepare(linear(false), &tensors, threads);
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
    let rows = std::env::var("DREAMC_BENCH_ROWS").ok();
    let asked =
        rows.as_deref().map(|rows| rows.split(',').filter_map(|m| m.parse().ok()).collect::<Vec<_>>());
    over_peak(asked.as_deref().unwrap_or(&[512, 256, 64]));
    if asked.is_some() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let counts = if cores > 1 { vec![1, cores] } else { vec![1] };
    for threads in counts {
        ours(c, threads, DType::F32);
        gemm_crate(c, threads);
        ours(c, threads, DType::BF16);
    }
}

criterion_group!(benches, matmul);

/// The line of unit M1.
fn measure(form: &str) {
    let found = FORMS.into_iter().find(|(name, ..)| *name == form);
    let (_, dtype, quant, int8, _) = found.unwrap_or_else(|| panic!("`{form}` is no form"));
    let tensors = tensors(512, (K, N), dtype, quant);
    let mut prepared = prepare(linear(int8), &tensors, 2);
    prepared.run();
    let median = |mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    let mut timed = |_| {
        let start = Instant::now();
        prepared.run();
        start.elapsed().as_secs_f64()
    };
    let seconds = median((0..5).map(|_| median((0..9).map(&mut timed).collect())).collect());
    let megabytes = tensors.iter().map(|tensor| tensor.bytes.len()).sum::<usize>() >> 20;
    println!("dreamc M1 {form} {seconds:.5} {megabytes}");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--measure") {
        return measure(args.get(at + 1).map_or("", String::as_str));
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
