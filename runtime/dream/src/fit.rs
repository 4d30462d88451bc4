//! What would fit, where the device's memory does not hold an artifact: options of `dreamc build`, by estimate.
//!
//! What the weights would take is counted from their shapes. What a program works in at smaller maxima is an estimate: the
//! compiler packs memory anew for each build, so the arena is taken to shrink as the sizes of all its values do together.

use crate::Error;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Place, Program, Value};
use dreamc_artifact::{Artifact, Manifest, WeightInfo};
use dreamc_num::{DType, Quant};
use dreamc_runtime::{DeviceError, Memory, Size};

/// Prompts are proposed in multiples of this, as far as they are that long.
const PROMPT_STEP: u32 = 64;

/// A device's error, with what would fit where memory ran out.
pub(crate) fn unfit(artifact: &Artifact<'_>, target: &str, program: &Program, error: DeviceError) -> Error {
    let DeviceError::OutOfDeviceMemory { memory } = error else { return Error::Device(error) };
    let remedies = Options { artifact, target, program, memory }.remedies();
    Error::DeviceMemory { error, remedies }
}

/// An artifact that does not fit, and why.
struct Options<'a> {
    artifact: &'a Artifact<'a>,
    target: &'a str,
    program: &'a Program,
    memory: Memory,
}

/// A way to build it, and what it would need then.
#[derive(Clone, Debug, PartialEq)]
struct Choice {
    flags: Vec<String>,
    weights: u64,
    arena: u64,
}

impl Choice {
    fn needed(&self) -> u64 {
        self.weights.saturating_add(self.arena)
    }

    fn said(&self) -> String {
        let [weights, arena] = [self.weights, self.arena].map(Size);
        format!("`{}` (about {weights} of weights and {arena} to work in)", self.flags.join(" "))
    }
}

impl Options<'_> {
    fn remedies(&self) -> String {
        let all = self.choices();
        let fitting: Vec<String> =
            all.iter().filter(|choice| choice.needed() <= self.memory.free).map(Choice::said).collect();
        let mut said = match (fitting.is_empty(), all.last()) {
            (false, _) => vec![format!("by estimate a build with {} fits", fitting.join(", or with "))],
            (true, Some(least)) => vec![format!(
                "by estimate not even a build with {} fits: take a device with more memory",
                least.said()
            )],
            (true, None) => vec!["take a device with more memory, or a smaller model".to_owned()],
        };
        if fitting.iter().any(|choice| choice.contains("fp8")) {
            said.push("`dreamc targets` says which targets have fp8".to_owned());
        }
        if self.memory.needed() <= self.memory.total {
            let held = Size(self.memory.total - self.memory.free);
            said.push(format!("or free what others hold on the device, {held}"));
        }
        said.join("; ")
    }

    /// Ways to build it that need less: each option alone, then all of them together.
    fn choices(&self) -> Vec<Choice> {
        let manifest = self.artifact.manifest();
        let Memory { weights, arena, .. } = self.memory;
        let lighter = self.lighter();
        let batch = (manifest.model.max_batch > 1).then(|| {
            let arena = arena_at(self.program, arena, &self.symbols(1, manifest.model.max_prompt));
            ("--max-batch 1".to_owned(), arena)
        });
        let mut choices = Vec::new();
        if let Some((flag, weights)) = &lighter {
            choices.push(Choice { flags: vec![flag.clone()], weights: *weights, arena });
        }
        if let Some((flag, arena)) = &batch {
            choices.push(Choice { flags: vec![flag.clone()], weights, arena: *arena });
        }
        choices.extend(self.shorter(manifest.model.max_batch, weights).map(|(flag, arena)| Choice {
            flags: vec![flag],
            weights,
            arena,
        }));
        let single = choices.len();
        let (light, weights) = lighter.unwrap_or((String::new(), weights));
        let (one, arena) = batch.unwrap_or((String::new(), arena));
        let mut flags = vec![light, one];
        flags.retain(|flag| !flag.is_empty());
        if flags.len() > 1 {
            choices.push(Choice { flags: flags.clone(), weights, arena });
        }
        if let Some((flag, arena)) = self.shorter(1, weights)
            && !flags.is_empty()
        {
            flags.push(flag);
            choices.push(Choice { flags, weights, arena });
        }
        // Together only where nothing does alone.
        if choices.iter().take(single).any(|choice| choice.needed() <= self.memory.free) {
            choices.truncate(single);
        }
        choices
    }

    /// What makes the weights smaller, and what they would take.
    fn lighter(&self) -> Option<(String, u64)> {
        let manifest = self.artifact.manifest();
        let used = |(index, _): &(u32, &WeightInfo)| {
            self.program.values.iter().any(|value| value.place == Place::Weight(*index))
        };
        let sum = |bytes: &dyn Fn(&WeightInfo) -> u64| {
            let used = (0..).zip(self.artifact.weights()).filter(used);
            used.map(|(_, weight)| bytes(weight)).sum::<u64>()
        };
        if manifest.model.dtype == DType::F32.to_string() {
            let half = |weight: &WeightInfo| weight.bytes / if weight.dims.len() == 2 { 2 } else { 1 };
            return Some(("--dtype bf16".to_owned(), sum(&half)));
        }
        if manifest.options.contains_key("quant") || !self.target.starts_with("cuda") {
            return None;
        }
        let fp8 = |weight: &WeightInfo| match Layout::Quantized(Quant::Fp8)
            .stored_bytes(weight.dtype, &weight.dims)
        {
            Some(bytes) if in_fp8(weight, manifest) => bytes.min(weight.bytes),
            Some(_) | None => weight.bytes,
        };
        Some(("--quant fp8".to_owned(), sum(&fp8)))
    }

    /// The longest prompt with which it fits at so many rows, and what it would work in.
    fn shorter(&self, rows: u32, weights: u64) -> Option<(String, u64)> {
        let model = &self.artifact.manifest().model;
        // What actions need is as long as their images and a task.
        if self.program.name == crate::policy::ENTRY {
            return None;
        }
        let arena = |prompt: u32| arena_at(self.program, self.memory.arena, &self.symbols(rows, prompt));
        let fits = |prompt: u32| weights.saturating_add(arena(prompt)) <= self.memory.free;
        let (mut fitting, mut too_long) = (0, model.max_prompt);
        while too_long - fitting > 1 {
            let middle = fitting + (too_long - fitting) / 2;
            if fits(middle) { fitting = middle } else { too_long = middle }
        }
        let prompt = if fitting > PROMPT_STEP { fitting - fitting % PROMPT_STEP } else { fitting };
        (prompt > 0).then(|| (format!("--max-prompt {prompt}"), arena(prompt)))
    }

    /// The maxima of a build for so many rows and so long a prompt.
    fn symbols(&self, rows: u32, prompt: u32) -> Vec<u32> {
        let model = &self.artifact.manifest().model;
        let share = |max: u32, of: u32, whole: u32| {
            let part = u64::from(max) * u64::from(of) / u64::from(whole.max(1));
            u32::try_from(part).unwrap_or(max).clamp(1, max)
        };
        let at = |(name, max): (&str, u32)| match name {
            "B" => rows.min(max),
            "S" => max - (model.max_prompt - prompt.min(model.max_prompt)).min(max - 1),
            // The tokens of images are those of all rows.
            "M" => share(share(max, rows, model.max_batch), prompt, model.max_prompt),
            _ => max,
        };
        self.program.symbols.iter().map(|symbol| at((&symbol.name, symbol.max))).collect()
    }
}

/// Whether `--quant fp8` rounds a tensor where nothing is kept by name: matrices of the decoder's layers but the first and
/// the last.
fn in_fp8(weight: &WeightInfo, manifest: &Manifest) -> bool {
    let layer = weight.name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
    let last = manifest.model.layers.saturating_sub(1);
    let layer = layer.and_then(|layer| layer.parse::<u32>().ok());
    weight.dims.len() == 2 && layer.is_some_and(|layer| layer > 0 && layer < last)
}

/// What an arena of `arena` bytes at the maxima of `program` would be at others.
fn arena_at(program: &Program, arena: u64, symbols: &[u32]) -> u64 {
    let bytes = |value: &Value, symbols: &[u32]| {
        let elements = value.dims.iter().try_fold(1_u128, |n, dim| Some(n * u128::from(dim.at(symbols)?)));
        elements.unwrap_or(0) * value.dtype.bytes() as u128
    };
    let values = || program.values.iter().filter(|value| matches!(value.place, Place::Arena(_)));
    let sum = |symbols: &[u32]| values().map(|value| bytes(value, symbols)).sum::<u128>();
    let all = sum(&program.maxima()).max(1);
    u64::try_from(u128::from(arena) * sum(symbols).min(all) / all).unwrap_or(arena)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_artifact::plan::{Dim, Symbol, Term};

    fn program() -> Program {
        let of = |symbols: &[u32]| Dim { terms: vec![Term { coefficient: 1, symbols: symbols.to_vec() }] };
        let value = |dims: Vec<Dim>, place| Value { dtype: DType::F32, dims, place };
        let symbol = |name: &str, max| Symbol { name: name.to_owned(), max };
        Program {
            name: "generate".to_owned(),
            symbols: vec![symbol("B", 8), symbol("S", 100)],
            values: vec![
                value(vec![of(&[0, 1]), Dim::constant(64)], Place::Arena(0)),
                value(vec![Dim::constant(1600)], Place::Arena(1 << 20)),
                value(vec![Dim::constant(1 << 20)], Place::Weight(0)),
            ],
            inputs: vec![],
            outputs: vec![],
            steps: vec![],
            arena_bytes: 211_200,
        }
    }

    /// What depends on lengths shrinks with them, what does not stays; weights are no part of it.
    #[test]
    fn arenas_at_other_maxima() {
        let program = program();
        let at = |symbols: &[u32]| arena_at(&program, program.arena_bytes, symbols);
        assert_eq!(at(&[8, 100]), 211_200);
        assert_eq!(at(&[1, 100]), 32_000);
        assert_eq!(at(&[8, 50]), 108_800);
        // Larger ones were not planned for.
        assert_eq!(at(&[16, 100]), 211_200);
    }
}
