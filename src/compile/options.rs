//! What to build, and which of it a checkpoint allows.

use super::{Bits, BuildError, BuildTarget, Entry, Quantization};
use dreamc_artifact::CANDIDATE_COUNT_MAX;
use dreamc_backend_gpu::Candidates;
use dreamc_frontend::clock::{DDIM_TRAIN_STEPS, FlowClock};
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_frontend::{ModelConfig, Variant};
use dreamc_num::{DType, Quant};
use dreamc_passes::{ALL, find, names};
use std::path::{Path, PathBuf};

/// What to build. `entries` and everything numeric is checked by [`build`](super::build).
#[derive(Clone, Debug, PartialEq)]
pub struct BuildOptions {
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
    /// File to write.
    pub output: PathBuf,
    /// Devices to build for, each once.
    pub targets: Vec<BuildTarget>,
    /// Type of weights and activations: bf16, f16 or f32.
    pub dtype: DType,
    /// Weights in few bits; none leaves them in `dtype`.
    pub quant: Option<Quantization>,
    /// Denoising steps.
    pub steps: u32,
    /// End of the schedule.
    pub eps: f32,
    /// How slots are chosen.
    pub alg: Alg,
    /// Tokens that `generate` appends.
    pub new_tokens: u32,
    /// Most open slots of a row that `generate` takes, those inside a prompt included; none means twice the new tokens.
    pub max_slots: Option<u32>,
    /// Longest prompt, with the tokens of its images.
    pub max_prompt: u32,
    /// Most rows computed at a time.
    pub max_batch: u32,
    /// What the artifact can do.
    pub entries: Vec<Entry>,
    /// Width and height of all images, if they are all of one size.
    pub image: Option<[u32; 2]>,
    /// Prompts, in tokens, that devices record when the file is opened, if it is not opened with others.
    pub warm: Vec<u32>,
    /// How actions are made; for the entry `act`.
    pub act: ActOptions,
    /// Folder of a LoRA adapter to fold into the weights.
    pub lora: Option<PathBuf>,
    /// Take NaN and infinite weights as they are.
    pub allow_non_finite: bool,
    /// Folder to write the source of emitted kernels to.
    pub emit: Option<PathBuf>,
    /// Folder of kernels that were compiled before, where new ones are put too.
    pub cache: Option<PathBuf>,
    /// Leave emitted kernels as source, for [`finalize`](super::finalize), also where a compiler is at hand.
    pub sources: bool,
    /// Other kernels that travel with each matmul on matrix units, for `dreamc tune`: up to
    /// [`CANDIDATES_MAX`]. None for [`Candidates::HOT`].
    pub candidates: Option<u32>,
    /// Verify the graph after every pass.
    pub verify_each: bool,
    /// Passes to leave out, by name; `all` for every pass.
    pub without: Vec<String>,
    /// Recorded cases to store, which `dreamc verify` runs.
    pub golden: Option<Golden>,
}

/// Most candidates beside the model's choice; the portable kernel is one more.
pub const CANDIDATES_MAX: u32 = CANDIDATE_COUNT_MAX - 2;

impl BuildOptions {
    /// How many candidates travel with which launches.
    pub(super) fn candidates(&self) -> Candidates {
        self.candidates.map_or(Candidates::HOT, |more| Candidates { more, products_min: 0 })
    }

    /// Files and folders that a build reads.
    pub(super) fn inputs(&self) -> Vec<&Path> {
        let BuildOptions { checkpoint, lora, act: ActOptions { stats, heads, .. }, .. } = self;
        let given = [Some(checkpoint), lora.as_ref(), stats.as_ref(), heads.as_ref()];
        given.into_iter().flatten().map(PathBuf::as_path).collect()
    }
}

/// Recorded cases: a file of `dreamc golden record`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// Hash of the checkpoint that they are of; the artifact's must be the same.
    pub source_hash: String,
}

/// How actions are made.
#[derive(Clone, Debug, PartialEq)]
pub struct ActOptions {
    /// How a chunk comes about.
    pub mode: Mode,
    /// Actions of a chunk.
    pub chunk: u32,
    /// Images of an observation.
    pub views: u32,
    /// Whether the model takes the robot's state.
    pub proprio: bool,
    /// File of statistics; none means the checkpoint's own.
    pub stats: Option<PathBuf>,
    /// Which of several data sets the robot is.
    pub unnorm_key: Option<String>,
    /// Folder of heads and projectors; none means the checkpoint's own.
    pub heads: Option<PathBuf>,
    /// How the time of a flow advances.
    pub flow_clock: FlowClock,
    /// Restrict action slots to action tokens.
    pub only_action_ids: bool,
}

impl Default for ActOptions {
    /// One view, a chunk of 8 by discrete diffusion.
    fn default() -> ActOptions {
        ActOptions {
            mode: Mode::Discrete,
            chunk: 8,
            views: 1,
            proprio: false,
            stats: None,
            unnorm_key: None,
            heads: None,
            flow_clock: FlowClock::Reference,
            only_action_ids: false,
        }
    }
}

/// Largest side of an image that a file is built for, in pixels.
const IMAGE_SIDE_MAX: u32 = 1 << 14;

pub(super) fn check(options: &BuildOptions, config: &ModelConfig) -> Result<(), BuildError> {
    let fail = |option: &'static str, found: String, expected: &str| {
        Err(BuildError::Option { option, found, expected: expected.to_owned() })
    };
    let listed = |target: &BuildTarget| options.targets.iter().filter(|t| *t == target).count();
    if options.targets.is_empty() || options.targets.iter().any(|target| listed(target) > 1) {
        let given: Vec<&str> = options.targets.iter().map(BuildTarget::spelling).collect();
        return fail("--target", format!("`{}`", given.join(",")), "one or more targets, each once");
    }
    match options.dtype {
        DType::F32 | DType::BF16 => {}
        DType::F16 if options.targets.contains(&BuildTarget::cpu()) => {
            return fail("--dtype", "f16".to_owned(), "bf16 or f32 for the CPU");
        }
        DType::F16 => {}
        other => return fail("--dtype", other.to_string(), "bf16, f32 or f16"),
    }
    if let Some(quant) = &options.quant {
        if let Some(target) = options.targets.iter().find(|target| !quant.bits.fits(target)) {
            let with = quant.bits.targets().join(", ");
            let expected = format!("another for {target}, which has no kernels for it; {with} have");
            return fail("--quant", quant.bits.name().to_owned(), &expected);
        }
        if quant.bits == Bits::Fp8 && quant.calibration.is_some() {
            let expected = "left out: fp8 has no factors of columns and no groups to work out";
            return fail("--calib", "given".to_owned(), expected);
        }
        if quant.bits.has_groups() && !Quant::GROUPS.contains(&quant.group) {
            return fail("--group", quant.group.to_string(), "32, 64 or 128");
        }
    }
    let mut counts = vec![
        ("--steps", options.steps, 1 << 16),
        ("--new-tokens", options.new_tokens, 1 << 20),
        ("--max-prompt", options.max_prompt, 1 << 20),
        ("--max-batch", options.max_batch, 1 << 12),
    ];
    if let Some(slots) = options.max_slots {
        let longest = options.max_prompt.saturating_add(options.new_tokens).min(1 << 20);
        let least = if options.entries.contains(&Entry::Generate) { options.new_tokens } else { 1 };
        if !(least..=longest).contains(&slots) {
            return fail("--max-slots", slots.to_string(), &format!("from {least} to {longest}"));
        }
    }
    if let Some([width, height]) = options.image {
        counts.extend([("--image", width, IMAGE_SIDE_MAX), ("--image", height, IMAGE_SIDE_MAX)]);
    }
    if options.entries.contains(&Entry::Act) {
        counts.push(("--chunk", options.act.chunk, dreamc_front::settings::CHUNK_MAX));
        counts.push(("--views", options.act.views, dreamc_front::settings::VIEWS_MAX));
    }
    counts.extend(options.warm.iter().map(|length| ("--warm", *length, options.max_prompt)));
    for (option, found, max) in counts {
        if !(1..=max).contains(&found) {
            return fail(option, found.to_string(), &format!("from 1 to {max}"));
        }
    }
    if let Some(candidates) = options.candidates.filter(|n| *n > CANDIDATES_MAX) {
        return fail("--candidates", candidates.to_string(), &format!("from 0 to {CANDIDATES_MAX}"));
    }
    if let Some(name) = options.without.iter().find(|n| *n != ALL && find(n).is_none()) {
        return fail(
            "--without-pass",
            format!("`{name}`"),
            &format!("{ALL}, or one of {}", names().join(", ")),
        );
    }
    if !(options.eps > 0.0 && options.eps < 1.0) {
        return fail("--eps", options.eps.to_string(), "above 0 and below 1");
    }
    let length = u64::from(options.max_prompt) + u64::from(options.new_tokens);
    let longest = config.text.max_position_embeddings;
    if length > longest {
        let expected = format!("at most {longest} (max_position_embeddings of config.json)");
        return fail("--max-prompt plus --new-tokens", length.to_string(), &expected);
    }
    entries(&options.entries, config.variant)?;
    if options.image.is_some() && !config.variant.sees() {
        return fail("--image", "given".to_owned(), "left out for text models, which take no images");
    }
    if options.warm.len() > dream::WARM_COUNT_MAX {
        let expected = format!("at most {}, as many as are kept", dream::WARM_COUNT_MAX);
        return fail("--warm", format!("{} lengths", options.warm.len()), &expected);
    }
    let runs = [Entry::Generate, Entry::Act];
    if !options.warm.is_empty() && !runs.iter().any(|entry| options.entries.contains(entry)) {
        return fail("--warm", "given".to_owned(), "left out: it is for `generate` and `act`");
    }
    if options.entries.contains(&Entry::Act) { check_act(options) } else { Ok(()) }
}

/// Whether there are entries, and a checkpoint of this variant has them.
///
/// # Errors
///
/// Names the first that it has not.
pub fn entries(entries: &[Entry], variant: Variant) -> Result<(), BuildError> {
    let names = |list: &[Entry]| list.iter().map(|e| e.name()).collect::<Vec<_>>().join(", ");
    let (has, kind) = (names(Entry::of(variant)), variant.name());
    match entries.iter().find(|entry| !Entry::of(variant).contains(entry)) {
        None if !entries.is_empty() => Ok(()),
        found => Err(BuildError::Option {
            option: "--entries",
            found: found.map_or("empty", |entry| entry.name()).to_owned(),
            expected: format!("among those of {kind} models: {has}"),
        }),
    }
}

fn check_act(options: &BuildOptions) -> Result<(), BuildError> {
    let fail = |option: &'static str, found: String, expected: &str| {
        Err(BuildError::Option { option, found, expected: expected.to_owned() })
    };
    let (mode, steps) = (options.act.mode, options.steps);
    if options.max_batch != 1 && options.entries == [Entry::Act] {
        return fail(
            "--max-batch",
            options.max_batch.to_string(),
            "1: `act` takes one observation at a time",
        );
    }
    match mode {
        Mode::OneStep | Mode::L1 if steps != 1 => {
            return fail("--steps", steps.to_string(), &format!("1: mode {} has one pass", mode.name()));
        }
        Mode::Ddim if steps > DDIM_TRAIN_STEPS => {
            let expected = format!("at most {DDIM_TRAIN_STEPS}, with which DDIM heads are trained");
            return fail("--steps", steps.to_string(), &expected);
        }
        Mode::Discrete | Mode::OneStep | Mode::L1 | Mode::Flow | Mode::Ddim => {}
    }
    if options.act.only_action_ids && !matches!(mode, Mode::Discrete | Mode::OneStep) {
        return fail("--only-action-ids", "given".to_owned(), "left out: a head gives no tokens");
    }
    Ok(())
}
