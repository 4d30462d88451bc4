//! Weights in few bits: which matrices, how they are rounded, and how well they are stored.

use super::calibrate::Calibrated;
use super::{BuildError, BuildTarget, Statistics};
use dreamc_artifact::layout::Layout;
use dreamc_backend::{Constant, Fidelity, Source};
use dreamc_frontend::{EMBEDDING, ModelConfig};
use dreamc_ir::Module;
use dreamc_num::Quant;
use dreamc_num::quant::Codes;
use dreamc_passes::quantize::{Columns, Decision, Decisions, Matmul, Rounding, Scheme, decide, matmuls, run};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::{BTreeMap, BTreeSet};

/// How the matrices of a build are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// Bits of weights and of what is multiplied with them.
    pub bits: Bits,
    /// Columns of a group, for weights of 4 bits.
    pub group: u32,
    /// Which tensors are kept.
    pub keep: Keep,
    /// What is known of the rows that they are multiplied with; none rounds weights by themselves.
    pub calibration: Option<Statistics>,
}

/// Bits of weights and of what is multiplied with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Both in 8 bits, weights by row of the matrix, activations by row.
    W8A8,
    /// Weights in 4 bits by groups, activations of the build's type.
    W4A16,
    /// Weights in 4 bits by groups, activations in 8 by row.
    W4A8,
    /// Both in fp8 (e4m3), weights by row of the matrix, activations by row; for GPUs that multiply it.
    Fp8,
}

/// Which tensors are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those that are known to be sensitive, see [`sensitive`].
    Rule,
    /// None: every matmul is rounded.
    Nothing,
    /// Those whose names match one of these patterns, in the build's type.
    Patterns(Vec<String>),
}

impl Bits {
    /// Every choice.
    pub const ALL: [Bits; 4] = [Bits::W8A8, Bits::W4A16, Bits::W4A8, Bits::Fp8];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Bits::W8A8 => "w8a8",
            Bits::W4A16 => "w4a16",
            Bits::W4A8 => "w4a8",
            Bits::Fp8 => "fp8",
        }
    }

    /// Inverse of [`Bits::name`].
    pub fn from_name(name: &str) -> Option<Bits> {
        Bits::ALL.into_iter().find(|bits| bits.name() == name)
    }

    /// Whether its weights are stored in groups.
    pub const fn has_groups(self) -> bool {
        matches!(self, Bits::W4A16 | Bits::W4A8)
    }

    /// Whether `target` has kernels for it.
    pub fn fits(self, target: &BuildTarget) -> bool {
        match self {
            Bits::W8A8 | Bits::W4A16 | Bits::W4A8 => *target == BuildTarget::cpu(),
            Bits::Fp8 => target.kernels().is_some_and(|target| target.capabilities().multiplies_fp8()),
        }
    }

    /// The targets that have, as in the manifest.
    pub fn targets(self) -> Vec<String> {
        let all = BuildTarget::all().into_iter().filter(|target| self.fits(target));
        all.map(|target| target.spelling().to_owned()).collect()
    }
}

impl Quantization {
    /// Columns of a group where nothing is said.
    pub const GROUP: u32 = 32;

    /// This many bits, with the rule of what is kept.
    pub fn new(bits: Bits) -> Quantization {
        Quantization { bits, group: Quantization::GROUP, keep: Keep::Rule, calibration: None }
    }

    /// What becomes of a matmul that is not kept.
    pub(super) fn weights(&self) -> Rounding {
        let int4 = Quant::Int4 { group: self.group, zero: ZERO };
        match self.bits {
            Bits::W8A8 => Rounding { quant: Quant::Int8, codes: Some(Codes::Int8) },
            Bits::W4A16 => Rounding { quant: int4, codes: None },
            Bits::W4A8 => Rounding { quant: int4, codes: Some(Codes::Int8) },
            Bits::Fp8 => Rounding { quant: Quant::Fp8, codes: Some(Codes::Fp8) },
        }
    }

    /// What becomes of one that is. Beside weights of 4 bits those of the rule are stored in 8, and rows stay as they are: that
    /// takes half the room, and the trained checkpoints of the fixtures solve as much as with them in bf16.
    fn kept(&self) -> Option<Rounding> {
        let eight = self.keep == Keep::Rule && self.bits.has_groups();
        eight.then_some(Rounding { quant: Quant::Int8, codes: None })
    }
}

/// Whether groups of 4 bits have a smallest value of their own. At 32 columns it takes half a bit a weight and errs less by
/// a seventh.
const ZERO: bool = true;

/// Patterns of the tensors that [`Keep::Rule`] keeps: the first and the last layer, what makes tokens and actions of the
/// hidden rows, and what makes rows of images, states and noise.
pub fn sensitive(config: &ModelConfig) -> Vec<String> {
    let last = config.text.num_hidden_layers.saturating_sub(1);
    let mut patterns = vec!["model.layers.0.*".to_owned(), format!("model.layers.{last}.*")];
    let others = [
        "lm_head.*",
        // A head that is tied to it.
        EMBEDDING,
        "action_head.*",
        "noisy_action_projector.*",
        "proprio_projector.*",
        "projector.*",
        "visual.merger.*",
        "visual.patch_embed.*",
    ];
    patterns.extend(others.map(str::to_owned));
    patterns
}

/// Gives the modules of a build few bits, without calibration.
///
/// # Errors
///
/// Where `--keep` has a pattern that is none, or that no tensor matches.
pub fn quantize(
    quantization: &Quantization,
    config: &ModelConfig,
    modules: &mut [&mut Module],
) -> Result<Decisions, BuildError> {
    let (_, decisions) = decisions(quantization, config, modules)?;
    apply(quantization, &decisions, &Calibrated::default(), modules);
    Ok(decisions)
}

/// The matmuls of a build, and what is decided about their tensors.
pub(super) fn decisions(
    quantization: &Quantization,
    config: &ModelConfig,
    modules: &[&mut Module],
) -> Result<(BTreeSet<Matmul>, Decisions), BuildError> {
    let patterns = match &quantization.keep {
        Keep::Rule => sensitive(config),
        Keep::Nothing => Vec::new(),
        Keep::Patterns(patterns) => patterns.clone(),
    };
    let set = globs(&patterns)?;
    let matmuls = matmuls(modules);
    let decisions = decide(&matmuls, &|name| set.is_match(name));
    if let Keep::Patterns(patterns) = &quantization.keep {
        let used: BTreeSet<usize> = decisions.tensors.keys().flat_map(|name| set.matches(name)).collect();
        if let Some((_, idle)) = patterns.iter().enumerate().find(|(i, _)| !used.contains(i)) {
            let some: Vec<&str> = decisions.tensors.keys().take(3).map(String::as_str).collect();
            return Err(BuildError::Option {
                option: "--keep",
                found: format!("`{idle}`, which no matmul's tensor matches"),
                expected: format!("`none` or a pattern of their names, such as {}", some.join(", ")),
            });
        }
    }
    Ok((matmuls, decisions))
}

/// Carries out what was decided.
pub(super) fn apply(
    quantization: &Quantization,
    decisions: &Decisions,
    calibrated: &Calibrated,
    modules: &mut [&mut Module],
) {
    let columns = |name: &str| calibrated.tensors.get(name).cloned().unwrap_or_else(Columns::default);
    let scheme = Scheme { weights: quantization.weights(), kept: quantization.kept(), calibrated: &columns };
    run(modules, &scheme, decisions);
}

fn globs(patterns: &[String]) -> Result<GlobSet, BuildError> {
    let wrong = |found: &str, error: globset::Error| BuildError::Option {
        option: "--keep",
        found: format!("`{found}`"),
        expected: format!("a pattern of tensor names, in which * stands for anything ({})", error.kind()),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|e| wrong(pattern, e))?);
    }
    set.build().map_err(|e| wrong(&patterns.join(", "), e))
}

/// How the matrices of a build were stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Matrices of matmuls, in the order of the file.
    pub matrices: Vec<StoredMatrix>,
    /// Weights of all stored tensors of the checkpoint.
    pub weights: u64,
    /// Bytes of the same, with scales and filling.
    pub bytes: u64,
}

/// How a matrix of a matmul was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMatrix {
    /// Name of the tensor.
    pub name: String,
    /// Type of its elements: `int8`, `int4g32z`, `fp8`, or the build's.
    pub form: String,
    /// Why it is so.
    pub decision: Decision,
    /// Weights of it that are stored.
    pub weights: u64,
    /// Their bytes, with scales and filling.
    pub bytes: u64,
    /// How far they are from the checkpoint's; nothing where they have the build's type.
    pub fidelity: Option<Fidelity>,
}

/// What became of all constants; `fidelities` are in their order. `packed`: whether matrices of matmuls are, as for the CPU.
pub(super) fn stored(
    packed: bool,
    decisions: &Decisions,
    constants: &[Constant],
    fidelities: &[Option<Fidelity>],
) -> Stored {
    let mut stored = Stored { matrices: Vec::new(), weights: 0, bytes: 0 };
    for (constant, fidelity) in constants.iter().zip(fidelities) {
        let names: &[String] = match &constant.source {
            Source::Checkpoint(names) => names,
            Source::Rows { name, .. } | Source::Quantized { name, .. } => std::slice::from_ref(name),
            Source::Literal(_) => continue,
        };
        let weights: u64 = constant.dims.iter().product();
        let bytes = constant.layout.stored_bytes(constant.dtype, &constant.dims).unwrap_or(0);
        stored.weights += weights;
        stored.bytes += bytes;
        // The rows of an embedding are no matrix of a matmul, also where another copy of them is. Where nothing is packed, a
        // matrix that is kept is that copy.
        let multiplied = |decision: &Decision| {
            constant.layout != Layout::RowMajor || !packed && *decision != Decision::Rounded
        };
        if let [name] = names
            && let Some(decision) = decisions.tensors.get(name).filter(|decision| multiplied(decision))
        {
            let form = match constant.layout {
                Layout::Quantized(quant) => quant.to_string(),
                Layout::RowMajor | Layout::Panels | Layout::PanelPairs => constant.dtype.to_string(),
            };
            stored.matrices.push(StoredMatrix {
                name: name.clone(),
                form,
                decision: decision.clone(),
                weights,
                bytes,
                fidelity: *fidelity,
            });
        }
    }
    stored
}

/// What is said of the options in the manifest.
pub(super) fn settings(quantization: &Quantization) -> BTreeMap<&'static str, String> {
    let keep = match &quantization.keep {
        Keep::Rule => "rule".to_owned(),
        Keep::Nothing => "none".to_owned(),
        Keep::Patterns(patterns) => patterns.join(","),
    };
    let mut settings = BTreeMap::from([("quant", quantization.bits.name().to_owned()), ("keep", keep)]);
    if let Some(statistics) = &quantization.calibration {
        settings.insert("calib", format!("{} requests", statistics.requests()));
    }
    if quantization.bits.has_groups() {
        settings.insert("group", quantization.group.to_string());
    }
    settings
}
