//! Once everything is prepared, running a request allocates nothing, on no thread. The only test of its process: it
//! counts what the whole process allocates.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc::compile::BuildOptions;
use dreamc_device_cpu::{CpuDevice, CpuOptions, WeightView};
use dreamc_frontend::sampler::Alg;
use dreamc_golden::Fixture;
use dreamc_golden::runners::{Built, build_options};
use dreamc_num::DType;
use dreamc_runtime::{Canvas, Device, Stepper};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// Counts what all threads allocate.
struct Counting;

#[allow(unsafe_code, reason = "a test allocator")]
// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `f` allocates.
fn allocations<R>(f: impl FnOnce() -> R) -> (usize, R) {
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    let result = f();
    (ALLOCATIONS.load(Ordering::SeqCst) - before, result)
}

const STEPS: u32 = 4;

#[test]
fn generate_allocates_nothing() {
    let (counted, _) = allocations(|| std::hint::black_box(Box::new(1_u8)));
    assert!(counted > 0, "the allocator does not count");

    let fixture = Fixture::open("sudoku-text");
    for (alg, dtype, threads) in
        [(Alg::Entropy, DType::F32, 1), (Alg::TopkMargin, DType::BF16, 2), (Alg::Origin, DType::F32, 3)]
    {
        let options = BuildOptions {
            alg,
            steps: STEPS,
            dtype,
            new_tokens: 16,
            max_prompt: 20,
            max_batch: 3,
            ..build_options(&fixture.path("checkpoint"))
        };
        let file = std::fs::read(Built::new(&options).path()).unwrap();
        let artifact = dreamc_artifact::Artifact::open(&file).unwrap();
        let view = |(i, w): (u32, &dreamc_artifact::WeightInfo)| WeightView {
            bytes: artifact.weight(i),
            layout: w.layout,
            dtype: w.dtype,
        };
        let views = (0..).zip(artifact.weights()).map(view).collect();
        let mut device = CpuDevice::new(views, CpuOptions { threads, ..CpuOptions::default() }).unwrap();
        let programs = &artifact.plan("cpu").unwrap().programs;
        let program = programs.iter().find(|p| p.name == "generate").unwrap();
        device.prepare(program).unwrap();
        let mut stepper = Stepper::new(program).unwrap();

        let token = |id: i32| id.to_le_bytes();
        for (rows, length, temperature, top_p, alg_temp) in
            [(1, 17, 0.0_f32, 1.0_f32, 0.0_f32), (3, 20, 0.7, 0.9, 0.3), (2, 3, 0.0, 1.0, 0.0)]
        {
            let prompt: Vec<Vec<i32>> =
                (0..rows).map(|row| (0..length).map(|i| 15 + (row + i) % 5).collect()).collect();
            let canvas = Canvas::for_generation(&prompt, None, &[307; 16], 307).unwrap();
            let bytes = |v: &[i32]| v.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
            let (tokens, mask, positions) =
                (bytes(&canvas.tokens), bytes(&canvas.attention_mask), bytes(&canvas.position_ids));
            let inputs: [(&str, &[u8]); 9] = [
                ("canvas", &tokens),
                ("attention_mask", &mask),
                ("position_ids", &positions),
                ("stream", &[7; 16]),
                ("temperature", &temperature.to_le_bytes()),
                ("top_p", &top_p.to_le_bytes()),
                ("top_k", &token(9)),
                ("alg_temp", &alg_temp.to_le_bytes()),
                ("eos_penalty", &1.0_f32.to_le_bytes()),
            ];
            let mut answer = vec![0; tokens.len()];
            let mut history = vec![0; tokens.len() * STEPS as usize];
            let (counted, iterations) = allocations(|| {
                stepper.resize(&[("B", rows as u32), ("S", canvas.length as u32)]).unwrap();
                for (name, bytes) in inputs {
                    stepper.write(&mut device, name, bytes).unwrap();
                }
                let iterations = stepper.run(&mut device, &mut ()).unwrap();
                stepper.read(&mut device, "canvas", &mut answer).unwrap();
                stepper.read(&mut device, "history", &mut history).unwrap();
                iterations
            });
            assert_eq!(counted, 0, "{alg:?} with {threads} threads, {rows} rows");
            assert_eq!(iterations, STEPS);
            assert_eq!(history[history.len() - answer.len()..], answer);
        }
    }
}
