//! What an artifact's plans must have in common with its manifest and settings: memory is taken by both, and results are read
//! by what the settings say. The loader has checked each plan by itself.

use crate::forward::{ENCODE_FUSED as ENCODE_IMAGE, FUSED as FORWARD};
use crate::generate::ENTRY as GENERATE;
use crate::policy::ENTRY as ACT;
use dreamc_artifact::plan::{Dim, Port, Program, Term};
use dreamc_artifact::{Artifact, Manifest, Tuned, same_dims};
use dreamc_front::Settings;
use dreamc_front::image::{MERGE, PATCH_FEATURES};
use dreamc_front::settings::{ActionSettings, Mode, Positions};
use dreamc_num::DType;

/// What the name of a program that keeps all values ends with.
const PROBE: &str = ".probe";

/// What they say differently, in words; nothing where they agree.
pub(crate) fn contradiction(artifact: &Artifact<'_>) -> Option<String> {
    let settings = artifact.front().map(Settings::from_bytes);
    if settings == Some(None) {
        return Some("the settings of images and actions".to_owned());
    }
    let settings = settings.flatten();
    if crate::warm::check(&artifact.manifest().warm, artifact.manifest()).is_err() {
        return Some("the lengths of `warm`".to_owned());
    }
    let tuned = &artifact.manifest().tuned;
    let fits = |found: &Tuned| artifact.plan(&found.target).is_some_and(|plan| found.fits(plan));
    let once = |i: usize| !tuned[..i].iter().any(|before| before.target == tuned[i].target);
    if !tuned.iter().all(fits) || !(0..tuned.len()).all(once) {
        return Some("the kernels that were chosen".to_owned());
    }
    let plans = artifact.manifest().targets.iter().map(|target| artifact.plan(target));
    plans.into_iter().find_map(|plan| contradicts(artifact.manifest(), settings.as_ref(), &plan?.programs))
}

/// The same of the programs of one plan.
fn contradicts(manifest: &Manifest, settings: Option<&Settings>, programs: &[Program]) -> Option<String> {
    let model = &manifest.model;
    let length = model.max_prompt.checked_add(model.new_tokens);
    if programs.is_empty() || manifest.entries.iter().any(|e| programs.iter().all(|p| p.name != *e)) {
        return Some("the entries".to_owned());
    }
    for program in programs {
        let max = |name: &str| program.symbols.iter().find(|s| s.name == name).map(|s| s.max);
        if max("B") != Some(model.max_batch) {
            return Some("the rows of a batch".to_owned());
        }
        // Actions may need a longer row than an answer does.
        if length.is_none() || max("S") < length {
            return Some("the length of a row".to_owned());
        }
        // The loop of `act` may be longer or shorter than its schedule: see `--flow-clock`.
        if program.name == GENERATE && program.passes() != model.steps {
            return Some("the number of steps".to_owned());
        }
        let entry = Entry { manifest, settings, program };
        let Some([inputs, outputs]) = entry.ports() else { return Some(format!("`{}`", program.name)) };
        let wrong = |port: &&Port| !inputs.iter().any(|expected| expected.is(program, port));
        if let Some(port) = program.inputs.iter().find(wrong) {
            return Some(format!("the input `{}` of `{}`", port.name, program.name));
        }
        let missing = |expected: &&Expected| !program.outputs.iter().any(|port| expected.is(program, port));
        if let Some(expected) = outputs.iter().find(missing) {
            return Some(format!("the output `{}` of `{}`", expected.name, program.name));
        }
    }
    None
}

/// An input or output by name, with its type.
struct Expected {
    name: &'static str,
    dtype: DType,
    /// Nothing is said of the last one where it is 0.
    dims: Vec<Dim>,
}

impl Expected {
    fn is(&self, program: &Program, port: &Port) -> bool {
        let Some(value) = program.values.get(port.value.0 as usize) else { return false };
        let any = |dims: &[Dim]| match (self.dims.split_last(), dims.split_last()) {
            (Some((open, expected)), Some((_, found))) if open.terms.is_empty() => same_dims(expected, found),
            _ => same_dims(&self.dims, dims),
        };
        port.name == self.name && value.dtype == self.dtype && any(&value.dims)
    }
}

/// A program, and what says how it is called.
#[derive(Clone, Copy)]
struct Entry<'a> {
    manifest: &'a Manifest,
    settings: Option<&'a Settings>,
    program: &'a Program,
}

impl Entry<'_> {
    /// The inputs that it may have, and the outputs that it must have; nothing where there is no such entry.
    fn ports(self) -> Option<[Vec<Expected>; 2]> {
        let name = self.program.name.as_str();
        let actions = self.settings.and_then(|settings| settings.actions.as_ref());
        match name.strip_suffix(PROBE).unwrap_or(name) {
            FORWARD => {
                let rows = [self.symbol("B")?, self.symbol("S")?];
                let vocabulary = Some(self.manifest.model.vocab_size).filter(|size| *size > 0)?;
                let logits = [rows.as_slice(), &[n(vocabulary)]].concat();
                let mut inputs = vec![port("input_ids", DType::I32, &rows)];
                inputs.extend(self.rows(&rows, 0)?);
                Some([inputs, vec![port("logits", DType::F32, &logits)]])
            }
            ENCODE_IMAGE => {
                let features = [n(1), self.symbol("M")?, n(0)];
                Some([self.patches()?, vec![port("image_features", DType::F32, &features)]])
            }
            GENERATE if name == GENERATE => self.sampling([self.symbol("B")?, self.symbol("S")?], 0),
            ACT if name == ACT => self.act(actions?),
            _ => None,
        }
    }

    fn act(self, actions: &ActionSettings) -> Option<[Vec<Expected>; 2]> {
        let noisy = actions.mode.is_continuous_loop();
        let before = u32::from(actions.proprio_dim.is_some()) + u32::from(noisy);
        let row = [n(1), self.symbol("S")?];
        let [chunk, width] = [actions.chunk, actions.action_dim];
        let (slots, chunk) = ([n(1), n(chunk.checked_mul(width)?)], [n(1), n(chunk), n(width)]);
        let [mut inputs, mut outputs] = self.sampling(row.clone(), before)?;
        inputs.push(port("slot_index", DType::I32, &row));
        inputs.extend(actions.proprio_dim.map(|dim| port("proprio", DType::F32, &[n(1), n(1), n(dim)])));
        if actions.mode == Mode::Discrete {
            return Some([inputs, outputs]);
        }
        inputs.retain(|input| input.name != "canvas");
        inputs.push(port("input_ids", DType::I32, &row));
        inputs.push(port("action_rows", DType::I32, &slots));
        outputs.clear();
        match actions.mode {
            Mode::OneStep => outputs.push(port("tokens", DType::I32, &slots)),
            Mode::Discrete | Mode::L1 | Mode::Flow | Mode::Ddim => {
                outputs.push(port("normalized_actions", DType::F32, &chunk));
            }
        }
        if noisy {
            inputs.push(port("noise", DType::F32, &chunk));
            let history = [[n(self.program.passes())].as_slice(), &chunk].concat();
            outputs.push(port("history", DType::F32, &history));
        }
        Some([inputs, outputs])
    }

    /// A canvas with what samples it, `before` rows standing in front of it.
    fn sampling(self, rows: [Dim; 2], before: u32) -> Option<[Vec<Expected>; 2]> {
        let history = [[n(self.program.passes())].as_slice(), &rows].concat();
        let mut inputs = vec![port("canvas", DType::I32, &rows), port("stream", DType::U32, &[n(4)])];
        inputs.extend(["temperature", "top_p", "alg_temp", "eos_penalty"].map(|s| port(s, DType::F32, &[])));
        inputs.extend(["top_k", "joint"].map(|s| port(s, DType::I32, &[])));
        inputs.extend(self.rows(&rows, before)?);
        let outputs = vec![port("canvas", DType::I32, &rows), port("history", DType::I32, &history)];
        Some([inputs, outputs])
    }

    /// What belongs to the rows of a sequence, and the images that stand in them.
    fn rows(self, rows: &[Dim; 2], before: u32) -> Option<Vec<Expected>> {
        let [batch, length] = rows;
        let mut longer = length.clone();
        longer.terms.extend((before > 0).then(|| Term { coefficient: before, symbols: vec![] }));
        let all = [batch.clone(), longer];
        let axes = self.settings.is_some_and(|settings| settings.images.positions == Positions::Vl);
        let positions = if axes { [[n(3)].as_slice(), &all].concat() } else { all.to_vec() };
        let mut ports =
            vec![port("attention_mask", DType::I32, &all), port("position_ids", DType::I32, &positions)];
        if self.settings.is_some() {
            ports.push(port("image_index", DType::I32, rows));
            ports.extend(self.patches()?);
        }
        Some(ports)
    }

    /// Patches of images.
    fn patches(self) -> Option<Vec<Expected>> {
        let mut patches = self.symbol("M")?;
        patches.terms.iter_mut().for_each(|term| term.coefficient *= MERGE * MERGE);
        let pixels = [n(1), patches.clone(), n(PATCH_FEATURES as u32)];
        Some(vec![
            port("pixel_values", DType::F32, &pixels),
            port("patch_segments", DType::I32, &[n(1), patches.clone()]),
            port("patch_positions", DType::I32, &[n(2), n(1), patches]),
        ])
    }

    fn symbol(self, name: &str) -> Option<Dim> {
        let index = self.program.symbols.iter().position(|symbol| symbol.name == name)?;
        Some(Dim { terms: vec![Term { coefficient: 1, symbols: vec![index as u32] }] })
    }
}

fn port(name: &'static str, dtype: DType, dims: &[Dim]) -> Expected {
    Expected { name, dtype, dims: dims.to_vec() }
}

/// A constant; 0 has no terms.
fn n(n: u32) -> Dim {
    if n == 0 { Dim { terms: vec![] } } else { Dim::constant(n) }
}
