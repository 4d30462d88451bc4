//! What can go wrong between a file and an answer.

use crate::finite::NotFinite;
use dreamc_artifact::OpenError;
use dreamc_front::FrontError;
use dreamc_runtime::{CanvasError, DeviceError, StepError};
use std::path::PathBuf;

/// Why an artifact could not be opened or a request not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An artifact given as bytes cannot be copied.
    #[error(
        "there is no memory for a copy of the artifact, {bytes} bytes; open it as a file, which copies nothing"
    )]
    Copy {
        /// Its size.
        bytes: usize,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a sound artifact.
    #[error("{path} is not a sound artifact")]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: OpenError,
    },
    /// A tensor's bytes are not those that were written.
    #[error(
        "tensor `{tensor}` is damaged: its bytes do not have the recorded hash; build or download the artifact again"
    )]
    Damaged {
        /// Its name.
        tensor: String,
    },
    /// The artifact was not built for this device.
    #[error(
        "the artifact was built for {targets}, not for `{device}`; build it again with --target {device}"
    )]
    NoTarget {
        /// The device asked for.
        device: String,
        /// What the artifact has.
        targets: String,
    },
    /// None of the targets has a device here.
    #[error("no device of this machine runs the artifact\n{reasons}")]
    NoDevice {
        /// Each target and why.
        reasons: String,
    },
    /// Nothing can be chosen on this kind of device.
    #[error(
        "`{device}` has no kernels to choose from; tune on a GPU that has: `--device cuda` for an artifact of a CUDA target"
    )]
    NotTuned {
        /// What it runs on.
        device: String,
    },
    /// The artifact carries no other kernels.
    #[error(
        "the artifact carries one kernel for each launch on {target}, and none to choose from; build it again with --candidates 2"
    )]
    NoCandidates {
        /// The target.
        target: String,
    },
    /// The model was opened to be looked at.
    #[error("the model was opened without a device; open it with another choice than `DeviceChoice::None`")]
    Unopened,
    /// The artifact has no such entry.
    #[error("the artifact has no entry `{entry}`, only {entries}; build it again with --entries {entry}")]
    NoEntry {
        /// The entry asked for.
        entry: &'static str,
        /// What the artifact has.
        entries: String,
    },
    /// The artifact holds no tokenizer.
    #[error("the artifact has no tokenizer, since its checkpoint had none; give token ids instead (`--ids`)")]
    NoTokenizer,
    /// The tokenizer failed.
    #[error("the tokenizer failed")]
    Tokenizer(#[from] FrontError),
    /// The request's rows do not fit together.
    #[error(transparent)]
    Canvas(#[from] CanvasError),
    /// Positions of another shape than the tokens.
    #[error(
        "`position_ids` has {found:?} planes, rows and columns; it must have 1 or 3 planes, and the rows and columns of `input_ids`, {expected:?}"
    )]
    Positions {
        /// Planes, rows and columns given.
        found: [usize; 3],
        /// Those of the tokens.
        expected: [usize; 2],
    },
    /// A canvas that the plan has no room for.
    #[error(
        "the canvas has {found} tokens, but the artifact takes at most {max}; shorten it, or build with --new-tokens {found}"
    )]
    CanvasTooLong {
        /// Tokens of the canvas.
        found: usize,
        /// What was planned for.
        max: usize,
    },
    /// A canvas with nothing to fill.
    #[error("the canvas has no slot; write `<|mask|>` or `<|mask:8|>` where tokens are to be filled in")]
    NoSlots,
    /// More slots than the plan has room for.
    #[error(
        "a row has {found} slots, but the artifact takes at most {max}; leave fewer open, or build with --max-slots {found}"
    )]
    TooManySlots {
        /// Mask tokens of the row.
        found: usize,
        /// What was planned for.
        max: u32,
    },
    /// A number of slots that is none.
    #[error("`<|mask:{written}|>` stands for no number of slots; write 1 to {max}, as in `<|mask:8|>`")]
    Slots {
        /// What stands between `<|mask:` and `|>`.
        written: String,
        /// Most slots of a canvas.
        max: usize,
    },
    /// Rows that cannot be ranked together.
    #[error(
        "{rows} rows cannot be ranked jointly, since {max} are computed at a time; build with --max-batch {rows}, or leave out --rank joint"
    )]
    Joint {
        /// Rows of the request.
        rows: usize,
        /// Computed at a time.
        max: usize,
    },
    /// A model that sees was expected.
    #[error("the model takes no images; leave them out, or build a checkpoint of Dream-VL or Dream-VLA")]
    NoImages,
    /// No image where there must be one.
    #[error("there is no image to look at; give at least one")]
    NothingToSee,
    /// An image of another size than the artifact was built for.
    #[error(
        "an image is {}x{}, but the artifact was built for {}x{}; resize it, or build without --image",
        found[0], found[1], expected[0], expected[1]
    )]
    ImageSize {
        /// Width and height.
        found: [u32; 2],
        /// What the artifact takes.
        expected: [u32; 2],
    },
    /// More image tokens than the plan has room for.
    #[error(
        "the images have {found} tokens, but the artifact takes at most {max} at a time; give fewer or smaller images, or build with a larger --max-prompt"
    )]
    ImageTokens {
        /// Of all images.
        found: usize,
        /// What was planned for.
        max: u32,
    },
    /// Patches that do not fill their grid.
    #[error("`pixel_values` has {found} numbers where its grid needs {expected}")]
    Patches {
        /// Numbers given.
        found: usize,
        /// Numbers needed.
        expected: usize,
    },
    /// An image cannot be read or prepared.
    #[error(transparent)]
    Image(#[from] dreamc_front::image::ImageError),
    /// Prompt and images do not fit together.
    #[error(transparent)]
    Prompt(#[from] dreamc_front::PromptError),
    /// The model's numbers are not finite, so that there is no answer.
    #[error(
        "`{entry}` has no answer: after step {step} of {steps}, in row {row}, {what}; check the weights and what the request gives, or build with --dtype f32 and without --quant"
    )]
    NotFinite {
        /// The entry.
        entry: &'static str,
        /// The first step after which it is so, from 1.
        step: u32,
        /// How many there are.
        steps: u32,
        /// Row of the request, from 0.
        row: usize,
        /// What is not finite.
        what: NotFinite,
    },
    /// Actions or the robot's state are not what they must be.
    #[error(transparent)]
    Action(#[from] dreamc_front::ActionError),
    /// The artifact does not act.
    #[error(
        "the artifact has no entry `act`, only {entries}; build a Dream-VLA checkpoint with --entries act"
    )]
    NoActions {
        /// What the artifact has.
        entries: String,
    },
    /// Another number of images than the policy takes.
    #[error("the policy takes {expected} views, not {found}; give an image for each, third-person first")]
    Views {
        /// Images given.
        found: usize,
        /// What the policy was built for.
        expected: u32,
    },
    /// The robot's state is missing, or not wanted.
    #[error(
        "{}",
        match expected {
            Some(n) => format!("the policy takes the robot's state, {n} numbers; give it as `proprio` (--proprio)"),
            None => "the policy takes no robot state; leave out `proprio` (--proprio)".to_owned(),
        }
    )]
    Proprio {
        /// Numbers that the policy takes, if it takes any.
        expected: Option<u32>,
    },
    /// Noise for a policy that starts from none, or of another size.
    #[error(
        "{}",
        match expected {
            Some([c, d]) => format!("the noise must be [1, {c}, {d}], all finite; it has {found} numbers"),
            None => "a policy of this mode starts from no noise; leave it out".to_owned(),
        }
    )]
    Noise {
        /// Numbers given.
        found: usize,
        /// Actions of a chunk and numbers of an action, for policies that start from noise.
        expected: Option<[u32; 2]>,
    },
    /// The manifest and the plan contradict each other.
    #[error(
        "{path} is not a sound artifact: its manifest and its plan contradict each other about {what}; build or download it again"
    )]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What they say differently.
        what: String,
    },
    /// The weights cannot be kept in memory.
    #[error(
        "{bytes} bytes of {path} cannot be locked in memory; raise the limit (`ulimit -l`), or leave out --lock-weights"
    )]
    Lock {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// Why.
        source: std::io::Error,
    },
    /// A length to record ahead that no prompt has.
    #[error(
        "`warm` (--warm) has a prompt of {found} tokens; give {}",
        if *found == 0 { format!("1 to {max}") } else { format!("1 to {max}, or build with --max-prompt {found}") }
    )]
    Warm {
        /// The length.
        found: u32,
        /// The longest prompt that was planned for.
        max: u32,
    },
    /// More lengths to record ahead than are kept.
    #[error("`warm` (--warm) has {found} lengths; a device keeps the runs of {max}, so give at most as many")]
    WarmCount {
        /// Lengths given.
        found: usize,
        /// How many are kept.
        max: usize,
    },
    /// The device's memory holds no weights and arena of this artifact.
    #[error("the device cannot be set up: {error}; {remedies}")]
    DeviceMemory {
        /// What is needed, and what there is.
        error: DeviceError,
        /// What would fit.
        remedies: String,
    },
    /// A prompt that the plan has no room for.
    #[error(
        "the prompt has {found} tokens, but the artifact takes at most {max}; shorten it, or build with --max-prompt {found}"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// What was planned for.
        max: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} (row {row}, position {position}) is outside the vocabulary of {vocabulary}")]
    TokenOutOfRange {
        /// The id.
        id: i32,
        /// Its row.
        row: usize,
        /// Its position in the row.
        position: usize,
        /// Size of the vocabulary.
        vocabulary: u32,
    },
    /// A sampling setting outside its range.
    #[error("`{setting}` is {found}; it must be {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What was given.
        found: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// A probe pattern that is none, or that matches nothing.
    #[error(
        "no value of the model matches the probe `{pattern}`; probes are paths such as `hidden.0` or `model.layers.0.*`"
    )]
    Probe {
        /// The pattern.
        pattern: String,
    },
    /// The device cannot be set up.
    #[error("the device cannot be set up: {0}")]
    Device(#[from] DeviceError),
    /// The processor or the system lacks what the options ask for.
    #[error(transparent)]
    Cpu(#[from] dreamc_device_cpu::CpuError),
    /// There is no CUDA or ROCm device that runs the artifact.
    #[error(transparent)]
    Gpu(#[from] dreamc_device_cuda::GpuError),
    /// There is no device of Metal that runs the artifact.
    #[error(transparent)]
    Metal(#[from] dreamc_device_metal::MetalError),
    /// There is no device of WebGPU that runs the artifact.
    #[error(transparent)]
    Wgpu(#[from] dreamc_device_wgpu::WgpuError),
    /// Running failed.
    #[error(transparent)]
    Step(#[from] StepError),
}
