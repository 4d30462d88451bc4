//! Runs checkpoints in the interpreter.

use dreamc_frontend::lm::{GENERATE, TextOptions, text_module};
use dreamc_frontend::{Layout, TextConfig, check_tensors};
use dreamc_interp::{Event, Observer, RunError, Tensor, Weights, run};
use dreamc_ir::{Module, Type, verify};
use dreamc_num::stream::StreamState;
use dreamc_runtime::Canvas;
use dreamc_weights::Checkpoint;
use std::collections::BTreeMap;
use std::path::Path;

/// An opened text checkpoint.
pub struct TextModel {
    checkpoint: Checkpoint,
    /// Its configuration.
    pub config: TextConfig,
    layout: Layout,
}

impl TextModel {
    /// Opens and checks a checkpoint.
    pub fn open(dir: &Path) -> TextModel {
        let config = TextConfig::read(dir).expect("config.json is sound");
        let checkpoint = Checkpoint::open(dir).expect("the weights are sound");
        let layout = check_tensors(&checkpoint, &config).expect("the tensors fit the config");
        TextModel { checkpoint, config, layout }
    }

    /// Its module, verified.
    pub fn module(&self, options: &TextOptions) -> Module {
        let module = text_module(&self.config, &self.layout, options);
        verify(&module).expect("the imported graph is sound");
        module
    }

    /// Runs an entry.
    pub fn run(
        &self,
        module: &Module,
        entry: &str,
        inputs: &[Tensor],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Tensor>, RunError> {
        let verified = verify(module).expect("the graph is sound");
        run(verified, entry, inputs, &mut CheckpointWeights::of(&self.checkpoint), observer)
    }

    /// Runs `generate` on a canvas: final canvas and history.
    pub fn generate(
        &self,
        module: &Module,
        canvas: &Canvas,
        settings: &Settings,
        observer: &mut dyn Observer,
    ) -> [Tensor; 2] {
        let stream = StreamState { seed: settings.seed, first_row: 0, step: 0 };
        let scalar = |x: f32| Tensor::f32(&[], vec![x]);
        let mut inputs = canvas_inputs(canvas).to_vec();
        inputs.extend([
            Tensor::u32(&[4], stream.words().to_vec()),
            scalar(settings.temperature),
            scalar(settings.top_p),
            Tensor::i32(&[], vec![settings.top_k]),
            scalar(settings.alg_temp),
            scalar(settings.eos_penalty),
        ]);
        let results = self.run(module, GENERATE, &inputs, observer).expect("the request fits the module");
        results.try_into().expect("generate has two results")
    }
}

/// Sampling settings of a request; the default is the documented one: no randomness, no filter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Of the random stream.
    pub seed: u64,
    /// 0 takes the most probable token.
    pub temperature: f32,
    /// 0 or 1 for none.
    pub top_p: f32,
    /// 0 for none.
    pub top_k: i32,
    /// 0 takes the most confident slots.
    pub alg_temp: f32,
    /// 0 for none.
    pub eos_penalty: f32,
}

/// `input_ids`, `attention_mask`, `position_ids`.
pub fn canvas_inputs(canvas: &Canvas) -> [Tensor; 3] {
    let dims = [canvas.rows, canvas.length];
    [&canvas.tokens, &canvas.attention_mask, &canvas.position_ids].map(|v| Tensor::i32(&dims, v.clone()))
}

/// Weights of a checkpoint, converted once.
struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    read: BTreeMap<String, Tensor>,
}

impl CheckpointWeights<'_> {
    fn of(checkpoint: &Checkpoint) -> CheckpointWeights<'_> {
        CheckpointWeights { checkpoint, read: BTreeMap::new() }
    }
}

impl Weights for CheckpointWeights<'_> {
    fn weight(&mut self, name: &str, _: &Type) -> Option<Tensor> {
        if let Some(tensor) = self.read.get(name) {
            return Some(tensor.clone());
        }
        let stored = self.checkpoint.get(name).ok()?;
        let mut values = vec![0.0; stored.len()];
        stored.to_f32(0..stored.len(), &mut values);
        let dims: Vec<usize> = stored.shape.iter().map(|n| *n as usize).collect();
        let tensor = Tensor::f32(&dims, values);
        self.read.insert(name.to_owned(), tensor.clone());
        Some(tensor)
    }
}

/// Keeps the values whose origin is one of some paths.
pub struct Probes {
    paths: Vec<String>,
    /// Path and value, in the order of computation.
    pub seen: Vec<(String, Tensor)>,
}

impl Probes {
    /// Will keep the values of these paths.
    pub fn of(paths: &[&str]) -> Probes {
        Probes { paths: paths.iter().map(|p| (*p).to_owned()).collect(), seen: Vec::new() }
    }
}

impl Observer for Probes {
    fn after(&mut self, event: &Event<'_>, value: &mut Tensor) {
        let path = match (event.node.origin.0.as_slice(), event.result) {
            ([path], 0) => path.clone(),
            ([path], n) => format!("{path}.{n}"),
            _ => return,
        };
        if self.paths.contains(&path) {
            self.seen.push((path, value.clone()));
        }
    }
}
