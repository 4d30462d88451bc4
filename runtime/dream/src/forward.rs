//! One pass over given tokens: for regression tests and probes.

use crate::engine::bytes_of;
use crate::generate::check_tokens;
use crate::{Error, Model};
use dreamc_artifact::plan::{Dispatch, Step};
use dreamc_num::DType;
use dreamc_runtime::{Canvas, Observer, Shown};
use globset::{Glob, GlobMatcher};

/// Name of the entry, and of its program whose ops are fused as in `generate`.
const FUSED: &str = "forward";
/// Name of its program that keeps every value of the model.
const PROBED: &str = "forward.probe";

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forward {
    /// Token ids, one list per row, all of one length.
    pub input_ids: Vec<Vec<i32>>,
    /// 0 for padding, 1 elsewhere; none means no padding.
    pub attention_mask: Option<Vec<Vec<i32>>>,
    /// Positions; none means those that the model computes itself.
    pub position_ids: Option<Vec<Vec<i32>>>,
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// `logits`, or the probed value's name.
    pub name: String,
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Elements, last axis fastest. Token ids and conditions are given as numbers.
    pub data: Vec<f32>,
}

impl Model {
    /// Logits of every position (not shifted), and every value whose name matches one of the `probes`: an alias such as
    /// `hidden.0`, or a path such as `model.layers.0.self_attn.q_proj`.
    ///
    /// Without probes the ops are fused as they are for `generate`; with probes an unfused program over the same
    /// weights is run, in which every value of the model exists.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the request or the artifact, or which probe matches nothing.
    pub fn forward(&mut self, request: &Forward, probes: &[&str]) -> Result<Vec<Output>, Error> {
        let manifest = self.manifest().clone();
        let model = &manifest.model;
        let longest = (model.max_prompt + model.new_tokens) as usize;
        let found = request.input_ids.iter().map(Vec::len).max().unwrap_or(0);
        if found > longest {
            return Err(Error::PromptTooLong { found, max: longest });
        }
        let mut canvas = Canvas::new(&request.input_ids, request.attention_mask.as_deref())?;
        check_tokens(&canvas, model.vocab_size)?;
        if let Some(positions) = &request.position_ids {
            let given = Canvas::new(positions, None)?;
            if (given.rows, given.length) != (canvas.rows, canvas.length) {
                let found = [given.rows, given.length];
                return Err(Error::Positions { found, expected: [canvas.rows, canvas.length] });
            }
            canvas.position_ids = given.tokens;
        }
        let program = if probes.is_empty() { FUSED } else { PROBED };
        self.with_engine(|engine| {
            engine.prepare(FUSED, program)?;
            let names =
                engine.stepper().map(|s| names(&s.program().steps, &manifest.aliases)).unwrap_or_default();
            let mut probe = Probe { names: matching(&names, probes)?, seen: Vec::new() };
            let mut all: Vec<Output> = Vec::new();
            for first in (0..canvas.rows).step_by(model.max_batch.max(1) as usize) {
                let rows = (canvas.rows - first).min(model.max_batch.max(1) as usize);
                let range = first * canvas.length..(first + rows) * canvas.length;
                let inputs: [(&str, &[u8]); 3] = [
                    ("input_ids", &bytes_of(&canvas.tokens[range.clone()])),
                    ("attention_mask", &bytes_of(&canvas.attention_mask[range.clone()])),
                    ("position_ids", &bytes_of(&canvas.position_ids[range])),
                ];
                let mut outputs = [("logits", Vec::new())];
                let lengths = [("B", rows as u32), ("S", canvas.length as u32)];
                engine.run(&lengths, &inputs, &mut probe, &mut outputs)?;
                let vocabulary = model.vocab_size as usize;
                let dims = vec![rows, canvas.length, vocabulary];
                let logits =
                    Output { name: "logits".to_owned(), dims, data: floats(DType::F32, &outputs[0].1) };
                let part = std::iter::once(logits).chain(probe.seen.drain(..));
                join(&mut all, part.collect());
            }
            Ok(all)
        })
    }
}

/// Appends the rows of a further batch.
fn join(all: &mut Vec<Output>, part: Vec<Output>) {
    if all.is_empty() {
        *all = part;
        return;
    }
    for (whole, part) in all.iter_mut().zip(part) {
        whole.dims[0] += part.dims[0];
        whole.data.extend(part.data);
    }
}

/// Name and path of every value that can be probed.
type Names = Vec<(String, String)>;

fn names(steps: &[Step], aliases: &[(String, String)]) -> Names {
    let mut names = Names::new();
    for step in steps {
        let Step::Dispatch(Dispatch { origin, writes, .. }) = step else { continue };
        let [path] = origin.as_slice() else { continue };
        for result in 0..writes.len() {
            let name = result_name(path, result);
            names.extend(
                aliases.iter().filter(|(_, p)| *p == name).map(|(alias, _)| (alias.clone(), name.clone())),
            );
            names.push((name.clone(), name));
        }
    }
    names
}

/// Results after the first are told apart by their number.
fn result_name(path: &str, result: usize) -> String {
    if result == 0 { path.to_owned() } else { format!("{path}.{result}") }
}

fn matching(names: &Names, probes: &[&str]) -> Result<Names, Error> {
    let mut found = Names::new();
    for pattern in probes {
        let unmatched = || Error::Probe { pattern: (*pattern).to_owned() };
        let glob: GlobMatcher = Glob::new(pattern).map_err(|_| unmatched())?.compile_matcher();
        let before = found.len();
        found.extend(names.iter().filter(|(name, _)| glob.is_match(name)).cloned());
        if found.len() == before {
            return Err(unmatched());
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

struct Probe {
    names: Names,
    seen: Vec<Output>,
}

impl Observer for Probe {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        let [path] = dispatch.origin.as_slice() else { return false };
        (0..dispatch.writes.len()).any(|result| {
            let name = result_name(path, result);
            self.names.iter().any(|(_, p)| *p == name)
        })
    }

    fn after(&mut self, shown: Shown<'_>) {
        let [path] = shown.dispatch.origin.as_slice() else { return };
        let value = result_name(path, shown.result);
        for (name, _) in self.names.iter().filter(|(_, p)| *p == value) {
            let dims = shown.shape.dims().iter().map(|n| *n as usize).collect();
            self.seen.push(Output { name: name.clone(), dims, data: floats(shown.dtype, shown.bytes) });
        }
    }
}

fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let words = || bytes.as_chunks::<4>().0.iter();
    match dtype {
        DType::F32 => words().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::I32 => words().map(|b| i32::from_le_bytes(*b) as f32).collect(),
        DType::U32 => words().map(|b| u32::from_le_bytes(*b) as f32).collect(),
        DType::BF16 => {
            let halves = bytes.as_chunks::<2>().0.iter();
            halves.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect()
        }
        DType::F16 => {
            bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
        }
        DType::Bool => bytes.iter().map(|b| f32::from(*b)).collect(),
    }
}
