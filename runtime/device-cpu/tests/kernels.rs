//! Kernels against plain loops in f64, on every instruction set of the host and several thread counts.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Attention, Dim, Dispatch, Kernel, Linear, Place, Program, Step, Value, ValueId};
use dreamc_device_cpu::{CpuDevice, CpuOptions, Isa, WeightView};
use dreamc_num::DType;
use dreamc_runtime::{Device, Operand, Shape};
use std::alloc::{GlobalAlloc, System};
use std::cell::Cell;

thread_local!(static ALLOCATIONS: Cell<usize> = const { Cell::new(0) });

/// Counts what this thread allocates.
struct Counting;

// SAFETY: passes everything on to the system's allocator.
#[allow(unsafe_code, reason = "a test allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone)]
struct Tensor {
    dtype: DType,
    dims: Vec<u32>,
    bytes: Vec<u8>,
    layout: Option<Layout>,
}

fn bf16(v: f32) -> [u8; 2] {
    let bits = v.to_bits();
    (((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16).to_le_bytes()
}

fn real(dtype: DType, dims: &[u32], values: &[f32]) -> Tensor {
    let bytes = values
        .iter()
        .flat_map(|v| if dtype == DType::BF16 { bf16(*v).to_vec() } else { v.to_le_bytes().to_vec() })
        .collect();
    Tensor { dtype, dims: dims.to_vec(), bytes, layout: None }
}

fn ints(dims: &[u32], values: &[i32]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { dtype: DType::I32, dims: dims.to_vec(), bytes, layout: None }
}

fn weight(dtype: DType, n: usize, k: usize, values: &[f32]) -> Tensor {
    let layout = Layout::of_matmul(dtype).unwrap();
    let size = dtype.bytes();
    let mut bytes = vec![0; layout.stored_bytes(dtype, &[n as u64, k as u64]).unwrap() as usize];
    let rows = real(dtype, &[], values).bytes;
    for i in 0..n * k {
        let at = layout.index(k, i / k, i % k) * size;
        bytes[at..at + size].copy_from_slice(&rows[i * size..][..size]);
    }
    Tensor { dtype, dims: vec![n as u32, k as u32], bytes, layout: Some(layout) }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    match tensor.dtype {
        DType::BF16 => tensor
            .bytes
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect(),
        _ => tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
    }
}

/// Numbers in -1..1, already rounded to `dtype`.
fn random(dtype: DType, n: usize, seed: u32) -> Vec<f32> {
    let state = dreamc_num::stream::StreamState { seed: u64::from(seed), first_row: 0, step: 0 };
    let values: Vec<f32> = (0..n)
        .map(|i| {
            2.0 * dreamc_num::stream::uniform(state.bits(0, i as u32, dreamc_num::stream::Lane::Token)) - 1.0
        })
        .collect();
    floats(&real(dtype, &[], &values))
}

/// Runs one kernel and gives its result; asserts that the dispatch allocates nothing.
fn run(isa: Isa, threads: usize, kernel: Kernel, reads: &[Tensor], dtype: DType, dims: &[u32]) -> Tensor {
    let (mut values, mut operands, mut weights, mut arena) = (vec![], vec![], vec![], 0_u64);
    let elements: usize = dims.iter().map(|d| *d as usize).product();
    let out =
        Tensor { dtype, dims: dims.to_vec(), bytes: vec![0xff; elements * dtype.bytes()], layout: None };
    for tensor in reads.iter().chain([&out]) {
        let place = if let Some(layout) = tensor.layout {
            weights.push(WeightView { bytes: &tensor.bytes, layout, dtype: tensor.dtype });
            Place::Weight(weights.len() as u32 - 1)
        } else {
            arena += (tensor.bytes.len() as u64).next_multiple_of(64);
            Place::Arena(arena - (tensor.bytes.len() as u64).next_multiple_of(64))
        };
        let dims = tensor.dims.iter().map(|d| Dim::constant(*d)).collect();
        values.push(Value { dtype: tensor.dtype, dims, place });
        operands.push(Operand { dtype: tensor.dtype, shape: Shape::new(&tensor.dims).unwrap(), place });
    }
    let ids = (0..reads.len() as u32).map(ValueId).collect();
    let dispatch = Dispatch { kernel, reads: ids, writes: vec![ValueId(reads.len() as u32)], origin: vec![] };
    let program = Program {
        name: String::new(),
        symbols: vec![],
        values,
        inputs: vec![],
        outputs: vec![],
        steps: vec![Step::Dispatch(dispatch.clone())],
        arena_bytes: arena,
    };
    let mut device = CpuDevice::new(weights, CpuOptions { threads, isa: Some(isa), pin: vec![] }).unwrap();
    device.prepare(&program).unwrap();
    let offset = |i: usize| match operands[i].place {
        Place::Arena(offset) => Some(offset),
        Place::Weight(_) => None,
    };
    for (i, tensor) in reads.iter().chain([&out]).enumerate() {
        if let Some(offset) = offset(i) {
            device.write(offset, &tensor.bytes).unwrap();
        }
    }
    let before = ALLOCATIONS.get();
    device.dispatch(&dispatch, &operands).unwrap();
    assert_eq!(ALLOCATIONS.get(), before, "dispatch allocated");
    let mut result = out.clone();
    device.read(offset(reads.len()).unwrap(), &mut result.bytes).unwrap();
    result
}

/// Runs on every instruction set with 1, 2 and 3 threads.
fn check(kernel: &Kernel, reads: &[Tensor], dtype: DType, dims: &[u32], want: &[f64], tolerance: f64) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let one = run(isa, 1, kernel.clone(), reads, dtype, dims);
        for threads in [2, 3] {
            let more = run(isa, threads, kernel.clone(), reads, dtype, dims);
            assert!(one.bytes == more.bytes, "{isa:?}: {threads} threads differ");
        }
        for (i, (got, want)) in floats(&one).iter().zip(want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= tolerance * want.abs().max(1.0), "{isa:?} {kernel:?} {i}: {got} {want}");
        }
    }
}

fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F32 { 2e-5 } else { 1.2e-2 }
}

#[test]
fn linear() {
    for dtype in [DType::F32, DType::BF16] {
        for (m, n, k) in
            [(1, 17, 64), (5, 100, 3), (13, 1, 257), (13, 100, 257), (300, 33, 600), (5, 300, 1100)]
        {
            let x = random(dtype, m * k, 1);
            let parts = [n, 7];
            let w: Vec<Vec<f32>> = parts.iter().map(|n| random(dtype, n * k, 2 + *n as u32)).collect();
            let gain = random(DType::F32, k, 3);
            let bias = random(DType::F32, n + 7, 4);
            let residual = random(dtype, m * (n + 7), 5);
            let mut want = vec![];
            for r in 0..m {
                let x = &x[r * k..][..k];
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / k as f64;
                let scale = 1.0 / (mean + 1e-6).sqrt();
                for c in 0..n + 7 {
                    let (w, c0) = if c < n { (&w[0], c) } else { (&w[1], c - n) };
                    let sum: f64 = (0..k)
                        .map(|i| f64::from(x[i]) * scale * f64::from(gain[i]) * f64::from(w[c0 * k + i]))
                        .sum();
                    want.push(sum + f64::from(bias[c]) + f64::from(residual[r * (n + 7) + c]));
                }
            }
            let (m, k, sum) = (m as u32, k as u32, n as u32 + 7);
            let reads = [
                real(dtype, &[m, k], &x),
                real(DType::F32, &[k], &gain),
                weight(dtype, n, k as usize, &w[0]),
                weight(dtype, 7, k as usize, &w[1]),
                real(DType::F32, &[sum], &bias),
                real(dtype, &[m, sum], &residual),
            ];
            let kernel = Kernel::Linear(Linear {
                norm_eps: Some(1e-6),
                weights: 2,
                bias: true,
                residual: true,
                swiglu: false,
            });
            // The normed rows are rounded to bf16 on the way: the error grows with the root of k.
            let bound = tolerance(dtype) * if dtype == DType::BF16 { 4.0 } else { 1.0 };
            check(&kernel, &reads, dtype, &[m, sum], &want, bound);
        }
    }
}

#[test]
fn linear_swiglu() {
    for dtype in [DType::F32, DType::BF16] {
        for (m, n, k) in [(1, 17, 64), (13, 100, 257), (5, 1, 3)] {
            let (x, gate, up) = (random(dtype, m * k, 1), random(dtype, n * k, 2), random(dtype, n * k, 3));
            let dot = |w: &[f32], r: usize, c: usize| -> f64 {
                (0..k).map(|i| f64::from(x[r * k + i]) * f64::from(w[c * k + i])).sum()
            };
            let want: Vec<f64> = (0..m * n)
                .map(|i| {
                    let g = dot(&gate, i / n, i % n);
                    g / (1.0 + (-g).exp()) * dot(&up, i / n, i % n)
                })
                .collect();
            let reads = [
                real(dtype, &[m as u32, k as u32], &x),
                weight(dtype, n, k, &gate),
                weight(dtype, n, k, &up),
            ];
            let kernel = Kernel::Linear(Linear {
                norm_eps: None,
                weights: 2,
                bias: false,
                residual: false,
                swiglu: true,
            });
            check(&kernel, &reads, dtype, &[m as u32, n as u32], &want, tolerance(dtype));
        }
    }
}

#[test]
fn attention() {
    let (heads, kv_heads, d) = (4_usize, 2_usize, 20_usize);
    for dtype in [DType::F32, DType::BF16] {
        for (batch, s) in [(1_usize, 1_usize), (2, 37), (1, 150)] {
            let width = (heads + 2 * kv_heads) * d;
            let qkv = random(dtype, batch * s * width, 1);
            let angles = random(DType::F32, batch * s * d / 2, 2);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let mask: Vec<i32> = (0..batch * s).map(|i| i32::from(i < s || i % s >= 5)).collect();
            let head = |row: usize, head: usize, rotate: bool| -> Vec<f64> {
                let x: Vec<f64> = qkv[row * width + head * d..][..d].iter().map(|v| f64::from(*v)).collect();
                let angle = |j: usize| {
                    let at = row * d / 2 + j % (d / 2);
                    (f64::from(cos[at]), f64::from(sin[at]))
                };
                (0..d)
                    .map(|j| match (rotate, j < d / 2) {
                        (false, _) => x[j],
                        (true, true) => x[j] * angle(j).0 - x[j + d / 2] * angle(j).1,
                        (true, false) => x[j] * angle(j).0 + x[j - d / 2] * angle(j).1,
                    })
                    .collect()
            };
            let mut want = vec![];
            for row in 0..batch * s {
                let b = row / s;
                for h in 0..heads {
                    let q = head(row, h, true);
                    let (mut total, mut sums) = (0.0, vec![0.0; d]);
                    for j in (b * s..(b + 1) * s).filter(|j| mask[*j] != 0 && mask[row] != 0) {
                        let k = head(j, heads + h / 2, true);
                        let dot: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                        let p = (dot / (d as f64).sqrt()).exp();
                        total += p;
                        let v = head(j, heads + kv_heads + h / 2, false);
                        sums.iter_mut().zip(v).for_each(|(s, v)| *s += p * v);
                    }
                    want.extend(sums.iter().map(|v| if total > 0.0 { v / total } else { 0.0 }));
                }
            }
            let (b, s) = (batch as u32, s as u32);
            let reads = [
                real(dtype, &[b, s, width as u32], &qkv),
                ints(&[b, s], &mask),
                real(DType::F32, &[b, s, d as u32 / 2], &cos),
                real(DType::F32, &[b, s, d as u32 / 2], &sin),
            ];
            let kernel = Kernel::Attention(Attention {
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_dim: d as u32,
                packed: true,
                rope: true,
            });
            check(&kernel, &reads, dtype, &[b, s, (heads * d) as u32], &want, tolerance(dtype));
        }
    }
}

/// The worked example of the sampling rules: top-p keeps the entry that crosses the threshold.
#[test]
fn sampling_probs() {
    let logits = [2.0, 0.5, 0.0, 0.0, -1.0, -9.0];
    let reads = |top_p: f32, top_k: i32| {
        [
            real(DType::F32, &[1, 1, 6], &logits),
            Tensor { dtype: DType::Bool, dims: vec![1, 1], bytes: vec![1], layout: None },
            real(DType::F32, &[], &[0.5]),
            real(DType::F32, &[], &[top_p]),
            ints(&[], &[top_k]),
        ]
    };
    let softmax = |kept: usize| -> Vec<f64> {
        let e: Vec<f64> =
            (0..6).map(|i| if i < kept { (f64::from(logits[i]) * 2.0).exp() } else { 0.0 }).collect();
        e.iter().map(|v| v / e.iter().sum::<f64>()).collect()
    };
    // Ties at the threshold of top-k are all kept: k = 3 keeps four.
    for (top_p, top_k, kept) in [(1.0, 0, 6), (0.9, 0, 1), (0.95, 0, 2), (0.0, 3, 4), (0.95, 1, 1)] {
        let want = softmax(kept);
        check(&Kernel::SamplingProbs, &reads(top_p, top_k), DType::F32, &[1, 1, 6], &want, 1e-6);
    }
}

#[test]
fn elementwise() {
    let n = 40_000_u32;
    let (a, b) = (random(DType::F32, n as usize, 1), random(DType::F32, n as usize, 2));
    let reads = [real(DType::F32, &[n], &a), real(DType::F32, &[n], &b)];
    let of = |f: fn(f64, f64) -> f64| -> Vec<f64> {
        a.iter().zip(&b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).collect()
    };
    check(&Kernel::Add, &reads, DType::F32, &[n], &of(|a, b| a + b), 1e-6);
    check(&Kernel::Mul, &reads, DType::F32, &[n], &of(|a, b| a * b), 1e-6);
    check(&Kernel::SwiGlu, &reads, DType::F32, &[n], &of(|a, b| a / (1.0 + (-a).exp()) * b), 1e-6);
    check(&Kernel::Silu, &reads[..1], DType::F32, &[n], &of(|a, _| a / (1.0 + (-a).exp())), 1e-6);
}
