//! Numbers that are not finite end a request: no token and no action is made of them, whatever runs it.

use crate::runners::{Built, Place};
use crate::tabletop::Trained;
use crate::{Fixture, runners};
use dream::{ActOptions, Error, Generate, Image, Model, NotFinite, Observation, Policy};
use dreamc::compile::{ActOptions as Acting, BuildOptions, Entry, Quantization};
use dreamc_artifact::plan::Dispatch;
use dreamc_frontend::vla::Mode;
use dreamc_num::DType;
use dreamc_runtime::{Observer, Shown};
use safetensors::SafeTensors;
use std::path::Path;
use tempfile::TempDir;

/// The largest bf16: finite, and whatever it is the gain of is not.
const LARGEST: [u8; 2] = [0x7f, 0x7f];
/// The last norm, before head and logits.
pub const LAST_NORM: &str = "model.norm.weight";
/// A norm whose rows are multiplied as codes where a build is quantised.
pub const FIRST_NORM: &str = "model.layers.0.input_layernorm.weight";

/// A copy of a checkpoint of bf16 whose tensor `name` is the largest number everywhere.
pub fn spoiled(checkpoint: &Path, name: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for entry in std::fs::read_dir(checkpoint).expect("the checkpoint is there") {
        let from = entry.expect("it can be listed").path();
        let to = folder.path().join(from.file_name().unwrap_or_default());
        let mut bytes = std::fs::read(&from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        if from.extension().is_some_and(|ending| ending == "safetensors") {
            let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
            let at = file.tensor(name).map(|tensor| {
                let start = tensor.data().as_ptr().addr() - bytes.as_ptr().addr();
                start..start + tensor.data().len()
            });
            if let Ok(at) = at {
                let halves = bytes[at].as_chunks_mut::<2>().0;
                halves.iter_mut().for_each(|half| half.copy_from_slice(&LARGEST));
            }
        }
        std::fs::write(&to, bytes).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    }
    folder
}

/// What a build of a spoiled checkpoint is like.
#[derive(Clone, Debug)]
pub struct Spoiled {
    /// The tensor that overflows.
    pub tensor: &'static str,
    /// Type of weights and activations.
    pub dtype: DType,
    /// How weights are stored.
    pub quant: Option<Quantization>,
}

impl Spoiled {
    fn of(&self, options: BuildOptions) -> BuildOptions {
        BuildOptions { dtype: self.dtype, quant: self.quant.clone(), ..options }
    }
}

fn generate(model: &mut Model) -> Error {
    let prompt = vec![vec![3, 4, 5]; 2];
    let found = model.generate(&Generate { prompt, ..Generate::default() }, &mut |_, _| true);
    found.err().unwrap_or_else(|| panic!("there is an answer"))
}

/// Text has no answer.
pub fn judge_text(place: Place<'_>, spoiled: &Spoiled) {
    let folder = self::spoiled(&Fixture::open("tiny-text").path("checkpoint"), spoiled.tensor);
    let options =
        BuildOptions { steps: 3, entries: vec![Entry::Generate], ..runners::build_options(folder.path()) };
    let built = place.build(&spoiled.of(options));
    for mut model in place.open(&built) {
        let error = generate(&mut model);
        let Error::NotFinite { entry, step, steps, row, what } = error else { panic!("{error}") };
        assert_eq!((entry, step, steps, row, what), ("generate", 1, 3, 0, NotFinite::Logits));
    }
}

/// A policy gives no actions.
pub fn judge_act(place: Place<'_>, name: &str, mode: Mode, steps: u32, spoiled: &Spoiled) {
    let trained = Trained::open(name);
    let folder = self::spoiled(&Fixture::open(name).path("checkpoint"), spoiled.tensor);
    let options = trained.options(steps, spoiled.dtype, &[Entry::Act]);
    let act = Acting { mode, ..options.act.clone() };
    let options = BuildOptions { checkpoint: folder.path().to_owned(), act, ..options };
    let built: Built = place.build(&spoiled.of(options));
    let image = Image::from_rgb8(112, 112, vec![90; 112 * 112 * 3]).unwrap_or_else(|e| panic!("{e}"));
    for model in place.open(&built) {
        let mut policy = Policy::of(model).unwrap_or_else(|e| panic!("{e}"));
        let images = std::slice::from_ref(&image);
        let state = vec![0.0; policy.settings().proprio_dim.unwrap_or(0) as usize];
        let proprio = (!state.is_empty()).then_some(state.as_slice());
        let observation = Observation { images, task: "pick up the red block", proprio };
        let found = policy.act(&observation, &ActOptions::default());
        let error = found.err().unwrap_or_else(|| panic!("{name}, {mode:?}: the robot acts"));
        let Error::NotFinite { entry, step, row, what, .. } = error else { panic!("{error}") };
        assert_eq!((entry, step, row), ("act", 1, 0));
        let logits = matches!(mode, Mode::Discrete | Mode::OneStep);
        let action = matches!(what, NotFinite::Action { scaled: false, action: 0, .. });
        assert!(if logits { what == NotFinite::Logits } else { action }, "{what:?}");
    }
}

/// Spoils one logit of a row in one step.
struct Once {
    step: u32,
    row: usize,
    value: f32,
}

impl Observer for Once {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        dispatch.origin.iter().any(|path| path == "lm_head")
    }

    fn after(&mut self, shown: Shown<'_>) {
        if shown.step == self.step {
            let rows = shown.shape.dims()[0] as usize;
            let of_row = shown.bytes.len() / rows;
            // Not the first column, and not the first slot's alone.
            let at = (self.row + 1) * of_row - 8;
            shown.bytes[at..at + 4].copy_from_slice(&self.value.to_le_bytes());
        }
    }
}

/// Step and row are those of the first logits that are not finite, NaN or infinity of either sign, whatever chooses tokens
/// and slots.
pub fn judge_places(place: Place<'_>) {
    let options = BuildOptions {
        steps: 4,
        new_tokens: 8,
        entries: vec![Entry::Generate],
        ..runners::build_options(&Fixture::open("tiny-text").path("checkpoint"))
    };
    let built = place.build(&options);
    for mut model in place.open(&built) {
        for (step, row, value) in [(0, 1, f32::NAN), (2, 0, f32::INFINITY), (1, 1, f32::NEG_INFINITY)] {
            for (temperature, top_k, alg_temp) in [(0.0, None, None), (0.7, Some(3), Some(0.5))] {
                let sampling = dream::Sampling { temperature, top_k, alg_temp, ..Default::default() };
                let request = Generate { prompt: vec![vec![3, 4, 5]; 2], sampling, ..Generate::default() };
                let found = model.generate_with(&request, &mut Once { step, row, value });
                let error = found.err().unwrap_or_else(|| panic!("{value} in step {step} has an answer"));
                let Error::NotFinite { step: s, row: r, what, .. } = error else { panic!("{error}") };
                assert_eq!((s, r, what), (step + 1, row, NotFinite::Logits), "{value}");
                // The model is as good as before.
                model.generate(&request, &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
            }
        }
    }
}
