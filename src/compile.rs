//! Checkpoint to artifact.

mod reader;

use dream::{Tokenizer, chat};
use dreamc_artifact::plan::{Plan, Program};
use dreamc_artifact::{Manifest, Model};
use dreamc_backend::{Constants, Contents, EmitError, WriteError, write_artifact};
use dreamc_front::FrontError;
use dreamc_frontend::config::CONFIG_FILE;
use dreamc_frontend::module::{Architecture, FORWARD, GENERATE, Options, module};
use dreamc_frontend::sampler::{Alg, Sampler};
use dreamc_frontend::{ImportError, TextConfig, check_tensors, check_vocabulary};
use dreamc_ir::{Graph, Module, VerifyErrors, verify};
use dreamc_num::DType;
use dreamc_passes::{PIPELINE, Pass, Stats, probe_pipeline, run_passes};
use dreamc_weights::{Checkpoint, WeightsError};
use reader::CheckpointReader;
use std::collections::BTreeMap;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

pub use reader::NonFinite;

/// Name of the program that keeps every value of the model, for probes.
const FORWARD_PROBE: &str = "forward.probe";
/// Files that tell that a checkpoint has a tokenizer.
const TOKENIZER_FILES: [&str; 2] = ["vocab.json", "tokenizer.json"];

/// What to build. `entries` and everything numeric is checked by [`build`].
#[derive(Clone, Debug, PartialEq)]
pub struct BuildOptions {
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
    /// File to write.
    pub output: PathBuf,
    /// Type of weights and activations: bf16 or f32.
    pub dtype: DType,
    /// Denoising steps.
    pub steps: u32,
    /// End of the schedule.
    pub eps: f32,
    /// How slots are chosen.
    pub alg: Alg,
    /// Tokens that `generate` appends.
    pub new_tokens: u32,
    /// Longest prompt.
    pub max_prompt: u32,
    /// Most rows computed at a time.
    pub max_batch: u32,
    /// What the artifact can do.
    pub entries: Vec<Entry>,
    /// Take NaN and infinite weights as they are.
    pub allow_non_finite: bool,
    /// Verify the graph after every pass.
    pub verify_each: bool,
}

/// What an artifact can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// Ids to logits, with probes: for regression.
    Forward,
    /// Prompt to text.
    Generate,
}

impl Entry {
    /// Every entry.
    pub const ALL: [Entry; 2] = [Entry::Forward, Entry::Generate];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Entry::Forward => FORWARD,
            Entry::Generate => GENERATE,
        }
    }
}

/// What a build tells while it works.
pub trait Events {
    /// Bytes of weights packed so far, and their total.
    fn progress(&mut self, _done: u64, _total: u64) {}
    /// Something that the user should know and that is no error.
    fn warning(&mut self, _text: &str) {}
    /// A pass has run on a graph.
    fn after_pass(&mut self, _pass: &Pass, _graph: &Graph, _stats: &Stats) {}
    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Events for () {}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Size of the file.
    pub file_bytes: u64,
    /// Stored tensors.
    pub tensors: usize,
    /// Name and arena size of every program.
    pub programs: Vec<(String, u64)>,
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
    /// The artifact could not be written.
    #[error("{} was not written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
    /// The file could not be made or put in its place.
    #[error("{} cannot be read or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Builds an artifact for the CPU. The output appears under its name only when it is complete.
///
/// # Errors
///
/// See [`BuildError`].
pub fn build(options: &BuildOptions, events: &mut dyn Events) -> Result<Report, BuildError> {
    let dir = options.checkpoint.as_path();
    let config = TextConfig::read(dir)?;
    check_options(options, &config)?;
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.warnings().iter().for_each(|text| events.warning(text));
    let layout = check_tensors(&checkpoint, &config)?;
    check_vocabulary(dir, &config)?;
    let tokenizer = tokenizer(dir, events)?;

    let module_options = Options {
        dtype: options.dtype,
        max_batch: options.max_batch.into(),
        max_length: u64::from(options.max_prompt) + u64::from(options.new_tokens),
        max_image_tokens: 1,
        sampler: Sampler { steps: options.steps.into(), eps: options.eps, alg: options.alg },
        act: None,
    };
    let architecture = Architecture { text: &config, vision: None, mrope_section: None, layout: &layout };
    let mut module = module(&architecture, &module_options);
    let kept: Vec<&str> = options.entries.iter().map(|e| e.name()).collect();
    module.graphs.retain(|g| {
        kept.contains(&g.name.as_str()) || kept.iter().any(|e| g.name.starts_with(&format!("{e}.")))
    });
    let mut probed = module.clone();
    optimize(&mut module, PIPELINE, options, events)?;
    optimize(&mut probed, &probe_pipeline(), options, &mut ())?;

    let mut constants = Constants::default();
    let mut programs = Vec::new();
    for entry in &options.entries {
        programs.push(emit(&module, entry.name(), entry.name(), &mut constants)?);
        if *entry == Entry::Forward {
            programs.push(emit(&probed, FORWARD, FORWARD_PROBE, &mut constants)?);
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    let plan = Plan { programs };
    let ir = module.to_string();
    let contents = Contents {
        manifest: manifest_of(options, &config),
        plans: std::slice::from_ref(&plan),
        constants: &constants,
        ir: &ir,
        tokenizer: tokenizer.as_deref(),
        golden: None,
    };
    let config_path = dir.join(CONFIG_FILE);
    let config_bytes =
        std::fs::read(&config_path).map_err(|source| BuildError::File { path: config_path, source })?;
    let mut reader = CheckpointReader::new(&checkpoint, &config_bytes, options.allow_non_finite);
    let file_bytes = write(&options.output, &contents, &mut reader, events)?;
    let programs = plan.programs.into_iter().map(|p| (p.name, p.arena_bytes)).collect();
    Ok(Report { file_bytes, tensors: constants.list().len(), programs })
}

fn check_options(options: &BuildOptions, config: &TextConfig) -> Result<(), BuildError> {
    let fail = |option: &'static str, found: String, expected: &str| {
        Err(BuildError::Option { option, found, expected: expected.to_owned() })
    };
    if !matches!(options.dtype, DType::F32 | DType::BF16) {
        return fail("--dtype", options.dtype.to_string(), "bf16 or f32 for the CPU");
    }
    let counts = [
        ("--steps", options.steps, 1 << 16),
        ("--new-tokens", options.new_tokens, 1 << 20),
        ("--max-prompt", options.max_prompt, 1 << 20),
        ("--max-batch", options.max_batch, 1 << 12),
    ];
    for (option, found, max) in counts {
        if !(1..=max).contains(&found) {
            return fail(option, found.to_string(), &format!("from 1 to {max}"));
        }
    }
    if !(options.eps > 0.0 && options.eps < 1.0) {
        return fail("--eps", options.eps.to_string(), "above 0 and below 1");
    }
    let length = u64::from(options.max_prompt) + u64::from(options.new_tokens);
    if length > config.max_position_embeddings {
        let expected =
            format!("at most {} (max_position_embeddings of config.json)", config.max_position_embeddings);
        return fail("--max-prompt plus --new-tokens", length.to_string(), &expected);
    }
    if options.entries.is_empty() {
        return fail("--entries", "empty".to_owned(), "at least one of forward, generate");
    }
    Ok(())
}

/// The tokenizer's bytes, if the checkpoint has one.
fn tokenizer(dir: &Path, events: &mut dyn Events) -> Result<Option<Vec<u8>>, BuildError> {
    if !TOKENIZER_FILES.iter().any(|file| dir.join(file).exists()) {
        events.warning(
            "the checkpoint has no tokenizer files: the artifact takes token ids only (`run --ids`)",
        );
        return Ok(None);
    }
    if let Some(text) = chat::template_warning(dir)? {
        events.warning(&text);
    }
    Ok(Some(Tokenizer::from_dir(dir)?.to_bytes()?))
}

fn optimize(
    module: &mut Module,
    passes: &[Pass],
    options: &BuildOptions,
    events: &mut dyn Events,
) -> Result<(), BuildError> {
    let sound = |module: &Module, after: &str| match verify(module) {
        Ok(_) => Ok(()),
        Err(source) => Err(BuildError::Unsound { after: after.to_owned(), source }),
    };
    sound(module, "import")?;
    for pass in passes {
        run_passes(&[*pass], module, &mut |pass, graph, stats| events.after_pass(pass, graph, stats));
        if options.verify_each {
            sound(module, pass.name)?;
        }
    }
    sound(module, "the last pass")
}

fn emit(module: &Module, entry: &str, name: &str, constants: &mut Constants) -> Result<Program, BuildError> {
    let verified =
        verify(module).map_err(|source| BuildError::Unsound { after: "the last pass".to_owned(), source })?;
    Ok(dreamc_backend_cpu::emit(verified, entry, name, constants)?)
}

fn manifest_of(options: &BuildOptions, config: &TextConfig) -> Manifest {
    // Checked to be small: shapes of a 7B model and its like.
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let layers = config.num_hidden_layers;
    let mut aliases = vec![("hidden.0".to_owned(), "model.embed_tokens".to_owned())];
    aliases.extend((1..layers).map(|i| (format!("hidden.{i}"), format!("model.layers.{}", i - 1))));
    aliases.push((format!("hidden.{layers}"), "model.norm".to_owned()));
    let settings = [
        ("alg", options.alg.name().to_owned()),
        ("dtype", options.dtype.to_string()),
        ("eps", options.eps.to_string()),
        ("max-batch", options.max_batch.to_string()),
        ("max-prompt", options.max_prompt.to_string()),
        ("new-tokens", options.new_tokens.to_string()),
        ("steps", options.steps.to_string()),
    ];
    let mut settings: BTreeMap<String, String> =
        settings.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    if options.allow_non_finite {
        settings.insert("allow-non-finite".to_owned(), "true".to_owned());
    }
    Manifest {
        compiler_version: env!("CARGO_PKG_VERSION").to_owned(),
        targets: vec!["cpu".to_owned()],
        source_hash: String::new(),
        options: settings,
        model: Model {
            variant: "text".to_owned(),
            dtype: options.dtype.to_string(),
            vocab_size: small(config.vocab_size),
            hidden_size: small(config.hidden_size),
            layers: small(layers),
            mask_token_id: config.mask_token_id,
            pad_token_id: config.pad_token_id,
            eos_token_id: config.eos_token_id,
            max_prompt: options.max_prompt,
            new_tokens: options.new_tokens,
            max_batch: options.max_batch,
            steps: options.steps,
            alg: options.alg.name().to_owned(),
            eps: options.eps,
        },
        entries: options.entries.iter().map(|e| e.name().to_owned()).collect(),
        aliases,
    }
}

/// Writes under a temporary name beside the output, and renames at the end.
fn write(
    output: &Path,
    contents: &Contents<'_>,
    reader: &mut CheckpointReader<'_>,
    events: &mut dyn Events,
) -> Result<u64, BuildError> {
    let file_error = |source| BuildError::File { path: output.to_owned(), source };
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".dreamc-").suffix(".partial");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the process's mask takes away what the user does not want.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    // Removed when dropped, on every way out but the last.
    let partial = builder.tempfile_in(folder).map_err(file_error)?;
    let mut out = BufWriter::with_capacity(1 << 20, partial.as_file());
    let mut progress = |done, total| {
        events.progress(done, total);
        !events.cancelled()
    };
    let written = write_artifact(&mut out, contents, reader, &mut progress);
    written.map_err(|source| BuildError::Write { path: output.to_owned(), source })?;
    drop(out);
    // A full disk may show only here.
    partial.as_file().sync_all().map_err(file_error)?;
    let bytes = partial.as_file().metadata().map_err(file_error)?.len();
    partial.persist(output).map_err(|e| file_error(e.error))?;
    Ok(bytes)
}
