//! One pass over given tokens or images: for regression tests and probes.

use crate::engine::{Engine, Inputs, bytes_of, floats_of};
use crate::generate::check_tokens;
use crate::visual::{Images, look, tower};
use crate::{Error, Manifest, Model, Visual};
use dreamc_artifact::plan::{Dispatch, Step};
use dreamc_num::DType;
use dreamc_runtime::{Canvas, Observer, Shown};
use globset::{Glob, GlobMatcher};

/// Name of the entry, and of its program whose ops are fused as in `generate`.
pub(crate) const FUSED: &str = "forward";
/// Name of its program that keeps every value of the model.
const PROBED: &str = "forward.probe";
/// Paths of values that belong to the images and not to rows.
const TOWER: [&str; 2] = ["visual.", "projector."];
/// The same of the entry for images.
pub(crate) const ENCODE_FUSED: &str = "encode_image";
const ENCODE_PROBED: &str = "encode_image.probe";

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forward {
    /// Token ids, one list per row, all of one length.
    pub input_ids: Vec<Vec<i32>>,
    /// 0 for padding, 1 elsewhere; none means no padding.
    pub attention_mask: Option<Vec<Vec<i32>>>,
    /// Positions, one plane of rows, or three: time, row and column. None means those that the model computes itself.
    pub position_ids: Option<Vec<Vec<Vec<i32>>>>,
    /// Images and videos, in the order of the rows and of the placeholders in each.
    pub visuals: Vec<Visual>,
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
        self.forward_by(request, probes, None)
    }

    /// As [`Model::forward`] without probes, with an observer: for timings.
    ///
    /// # Errors
    ///
    /// As [`Model::forward`].
    pub fn forward_with(
        &mut self,
        request: &Forward,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Output>, Error> {
        self.forward_by(request, &[], Some(observer))
    }

    fn forward_by(
        &mut self,
        request: &Forward,
        probes: &[&str],
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<Vec<Output>, Error> {
        let manifest = self.manifest().clone();
        let model = &manifest.model;
        let program = if probes.is_empty() { FUSED } else { PROBED };
        let longest = self.with_engine(|engine| {
            engine.prepare(FUSED, program)?;
            let symbols = engine.stepper().map(|s| s.program().symbols.as_slice()).unwrap_or_default();
            Ok::<_, Error>(symbols.iter().find(|s| s.name == "S").map_or(0, |s| s.max as usize))
        })?;
        let found = request.input_ids.iter().map(Vec::len).max().unwrap_or(0);
        if found > longest {
            return Err(Error::PromptTooLong { found, max: longest });
        }
        let canvas = Canvas::new(&request.input_ids, request.attention_mask.as_deref())?;
        check_tokens(&canvas, model.vocab_size)?;
        let mut images = Images::new(self.settings(), &request.visuals)?;
        images.divide(&request.input_ids)?;
        let axes = images.axes();
        let positions = request.position_ids.as_ref().map(|p| given(p, &canvas, axes)).transpose()?;
        self.with_engine(|engine| {
            let mut probe = Probe::new(engine, &manifest, probes)?;
            let mut all: Vec<Output> = Vec::new();
            for first in (0..canvas.rows).step_by(model.max_batch.max(1) as usize) {
                let canvas = canvas.part(first, (canvas.rows - first).min(model.max_batch.max(1) as usize));
                let mut inputs = vec![("input_ids", bytes_of(&canvas.tokens))];
                let range = first * canvas.length..(first + canvas.rows) * canvas.length;
                // One plane serves all axes.
                let plane =
                    |planes: &[Vec<i32>], i: usize| planes[i.min(planes.len() - 1)][range.clone()].to_vec();
                let own = positions.as_ref().map(|p| (0..images.axes()).flat_map(|i| plane(p, i)).collect());
                let image_tokens = images.inputs(&canvas, first, canvas.length, own, &mut inputs)?;
                let mut outputs = [("logits", Vec::new())];
                let lengths = [("B", canvas.rows as u32), ("S", canvas.length as u32), ("M", image_tokens)];
                let watching: &mut dyn Observer = match &mut observer {
                    Some(observer) => &mut **observer,
                    None => &mut probe,
                };
                engine.run(&lengths, &inputs, watching, &mut outputs)?;
                let dims = vec![canvas.rows, canvas.length, model.vocab_size as usize];
                let logits = Output { name: "logits".to_owned(), dims, data: floats_of(&outputs[0].1) };
                let part = std::iter::once(logits).chain(probe.seen.drain(..));
                join(&mut all, part.collect());
            }
            Ok(all)
        })
    }

    /// The rows that stand for images in the sequence, `image_features` [1, tokens, hidden_size], and every value of the
    /// vision tower whose name matches one of the `probes`.
    ///
    /// # Errors
    ///
    /// As [`Model::forward`].
    pub fn encode_image(&mut self, visuals: &[Visual], probes: &[&str]) -> Result<Vec<Output>, Error> {
        self.encode_image_by(visuals, probes, None)
    }

    /// As [`Model::encode_image`] without probes, with an observer: for timings.
    ///
    /// # Errors
    ///
    /// As [`Model::forward`].
    pub fn encode_image_with(
        &mut self,
        visuals: &[Visual],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Output>, Error> {
        self.encode_image_by(visuals, &[], Some(observer))
    }

    fn encode_image_by(
        &mut self,
        visuals: &[Visual],
        probes: &[&str],
        observer: Option<&mut dyn Observer>,
    ) -> Result<Vec<Output>, Error> {
        let manifest = self.manifest().clone();
        let settings = self.settings().ok_or(Error::NoImages)?.images.clone();
        if visuals.is_empty() {
            return Err(Error::NothingToSee);
        }
        let seen = look(&settings, visuals)?;
        let mut inputs = Inputs::new();
        let tokens = tower(&settings, &seen, &mut inputs)?;
        let program = if probes.is_empty() { ENCODE_FUSED } else { ENCODE_PROBED };
        self.with_engine(|engine| {
            engine.prepare(ENCODE_FUSED, program)?;
            let mut probe = Probe::new(engine, &manifest, probes)?;
            let mut outputs = [("image_features", Vec::new())];
            let watching: &mut dyn Observer = match observer {
                Some(observer) => observer,
                None => &mut probe,
            };
            engine.run(&[("M", tokens)], &inputs, watching, &mut outputs)?;
            let dims = vec![1, tokens as usize, manifest.model.hidden_size as usize];
            let data = floats_of(&outputs[0].1);
            let features = Output { name: "image_features".to_owned(), dims, data };
            Ok(std::iter::once(features).chain(probe.seen).collect())
        })
    }
}

/// Positions that the caller gives: one plane, or three, which must be alike for a model that has one axis.
fn given(planes: &[Vec<Vec<i32>>], canvas: &Canvas, axes: usize) -> Result<Vec<Vec<i32>>, Error> {
    let shape = |found: [usize; 3]| Error::Positions { found, expected: [canvas.rows, canvas.length] };
    if planes.len() != 1 && (planes.len() != 3 || axes == 1 && planes.iter().any(|p| *p != planes[0])) {
        return Err(shape([planes.len(), 0, 0]));
    }
    let plane = |rows: &Vec<Vec<i32>>| {
        let given = Canvas::new(rows, None)?;
        if (given.rows, given.length) == (canvas.rows, canvas.length) {
            Ok(given.tokens)
        } else {
            Err(shape([planes.len(), given.rows, given.length]))
        }
    };
    planes.iter().map(plane).collect()
}

/// Appends the rows of a further batch.
fn join(all: &mut Vec<Output>, part: Vec<Output>) {
    if all.is_empty() {
        *all = part;
        return;
    }
    for (whole, part) in all.iter_mut().zip(part) {
        // Rows of the batch; what belongs to the images is one row of all their patches.
        let axis = usize::from(TOWER.iter().any(|prefix| whole.name.starts_with(prefix)));
        whole.dims[axis] += part.dims[axis];
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

impl Probe {
    /// For the program that the engine is ready for.
    fn new(engine: &Engine<'_>, manifest: &Manifest, probes: &[&str]) -> Result<Probe, Error> {
        let steps = engine.stepper().map(|s| s.program().steps.as_slice()).unwrap_or_default();
        let names = names(steps, &manifest.aliases);
        Ok(Probe { names: matching(&names, probes)?, seen: Vec::new() })
    }
}

impl Observer for Probe {
    fn watches(&self) -> bool {
        !self.names.is_empty()
    }

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
        DType::F32 => floats_of(bytes),
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
