//! The functions.
#![allow(unsafe_code, reason = "the boundary to another language")]

use crate::failure::{Failure, call};
use crate::given;
use crate::handles::{self, Opened};
use crate::types::{
    ActOptions, Actions, ENTRY_ACT, ENTRY_ENCODE_IMAGE, ENTRY_FORWARD, ENTRY_GENERATE, Generated, Info, Mode,
    Model, Observation, OpenOptions, Prompt, Sampling, Status,
};
use dream_rt::chat::{Message, render};
use dream_rt::{Generate, Visual};
use std::ffi::{CStr, c_char, c_void};

/// The version of this library, as `0.1.0`.
#[unsafe(no_mangle)]
pub extern "C" fn dream_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// What the last call of this thread that failed has to say: what is wrong and what to do, UTF-8, in one line. Empty
/// before the first. It stays until the next call of this thread that fails; at most 2048 bytes.
#[unsafe(no_mangle)]
pub extern "C" fn dream_last_error() -> *const c_char {
    crate::failure::last_error()
}

/// Opens an artifact by the path of its file, UTF-8. The file is mapped, not read: do not change it while it is open.
///
/// A model that acts is made ready here: memory is taken and the weights are compared with their hashes, so that no
/// dream_act waits for it. Any other model does so when it is first asked.
///
/// `options` may be null. On success `*model` is the handle, to be closed by dream_close; else it is null.
///
/// # Safety
///
/// The rules of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dream_open(
    path: *const c_char,
    options: *const OpenOptions,
    model: *mut *mut Model,
) -> Status {
    call(|| {
        // SAFETY: by the rules of the header.
        let (path, options) = unsafe {
            given::put(model, std::ptr::null_mut(), "model")?;
            (given::text(path, "path")?, given::open_options(options)?)
        };
        let opened = dream_rt::Model::open(path.as_ref(), &handles::options(options)?)?;
        let handle = handles::add(Opened::new(opened)?);
        // SAFETY: by the rules of the header.
        unsafe { given::put(model, handle, "model") }
    })
}

/// Opens an artifact that lies in memory, such as one that was linked into the program: `length` bytes, which are
/// copied. They may be changed or freed after the call. A file is better opened by dream_open, which copies nothing.
///
/// Everything else is as with dream_open.
///
/// # Safety
///
/// The rules of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dream_open_memory(
    bytes: *const c_void,
    length: usize,
    options: *const OpenOptions,
    model: *mut *mut Model,
) -> Status {
    call(|| {
        // SAFETY: by the rules of the header.
        let (bytes, options) = unsafe {
            given::put(model, std::ptr::null_mut(), "model")?;
            (given::list(bytes.cast::<u8>(), length, "bytes")?, given::open_options(options)?)
        };
        if bytes.is_empty() {
            return Err(Failure::argument("`length` is 0; give the bytes of an artifact"));
        }
        let opened = dream_rt::Model::from_bytes(bytes, &handles::options(options)?)?;
        let handle = handles::add(Opened::new(opened)?);
        // SAFETY: by the rules of the header.
        unsafe { given::put(model, handle, "model") }
    })
}

/// Closes a model and frees what it has; texts that belong to it are gone. Null is fine and does nothing. After a call
/// that ended with DREAM_STATUS_BUG, too, this is how the handle is given back.
///
/// # Safety
///
/// The rules of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dream_close(model: *mut Model) -> Status {
    call(|| if model.is_null() { Ok(()) } else { handles::remove(model) })
}

/// What the model takes and gives. Set `info->size` before.
///
/// # Safety
///
/// The rules of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dream_describe(model: *const Model, info: *mut Info) -> Status {
    call(|| {
        handles::with(model, |opened| {
            // SAFETY: by the rules of the header.
            unsafe { given::fill(info, &describe(opened)) }
        })
    })
}

/// All that is known about the model, in JSON: `manifest` (entries, sizes, build options, the checkpoint's hash) and
/// `settings` (images and actions, statistics of the robot; null for a model that does not see). `*json` belongs to the
/// model and stays until dream_close; on failure it is null.
///
/// # Safety
///
/// The rules of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dream_describe_json(model: *const Model, json: *mut *const c_char) -> Status {
    call(|| {
        // SAFETY: by the rules of the header.
        unsafe { given::put(json, std::ptr::null(), "json") }?;
        handles::with(model, |opened| {
            // SAFETY: by the rules of the header.
            unsafe { given::put(json, opened.description.as_ptr(), "json") }
        })
    })
}

/// A chunk of actions for what the robot sees. `options` may be null.
///
/// The same observation, seed and noise give the same actions, whatever the number of threads. No memory is taken for
/// the model; some is for a copy of the images.
///
/// # Safety
///
/// The rules of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dream_act(
    model: *mut Model,
    observation: *const Observation,
    options: *const ActOptions,
    actions: *mut Actions,
) -> Status {
    call(|| {
        handles::with(model, |opened| {
            let policy = opened.policy()?;
            let settings = policy.settings();
            let slots = settings.chunk as usize * settings.action_dim as usize;
            // SAFETY: by the rules of the header.
            let (observation, options, mut out) = unsafe {
                (
                    given::structure(observation)?,
                    given::optional(options)?,
                    given::structure(actions.cast_const())?,
                )
            };
            given::room(out.actions, out.actions_count, slots, "actions")?;
            let normalized = !out.normalized.is_null();
            if normalized || out.normalized_count > 0 {
                given::room(out.normalized, out.normalized_count, slots, "normalized")?;
            }
            expect("image_count", observation.image_count, settings.views)?;
            expect("proprio_count", observation.proprio_count, settings.proprio_dim.unwrap_or(0))?;
            let mut act = dream_rt::ActOptions::default();
            // SAFETY: by the rules of the header.
            let (task, images, proprio) = unsafe {
                if let Some(options) = options {
                    act.sampling.seed = options.seed;
                    let noise = given::list(options.noise, options.noise_count, "noise")?;
                    act.noise = (options.noise_count > 0).then(|| noise.to_vec());
                }
                (
                    given::text(observation.task, "task")?,
                    given::images(observation.images, observation.image_count)?,
                    given::list(observation.proprio, observation.proprio_count, "proprio")?,
                )
            };
            let proprio = (!proprio.is_empty()).then_some(proprio);
            let made = policy.act(&dream_rt::Observation { images: &images, task, proprio }, &act)?;
            out.forwards = made.forwards;
            out.outside = made.outside as u32;
            // SAFETY: `room` has looked at both buffers; the rest by the rules of the header.
            unsafe {
                given::copy_out(out.actions, slots, made.actions.into_iter().flatten())?;
                if normalized {
                    given::copy_out(out.normalized, slots, made.normalized.into_iter().flatten())?;
                }
                given::fill(actions, &out)
            }
        })
    })
}

/// Text for a prompt. `sampling` may be null. Set `generated->size` before.
///
/// # Safety
///
/// The rules of the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dream_generate(
    model: *mut Model,
    prompt: *const Prompt,
    sampling: *const Sampling,
    generated: *mut Generated,
) -> Status {
    call(|| {
        handles::with(model, |opened| {
            // SAFETY: by the rules of the header.
            let (prompt, sampling, mut out) = unsafe {
                (
                    given::structure(prompt)?,
                    given::optional(sampling)?,
                    given::structure(generated.cast_const())?,
                )
            };
            // SAFETY: by the rules of the header.
            let (text, images) = unsafe {
                (given::text(prompt.text, "text")?, given::images(prompt.images, prompt.image_count)?)
            };
            let raw = given::flag("raw", prompt.raw)?;
            unused(prompt.reserved)?;
            let sampling = sampling.map(self::sampling).transpose()?.unwrap_or_default();

            let model = opened.model();
            let rendered = render(&[Message::about_images(images.len(), text)], true);
            let visuals: Vec<Visual> = images.into_iter().map(Visual::Image).collect();
            let ids = model.encode_with(if raw { text } else { &rendered }, &visuals)?;
            let request = Generate { prompt: vec![ids], visuals, sampling, ..Generate::default() };
            // Nobody watches, so a device may replay what it recorded.
            let made = model.generate_with(&request, &mut ())?;
            let mut answer = model.answers(&made)?.swap_remove(0).into_bytes();
            out.text_bytes = answer.len();
            out.steps = made.steps;
            out.forwards = made.forwards;
            answer.push(0);
            opened.answer = answer;
            out.text = opened.answer.as_ptr().cast();
            // SAFETY: by the rules of the header.
            unsafe { given::fill(generated, &out) }
        })
    })
}

fn describe(opened: &mut Opened) -> Info {
    let actions = opened.policy().ok().map(|policy| policy.settings().clone());
    let model = opened.model();
    let manifest = model.manifest();
    let names = [
        ("forward", ENTRY_FORWARD),
        ("encode_image", ENTRY_ENCODE_IMAGE),
        ("generate", ENTRY_GENERATE),
        ("act", ENTRY_ACT),
    ];
    let has = |name: &str| manifest.entries.iter().any(|entry| entry == name);
    let images = model.settings().map(|settings| &settings.images);
    let [image_width, image_height] = images.and_then(|images| images.size).unwrap_or_default();
    let mode = match actions.as_ref().map(|a| a.mode) {
        None => Mode::None,
        Some(dream_rt::Mode::Discrete) => Mode::Discrete,
        Some(dream_rt::Mode::OneStep) => Mode::OneStep,
        Some(dream_rt::Mode::L1) => Mode::L1,
        Some(dream_rt::Mode::Flow) => Mode::Flow,
        Some(dream_rt::Mode::Ddim) => Mode::Ddim,
    };
    Info {
        size: size_of::<Info>(),
        entries: names.iter().filter(|(name, _)| has(name)).map(|(_, bit)| bit).sum(),
        mode: mode as u32,
        views: actions.as_ref().map_or(0, |a| a.views),
        image_width,
        image_height,
        chunk: actions.as_ref().map_or(0, |a| a.chunk),
        action_dim: actions.as_ref().map_or(0, |a| a.action_dim),
        proprio_dim: actions.as_ref().and_then(|a| a.proprio_dim).unwrap_or(0),
        max_prompt: manifest.model.max_prompt,
        new_tokens: manifest.model.new_tokens,
        steps: manifest.model.steps,
        sees: u32::from(images.is_some()),
    }
}

fn sampling(given: Sampling) -> Result<dream_rt::Sampling, Failure> {
    unused(given.reserved)?;
    // Zero leaves a filter out; every other value is judged where it is used.
    Ok(dream_rt::Sampling {
        seed: given.seed,
        temperature: given.temperature,
        top_p: (given.top_p != 0.0).then_some(given.top_p),
        top_k: (given.top_k != 0).then_some(given.top_k),
        alg_temp: (given.alg_temp != 0.0).then_some(given.alg_temp),
        eos_penalty: given.eos_penalty,
        joint: false,
    })
}

fn unused(reserved: u32) -> Result<(), Failure> {
    if reserved == 0 { Ok(()) } else { Err(Failure::argument("`reserved` is not used; set it to 0")) }
}

fn expect(name: &str, found: usize, expected: u32) -> Result<(), Failure> {
    if found == expected as usize {
        return Ok(());
    }
    Err(Failure::argument(format!("`{name}` is {found}; the policy takes {expected}, see dream_describe")))
}
