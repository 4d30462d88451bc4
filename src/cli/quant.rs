//! `dreamc build --quant`: which weights are stored in few bits, and how well.

use super::error::Failure;
use super::later::only;
use super::output::counted;
use dreamc::compile::{Bits, BuildTarget, Keep, Quantization, Stored, StoredMatrix};
use dreamc_backend::Fidelity;
use dreamc_num::Quant;
use dreamc_passes::quantize::Decision;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Beside [`Bits`].
const NONE: &str = "none";

#[derive(Debug, clap::Args)]
pub(super) struct QuantArgs {
    /// Bits of weights and activations: none; w8a8, w4a16, w4a8 for the CPU; fp8 for cuda:sm_89, sm_90a, sm_120 and sm_121
    #[arg(long, value_name = "Q", default_value = NONE, value_parser = quant)]
    quant: String,
    /// Columns that share a scale where weights have 4 bits: 32, 64 or 128 [default: 32]
    #[arg(long, value_name = "N", value_parser = group)]
    group: Option<u32>,
    /// Keep the tensors of this name, in which * stands for anything, in the type of --dtype; may be given more than once;
    /// `none` keeps no matmul's [default: first and last layer, lm_head, action heads, projectors, patch embedding]
    #[arg(long, value_name = "PATTERN|none")]
    keep: Vec<String>,
    /// Requests of the kind that the artifact is for, from which the rounding is worked out: a file of `dreamc golden
    /// record`, or a folder of such files and of requests `*.json` in the words of `run` and `act`: {"prompt": "..",
    /// "image": ["a.png"]}, {"task": "..", "image": [".."], "proprio": [..]} or {"input_ids": [[..]]}
    #[arg(long, value_name = "CASES|DIR")]
    pub(super) calib: Option<PathBuf>,
}

fn quant(text: &str) -> Result<String, String> {
    only(text, &[&[NONE], Bits::ALL.map(Bits::name).as_slice()].concat(), &[])
}

fn group(text: &str) -> Result<u32, String> {
    let found = text.parse().ok().filter(|group| Quant::GROUPS.contains(group));
    found.ok_or_else(|| "it is 32, 64 or 128".to_owned())
}

impl QuantArgs {
    /// What the flags ask for; refuses what no target of the build has.
    pub(super) fn quantization(&self, targets: &[BuildTarget]) -> Result<Option<Quantization>, Failure> {
        let bits = Bits::from_name(&self.quant);
        if let Some(flag) = self.idle_flag(bits) {
            return Err(Failure::usage(
                format!("`--{flag}` is of no effect with --quant {}", self.quant),
                if flag == "group" {
                    "leave it out, or choose w4a16 or w4a8: the others have no groups"
                } else if bits == Some(Bits::Fp8) {
                    "leave it out: scales of fp8 come with each request, and there are no groups to work out"
                } else {
                    "leave it out, or choose w8a8, w4a16 or w4a8"
                },
            ));
        }
        let Some(bits) = bits else { return Ok(None) };
        if let Some(target) = targets.iter().find(|target| !bits.fits(target)) {
            return Err(lacking(bits, target));
        }
        let nothing = self.keep.iter().any(|pattern| pattern == NONE);
        let keep = match self.keep.as_slice() {
            [] => Keep::Rule,
            [_] if nothing => Keep::Nothing,
            _ if nothing => {
                return Err(Failure::usage(
                    "`--keep none` keeps no tensor, so no pattern goes with it",
                    "give the patterns alone, or `none` alone",
                ));
            }
            patterns => Keep::Patterns(patterns.to_vec()),
        };
        Ok(Some(Quantization {
            group: self.group.unwrap_or(Quantization::GROUP),
            keep,
            ..Quantization::new(bits)
        }))
    }

    /// A flag that says something about weights which are not stored so.
    fn idle_flag(&self, bits: Option<Bits>) -> Option<&'static str> {
        let groups = bits.is_some_and(Bits::has_groups);
        (self.group.is_some() && !groups)
            .then_some("group")
            .or_else(|| (!self.keep.is_empty() && bits.is_none()).then_some("keep"))
            .or_else(|| {
                let idle = bits.is_none_or(|bits| bits == Bits::Fp8);
                (self.calib.is_some() && idle).then_some("calib")
            })
    }
}

/// `a, b and c`.
fn listed(names: &[String]) -> String {
    match names {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        all => all.concat(),
    }
}

/// Why `target` cannot be built for in these bits.
fn lacking(bits: Bits, target: &BuildTarget) -> Failure {
    let (name, with) = (bits.name(), listed(&bits.targets()));
    if bits != Bits::Fp8 {
        return Failure::usage(
            format!("`--quant {name}` is for the CPU: {target} has no kernels for it"),
            "build it with --quant none, and the CPU's file by itself",
        );
    }
    let cpu = *target == BuildTarget::cpu();
    let (what, instead) = if cpu {
        ("the CPU multiplies no fp8".to_owned(), "for the CPU choose w8a8, w4a16 or w4a8")
    } else {
        (format!("{target} multiplies no fp8 in OCP's e4m3"), "choose --quant none for it")
    };
    Failure::usage(
        format!("`--quant fp8`: {what}"),
        format!("{with} have it, in a file by themselves; {instead}"),
    )
}

/// How matrices were stored: a line for each kind of tensor and form, or with `each` for each tensor.
///
/// ```text
/// weights                          tensors  stored     bits   rms error      worst
/// model.layers.*.mlp.up_proj             2  int4g32z   5.03      0.0723     0.0741 model.layers.2
/// lm_head                                1  int8       8.02      0.0067
/// kept: ...
/// 5.621 bits a weight over 1860000 weights of matmuls, 9.1 over all 2000000 that are stored
/// ```
pub(super) fn table(stored: &Stored, each: bool) -> String {
    let mut kinds: BTreeMap<(usize, String, &str), Kind<'_>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for matrix in &stored.matrices {
        let name = if each { matrix.name.clone() } else { kind(&matrix.name) };
        let at = order.iter().position(|known| *known == name).unwrap_or_else(|| {
            order.push(name.clone());
            order.len() - 1
        });
        kinds.entry((at, name, &matrix.form)).or_default().add(matrix);
    }
    let widest = order.iter().map(String::len).max().unwrap_or(0).max("matmul weights".len());
    let mut text = format!(
        "{:<widest$}{:>9}  {:<11}{:>7}{:>11}{:>10}\n",
        "matmul weights", "tensors", "stored", "bits", "rms error", "worst"
    );
    for ((_, name, form), kind) in &kinds {
        text.push_str(&kind.line(&format!("{name:<widest$}{:>9}  {form:<11}", kind.tensors)));
    }
    text.push_str(&kept(stored));
    let matmuls = |of: fn(&StoredMatrix) -> u64| stored.matrices.iter().map(of).sum::<u64>();
    let (weights, bytes) = (matmuls(|m| m.weights), matmuls(|m| m.bytes));
    text.push_str(&format!(
        "{:.3} bits a weight over the {weights} of matmuls, {:.3} over all {} that are stored\n",
        bits(bytes, weights),
        bits(stored.bytes, stored.weights),
        stored.weights
    ));
    text
}

/// Tensors of one kind that are stored alike.
#[derive(Default)]
struct Kind<'a> {
    tensors: u64,
    weights: u64,
    bytes: u64,
    fidelity: Option<Fidelity>,
    worst: Option<(f64, &'a str)>,
}

impl<'a> Kind<'a> {
    fn add(&mut self, matrix: &'a StoredMatrix) {
        self.tensors += 1;
        self.weights += matrix.weights;
        self.bytes += matrix.bytes;
        if let Some(fidelity) = matrix.fidelity {
            *self.fidelity.get_or_insert_default() += fidelity;
            let relative = fidelity.relative();
            if self.worst.is_none_or(|(worst, _)| relative > worst) {
                self.worst = Some((relative, &matrix.name));
            }
        }
    }

    fn line(&self, start: &str) -> String {
        let bits = bits(self.bytes, self.weights);
        let Some((fidelity, (worst, name))) = self.fidelity.zip(self.worst) else {
            return format!("{start}{bits:>7.3}{:>11}\n", "-");
        };
        let error = fidelity.relative();
        match self.tensors {
            1 => format!("{start}{bits:>7.3}{error:>11.5}\n"),
            _ => format!("{start}{bits:>7.3}{error:>11.5}{worst:>10.5}  {name}\n"),
        }
    }
}

/// What was kept, and why.
fn kept(stored: &Stored) -> String {
    let of = |wanted: fn(&Decision) -> bool| stored.matrices.iter().filter(move |m| wanted(&m.decision));
    let chosen = of(|d| *d == Decision::Kept).count() as u64;
    let mut forms: Vec<&str> = of(|d| *d == Decision::Kept).map(|m| m.form.as_str()).collect();
    forms.sort_unstable();
    forms.dedup();
    let forms = if forms.is_empty() { String::new() } else { format!(", in {}", forms.join(" and ")) };
    let mut text = format!("kept: {} by --keep or its rule{forms}", counted(chosen, "tensor"));
    for matrix in of(|d| matches!(d, Decision::KeptWith(_))) {
        if let Decision::KeptWith(other) = &matrix.decision {
            text.push_str(&format!("\nkept: {} with {other}, as they are multiplied together", matrix.name));
        }
    }
    text + "\n"
}

fn bits(bytes: u64, weights: u64) -> f64 {
    8.0 * bytes as f64 / weights.max(1) as f64
}

/// The name without `.weight`, with a star for the number of a layer or block.
fn kind(name: &str) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let mut before = "";
    let parts = name.split('.').map(|part| {
        let numbered = ["layers", "blocks", "mlp_resnet_blocks"].contains(&before);
        before = part;
        if numbered && part.parse::<u32>().is_ok() { "*" } else { part }
    });
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_all_layers() {
        let matrix = |layer: u32, error: Option<f64>| StoredMatrix {
            name: format!("model.layers.{layer}.mlp.up_proj.weight"),
            form: if error.is_some() { "int8" } else { "bf16" }.to_owned(),
            decision: if error.is_some() { Decision::Rounded } else { Decision::Kept },
            weights: 1000,
            bytes: if error.is_some() { 1000 } else { 2000 },
            fidelity: error.map(|error| Fidelity { error, power: 1.0 }),
        };
        let matrices = vec![matrix(0, None), matrix(1, Some(0.01)), matrix(2, Some(0.04))];
        let stored = Stored { matrices, weights: 4000, bytes: 6000 };
        let text = table(&stored, false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["model.layers.*.mlp.up_proj", "1", "bf16", "16.000", "-"]);
        let worst = "model.layers.2.mlp.up_proj.weight";
        assert_eq!(
            lines[2],
            ["model.layers.*.mlp.up_proj", "2", "int8", "8.000", "0.15811", "0.20000", worst]
        );
        assert!(text.contains("kept: 1 tensor by --keep or its rule, in bf16\n"), "{text}");
        assert!(text.ends_with(
            "10.667 bits a weight over the 3000 of matmuls, 12.000 over all 4000 that are stored\n"
        ));
        assert_eq!(table(&stored, true).lines().count(), 1 + 3 + 2);
    }
}
