//! The path of CUDA and ROCm without a GPU: the artifact's own kernels run on an emulated driver, and the fixtures are
//! judged as everywhere else.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "the driver's log is read")]

use dream::DeviceKind::{self, Cuda, Rocm};
use dream::{
    ActOptions, Actions, DeviceChoice, Error, Forward, Generate, Image, Model, Observation, OpenOptions,
    Policy, Sampling,
};
use dreamc::compile::{BuildOptions, Entry};
use dreamc_frontend::vla::Mode;
use dreamc_golden::emulator::Emulator;
use dreamc_golden::fixture::rows;
use dreamc_golden::not_finite::{FIRST_NORM, LAST_NORM, Spoiled, judge_act, judge_places, judge_text};
use dreamc_golden::runners::{Built, Compiled, CompiledPolicy, Place, build_options};
use dreamc_golden::tabletop::Trained;
use dreamc_golden::vla::{HeadFiles, judge_predict};
use dreamc_golden::{Fixture, text, vl};
use dreamc_num::DType;
use dreamc_runtime::{DeviceError, Memory, Size};
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::sync::LazyLock;

static EMULATOR: LazyLock<Emulator> = LazyLock::new(|| Emulator::new(Path::new(env!("CARGO_TARGET_TMPDIR"))));

#[test]
fn text_forward_on_cuda() {
    text::judge_forward(&|options| Compiled::emulated(&EMULATOR, Cuda, options));
}

#[test]
fn text_forward_on_rocm() {
    text::judge_forward(&|options| Compiled::emulated(&EMULATOR, Rocm, options));
}

#[test]
fn text_sampling_on_cuda() {
    text::judge_sampling(&|options| Compiled::emulated(&EMULATOR, Cuda, options));
}

#[test]
fn text_sampling_on_rocm() {
    text::judge_sampling(&|options| Compiled::emulated(&EMULATOR, Rocm, options));
}

#[test]
fn vision_on_cuda() {
    vl::judge_vision(&|options| Compiled::emulated(&EMULATOR, Cuda, options), false);
}

#[test]
fn vl_forward_on_cuda() {
    vl::judge_forward(&|options| Compiled::emulated(&EMULATOR, Cuda, options), false);
}

#[test]
fn vl_sampling_on_cuda() {
    vl::judge_sampling(&|options| Compiled::emulated(&EMULATOR, Cuda, options));
}

/// Heads, the robot's state and loops from noise. Modes that give tokens would add minutes: a vocabulary of 152064.
#[test]
fn heads_on_cuda() {
    let make = |options: &_| CompiledPolicy::emulated(&EMULATOR, Cuda, options);
    judge_predict(&[Mode::L1, Mode::Flow, Mode::Ddim], HeadFiles::Safetensors, &make, true);
}

#[test]
fn heads_on_rocm() {
    let make = |options: &_| CompiledPolicy::emulated(&EMULATOR, Rocm, options);
    judge_predict(&[Mode::L1], HeadFiles::Safetensors, &make, true);
}

/// NaN ends a request on GPUs as well, recorded runs included.
#[test]
fn not_finite_on_cuda_and_rocm() {
    let spoiled = Spoiled { tensor: LAST_NORM, dtype: DType::BF16, quant: None };
    let [cuda, rocm] = [Cuda, Rocm].map(|kind| Place::Emulated(&EMULATOR, kind));
    judge_places(cuda);
    judge_act(cuda, "tabletop-vla", Mode::Discrete, 2, &spoiled);
    judge_act(cuda, "tabletop-vla-flow", Mode::Flow, 2, &spoiled);
    judge_text(cuda, &Spoiled { tensor: FIRST_NORM, ..spoiled.clone() });
    judge_text(rocm, &spoiled);
    judge_act(rocm, "tabletop-vla", Mode::OneStep, 1, &spoiled);
    judge_act(rocm, "tabletop-vla-l1", Mode::L1, 1, &spoiled);
}

fn text_options() -> BuildOptions {
    BuildOptions { steps: 3, ..build_options(&Fixture::open("tiny-text").path("checkpoint")) }
}

fn request(length: usize) -> Forward {
    let row: Vec<i32> = (0..length as i32).map(|i| 7 + 31 * i % 400).collect();
    Forward { input_ids: vec![row], ..Forward::default() }
}

/// Logits of a request that nobody watches.
fn logits(model: &mut Model, request: &Forward) -> Vec<f32> {
    model.forward(request, &[]).unwrap().remove(0).data
}

/// What the driver of a build has done so far that begins with one of these words.
fn log(built: &Built, words: &[&str]) -> Vec<String> {
    // SAFETY: the stub has no initialisers, and is the one that the model has open; the text is copied before any call
    // that could change it.
    let text = unsafe {
        let library = libloading::Library::new(built.driver()).unwrap();
        let log = library.get::<unsafe extern "C" fn() -> *const c_char>("stub_log").unwrap();
        CStr::from_ptr(log()).to_str().unwrap().to_owned()
    };
    let kept = text.lines().filter(|line| words.contains(&line.split(' ').next().unwrap_or_default()));
    kept.map(str::to_owned).collect()
}

fn replays(kind: DeviceKind) {
    let built = Built::emulated(&EMULATOR, kind, &text_options());
    let mut model = built.open_emulated(kind);
    let about = if kind == Cuda { "cuda, Stub 0 (sm_80)" } else { "rocm, Stub 0 (gfx942)" };
    assert_eq!(model.device(), Some(about));
    let run = |model: &mut Model, length| {
        let found = logits(model, &request(length));
        // A recording is run at once; the log goes on from there.
        (found, log(&built, &["instantiate", "run", "MISUSE"]))
    };
    let (first, done) = run(&mut model, 5);
    assert_eq!(done, ["instantiate g0 x0", "run x0"]);
    let (again, done) = run(&mut model, 5);
    assert!(first == again, "another answer");
    assert_eq!(done[2..], ["run x0"]);
    let (_, done) = run(&mut model, 9);
    assert_eq!(done[3..], ["instantiate g1 x1", "run x1"]);
    let (last, done) = run(&mut model, 5);
    assert!(first == last, "another answer");
    assert_eq!(done[5..], ["run x0"]);

    // A loop is recorded as a whole, and does what it does step by step.
    let prompt = vec![vec![11, 12, 13, 14]];
    let sampling = Sampling { temperature: 0.7, seed: 5, ..Sampling::default() };
    let request = Generate { prompt, sampling, ..Generate::default() };
    let watched = model.generate(&request, &mut |_, _| true).unwrap();
    for done in [&["instantiate g2 x2", "run x2"] as &[&str], &["run x2"]] {
        let before = log(&built, &["instantiate", "run", "MISUSE"]).len();
        let recorded = model.generate_with(&request, &mut ()).unwrap();
        assert_eq!(recorded.sequences, watched.sequences);
        assert_eq!(log(&built, &["instantiate", "run", "MISUSE"])[before..], *done);
    }
}

/// The second run of some lengths is a recording of the first, and gives the same bytes.
#[test]
fn replays_on_cuda() {
    replays(Cuda);
}

#[test]
fn replays_on_rocm() {
    replays(Rocm);
}

/// bf16 is computed with as it is: the answers lie in the direction of those in f32.
#[test]
fn bf16_on_cuda() {
    let fixture = Fixture::open("tiny-text");
    let options = BuildOptions { dtype: DType::BF16, max_prompt: 20, ..text_options() };
    let built = Built::emulated(&EMULATOR, Cuda, &options);
    assert!(
        built
            .open_emulated(Cuda)
            .artifact()
            .code("cuda:sm_80")
            .unwrap()
            .modules
            .iter()
            .any(|module| { module.name.starts_with("bf16_attention") })
    );
    let mut model = built.open_emulated(Cuda);
    let mut judged = 0;
    for case in fixture.cases("forward_cases") {
        let golden = |name: &str| fixture.find(&format!("forward/{case}/{name}"));
        let ids = rows(&golden("input_ids").unwrap());
        let mask = golden("attention_mask").map(|m| rows(&m));
        let wanted = golden("logits").unwrap();
        let counts = |row: usize| mask.as_ref().is_none_or(|mask| mask.concat()[row] == 1);
        let request = Forward { input_ids: ids, attention_mask: mask.clone(), ..Forward::default() };
        let found = logits(&mut model, &request);
        let rows = found.chunks(wanted.columns()).zip(wanted.floats().chunks(wanted.columns()));
        for (row, (found, wanted)) in rows.enumerate().filter(|(row, _)| counts(*row)) {
            let near = cosine(found, wanted);
            assert!(near > 0.999, "{case}: row {row} has a cosine of {near}");
            judged += 1;
        }
    }
    assert!(judged > 20, "{judged} rows judged");
}

/// Rows enough for warpgroups: Hopper's answers are those of warps, but for the order of sums.
#[test]
fn rows_by_warpgroups() {
    let options = BuildOptions { dtype: DType::BF16, max_prompt: 20, max_batch: 6, ..text_options() };
    let ampere = Built::emulated(&EMULATOR, Cuda, &options);
    let hopper = Built::emulated_as(&EMULATOR, Cuda, ("cuda:sm_90a", 90), &options);
    let mut model = hopper.open_emulated(Cuda);
    assert_eq!(model.device(), Some("cuda, Stub 0 (sm_90)"));
    let row = |first: i32| (0..20).map(|i| 7 + (first + 31 * i) % 400).collect();
    let request = Forward { input_ids: (0..6).map(row).collect(), ..Forward::default() };
    let found = logits(&mut model, &request);
    // Of a run that is recorded, launches are indented.
    let launched = log(&hopper, &["", "launch"]);
    assert!(launched.iter().any(|line| line.contains("wgmma")), "{launched:?}");
    let wanted = logits(&mut ampere.open_emulated(Cuda), &request);
    assert_eq!(found.len(), wanted.len());
    for (row, (found, wanted)) in found.chunks(512).zip(wanted.chunks(512)).enumerate() {
        let near = cosine(found, wanted);
        assert!(near > 0.999, "row {row} has a cosine of {near}");
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Opens a build on the emulated device of another's driver, or its own.
fn open_on(built: &Built, kind: DeviceKind, driver: &Built, warm: Option<Vec<u32>>) -> Result<Model, Error> {
    let device = DeviceChoice::Only(kind);
    let options = OpenOptions { device, driver: Some(driver.driver()), warm, ..OpenOptions::default() };
    Model::open(&built.path(), &options)
}

/// What a driver records and runs.
const RECORDED: [&str; 6] = ["launch", "end", "instantiate", "upload", "run", "MISUSE"];

fn four_tokens(sampling: Sampling) -> Generate {
    Generate { prompt: vec![vec![11, 12, 13, 14]], sampling, ..Generate::default() }
}

/// Lengths that the file or who opens it names are recorded when it is opened, and not run: the first request of that
/// length is a replay, and its answer is that of a model that was not warmed.
#[test]
fn warmed_on_cuda() {
    let options = BuildOptions { entries: vec![Entry::Generate], warm: vec![4, 7], ..text_options() };
    let built = Built::emulated(&EMULATOR, Cuda, &options);
    let done = || log(&built, &RECORDED);
    let open = |warm| open_on(&built, Cuda, &built, warm);
    let mut cold = open(Some(vec![])).unwrap();
    let wanted = cold.generate_with(&four_tokens(Sampling::default()), &mut ()).unwrap();
    drop(cold);
    let before = done().len();
    let mut model = open(None).unwrap();
    let count =
        |lines: &[String]| lines.iter().filter(|line| !line.starts_with("end")).cloned().collect::<Vec<_>>();
    let warmed = ["instantiate g1 x1", "upload x1", "instantiate g2 x2", "upload x2"];
    assert_eq!(count(&done()[before..]), warmed);
    let before = done().len();
    let found = model.generate_with(&four_tokens(Sampling::default()), &mut ()).unwrap();
    assert_eq!(found, wanted);
    assert_eq!(count(&done()[before..]), ["run x1"]);
    // Where something is drawn, no step is left out: another run.
    let drawn = Sampling { temperature: 0.7, seed: 5, ..Sampling::default() };
    let before = done().len();
    model.generate_with(&four_tokens(drawn), &mut ()).unwrap();
    assert_eq!(count(&done()[before..]), ["instantiate g3 x3", "run x3"]);
    drop(model);
    let refused = |warm| open(Some(warm)).err().expect("an error").to_string();
    assert_eq!(refused(vec![3, 0]), "`warm` (--warm) has a prompt of 0 tokens; give 1 to 12");
    let said = "`warm` (--warm) has a prompt of 13 tokens; give 1 to 12, or build with --max-prompt 13";
    assert_eq!(refused(vec![13]), said);
    let said = "`warm` (--warm) has 9 lengths; a device keeps the runs of 8, so give at most as many";
    assert_eq!(refused(vec![1; 9]), said);
}

/// What a robot's camera sees, for policies of the tabletop.
fn seen() -> Image {
    Image::from_rgb8(112, 112, (0..112 * 112 * 3).map(|i| (i % 251) as u8).collect()).unwrap()
}

fn act(policy: &mut Policy, image: &Image) -> Actions {
    let state = vec![0.1; policy.settings().proprio_dim.unwrap_or(0) as usize];
    let observation = Observation {
        images: std::slice::from_ref(image),
        task: "pick up the red block",
        proprio: (!state.is_empty()).then_some(&state),
    };
    policy.act(&observation, &ActOptions::default()).unwrap()
}

fn tabletop(name: &str, steps: u32) -> BuildOptions {
    Trained::open(name).options(steps, DType::BF16, &[Entry::Act])
}

/// Actions are replayed from the second on, and from the first on where the length was named.
#[test]
fn policies_are_warmed_on_cuda_and_rocm() {
    for (kind, name, steps) in [(Cuda, "tabletop-vla", 2), (Rocm, "tabletop-vla-l1", 1)] {
        let built = Built::emulated(&EMULATOR, kind, &tabletop(name, steps));
        let done = || log(&built, &["instantiate", "run", "MISUSE"]);
        let image = seen();
        let mut policy = Policy::of(open_on(&built, kind, &built, None).unwrap()).unwrap();
        let first = act(&mut policy, &image);
        assert_eq!(done(), ["instantiate g0 x0", "run x0"]);
        assert_eq!(act(&mut policy, &image), first);
        assert_eq!(done()[2..], ["run x0"]);
        let state = vec![0.0; policy.settings().proprio_dim.unwrap_or(0) as usize];
        let observation = Observation {
            images: std::slice::from_ref(&image),
            task: "pick up the red block",
            proprio: (!state.is_empty()).then_some(&state),
        };
        let tokens = policy.prompt_tokens(&observation).unwrap() as u32;
        drop(policy);
        let model = open_on(&built, kind, &built, Some(vec![tokens])).unwrap();
        assert_eq!(done()[3..], ["instantiate g1 x1"]);
        let mut policy = Policy::of(model).unwrap();
        assert_eq!(act(&mut policy, &image), first);
        assert_eq!(done()[4..], ["run x1"], "{name}");
    }
}

/// Two artifacts on one GPU, in turns and from two threads, answer what each answers alone.
#[test]
fn two_artifacts_on_one_gpu() {
    let text = Built::emulated(&EMULATOR, Cuda, &text_options());
    let robot = Built::emulated(&EMULATOR, Cuda, &tabletop("tabletop-vla", 1));
    let image = seen();
    let lengths = [5, 9];
    let alone: Vec<Vec<f32>> = {
        let mut model = open_on(&text, Cuda, &text, None).unwrap();
        lengths.iter().map(|length| logits(&mut model, &request(*length))).collect()
    };
    let chunk = act(&mut Policy::of(open_on(&robot, Cuda, &robot, None).unwrap()).unwrap(), &image);
    // Both on the driver of the first.
    let mut model = open_on(&text, Cuda, &text, None).unwrap();
    let mut policy = Policy::of(open_on(&robot, Cuda, &text, None).unwrap()).unwrap();
    for (length, alone) in lengths.iter().zip(&alone) {
        assert!(logits(&mut model, &request(*length)) == *alone, "{length} tokens in turns");
        assert_eq!(act(&mut policy, &image), chunk);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (length, alone) in lengths.iter().zip(&alone) {
                assert!(logits(&mut model, &request(*length)) == *alone, "{length} tokens beside actions");
            }
        });
        scope.spawn(|| (0..2).for_each(|_| assert_eq!(act(&mut policy, &image), chunk)));
    });
    drop(policy);
    assert!(logits(&mut model, &request(9)) == alone[1], "after the other has gone");
    drop(model);
    assert_eq!((number(&text, "stub_live"), number(&text, "stub_wrong")), (0, 0));
}

/// Something that a driver counts.
fn number(built: &Built, name: &str) -> i32 {
    // SAFETY: as for the log; the stub has these functions.
    unsafe {
        let library = libloading::Library::new(built.driver()).unwrap();
        library.get::<unsafe extern "C" fn() -> i32>(name.as_bytes()).unwrap()()
    }
}

/// Gives the device of a driver so many bytes of memory.
fn give_memory(built: &Built, bytes: u64) {
    // SAFETY: as above.
    unsafe {
        let library = libloading::Library::new(built.driver()).unwrap();
        library.get::<unsafe extern "C" fn(u64)>(b"stub_memory").unwrap()(bytes);
    }
}

/// Memory that does not do is said with what is missing and what would fit; nothing stays, and with enough the next try is
/// well.
#[test]
fn short_memory_on_cuda() {
    let options = BuildOptions {
        entries: vec![Entry::Generate],
        max_batch: 8,
        max_prompt: 200,
        dtype: DType::BF16,
        warm: vec![4],
        ..text_options()
    };
    let built = Built::emulated(&EMULATOR, Cuda, &options);
    // Keeps the library, and what is set in it.
    // SAFETY: as above.
    let _library = unsafe { libloading::Library::new(built.driver()).unwrap() };
    let Memory { weights, arena, .. } = short_of(&built, 0).0;
    let (memory, said) = short_of(&built, weights + arena / 2);
    let Memory { free, total, .. } = memory;
    assert_eq!((free, total), (weights + arena / 2, weights + arena / 2));
    assert!(said.starts_with("the device cannot be set up: out of memory of the device: "), "{said}");
    assert!(said.contains(&format!("so {} are missing; ", Size(memory.missing()))), "{said}");
    assert!(said.contains("by estimate a build with `--max-batch 1` (about "), "{said}");
    let prompt = said.split("`--max-prompt ").nth(1).unwrap().split('`').next().unwrap();
    let prompt: u32 = prompt.parse().unwrap();
    assert!((64..200).contains(&prompt), "{said}");
    // Not the half of the weights: no option but all of them.
    let (_, said) = short_of(&built, weights / 2);
    assert!(said.contains("not even a build with `--quant fp8 --max-batch 1` (about "), "{said}");
    assert!(said.ends_with("take a device with more memory"), "{said}");
    give_memory(&built, weights + arena);
    let mut model = open_on(&built, Cuda, &built, None).unwrap();
    model.generate_with(&four_tokens(Sampling::default()), &mut ()).unwrap();
    drop(model);
    assert_eq!((number(&built, "stub_live"), number(&built, "stub_wrong")), (0, 0));
    // What was proposed fits by less than a tenth.
    let smaller = BuildOptions { max_prompt: prompt, warm: vec![4], ..options };
    let smaller = Built::emulated(&EMULATOR, Cuda, &smaller);
    // SAFETY: as above.
    let _library = unsafe { libloading::Library::new(smaller.driver()).unwrap() };
    let there = weights + arena / 2;
    give_memory(&smaller, there + there / 10);
    open_on(&smaller, Cuda, &smaller, None).unwrap();
}

/// The error of opening with so much memory, of which nothing stays.
fn short_of(built: &Built, bytes: u64) -> (Memory, String) {
    give_memory(built, bytes);
    let refused = open_on(built, Cuda, built, None).err().expect("an error");
    assert_eq!((number(built, "stub_live"), number(built, "stub_wrong")), (0, 0));
    let said = refused.to_string();
    match refused {
        Error::DeviceMemory { error: DeviceError::OutOfDeviceMemory { memory }, .. } => (memory, said),
        other => panic!("{other}"),
    }
}
