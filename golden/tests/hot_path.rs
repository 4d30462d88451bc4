//! What a warm request through the crate `dream` costs beside its arithmetic: between its first dispatch and its last step
//! no allocation and no page fault; around them as many allocations as the one before, however many steps there are. The
//! only test of its process: it counts what the whole process does.
#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(target_os = "linux")]

use dream::{ActOptions, Done, Generate, Image, Model, Observation, Observer, OpenOptions, Policy, Sampling};
use dreamc::compile::{BuildOptions, Entry};
use dreamc_artifact::Artifact;
use dreamc_artifact::plan::Dispatch;
use dreamc_device_cpu::{CpuDevice, CpuOptions, WeightView};
use dreamc_frontend::sampler::Alg;
use dreamc_golden::Fixture;
use dreamc_golden::runners::{Built, build_options};
use dreamc_golden::tabletop::Trained;
use dreamc_num::DType;
use dreamc_runtime::{Device, Stepper};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

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

    // By itself it would write the zeros, and so touch all pages.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// Page faults of this process so far, minor and major, read without an allocation.
struct Faults(File);

impl Faults {
    fn new() -> Faults {
        Faults(File::open("/proc/self/stat").unwrap())
    }

    fn now(&self) -> [u64; 2] {
        let mut bytes = [0; 1024];
        let len = self.0.read_at(&mut bytes, 0).unwrap();
        let text = std::str::from_utf8(&bytes[..len]).unwrap();
        let mut fields = text.rsplit_once(')').unwrap().1.split_whitespace().skip(7);
        let minor = fields.next().unwrap().parse().unwrap();
        [minor, fields.nth(1).unwrap().parse().unwrap()]
    }
}

/// Notes what happens from before the first dispatch to behind the last step.
struct Watch {
    faults: Faults,
    first: Option<(u64, [u64; 2])>,
    last: (u64, [u64; 2]),
}

impl Watch {
    fn new() -> Watch {
        Watch { faults: Faults::new(), first: None, last: (0, [0; 2]) }
    }

    fn now(&self) -> (u64, [u64; 2]) {
        (allocations(), self.faults.now())
    }
}

impl Observer for Watch {
    fn times(&self) -> bool {
        true
    }

    fn before(&mut self, _: &Dispatch) {
        if self.first.is_none() {
            self.first = Some(self.now());
        }
    }

    fn done(&mut self, _: Done<'_>) {
        self.last.0 = allocations();
    }

    fn step(&mut self, _: u32, _: u32) -> bool {
        self.last = self.now();
        true
    }
}

/// Serves the same request again and again; how often a warm one allocates.
fn judge(what: &str, mut serve: impl FnMut(&mut Watch)) -> u64 {
    let mut least = [u64::MAX; 2];
    let mut counts = Vec::new();
    for call in 0..6 {
        let mut watch = Watch::new();
        let before = allocations();
        serve(&mut watch);
        counts.push(allocations() - before);
        let ((allocated, [minor, major]), (in_all, [all_minor, all_major])) =
            (watch.first.unwrap(), watch.last);
        // Without exception, the first time included.
        assert_eq!(in_all - allocated, 0, "{what}: call {call} allocates between its steps");
        if call > 0 {
            least = [least[0].min(all_minor - minor), least[1].min(all_major - major)];
        }
    }
    // The system may take a page away and give it back at any time: not in each of five calls.
    assert_eq!(least, [0; 2], "{what}: every warm call meets page faults between its steps");
    let warm = counts[1];
    assert!(counts[1..].iter().all(|n| *n == warm), "{what}: {counts:?} allocations");
    eprintln!("{what}: {warm} allocations around the steps");
    warm
}

fn sudoku(steps: u32, dtype: DType, max_batch: u32) -> Built {
    let fixture = Fixture::open("sudoku-text");
    Built::new(&BuildOptions {
        alg: Alg::Entropy,
        steps,
        dtype,
        new_tokens: 16,
        max_prompt: 320,
        max_batch,
        entries: vec![Entry::Generate],
        ..build_options(&fixture.path("checkpoint"))
    })
}

#[test]
fn warm_requests() {
    assert!(allocations() > 0, "the allocator does not count");
    generate();
    act();
    prefault();
    lock();
}

fn generate() {
    let counts: Vec<u64> = [(4, DType::F32), (16, DType::F32), (16, DType::BF16)]
        .into_iter()
        .map(|(steps, dtype)| {
            let mut model = sudoku(steps, dtype, 2).open(2, None);
            let prompt = (0..2).map(|row| (0..40).map(|i| 15 + (row + i) % 5).collect()).collect();
            let sampling = Sampling { temperature: 0.7, seed: 3, ..Sampling::default() };
            let request = Generate { prompt, sampling, ..Generate::default() };
            judge(&format!("generate in {steps} steps, {dtype}"), |watch| {
                model.generate_with(&request, watch).unwrap();
            })
        })
        .collect();
    assert_eq!(counts[0], counts[1], "more steps allocate more");
}

fn act() {
    let frame = Trained::open("tabletop-vla").fixture.path("frames/seed_0.png");
    let images = [Image::open(&frame).unwrap()];
    for (name, steps) in [("tabletop-vla", 4), ("tabletop-vla-flow", 4), ("tabletop-vla-l1", 1)] {
        let artifact = Trained::open(name).build(steps, DType::BF16, &[Entry::Act]);
        let options = OpenOptions { threads: 2, ..OpenOptions::default() };
        let mut policy = Policy::open(&artifact.path(), &options).unwrap();
        let state = policy.settings().proprio_dim.map(|_| [69.0, 72.0]);
        let proprio = state.as_ref().map(<[f64; 2]>::as_slice);
        let observation = Observation { images: &images, task: "pick up the blue block", proprio };
        judge(name, |watch| {
            policy.act_with(&observation, &ActOptions::default(), watch).unwrap();
        });
    }
}

/// With memory touched beforehand a longer request finds all its pages, though only a short one came before.
fn prefault() {
    // So much that it is new from the system, and no memory that somebody had before.
    const FRESH_BYTES: u64 = 40 << 20;
    let file = std::fs::read(sudoku(2, DType::F32, 64).path()).unwrap();
    let artifact = Artifact::open(&file).unwrap();
    let program = &artifact.plan("cpu").unwrap().programs[0];
    assert!(program.arena_bytes > FRESH_BYTES, "{} bytes of arena", program.arena_bytes);
    let faults = Faults::new();
    let of_longer = |prefault| {
        let view = |(i, w): (u32, &dreamc_artifact::WeightInfo)| WeightView {
            bytes: artifact.weight(i),
            layout: w.layout,
            dtype: w.dtype,
        };
        let views = (0..).zip(artifact.weights()).map(view).collect();
        let mut device =
            CpuDevice::new(views, CpuOptions { threads: 2, prefault, ..CpuOptions::default() }).unwrap();
        device.prepare(program).unwrap();
        let mut stepper = Stepper::new(program).unwrap();
        let mut run = |rows: u32, length: u32| {
            stepper.resize(&[("B", rows), ("S", length), ("K", 1)]).unwrap();
            let zeros = vec![0; (4 * rows * length) as usize];
            let ones: Vec<u8> = (0..rows * length).flat_map(|_| 1_i32.to_le_bytes()).collect();
            for name in ["canvas", "position_ids"] {
                stepper.write(&mut device, name, &zeros).unwrap();
            }
            stepper.write(&mut device, "attention_mask", &ones).unwrap();
            let before = faults.now();
            stepper.run(&mut device, &mut ()).unwrap();
            faults.now()[0] - before[0]
        };
        run(1, 17);
        run(2, 336)
    };
    let [without, with] = [false, true].map(|prefault| (0..4).map(|_| of_longer(prefault)).min().unwrap());
    eprintln!("page faults of a first longer request: {without}, or {with} where memory was touched");
    assert_eq!(with, 0, "of {without} without");
}

/// The whole file is locked, which brings all its pages in.
fn lock() {
    let built = sudoku(2, DType::F32, 2);
    let locked = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().trim().to_owned();
        line.strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    };
    let options = OpenOptions { threads: 2, lock_weights: true, ..OpenOptions::default() };
    match Model::open(&built.path(), &options) {
        Ok(mut model) => {
            assert!(locked() >= std::fs::metadata(built.path()).unwrap().len());
            assert_eq!(missing_bytes(&built.path()), 0, "pages of the file are not resident");
            let request = Generate { prompt: vec![vec![15; 300]], ..Generate::default() };
            judge("locked", |watch| {
                model.generate_with(&request, watch).unwrap();
            });
        }
        Err(error @ dream::Error::Lock { .. }) => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
}

/// Bytes of the file's map that are not resident.
fn missing_bytes(file: &Path) -> u64 {
    let name = file.canonicalize().unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(name.to_str().unwrap()));
    let mut field = |name: &str| {
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    };
    let size = field("Size:");
    size - field("Rss:")
}
