//! Once everything is prepared, running a request allocates nothing, on no thread. The only test of its process: it
//! counts what the whole process allocates.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc::compile::{ActOptions, BuildOptions, Entry};
use dreamc_device_cpu::{CpuDevice, CpuOptions, WeightView};
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_golden::Fixture;
use dreamc_golden::runners::{Built, build_options};
use dreamc_golden::vla::{HeadFiles, checkpoint};
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

/// Makes a device ready for a program of an artifact, and hands both over.
fn prepared(
    options: &BuildOptions,
    threads: usize,
    name: &str,
    run: impl Fn(&mut Stepper, &mut CpuDevice<'_>),
) {
    let file = std::fs::read(Built::new(options).path()).unwrap();
    let artifact = dreamc_artifact::Artifact::open(&file).unwrap();
    let view = |(i, w): (u32, &dreamc_artifact::WeightInfo)| WeightView {
        bytes: artifact.weight(i),
        layout: w.layout,
        dtype: w.dtype,
    };
    let views = (0..).zip(artifact.weights()).map(view).collect();
    let mut device = CpuDevice::new(views, CpuOptions { threads, ..CpuOptions::default() }).unwrap();
    let programs = &artifact.plan("cpu").unwrap().programs;
    let program = programs.iter().find(|p| p.name == name).unwrap();
    device.prepare(program).unwrap();
    run(&mut Stepper::new(program).unwrap(), &mut device);
}

#[test]
fn running_allocates_nothing() {
    let (counted, _) = allocations(|| std::hint::black_box(Box::new(1_u8)));
    assert!(counted > 0, "the allocator does not count");
    generate();
    act();
}

fn generate() {
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
        prepared(&options, threads, "generate", |stepper, device| {
            for (rows, length, temperature, top_p, alg_temp, joint) in
                [(1, 17, 0.0_f32, 1.0_f32, 0.0_f32, 0), (3, 20, 0.7, 0.9, 0.3, 1), (2, 3, 0.0, 1.0, 0.0, 0)]
            {
                let prompt: Vec<Vec<i32>> =
                    (0..rows).map(|row| (0..length).map(|i| 15 + (row + i) % 5).collect()).collect();
                let canvas = Canvas::for_generation(&prompt, None, &[307; 16], 307).unwrap();
                let (tokens, mask, positions) =
                    (bytes(&canvas.tokens), bytes(&canvas.attention_mask), bytes(&canvas.position_ids));
                let inputs: [(&str, &[u8]); 10] = [
                    ("canvas", &tokens),
                    ("attention_mask", &mask),
                    ("position_ids", &positions),
                    ("stream", &[7; 16]),
                    ("temperature", &temperature.to_le_bytes()),
                    ("top_p", &top_p.to_le_bytes()),
                    ("top_k", &9_i32.to_le_bytes()),
                    ("alg_temp", &alg_temp.to_le_bytes()),
                    ("eos_penalty", &1.0_f32.to_le_bytes()),
                    ("joint", &i32::to_le_bytes(joint)),
                ];
                let mut answer = vec![0; tokens.len()];
                let mut history = vec![0; tokens.len() * STEPS as usize];
                let (counted, iterations) = allocations(|| {
                    stepper.resize(&[("B", rows as u32), ("S", canvas.length as u32)]).unwrap();
                    for (name, bytes) in inputs {
                        stepper.write(device, name, bytes).unwrap();
                    }
                    let iterations = stepper.run(device, &mut ()).unwrap();
                    stepper.read(device, "canvas", &mut answer).unwrap();
                    stepper.read(device, "history", &mut history).unwrap();
                    iterations
                });
                assert_eq!(counted, 0, "{alg:?} with {threads} threads, {rows} rows");
                assert_eq!(iterations, STEPS);
                assert_eq!(history[history.len() - answer.len()..], answer);
            }
        });
    }
}

/// Flow matching with an image of four patches and the robot's state.
fn act() {
    const PROMPT: usize = 9;
    const SLOTS: usize = 56;
    let fixture = Fixture::open("tiny-vla");
    let folder = checkpoint(&fixture, &["flow_matching", "proprio"], HeadFiles::Archives);
    let act = ActOptions {
        mode: Mode::Flow,
        proprio: true,
        unnorm_key: Some("libero_tiny".to_owned()),
        ..ActOptions::default()
    };
    let options = BuildOptions {
        steps: STEPS,
        max_batch: 1,
        entries: vec![Entry::Act],
        act,
        ..build_options(folder.path())
    };
    prepared(&options, 2, "act", |stepper, device| {
        let length = PROMPT + SLOTS + 2;
        // Rows of the state and of the time stand before the prompt.
        let places: Vec<i32> = (0..length as i32 + 2).collect();
        let index = |first: usize, count: usize| -> Vec<i32> {
            let place = |p: usize| p.checked_sub(first).filter(|i| *i < count).map_or(-1, |i| i as i32);
            (0..length).map(place).collect()
        };
        let rows: Vec<i32> = (0..SLOTS).map(|slot| (slot + PROMPT + 1) as i32).collect();
        let floats = |n: usize| (0..n).flat_map(|i| (i as f32 / n as f32).to_le_bytes()).collect::<Vec<u8>>();
        let inputs: [(&str, Vec<u8>); 11] = [
            ("input_ids", bytes(&vec![151_667; length])),
            ("noise", floats(SLOTS)),
            ("attention_mask", bytes(&vec![1; places.len()])),
            ("position_ids", bytes(&places)),
            ("slot_index", bytes(&index(PROMPT, SLOTS))),
            ("action_rows", bytes(&rows)),
            ("image_index", bytes(&index(3, 1))),
            ("pixel_values", floats(4 * 1176)),
            ("patch_segments", bytes(&[1; 4])),
            ("patch_positions", bytes(&[0, 0, 1, 1, 0, 1, 0, 1])),
            ("proprio", floats(8)),
        ];
        let mut actions = vec![0; 4 * SLOTS];
        let (counted, iterations) = allocations(|| {
            stepper.resize(&[("B", 1), ("S", length as u32), ("M", 1)]).unwrap();
            for (name, bytes) in &inputs {
                stepper.write(device, name, bytes).unwrap();
            }
            let iterations = stepper.run(device, &mut ()).unwrap();
            stepper.read(device, "normalized_actions", &mut actions).unwrap();
            iterations
        });
        assert_eq!((counted, iterations), (0, STEPS));
        assert!(actions.iter().any(|byte| *byte != 0));
    });
}

fn bytes(ints: &[i32]) -> Vec<u8> {
    ints.iter().flat_map(|n| n.to_le_bytes()).collect()
}
