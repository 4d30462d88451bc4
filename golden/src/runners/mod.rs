//! Who computes the cases of the text model.

use crate::graph::ordered;
use crate::text::{Job, Replay, TextRunner};
use dream::{Forward, Generate, Isa, Model, OpenOptions, Sampling};
use dreamc::compile::{ActOptions, BuildOptions, Entry, build};
use dreamc_artifact::plan::Dispatch;
use dreamc_frontend::module::{Architecture, FORWARD, GENERATE, Options, module};
use dreamc_frontend::sampler::Sampler;
use dreamc_frontend::{TextConfig, check_tensors};
use dreamc_interp::{Data, Event, Tensor, Weights};
use dreamc_ir::{Module, Type, verify};
use dreamc_num::DType;
use dreamc_num::stream::StreamState;
use dreamc_runtime::{Canvas, Observer, Shown};
use dreamc_weights::Checkpoint;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name of a built file in its folder.
const ARTIFACT: &str = "model.dream";

/// The interpreter, on the graph as imported or as the passes leave it.
pub struct Interpreter {
    checkpoint: Checkpoint,
    module: Module,
}

impl Interpreter {
    /// Imports a checkpoint.
    pub fn new(job: &Job<'_>, optimized: bool) -> Interpreter {
        let config = TextConfig::read(job.checkpoint).expect("config.json is sound");
        let checkpoint = Checkpoint::open(job.checkpoint).expect("the weights are sound");
        let layout = check_tensors(&checkpoint, &config).expect("the tensors fit the config");
        let options = Options {
            dtype: DType::F32,
            max_batch: job.max_batch.into(),
            max_length: (job.max_prompt + job.new_tokens).into(),
            max_image_tokens: 1,
            sampler: Sampler { steps: job.steps.into(), eps: job.eps, alg: job.alg },
            act: None,
        };
        let of = Architecture { text: &config, vision: None, mrope_section: None, layout: &layout };
        let mut module = module(&of, &options);
        if optimized {
            dreamc_passes::optimize(&mut module, &mut |_, _, _| ());
        }
        Interpreter { checkpoint, module }
    }

    fn run(&self, entry: &str, inputs: &[Tensor], observer: &mut dyn dreamc_interp::Observer) -> Vec<Tensor> {
        let verified = verify(&self.module).expect("the graph is sound");
        let mut weights = CheckpointWeights { checkpoint: &self.checkpoint, read: BTreeMap::new() };
        dreamc_interp::run(verified, entry, inputs, &mut weights, observer)
            .expect("the request fits the graph")
    }
}

impl TextRunner for Interpreter {
    fn forward(&mut self, canvas: &Canvas, probes: &[&str]) -> Vec<(String, Tensor)> {
        let mut seen = Seen { paths: probes, values: Vec::new() };
        let logits = self.run(FORWARD, &canvas_inputs(canvas), &mut seen).remove(0);
        seen.values.push(("logits".to_owned(), logits));
        seen.values
    }

    fn generate(&mut self, canvas: &Canvas, sampling: &Sampling, replay: &mut Replay<'_>) -> [Tensor; 2] {
        let stream = StreamState { seed: sampling.seed, first_row: 0, step: 0 };
        let scalar = |x: f32| Tensor::f32(&[], vec![x]);
        let [tokens, mask, positions] = canvas_inputs(canvas);
        let named = [
            ("canvas", tokens),
            ("attention_mask", mask),
            ("position_ids", positions),
            ("stream", Tensor::u32(&[4], stream.words().to_vec())),
            ("temperature", scalar(sampling.temperature)),
            ("top_p", scalar(sampling.top_p.unwrap_or(1.0))),
            ("top_k", Tensor::i32(&[], vec![sampling.top_k.unwrap_or(0) as i32])),
            ("alg_temp", scalar(sampling.alg_temp.unwrap_or(0.0))),
            ("eos_penalty", scalar(sampling.eos_penalty)),
            ("joint", Tensor::i32(&[], vec![sampling.joint.into()])),
        ];
        let inputs = ordered(&self.module, GENERATE, &named);
        self.run(GENERATE, &inputs, replay).try_into().expect("generate has two results")
    }
}

/// `canvas`, `attention_mask`, `position_ids`.
fn canvas_inputs(canvas: &Canvas) -> [Tensor; 3] {
    let dims = [canvas.rows, canvas.length];
    [&canvas.tokens, &canvas.attention_mask, &canvas.position_ids].map(|v| Tensor::i32(&dims, v.clone()))
}

struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    read: BTreeMap<String, Tensor>,
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

/// Keeps the first results of the nodes of some paths.
struct Seen<'a> {
    paths: &'a [&'a str],
    values: Vec<(String, Tensor)>,
}

impl dreamc_interp::Observer for Seen<'_> {
    fn after(&mut self, event: &Event<'_>, value: &mut Tensor) {
        if let [path] = event.node.origin.0.as_slice()
            && event.result == 0
            && self.paths.contains(&path.as_str())
        {
            self.values.push((path.clone(), value.clone()));
        }
    }
}

impl dreamc_interp::Observer for Replay<'_> {
    fn after(&mut self, event: &Event<'_>, value: &mut Tensor) {
        if let Some(path) = event.node.origin.0.last() {
            self.value(path, event.step, value);
        }
    }
}

/// A built artifact; the file goes when this does.
pub struct Built {
    folder: tempfile::TempDir,
}

impl Built {
    /// Builds an artifact.
    pub fn new(job: &Job<'_>, dtype: DType) -> Built {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let output = folder.path().join(ARTIFACT);
        let options = BuildOptions {
            checkpoint: job.checkpoint.to_owned(),
            output: output.clone(),
            dtype,
            steps: job.steps,
            eps: job.eps,
            alg: job.alg,
            new_tokens: job.new_tokens,
            max_prompt: job.max_prompt,
            max_batch: job.max_batch,
            entries: vec![Entry::Forward, Entry::Generate],
            image: None,
            act: ActOptions::default(),
            lora: None,
            allow_non_finite: false,
            verify_each: true,
        };
        build(&options, &mut ()).unwrap_or_else(|e| panic!("{e}"));
        Built { folder }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(ARTIFACT)
    }

    /// Opens it on the CPU.
    pub fn open(&self, threads: usize, isa: Option<Isa>) -> Model {
        let options = OpenOptions { threads, isa, ..OpenOptions::default() };
        Model::open(&self.path(), &options).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// The whole product: build, file, load, device.
pub struct Compiled {
    model: Model,
    /// Keeps the artifact as long as it is mapped.
    _built: Built,
}

impl Compiled {
    /// Builds an artifact and opens it on the CPU.
    pub fn new(job: &Job<'_>, dtype: DType, threads: usize, isa: Option<Isa>) -> Compiled {
        let built = Built::new(job, dtype);
        Compiled { model: built.open(threads, isa), _built: built }
    }

    /// The opened artifact.
    pub fn model(&mut self) -> &mut Model {
        &mut self.model
    }
}

impl TextRunner for Compiled {
    fn forward(&mut self, canvas: &Canvas, probes: &[&str]) -> Vec<(String, Tensor)> {
        let rows = |v: &[i32]| v.chunks(canvas.length).map(<[i32]>::to_vec).collect::<Vec<_>>();
        let request = Forward {
            input_ids: rows(&canvas.tokens),
            attention_mask: Some(rows(&canvas.attention_mask)),
            position_ids: Some(vec![rows(&canvas.position_ids)]),
            visuals: Vec::new(),
        };
        // Without probes the fused program runs, with probes the one that keeps every value: both are judged.
        let mut outputs = self.model.forward(&request, &[]).unwrap_or_else(|e| panic!("{e}"));
        outputs.extend(self.model.forward(&request, probes).unwrap_or_else(|e| panic!("{e}")));
        outputs.into_iter().map(|o| (o.name, Tensor::f32(&o.dims, o.data))).collect()
    }

    fn generate(&mut self, canvas: &Canvas, sampling: &Sampling, replay: &mut Replay<'_>) -> [Tensor; 2] {
        let new_tokens = self.model.manifest().model.new_tokens as usize;
        let rows = |v: &[i32]| {
            v.chunks(canvas.length).map(|r| r[..r.len() - new_tokens].to_vec()).collect::<Vec<_>>()
        };
        let request = Generate {
            prompt: rows(&canvas.tokens),
            attention_mask: Some(rows(&canvas.attention_mask)),
            visuals: Vec::new(),
            canvas: None,
            sampling: sampling.clone(),
            history: true,
        };
        let generated = self.model.generate_with(&request, replay).unwrap_or_else(|e| panic!("{e}"));
        let batches = canvas.rows.div_ceil(self.model.manifest().model.max_batch as usize) as u32;
        assert_eq!(generated.forwards, generated.steps * batches);
        let dims = [canvas.rows, canvas.length];
        let history = generated.history.expect("asked for").concat().concat();
        let all = [&[generated.steps as usize], dims.as_slice()].concat();
        [Tensor::i32(&dims, generated.sequences.concat()), Tensor::i32(&all, history)]
    }
}

impl Observer for Replay<'_> {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        dispatch.origin.last().is_some_and(|path| Replay::PATHS.contains(&path.as_str()))
    }

    fn after(&mut self, shown: Shown<'_>) {
        let Some(path) = shown.dispatch.origin.last() else { return };
        let dims: Vec<usize> = shown.shape.dims().iter().map(|n| *n as usize).collect();
        let mut value = tensor_of(shown.dtype, &dims, shown.bytes);
        self.value(path, shown.step, &mut value);
        *shown.bytes = bytes_of(&value);
    }
}

/// A tensor from the bytes of a device.
pub fn tensor_of(dtype: DType, dims: &[usize], bytes: &[u8]) -> Tensor {
    let words = bytes.as_chunks::<4>().0;
    let data = match dtype {
        DType::F32 => Data::F32(words.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        DType::I32 => Data::I32(words.iter().map(|b| i32::from_le_bytes(*b)).collect()),
        DType::U32 => Data::U32(words.iter().map(|b| u32::from_le_bytes(*b)).collect()),
        DType::Bool => Data::Bool(bytes.iter().map(|b| *b != 0).collect()),
        DType::BF16 => {
            let halves = bytes.as_chunks::<2>().0.iter();
            Data::F32(halves.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect())
        }
        DType::F16 => panic!("no target has f16"),
    };
    Tensor { dims: dims.to_vec(), data }
}

/// Inverse of [`tensor_of`]: floats are f32.
pub fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    match &tensor.data {
        Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::Bool(v) => v.iter().map(|x| u8::from(*x)).collect(),
    }
}
