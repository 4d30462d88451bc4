//! Checkpoint to artifact.

mod acting;
mod calibrate;
mod code;
mod finalize;
mod manifest;
mod options;
mod quantize;
mod reader;
mod rewrite;
mod target;

use crate::cost::{self, Cost, Lengths, Whole};
use crate::output_path::{OutputError, OutputPath, check_folder};
use crate::whole::WholeError;
use acting::{Acting, acting};
use calibrate::Calibrated;
use dream::{Tokenizer, chat};
use dreamc_artifact::Work;
use dreamc_artifact::code::Code;
use dreamc_artifact::plan::Plan;
use dreamc_backend::{
    Constants, Contents, EmitError, Fidelity, Liveness, PackError, WeightReader, WriteError, write_artifact,
};
use dreamc_backend_gpu::Modules;
use dreamc_front::image::{ImageProcessor, PREPROCESSOR_FILE};
use dreamc_front::settings::{ImageSettings, Positions, Settings};
use dreamc_front::{ActionError, FrontError, VisionTokens};
use dreamc_frontend::config::CONFIG_FILE;
use dreamc_frontend::module::{ACT, Architecture, ENCODE_IMAGE, FORWARD, GENERATE, Options, module};
use dreamc_frontend::sampler::Sampler;
use dreamc_frontend::vla::Mode;
use dreamc_frontend::{
    EMBEDDING, ImportError, LM_HEAD, ModelConfig, Variant, check_tensors, check_vocabulary,
};
use dreamc_ir::{Module, SLOTS, VerifyErrors, verify};
use dreamc_passes::{PIPELINE, Pass, Seen, Stats, probe_pipeline, run_passes, without};
use dreamc_weights::{Adapter, Checkpoint, Sources, WeightsError};
use manifest::manifest;
use reader::CheckpointReader;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

pub use calibrate::{Collector, Parent, Statistics};
pub use code::{Completed, complete};
pub use finalize::{Finalized, finalize};
pub use options::{ActOptions, BuildOptions, CANDIDATES_MAX, Golden, entries};
pub use quantize::{Bits, Keep, Quantization, Stored, StoredMatrix, quantize, sensitive};
pub use reader::NonFinite;
pub use rewrite::rewrite;
pub use target::BuildTarget;

/// Files that tell that a checkpoint has a tokenizer.
const TOKENIZER_FILES: [&str; 2] = ["vocab.json", "tokenizer.json"];

/// What an artifact can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// Ids to logits, with probes: for regression.
    Forward,
    /// Images to the rows that stand for them, with probes.
    EncodeImage,
    /// Prompt to text.
    Generate,
    /// Observation to actions.
    Act,
}

impl Entry {
    /// Every entry.
    pub const ALL: [Entry; 4] = [Entry::Forward, Entry::EncodeImage, Entry::Generate, Entry::Act];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Entry::Forward => FORWARD,
            Entry::EncodeImage => ENCODE_IMAGE,
            Entry::Generate => GENERATE,
            Entry::Act => ACT,
        }
    }

    /// Those that checkpoints of a variant have.
    pub const fn of(variant: Variant) -> &'static [Entry] {
        match variant {
            Variant::Text => &[Entry::Forward, Entry::Generate],
            Variant::Vl => &[Entry::Forward, Entry::EncodeImage, Entry::Generate],
            Variant::Vla => &Entry::ALL,
        }
    }

    /// Name of its program that keeps every value of the model, for entries whose values can be probed.
    fn probe(self) -> Option<String> {
        match self {
            Entry::Forward | Entry::EncodeImage => Some(format!("{}.probe", self.name())),
            Entry::Generate | Entry::Act => None,
        }
    }
}

/// What a build tells while it works.
pub trait Events {
    /// Bytes of weights packed so far, and their total.
    fn progress(&mut self, _done: u64, _total: u64) {}
    /// Kernels compiled so far, and their number.
    fn compiling(&mut self, _done: u64, _total: u64) {}
    /// Something that the user should know and that is no error.
    fn warning(&mut self, _text: &str) {}
    /// A pass has run on a graph or on all of them.
    fn after_pass(&mut self, _pass: &Pass, _seen: Seen<'_>, _stats: &Stats) {}
    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Events for () {}

/// What was built.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Size of the file.
    pub file_bytes: u64,
    /// Stored tensors.
    pub tensors: usize,
    /// What each pass made of the module, in the order in which they ran.
    pub passes: Vec<PassReport>,
    /// Every program of every target.
    pub programs: Vec<ProgramReport>,
    /// How matrices were stored, where not all have the build's type.
    pub stored: Option<Stored>,
}

/// What one pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// Its name.
    pub name: &'static str,
    /// The module as the pass found it.
    pub before: Whole,
    /// The module as the pass left it.
    pub after: Whole,
}

/// The memory of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramReport {
    /// Its name, with its target.
    pub name: String,
    /// Size of its arena.
    pub arena_bytes: u64,
    /// Bytes of the values that live at the same time, where they are most.
    pub live_bytes: u64,
}

/// Why nothing was built. No file is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The checkpoint is not one that can be built.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Its tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] FrontError),
    /// Images, actions or statistics of the checkpoint are not usable.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// `act` without words to ask with.
    #[error(
        "the checkpoint has no tokenizer files, which `act` needs for the task; put vocab.json and merges.txt, or tokenizer.json, beside it"
    )]
    ActWithoutTokenizer,
    /// The end of a sequence is not two tokens.
    #[error(
        "the tokenizer makes {found} tokens of `<|im_end|>` and a line break, not 2; use the files of a Dream-VLA checkpoint"
    )]
    Suffix {
        /// How many.
        found: usize,
    },
    /// An update that no weight takes.
    #[error(
        "the adapter changes `lm_head`, but the checkpoint ties it to the embedding; merge the adapter into the checkpoint instead"
    )]
    LoraTied,
    /// `act` without ranges of actions.
    #[error("there are no statistics at {}, which `act` needs to give actions in the robot's units; give --stats FILE", place.display())]
    NoStatistics {
        /// Where they were looked for.
        place: PathBuf,
    },
    /// A state without ranges.
    #[error(
        "the statistics `{key}` have no `proprio`, which `--proprio on` needs; give others with --stats, or --proprio off"
    )]
    NoProprioStatistics {
        /// The data set.
        key: String,
    },
    /// Images without sizes and normalisation.
    #[error("{} is missing: it says how images are resized and normalised; copy it from the released checkpoint", path.display())]
    NoProcessor {
        /// The file.
        path: PathBuf,
    },
    /// An option outside its range.
    #[error("{option} is {found}; it must be {expected}")]
    Option {
        /// The flag.
        option: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A pass or the importer made an unsound graph.
    #[error("bug: the graph is not sound after `{after}`; please report it\n{source}")]
    Unsound {
        /// What ran last.
        after: String,
        /// The rules that are broken.
        source: VerifyErrors,
    },
    /// The target cannot run the graph.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// Emitted code does not compile.
    #[error("bug: {0}\nplease report it with the output of `dreamc build -v`")]
    Code(String),
    /// The file to complete is no artifact.
    #[error(transparent)]
    Artifact(#[from] dream::Error),
    /// Somebody does not want it any more.
    #[error("the build was cancelled")]
    Cancelled,
    /// A compiler that is needed is not at hand.
    #[error("the kernels for {target} are source, and cannot be compiled here: {reason}")]
    Toolchain {
        /// The target.
        target: String,
        /// What is missing, and what installs it.
        reason: String,
    },
    /// Weights could not be read while their factors were worked out.
    #[error("the weights cannot be calibrated")]
    Calibrate(#[source] PackError),
    /// The artifact could not be written.
    #[error("{} was not written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
    /// Cases of another checkpoint.
    #[error(
        "the cases of --golden are of checkpoint {cases}, and this is {found}; record them from a build with the same --entries, --mode and --lora"
    )]
    Golden {
        /// Hash of the checkpoint that they were recorded from.
        cases: String,
        /// That of this one.
        found: String,
    },
    /// Nothing may be written where the file is to be.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The file could not be made or put in its place.
    #[error("{} cannot be read or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Builds an artifact. The output appears under its name only when it is complete.
///
/// # Errors
///
/// See [`BuildError`].
pub fn build(options: &BuildOptions, events: &mut dyn Events) -> Result<Report, BuildError> {
    build_with(options, events).map(|(report, _)| report)
}

/// As [`build`], and gives what was stored.
fn build_with(options: &BuildOptions, events: &mut dyn Events) -> Result<(Report, Constants), BuildError> {
    let output = OutputPath::new("-o", &options.output, &options.inputs())?;
    if let Some(folder) = &options.emit {
        check_folder("--emit", folder)?;
    }
    let dir = options.checkpoint.as_path();
    let config = ModelConfig::read(dir)?;
    options::check(options, &config)?;
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.warnings().iter().for_each(|text| events.warning(text));
    let layout = check_tensors(&checkpoint, &config)?;
    check_vocabulary(dir, &config)?;
    let tokenizer = tokenizer(dir, events)?;
    let acts = options.entries.contains(&Entry::Act);
    let acting = acts.then(|| acting(options, &config, tokenizer.as_ref())).transpose()?;
    let adapter = options.lora.as_ref().map(|lora| Adapter::open(lora, &checkpoint)).transpose()?;
    if adapter.as_ref().is_some_and(|a| layout.lm_head == EMBEDDING && a.changes(LM_HEAD)) {
        return Err(BuildError::LoraTied);
    }
    let front = front(options, &config, acting.as_ref())?;

    let new_tokens = match &acting {
        Some(acting) if options.entries == [Entry::Act] => acting.new_tokens() as u32,
        Some(_) | None => options.new_tokens,
    };
    let appended = acting.as_ref().map_or(0, Acting::new_tokens).max(new_tokens.into());
    let max_length = u64::from(options.max_prompt) + appended;
    let longest = config.text.max_position_embeddings;
    if max_length > longest {
        return Err(BuildError::Option {
            option: "--max-prompt plus --new-tokens or the tokens of actions",
            found: max_length.to_string(),
            expected: format!("at most {longest} (max_position_embeddings of config.json)"),
        });
    }
    let module_options = Options {
        dtype: options.dtype,
        max_batch: options.max_batch.into(),
        max_length,
        max_slots: slots_max(options, acting.as_ref()).min(max_length),
        max_image_tokens: image_tokens_max(options).into(),
        sampler: Sampler { steps: options.steps.into(), eps: options.eps, alg: options.alg },
        act: acting.as_ref().map(|a| a.graph.clone()),
    };
    let mut module = module(&Architecture::new(&config, &layout), &module_options);
    let kept: Vec<&str> = options.entries.iter().map(|e| e.name()).collect();
    module.graphs.retain(|g| {
        kept.contains(&g.name.as_str()) || kept.iter().any(|e| g.name.starts_with(&format!("{e}.")))
    });
    let reference = reference(&module, options);
    let mut probed = module.clone();
    sound(&module, "import")?;
    let (each, pipeline) = (options.verify_each, without(PIPELINE, &options.without));
    let passes = optimize_counted(&mut module, &pipeline, new_tokens, each, events)?;
    // Nobody reads what probes cost.
    optimize(&mut probed, &without(&probe_pipeline(), &options.without), each, &mut (), &mut |_, _| ())?;

    let config_path = dir.join(CONFIG_FILE);
    let config_bytes =
        std::fs::read(&config_path).map_err(|source| BuildError::File { path: config_path, source })?;
    let reader = || {
        let mut sources = Sources::new(&checkpoint);
        if let Some(acting) = &acting {
            sources = sources.with(&acting.heads);
        }
        if let Some(adapter) = &adapter {
            sources = sources.with_adapter(adapter);
        }
        CheckpointReader::new(sources, &config_bytes, options.allow_non_finite)
    };
    let mut calibrated = Calibrated::default();
    let decisions = match &options.quant {
        Some(quant) => {
            let modules = &mut [&mut module, &mut probed];
            let (matmuls, decisions) = quantize::decisions(quant, &config, modules)?;
            if let Some(statistics) = &quant.calibration {
                let made =
                    calibrate::calibrated(statistics, &matmuls, &decisions, quant.weights(), &mut reader());
                calibrated = made.map_err(BuildError::Calibrate)?;
                unreached(&calibrated.unreached, events);
            }
            quantize::apply(quant, &decisions, &calibrated, modules);
            Some(decisions)
        }
        None => None,
    };

    let mut constants = Constants::default();
    let mut plans = Vec::new();
    for target in &options.targets {
        let (plan, mut code) = emit(target, &module, &probed, options, &mut constants)?;
        if let Some(folder) = &options.emit {
            write_sources(&folder.join(target.spelling().replace(':', "-")), &code, &options.inputs())?;
        }
        if options.sources {
            // Nothing is compiled.
        } else {
            let mut compiling = |done, total| {
                events.compiling(done, total);
                !events.cancelled()
            };
            let completed = code::complete(&mut code, target, options.cache.as_deref(), &mut compiling)?;
            completed.warning.iter().for_each(|text| events.warning(text));
            if let Some(reason) = completed.missing {
                let kernels = code.modules.len();
                events.warning(&format!(
                    "{target}: the file carries its {kernels} kernels as source, which no device runs before `dreamc \
                     finalize` has compiled them: {reason}"
                ));
            }
        }
        plans.push((plan, code));
    }
    let ir = module.to_string();
    let tokenizer = tokenizer.map(|t| t.to_bytes()).transpose()?;
    let contents = Contents {
        manifest: manifest(options, &config, new_tokens, reference),
        plans: &plans,
        constants: &constants,
        ir: &ir,
        tokenizer: tokenizer.as_deref(),
        front: front.as_deref(),
        golden: options.golden.as_ref().map(|golden| golden.bytes.as_slice()),
    };
    let mut reader = reader().with(calibrated.vectors);
    let (file_bytes, fidelities) = write(&output, options, &contents, &mut reader, events)?;
    let targets = options.targets.iter().zip(&plans);
    let programs = targets
        .flat_map(|(target, (plan, _))| {
            plan.programs.iter().map(move |p| ProgramReport {
                name: format!("{} on {target}", p.name),
                arena_bytes: p.arena_bytes,
                live_bytes: Liveness::of(p).peak_bytes(),
            })
        })
        .collect();
    let packed = options.targets.contains(&BuildTarget::cpu());
    let stored = decisions.map(|d| quantize::stored(packed, &d, constants.list(), &fidelities));
    let report = Report { file_bytes, tensors: constants.list().len(), passes, programs, stored };
    Ok((report, constants))
}

/// Warns of tensors that calibration knows nothing of.
fn unreached(names: &[String], events: &mut dyn Events) {
    let Some(first) = names.first() else { return };
    events.warning(&format!(
        "no request of --calib reaches {} of the tensors that are rounded, such as `{first}`: they are rounded by themselves",
        names.len()
    ));
}

/// What the entries of the module as imported cost as the reference runs them.
fn reference(module: &Module, options: &BuildOptions) -> BTreeMap<String, Work> {
    let of = |entry: &Entry| {
        // How many images share the patches is the request's. Masks are filled by the sampler, which keeps the images' embeddings.
        let repeats = *entry == Entry::Act && options.act.mode != Mode::Discrete;
        let Cost { flop, bytes } = cost::reference(module, entry.name(), repeats, Lengths::default().images)?;
        Some((entry.name().to_owned(), Work { flop, bytes }))
    };
    options.entries.iter().filter_map(of).collect()
}

/// Open slots of a row: as many as asked for, at least those of the actions. By default what `generate` appends, and as
/// many inside a prompt.
fn slots_max(options: &BuildOptions, acting: Option<&Acting>) -> u64 {
    let acted = acting.filter(|a| a.graph.mode == Mode::Discrete).map_or(1, Acting::new_tokens);
    let generates = options.entries.contains(&Entry::Generate);
    let usual = if generates { options.new_tokens.saturating_mul(2) } else { 1 };
    acted.max(options.max_slots.unwrap_or(usual).into())
}

/// Image tokens that all rows computed at a time can hold: the prompts have no room for more.
fn image_tokens_max(options: &BuildOptions) -> u32 {
    options.max_batch.saturating_mul(options.max_prompt)
}

/// The settings of images and actions as the artifact stores them; nothing for a model that does not see.
fn front(
    options: &BuildOptions,
    config: &ModelConfig,
    acting: Option<&Acting>,
) -> Result<Option<Vec<u8>>, BuildError> {
    let Some(vision) = &config.vision else { return Ok(None) };
    let dir = options.checkpoint.as_path();
    let processor = ImageProcessor::from_dir(dir)?
        .ok_or_else(|| BuildError::NoProcessor { path: dir.join(PREPROCESSOR_FILE) })?;
    let images = ImageSettings {
        processor,
        tokens: VisionTokens {
            image: vision.image_token_id as i32,
            video: vision.video_token_id as i32,
            vision_start: vision.vision_start_token_id as i32,
        },
        positions: if config.variant == Variant::Vla { Positions::Vla } else { Positions::Vl },
        tokens_max: image_tokens_max(options),
        size: options.image,
    };
    let settings = Settings { images, actions: acting.map(|a| a.settings.clone()) };
    Ok(Some(settings.to_bytes()))
}

/// Whether a checkpoint's folder has files of a tokenizer.
pub fn has_tokenizer(dir: &Path) -> bool {
    TOKENIZER_FILES.iter().any(|file| dir.join(file).exists())
}

/// The tokenizer, if the checkpoint has one.
fn tokenizer(dir: &Path, events: &mut dyn Events) -> Result<Option<Tokenizer>, BuildError> {
    if !has_tokenizer(dir) {
        events.warning(
            "the checkpoint has no tokenizer files: the artifact takes token ids only (`run --ids`)",
        );
        return Ok(None);
    }
    if let Some(text) = chat::template_warning(dir)? {
        events.warning(&text);
    }
    Ok(Some(Tokenizer::from_dir(dir)?))
}

/// That the rules hold after a pass.
fn sound(module: &Module, after: &str) -> Result<(), BuildError> {
    match verify(module) {
        Ok(_) => Ok(()),
        Err(source) => Err(BuildError::Unsound { after: after.to_owned(), source }),
    }
}

/// Runs passes on a sound module. `after` sees it after each of them.
fn optimize(
    module: &mut Module,
    passes: &[Pass],
    verify_each: bool,
    events: &mut dyn Events,
    after: &mut dyn FnMut(&Pass, &Module),
) -> Result<(), BuildError> {
    for pass in passes {
        run_passes(&[*pass], module, &mut |pass, seen, stats| events.after_pass(pass, seen, stats));
        if verify_each {
            sound(module, pass.name)?;
        }
        after(pass, module);
    }
    sound(module, "the last pass")
}

/// As [`optimize`], and says what each pass did; costs are counted with as many open slots as `new_tokens`.
fn optimize_counted(
    module: &mut Module,
    passes: &[Pass],
    new_tokens: u32,
    verify_each: bool,
    events: &mut dyn Events,
) -> Result<Vec<PassReport>, BuildError> {
    let slots = [(SLOTS, new_tokens.into())];
    let whole = |module: &Module| cost::whole(module, Lengths { symbols: &slots, ..Lengths::default() });
    let (mut before, mut reports) = (whole(module), Vec::new());
    optimize(module, passes, verify_each, events, &mut |pass, module| {
        let after = whole(module);
        reports.push(PassReport { name: pass.name, before, after });
        before = after;
    })?;
    Ok(reports)
}

/// The programs of one target, and the code that they launch.
fn emit(
    target: &BuildTarget,
    module: &Module,
    probed: &Module,
    options: &BuildOptions,
    constants: &mut Constants,
) -> Result<(Plan, Code), BuildError> {
    let verified = |module| {
        verify(module).map_err(|source| BuildError::Unsound { after: "the last pass".to_owned(), source })
    };
    let modules = target.kernels().map(Modules::new);
    let mut modules = modules.map(|modules| modules.with(options.candidates()));
    let mut program = |module, entry: &str, name: &str| {
        let verified = verified(module)?;
        Ok::<_, BuildError>(match &mut modules {
            Some(modules) => dreamc_backend_gpu::emit(verified, entry, name, constants, modules)?,
            None => dreamc_backend_cpu::emit(verified, entry, name, constants)?,
        })
    };
    let mut programs = Vec::new();
    for entry in &options.entries {
        programs.push(program(module, entry.name(), entry.name())?);
        if let Some(probe) = entry.probe() {
            programs.push(program(probed, entry.name(), &probe)?);
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((Plan { programs }, modules.map_or_else(Code::default, |modules| modules.to_code())))
}

/// Writes the source of every kernel into a folder, for a person to read.
fn write_sources(folder: &Path, code: &Code, inputs: &[&Path]) -> Result<(), BuildError> {
    std::fs::create_dir_all(folder).map_err(|source| BuildError::File { path: folder.to_owned(), source })?;
    for module in &code.modules {
        let Some(source) = module.images.first() else { continue };
        let path = folder.join(format!("{}.{}", module.name, source.form.extension()));
        let output = OutputPath::new("--emit", &path, inputs)?;
        output.write(|mut file| file.write_all(&source.bytes)).map_err(|error| match error {
            WholeError::Output(error) => BuildError::Output(error),
            WholeError::File(source) | WholeError::Contents(source) => BuildError::File { path, source },
        })?;
    }
    Ok(())
}

/// Writes the artifact, and says how large it is and how well each constant in few bits holds its weights. What an artifact was built from is known only when all weights have been read.
fn write(
    output: &OutputPath,
    options: &BuildOptions,
    contents: &Contents<'_>,
    reader: &mut CheckpointReader<'_>,
    events: &mut dyn Events,
) -> Result<(u64, Vec<Option<Fidelity>>), BuildError> {
    let mut progress = |done, total| {
        events.progress(done, total);
        !events.cancelled()
    };
    let path = || options.output.clone();
    let mut fidelities = Vec::new();
    let written = output.write(|partial| {
        let mut out = BufWriter::with_capacity(1 << 20, partial);
        fidelities = write_artifact(&mut out, contents, reader, &mut progress)
            .map_err(|source| BuildError::Write { path: path(), source })?;
        let found = reader.source_hash();
        match &options.golden {
            Some(Golden { source_hash, .. }) if *source_hash != found => {
                Err(BuildError::Golden { cases: source_hash.clone(), found })
            }
            Some(_) | None => Ok(()),
        }
    });
    let file_bytes = written.map_err(|error| match error {
        WholeError::Output(error) => BuildError::Output(error),
        WholeError::File(source) => BuildError::File { path: path(), source },
        WholeError::Contents(error) => error,
    })?;
    Ok((file_bytes, fidelities))
}
