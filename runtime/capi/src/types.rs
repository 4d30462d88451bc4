//! What the functions take and give, as C sees it.
//!
//! Structs hold numbers and pointers only, of which C can make no wrong value; enums are results. A struct that begins with `size` grows at its end, and zero there means what it meant before.

use std::ffi::c_char;

/// How a call ended. What exactly is wrong, and what to do, says dream_last_error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Status {
    /// It did what was asked.
    Ok = 0,
    /// An argument is not what the function or the model takes. Nothing was run.
    Argument = 1,
    /// The file cannot be read.
    File = 2,
    /// The file or the memory is not a sound artifact: cut off, damaged, or something else.
    Artifact = 3,
    /// The artifact is sound but cannot do this: it was built for other entries or other devices.
    Unsupported = 4,
    /// A buffer of the caller is too small. Nothing was run.
    Buffer = 5,
    /// The system gave no memory, may not lock that much of it, or has no device that runs the artifact.
    System = 6,
    /// The model is in the middle of another call. One call at a time.
    Busy = 7,
    /// What should not happen: a bug of this library. The model is of no use any more: close it and open it again.
    Bug = 8,
    /// The model's numbers are not finite: NaN or infinity in logits or actions. There is no answer; the model can be used
    /// again.
    NotFinite = 9,
}

/// How a policy makes a chunk of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Mode {
    /// It makes none: dream_act is not supported. Or a way that this version has no name for.
    None = 0,
    /// Tokens, by discrete diffusion.
    Discrete = 1,
    /// Tokens, in one pass.
    OneStep = 2,
    /// Numbers, in one pass.
    L1 = 3,
    /// Numbers from noise, by a flow. Takes noise.
    Flow = 4,
    /// Numbers from noise, by DDIM. Takes noise.
    Ddim = 5,
}

/// Bit of dream_info.entries: logits of given ids. Used from Rust and by `dreamc run`.
pub const ENTRY_FORWARD: u32 = 1;
/// Bit of dream_info.entries: images to rows. Used from Rust and by `dreamc run`.
pub const ENTRY_ENCODE_IMAGE: u32 = 2;
/// Bit of dream_info.entries: dream_generate.
pub const ENTRY_GENERATE: u32 = 4;
/// Bit of dream_info.entries: dream_act.
pub const ENTRY_ACT: u32 = 8;

/// An open artifact. One call at a time; any thread.
pub struct Model {
    _private: (),
}

/// How an artifact is run. All zero but for `size` is the default.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OpenOptions {
    /// sizeof(dream_open_options).
    pub size: usize,
    /// Number of threads, at most 1024; 0 for one per core. Results do not depend on it.
    pub threads: u32,
    /// 1 keeps the weights in memory, so that no call waits for the disk; it needs the right to lock that much
    /// (`ulimit -l`). Else 0.
    pub lock_weights: u32,
    /// Lengths of prompts, in tokens with those of images, whose runs a GPU records when the model is opened and not at
    /// the first request of that length; at most 8, each from 1 to dream_info.max_prompt. Other devices do nothing for it.
    pub warm: *const u32,
    /// How many there are; 0 for those that the artifact was built with (`--warm`).
    pub warm_count: usize,
}

/// What a model takes and gives.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Info {
    /// sizeof(dream_info), set by the caller.
    pub size: usize,
    /// What it can do: DREAM_ENTRY_GENERATE and the like, together.
    pub entries: u32,
    /// How actions are made: a dream_mode.
    pub mode: u32,
    /// Images of an observation; 0 if it does not act.
    pub views: u32,
    /// Width that all images must have, in pixels; 0 if any.
    pub image_width: u32,
    /// Height that all images must have, in pixels; 0 if any.
    pub image_height: u32,
    /// Actions of a chunk; 0 if it does not act.
    pub chunk: u32,
    /// Numbers of an action; 0 if it does not act.
    pub action_dim: u32,
    /// Numbers of the robot's state; 0 if it takes none.
    pub proprio_dim: u32,
    /// Longest prompt, in tokens, with those of its images.
    pub max_prompt: u32,
    /// Tokens of an answer.
    pub new_tokens: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Whether it takes images: 1 or 0.
    pub sees: u32,
}

/// An image: 8 bit RGB, rows from the top, red first. This struct stays as it is.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Image {
    /// The first pixel of the upper row. The rows must hold `3 * width` bytes each.
    pub pixels: *const u8,
    /// Columns, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
    /// Bytes from one row to the next, at least `3 * width`; 0 for exactly that.
    pub stride: usize,
}

/// What a robot sees and is told.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Observation {
    /// sizeof(dream_observation).
    pub size: usize,
    /// The task, UTF-8: `pick up the red block`. It is put into the question that the model was trained with.
    pub task: *const c_char,
    /// The views, third-person first: dream_info.views of them.
    pub images: *const Image,
    /// How many.
    pub image_count: usize,
    /// The robot's state in its own units, finite; null if the model takes none.
    pub proprio: *const f64,
    /// How many numbers: dream_info.proprio_dim.
    pub proprio_count: usize,
}

/// How a chunk is made. All zero but for `size` is the default.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ActOptions {
    /// sizeof(dream_act_options).
    pub size: usize,
    /// Of the random stream, and of the noise that flow and DDIM start from. The same seed gives the same actions.
    pub seed: u64,
    /// The noise itself instead, finite, action after action: `chunk * action_dim` numbers. Null leaves it to the seed.
    pub noise: *const f32,
    /// How many numbers; 0 for null.
    pub noise_count: usize,
}

/// Where a chunk of actions is put.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Actions {
    /// sizeof(dream_actions), set by the caller.
    pub size: usize,
    /// Set by the caller: room for `chunk * action_dim` numbers. Is filled with the actions in the robot's units, action
    /// after action.
    pub actions: *mut f64,
    /// Set by the caller: how many numbers there is room for.
    pub actions_count: usize,
    /// Set by the caller: room for the same as the model gives them, about -1 to 1; null if they are not wanted.
    pub normalized: *mut f64,
    /// Set by the caller: how many numbers there is room for; 0 for null.
    pub normalized_count: usize,
    /// Is set: passes through the decoder.
    pub forwards: u32,
    /// Is set: how many of the tokens are no action tokens, and were read as the nearest. 0 is usual.
    pub outside: u32,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Prompt {
    /// sizeof(dream_prompt).
    pub size: usize,
    /// UTF-8. What a user says, after the images; or, with `raw`, the text as the model reads it, with `<|image_pad|>`
    /// for each image.
    pub text: *const c_char,
    /// 1 takes the text as it stands; 0 puts it through the chat template.
    pub raw: u32,
    /// Not used; 0.
    pub reserved: u32,
    /// The images; null if there are none.
    pub images: *const Image,
    /// How many.
    pub image_count: usize,
}

/// How tokens and slots are chosen. All zero but for `size` is the default: no randomness, no filter.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sampling {
    /// sizeof(dream_sampling).
    pub size: usize,
    /// Of the random stream; matters with a temperature, with `alg_temp` and for `origin`.
    pub seed: u64,
    /// 0 takes the most probable token.
    pub temperature: f32,
    /// Keeps the most probable tokens up to this sum, at most 1; 0 keeps all.
    pub top_p: f32,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: u32,
    /// Above 0 draws the slots to commit instead of taking the most confident ones.
    pub alg_temp: f32,
    /// Above 0 makes early ends of the answer less likely.
    pub eos_penalty: f32,
    /// Not used; 0.
    pub reserved: u32,
}

/// What was generated.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Generated {
    /// sizeof(dream_generated), set by the caller.
    pub size: usize,
    /// Is set: the answer, UTF-8 with a zero byte behind. It belongs to the model and stays until its next
    /// dream_generate or dream_close.
    pub text: *const c_char,
    /// Is set: bytes of the answer without the zero byte. An answer may hold zero bytes of its own.
    pub text_bytes: usize,
    /// Is set: denoising steps.
    pub steps: u32,
    /// Is set: passes through the model.
    pub forwards: u32,
}
