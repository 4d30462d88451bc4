//! The functions as C calls them, given what they must refuse.
#![allow(unsafe_code, reason = "calls from the other side of the boundary")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "all are calls that keep the rules of the header but for one"
)]

use crate::calls::*;
use crate::failure::{Failure, call};
use crate::handles;
use crate::types::*;
use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use tempfile::TempDir;

const SIDE: u32 = 112;
/// Numbers of a chunk: 5 actions of 7.
const SLOTS: usize = 35;

/// Artifacts, each built once.
struct Files {
    folder: TempDir,
}

impl Files {
    fn get() -> &'static Files {
        static FILES: OnceLock<Files> = OnceLock::new();
        FILES.get_or_init(|| {
            let folder = TempDir::new().unwrap();
            dreamc_golden::trained::tabletop(&folder.path().join("tabletop"));
            dreamc_golden::trained::tabletop_flow(&folder.path().join("flow"));
            dreamc_golden::trained::sudoku(&folder.path().join("sudoku"));
            Files { folder }
        })
    }

    fn path(name: &str) -> PathBuf {
        Files::get().folder.path().join(name)
    }
}

/// A handle that is closed at the end.
struct Open(*mut Model);

impl Open {
    fn new(name: &str) -> Open {
        let (status, handle) = open(&Files::path(name));
        assert_eq!(status, Status::Ok, "{}", error());
        Open(handle)
    }

    fn info(&self) -> Info {
        let mut info = Info { size: size_of::<Info>(), ..zero() };
        assert_eq!(unsafe { dream_describe(self.0, &mut info) }, Status::Ok, "{}", error());
        info
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        assert_eq!(unsafe { dream_close(self.0) }, Status::Ok);
    }
}

fn zero<T: Copy>() -> T {
    // SAFETY: used for structs of numbers and pointers.
    unsafe { std::mem::zeroed() }
}

fn open(path: &Path) -> (Status, *mut Model) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let mut handle = null_mut();
    (unsafe { dream_open(path.as_ptr(), null(), &mut handle) }, handle)
}

fn open_memory(bytes: &[u8]) -> (Status, *mut Model) {
    let mut handle = null_mut();
    (unsafe { dream_open_memory(bytes.as_ptr().cast(), bytes.len(), null(), &mut handle) }, handle)
}

fn error() -> &'static str {
    // SAFETY: it stays until the next failure of this thread, after the test has looked at it.
    unsafe { CStr::from_ptr(dream_last_error()) }.to_str().unwrap()
}

/// A call was refused with this status, and the text says this.
#[track_caller]
fn refused(status: Status, expected: Status, text: &str) {
    assert_eq!(status, expected, "{}", error());
    assert!(error().contains(text), "no `{text}` in `{}`", error());
}

/// A request to act that is sound, to be spoilt by tests.
struct Request {
    pixels: Vec<u8>,
    image: Image,
    proprio: Vec<f64>,
    observation: Observation,
    options: ActOptions,
    actions: Vec<f64>,
    normalized: Vec<f64>,
    out: Actions,
}

impl Request {
    fn new(proprio: &[f64]) -> Box<Request> {
        let image = Image { width: SIDE, height: SIDE, ..zero() };
        let pixels = vec![100; 3 * (SIDE * SIDE) as usize];
        let mut request = Box::new(Request {
            pixels,
            image,
            proprio: proprio.to_vec(),
            observation: Observation { size: size_of::<Observation>(), ..zero() },
            options: ActOptions { size: size_of::<ActOptions>(), ..zero() },
            actions: vec![f64::NAN; SLOTS + 1],
            normalized: vec![f64::NAN; SLOTS + 1],
            out: Actions { size: size_of::<Actions>(), ..zero() },
        });
        request.image.pixels = request.pixels.as_ptr();
        request.observation.task = c"pick up the red block".as_ptr();
        request.observation.images = &raw const request.image;
        request.observation.image_count = 1;
        if !proprio.is_empty() {
            request.observation.proprio = request.proprio.as_ptr();
            request.observation.proprio_count = proprio.len();
        }
        request.out.actions = request.actions.as_mut_ptr();
        request.out.actions_count = SLOTS;
        request.out.normalized = request.normalized.as_mut_ptr();
        request.out.normalized_count = SLOTS;
        request
    }

    fn act(&mut self, model: &Open) -> Status {
        unsafe { dream_act(model.0, &self.observation, &self.options, &mut self.out) }
    }
}

/// Asks for text without sampling options.
fn generate(model: &Open, text: *const c_char, raw: u32) -> (Status, Generated) {
    let prompt = Prompt { size: size_of::<Prompt>(), text, raw, ..zero() };
    let mut out = Generated { size: size_of::<Generated>(), ..zero() };
    (unsafe { dream_generate(model.0, &prompt, null(), &mut out) }, out)
}

#[test]
fn version_is_that_of_the_package() {
    // SAFETY: it has a zero byte and stays.
    assert_eq!(unsafe { CStr::from_ptr(dream_version()) }.to_str(), Ok(env!("CARGO_PKG_VERSION")));
}

#[test]
fn acts_as_the_crate_does() {
    let model = Open::new("tabletop");
    let info = model.info();
    assert_eq!(info.entries, ENTRY_ACT | ENTRY_GENERATE);
    assert_eq!(info.mode, Mode::Discrete as u32);
    assert_eq!([info.views, info.chunk, info.action_dim, info.proprio_dim], [1, 5, 7, 0]);
    assert_eq!([info.max_prompt, info.new_tokens, info.steps, info.sees], [64, 5, 1, 1]);
    assert_eq!([info.image_width, info.image_height], [0, 0]);

    let mut request = Request::new(&[]);
    assert_eq!(request.act(&model), Status::Ok, "{}", error());
    assert_eq!((request.out.forwards, request.out.outside), (1, 0));

    let mut policy = dream_rt::Policy::open(&Files::path("tabletop"), &Default::default()).unwrap();
    let images = [dream_rt::Image::from_rgb8(SIDE, SIDE, request.pixels.clone()).unwrap()];
    let seen = dream_rt::Observation { images: &images, task: "pick up the red block", proprio: None };
    let expected = policy.act(&seen, &Default::default()).unwrap();
    assert_eq!(request.actions[..SLOTS], expected.actions.concat());
    assert_eq!(request.normalized[..SLOTS], expected.normalized.concat());
    // Nothing is written behind the chunk.
    assert!(request.actions[SLOTS].is_nan() && request.normalized[SLOTS].is_nan());

    // Rows further apart, without the normalised numbers, without options: the same.
    let padded: Vec<u8> =
        request.pixels.chunks(3 * SIDE as usize).flat_map(|r| [r, &[7; 5]].concat()).collect();
    request.image = Image { pixels: padded.as_ptr(), stride: 3 * SIDE as usize + 5, ..request.image };
    request.out.normalized = null_mut();
    request.out.normalized_count = 0;
    request.actions.fill(0.0);
    let status = unsafe { dream_act(model.0, &request.observation, null(), &mut request.out) };
    assert_eq!(status, Status::Ok, "{}", error());
    assert_eq!(request.actions[..SLOTS], expected.actions.concat());
}

#[test]
fn entries_of_one_model_take_turns() {
    let model = Open::new("tabletop");
    let mut request = Request::new(&[]);
    assert_eq!(request.act(&model), Status::Ok, "{}", error());
    let first = request.actions.clone();
    let (status, out) = generate(&model, c"pick up".as_ptr(), 0);
    assert_eq!((status, out.steps, out.forwards), (Status::Ok, 1, 1), "{}", error());
    assert_eq!(request.act(&model), Status::Ok, "{}", error());
    assert_eq!(request.actions[..SLOTS], first[..SLOTS]);
}

#[test]
fn noise_and_state_reach_the_policy() {
    let model = Open::new("flow");
    assert_eq!(model.info().mode, Mode::Flow as u32);
    assert_eq!(model.info().proprio_dim, 2);
    let mut request = Request::new(&[10.0, 20.0]);
    let mut chunk = |change: &dyn Fn(&mut Request)| {
        change(&mut request);
        assert_eq!(request.act(&model), Status::Ok, "{}", error());
        request.actions[..SLOTS].to_vec()
    };
    let noise = [0.25_f32; SLOTS];
    let by_seed = chunk(&|_| ());
    let other_seed = chunk(&|r| r.options.seed = 1);
    let by_noise = chunk(&|r| {
        r.options.noise = noise.as_ptr();
        r.options.noise_count = SLOTS;
    });
    assert!(by_seed != other_seed && other_seed != by_noise);
    assert_eq!(by_noise, chunk(&|r| r.options.seed = 0));
    assert_ne!(by_noise, chunk(&|r| r.proprio[0] = 90.0));
}

#[test]
fn generates_text() {
    let model = Open::new("sudoku");
    let (status, out) = generate(&model, c"3014010200002001\n".as_ptr(), 1);
    assert_eq!(status, Status::Ok, "{}", error());
    let text = unsafe { CStr::from_ptr(out.text) };
    assert_eq!(text.to_str(), Ok("3214413214232341"));
    assert_eq!([out.text_bytes, out.steps as usize], [16, 16]);
}

#[test]
fn memory_does_as_well_as_a_file() {
    // At an odd address: it is copied to where weights can be used.
    let file = std::fs::read(Files::path("sudoku")).unwrap();
    let mut shifted = [&[0][..], &file].concat();
    let (status, handle) = open_memory(&shifted[1..]);
    assert_eq!(status, Status::Ok, "{}", error());
    shifted.fill(0);
    let model = Open(handle);
    let (status, out) = generate(&model, c"3014010200002001\n".as_ptr(), 1);
    assert_eq!(status, Status::Ok, "{}", error());
    assert_eq!(unsafe { CStr::from_ptr(out.text) }.to_str(), Ok("3214413214232341"));
}

#[test]
fn description_is_json() {
    let model = Open::new("tabletop");
    let mut json = null();
    assert_eq!(unsafe { dream_describe_json(model.0, &mut json) }, Status::Ok);
    let text = unsafe { CStr::from_ptr(json) }.to_str().unwrap();
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(json["manifest"]["model"]["variant"], "vla");
    assert_eq!(json["settings"]["actions"]["chunk"], 5);
}

#[test]
fn nulls_are_refused() {
    let model = Open::new("tabletop");
    let mut handle = null_mut();
    refused(unsafe { dream_open(null(), null(), &mut handle) }, Status::Argument, "`path` is null");
    refused(unsafe { dream_open(c"x".as_ptr(), null(), null_mut()) }, Status::Argument, "`model` is null");
    refused(
        unsafe { dream_open_memory(null(), 64, null(), &mut handle) },
        Status::Argument,
        "`bytes` is null",
    );
    refused(unsafe { dream_open_memory(null(), 0, null(), &mut handle) }, Status::Argument, "`length` is 0");
    let mut info = Info { size: size_of::<Info>(), ..zero() };
    refused(unsafe { dream_describe(null(), &mut info) }, Status::Argument, "the model is null");
    refused(unsafe { dream_describe(model.0, null_mut()) }, Status::Argument, "`dream_info` is null");
    refused(unsafe { dream_describe_json(model.0, null_mut()) }, Status::Argument, "`json` is null");
    let mut request = Request::new(&[]);
    refused(
        unsafe { dream_act(null_mut(), &request.observation, null(), &mut request.out) },
        Status::Argument,
        "the model is null",
    );
    refused(
        unsafe { dream_act(model.0, null(), null(), &mut request.out) },
        Status::Argument,
        "`dream_observation` is null",
    );
    refused(
        unsafe { dream_act(model.0, &request.observation, null(), null_mut()) },
        Status::Argument,
        "`dream_actions` is null",
    );
    request.observation.task = null();
    refused(request.act(&model), Status::Argument, "`task` is null");
    let mut request = Request::new(&[]);
    request.observation.images = null();
    refused(request.act(&model), Status::Argument, "`images` is null");
    let mut request = Request::new(&[]);
    request.image.pixels = null();
    refused(request.act(&model), Status::Argument, "image 0: `pixels` is null");
    refused(generate(&model, null(), 0).0, Status::Argument, "`text` is null");
    assert_eq!(unsafe { dream_close(null_mut()) }, Status::Ok);
}

#[test]
fn files_that_are_no_artifacts_are_refused() {
    let folder = TempDir::new().unwrap();
    let (status, handle) = open(&folder.path().join("absent.dream"));
    refused(status, Status::File, "absent.dream");
    assert!(handle.is_null());
    refused(open(folder.path()).0, Status::File, "cannot read");
    let mut handle = null_mut();
    let status = unsafe { dream_open(c"\xff.dream".as_ptr(), null(), &mut handle) };
    refused(status, Status::Argument, "`path` is not UTF-8: byte 0");

    let file = std::fs::read(Files::path("sudoku")).unwrap();
    for length in [1, 63, 64, 1000, file.len() / 2, file.len() - 1] {
        refused(open_memory(&file[..length]).0, Status::Artifact, "the artifact in memory is not a sound");
    }
    refused(open_memory(b"#!/bin/sh").0, Status::Artifact, "not a sound artifact");
    // The last byte is a weight's: found when it is first used.
    let mut damaged = file;
    *damaged.last_mut().unwrap() ^= 1;
    let (status, handle) = open_memory(&damaged);
    assert_eq!(status, Status::Ok, "{}", error());
    refused(generate(&Open(handle), c"1".as_ptr(), 1).0, Status::Artifact, "is damaged");
}

#[test]
fn options_are_checked() {
    let path = CString::new(Files::path("sudoku").to_str().unwrap()).unwrap();
    let attempt = |options: &OpenOptions| {
        let mut handle = null_mut();
        let status = unsafe { dream_open(path.as_ptr(), options, &mut handle) };
        assert!(status == Status::Ok || handle.is_null());
        (status, handle)
    };
    let sound = options_of(size_of::<OpenOptions>(), 2);
    let (status, handle) = attempt(&sound);
    assert_eq!(status, Status::Ok, "{}", error());
    drop(Open(handle));
    for size in [0, 8, 15, 5000, usize::MAX] {
        refused(
            attempt(&OpenOptions { size, ..sound }).0,
            Status::Argument,
            "set it to sizeof(dream_open_options)",
        );
    }
    refused(attempt(&OpenOptions { threads: 1025, ..sound }).0, Status::Argument, "`threads` is 1025");
    refused(attempt(&OpenOptions { lock_weights: 2, ..sound }).0, Status::Argument, "`lock_weights` is 2");
    let warm = |lengths: &[u32]| {
        attempt(&OpenOptions { warm: lengths.as_ptr(), warm_count: lengths.len(), ..sound })
    };
    let said = "`warm` (--warm) has a prompt of 0 tokens; give 1 to ";
    refused(warm(&[8, 0]).0, Status::Argument, said);
    refused(warm(&[u32::MAX]).0, Status::Argument, "or build with --max-prompt 4294967295");
    refused(warm(&[1; 9]).0, Status::Argument, "`warm` (--warm) has 9 lengths");
    refused(attempt(&OpenOptions { warm_count: 1, ..sound }).0, Status::Argument, "`warm` is null");
    // On the processor nothing is recorded.
    let (status, handle) = warm(&[8, 9]);
    assert_eq!(status, Status::Ok, "{}", error());
    drop(Open(handle));
    // A caller of the first version has no such field.
    let (status, handle) = attempt(&OpenOptions { size: 16, warm_count: 9, ..sound });
    assert_eq!(status, Status::Ok, "{}", error());
    drop(Open(handle));
}

fn options_of(size: usize, threads: u32) -> OpenOptions {
    OpenOptions { size, threads, lock_weights: 0, warm: std::ptr::null(), warm_count: 0 }
}

#[test]
fn structs_of_a_later_version_are_taken_where_they_ask_for_nothing_new() {
    #[repr(C)]
    struct Later {
        known: OpenOptions,
        new: u64,
    }
    let path = CString::new(Files::path("sudoku").to_str().unwrap()).unwrap();
    let attempt = |new: u64| {
        let known = options_of(size_of::<Later>(), 1);
        let later = Later { known, new };
        let mut handle = null_mut();
        (unsafe { dream_open(path.as_ptr(), (&raw const later).cast(), &mut handle) }, handle)
    };
    let (status, handle) = attempt(0);
    assert_eq!(status, Status::Ok, "{}", error());
    drop(Open(handle));
    refused(attempt(1).0, Status::Argument, "`dream_open_options` asks for what this version does not have");
}

#[test]
fn observations_that_do_not_fit_are_refused() {
    let model = Open::new("tabletop");
    let attempt = |expected: Status, text: &str, spoil: &dyn Fn(&mut Request)| {
        let mut request = Request::new(&[]);
        spoil(&mut request);
        refused(request.act(&model), expected, text);
        assert!(request.actions.iter().all(|x| x.is_nan()), "written in spite of: {text}");
    };
    use Status::Argument;
    attempt(Argument, "`size` of `dream_observation` is 0", &|r| r.observation.size = 0);
    attempt(Argument, "`size` of `dream_actions` is 3", &|r| r.out.size = 3);
    attempt(Argument, "`size` of `dream_act_options` is 1", &|r| r.options.size = 1);
    attempt(Argument, "`image_count` is 0; the policy takes 1", &|r| r.observation.image_count = 0);
    attempt(Argument, "`image_count` is 2; the policy takes 1", &|r| r.observation.image_count = 2);
    attempt(Argument, "`proprio_count` is 2; the policy takes 0", &|r| r.observation.proprio_count = 2);
    attempt(Argument, "`task` is not UTF-8: byte 2", &|r| r.observation.task = c"go\xc3(".as_ptr());
    attempt(Argument, "image 0: 0x112 pixels", &|r| r.image.width = 0);
    attempt(Argument, "image 0: 112x0 pixels", &|r| r.image.height = 0);
    attempt(Argument, "the limits are", &|r| r.image.width = u32::MAX);
    attempt(Argument, "at least 3 * width, 336", &|r| r.image.stride = 335);
    attempt(Argument, "`stride` is", &|r| r.image.stride = usize::MAX / 2);
    attempt(Argument, "starts from no noise", &|r| {
        r.options.noise = [0.0; SLOTS].as_ptr();
        r.options.noise_count = SLOTS;
    });
    attempt(Status::Buffer, "`actions` has room for 34 numbers; the chunk has 35", &|r| {
        r.out.actions_count = SLOTS - 1;
    });
    attempt(Status::Buffer, "`normalized` has room for 0", &|r| r.out.normalized_count = 0);
    attempt(Argument, "`normalized` is null", &|r| r.out.normalized = null_mut());
    attempt(Argument, "`actions` is null", &|r| r.out.actions = null_mut());
    attempt(Argument, "`actions` is not aligned", &|r| r.out.actions = r.out.actions.wrapping_byte_add(1));
    attempt(Argument, "memory is not that large", &|r| r.out.actions_count = usize::MAX);
}

#[test]
fn states_and_noise_that_do_not_fit_are_refused() {
    let model = Open::new("flow");
    for (proprio, text) in [
        (&[][..], "`proprio_count` is 0; the policy takes 2"),
        (&[1.0], "`proprio_count` is 1; the policy takes 2"),
        (&[1.0, 2.0, 3.0], "`proprio_count` is 3; the policy takes 2"),
        (&[f64::NAN, 1.0], "proprio value 0 is NaN"),
        (&[1.0, f64::INFINITY], "proprio value 1 is inf"),
    ] {
        refused(Request::new(proprio).act(&model), Status::Argument, text);
    }
    for noise in [vec![0.0; SLOTS - 1], vec![f32::NAN; SLOTS]] {
        let mut request = Request::new(&[1.0, 2.0]);
        request.options.noise = noise.as_ptr();
        request.options.noise_count = noise.len();
        refused(request.act(&model), Status::Argument, "the noise must be [1, 5, 7], all finite");
    }
    let mut request = Request::new(&[1.0, 2.0]);
    request.options.noise_count = SLOTS;
    refused(request.act(&model), Status::Argument, "`noise` is null");
}

#[test]
fn what_an_artifact_cannot_do_is_refused() {
    let mut request = Request::new(&[]);
    refused(request.act(&Open::new("sudoku")), Status::Unsupported, "no entry `act`, only generate");
    refused(generate(&Open::new("flow"), c"a".as_ptr(), 0).0, Status::Unsupported, "no entry `generate`");
    let prompt = Prompt {
        size: size_of::<Prompt>(),
        text: c"a".as_ptr(),
        images: &raw const request.image,
        image_count: 1,
        ..zero()
    };
    let mut out = Generated { size: size_of::<Generated>(), ..zero() };
    let model = Open::new("sudoku");
    let status = unsafe { dream_generate(model.0, &prompt, null(), &mut out) };
    refused(status, Status::Unsupported, "takes no images");
}

#[test]
fn prompts_that_do_not_fit_are_refused() {
    let model = Open::new("sudoku");
    refused(generate(&model, c"\x80".as_ptr(), 1).0, Status::Argument, "`text` is not UTF-8");
    refused(generate(&model, c"1".as_ptr(), 7).0, Status::Argument, "`raw` is 7");
    refused(generate(&model, c"".as_ptr(), 1).0, Status::Argument, "the prompt is empty");
    let long = CString::new("1".repeat(100)).unwrap();
    refused(generate(&model, long.as_ptr(), 1).0, Status::Argument, "the prompt has 100 tokens");
    let attempt = |text: &str, spoil: &dyn Fn(&mut Sampling)| {
        let mut sampling = Sampling { size: size_of::<Sampling>(), ..zero() };
        spoil(&mut sampling);
        let prompt = Prompt { size: size_of::<Prompt>(), text: c"1".as_ptr(), raw: 1, ..zero() };
        let mut out = Generated { size: size_of::<Generated>(), ..zero() };
        refused(unsafe { dream_generate(model.0, &prompt, &sampling, &mut out) }, Status::Argument, text);
        assert!(out.text.is_null());
    };
    attempt("`temperature` is -1", &|s| s.temperature = -1.0);
    attempt("`temperature` is NaN", &|s| s.temperature = f32::NAN);
    attempt("`top_p` is 2", &|s| s.top_p = 2.0);
    attempt("`alg_temp` is inf", &|s| s.alg_temp = f32::INFINITY);
    attempt("`reserved` is not used", &|s| s.reserved = 1);
    attempt("`size` of `dream_sampling`", &|s| s.size = 4);
}

#[test]
fn closed_handles_are_refused() {
    let (status, handle) = open(&Files::path("sudoku"));
    assert_eq!(status, Status::Ok, "{}", error());
    assert_eq!(unsafe { dream_close(handle) }, Status::Ok);
    let strange = (&raw const status).cast_mut().cast::<Model>();
    // Whether another test has got the address of the closed one by now, nobody knows.
    let mut info = Info { size: size_of::<Info>(), ..zero() };
    refused(unsafe { dream_describe(strange, &mut info) }, Status::Argument, "the model is not open");
    refused(unsafe { dream_close(strange) }, Status::Argument, "the model is not open");
}

#[test]
fn one_call_at_a_time() {
    let model = Open::new("sudoku");
    let outer = call(|| {
        handles::with(model.0, |_| {
            let (status, _) = generate(&model, c"1".as_ptr(), 1);
            refused(status, Status::Busy, "in the middle of another call");
            Ok(())
        })
    });
    assert_eq!(outer, Status::Ok);
    assert_eq!(generate(&model, c"1".as_ptr(), 1).0, Status::Ok, "{}", error());
}

#[test]
fn panics_stay_inside_and_spoil_the_model() {
    let model = Open::new("sudoku");
    let broken = call(|| handles::with(model.0, |_| panic!("test: broke in the middle")));
    refused(broken, Status::Bug, "the runtime panicked; please report it: test: broke in the middle");
    refused(generate(&model, c"1".as_ptr(), 1).0, Status::Bug, "close it and open another");
    let formatted = call(|| -> Result<(), Failure> { panic!("test: {}", 1) });
    refused(formatted, Status::Bug, "test: 1");
    // `model` is closed at the end, as ever; others are not touched.
    assert_eq!(generate(&Open::new("sudoku"), c"1".as_ptr(), 1).0, Status::Ok);
}

#[test]
fn errors_are_those_of_the_thread() {
    refused(open(Path::new("/absent-a")).0, Status::File, "absent-a");
    std::thread::spawn(|| {
        assert_eq!(error(), "");
        refused(open(Path::new("/absent-b")).0, Status::File, "absent-b");
    })
    .join()
    .unwrap();
    assert!(error().contains("absent-a"));
    // A long one is cut off where a character ends.
    let long = call(|| Err(Failure::argument("é".repeat(3000) + "!")));
    refused(long, Status::Argument, &"é".repeat(1024));
    assert_eq!(error().len(), 2048);
    refused(open(Path::new("/absent-a")).0, Status::File, "absent-a");
    // What succeeds leaves the text alone.
    assert_eq!(unsafe { dream_close(null_mut()) }, Status::Ok);
    assert!(error().contains("absent-a"));
}
