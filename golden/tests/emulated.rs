//! The path of CUDA and ROCm without a GPU: the artifact's own kernels run on an emulated driver, and the fixtures are
//! judged as everywhere else.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "the driver's log is read")]

use dream::DeviceKind::{self, Cuda, Rocm};
use dream::{Forward, Generate, Model, Sampling};
use dreamc::compile::BuildOptions;
use dreamc_frontend::vla::Mode;
use dreamc_golden::emulator::Emulator;
use dreamc_golden::fixture::rows;
use dreamc_golden::not_finite::{FIRST_NORM, LAST_NORM, Spoiled, judge_act, judge_places, judge_text};
use dreamc_golden::runners::{Built, Compiled, CompiledPolicy, Place, build_options};
use dreamc_golden::vla::{HeadFiles, judge_predict};
use dreamc_golden::{Fixture, text, vl};
use dreamc_num::DType;
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

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
