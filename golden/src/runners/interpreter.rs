//! The interpreter, on the graph as imported or as the passes leave it.

use super::{Runner, Values};
use crate::graph::ordered;
use crate::spy::{Spy, Spying};
use dream::{Forward, Generate, Patches, Sampling, Visual};
use dreamc::compile::{BuildOptions, Entry, quantize};
use dreamc_front::VisionTokens;
use dreamc_front::action::{BoundsKind, STATISTICS_FILE, Statistics, StatisticsFile};
use dreamc_front::image::{Grid, ImageProcessor, PATCH_FEATURES, coordinates, merged_tokens, segments};
use dreamc_front::{positions, splice_index};
use dreamc_frontend::clock::{ddim, flow_times};
use dreamc_frontend::module::{Architecture, ENCODE_IMAGE, FORWARD, GENERATE, Options, module};
use dreamc_frontend::sampler::Sampler;
use dreamc_frontend::vla::{Act, Integrator, Mode};
use dreamc_frontend::{HeadKind, HeadRequest, HeadSet, ModelConfig, Variant, VisionConfig, check_tensors};
use dreamc_interp::{Event, Tensor};
use dreamc_ir::{Module, Type, verify};
use dreamc_num::stream::StreamState;
use dreamc_runtime::Canvas;
use dreamc_weights::{Checkpoint, Sources};
use std::collections::BTreeMap;

/// Inputs of a graph by name.
pub(super) type Named = Vec<(&'static str, Tensor)>;

/// A checkpoint in the interpreter.
pub struct Interpreter {
    config: ModelConfig,
    weights: Weights,
    /// How images are cut into patches, for models that see.
    processor: Option<ImageProcessor>,
    /// Ranges of the actions, for builds that act.
    pub(super) statistics: Option<Statistics>,
    /// How many passes `act` takes.
    pub(super) act_forwards: u32,
    module: Module,
}

impl Interpreter {
    /// Imports a checkpoint as this build does; with all passes of the product if `optimized`.
    pub fn new(options: &BuildOptions, optimized: bool) -> Interpreter {
        let dir = options.checkpoint.as_path();
        let config = ModelConfig::read(dir).expect("config.json is sound");
        let checkpoint = Checkpoint::open(dir).expect("the weights are sound");
        let layout = check_tensors(&checkpoint, &config).expect("the tensors fit the config");
        let (statistics, act, heads) = match options.entries.contains(&Entry::Act) {
            true => {
                let statistics = statistics(options);
                let (act, heads) = act(options, &statistics, config.text.hidden_size);
                (Some(statistics), Some(act), Some(heads))
            }
            false => (None, None, None),
        };
        let integrator = act.as_ref().and_then(|a| a.integrator.as_ref());
        let act_forwards = integrator.map_or(options.steps, |i| i.times().len() as u32);
        let of_module = Options {
            dtype: options.dtype,
            max_batch: options.max_batch.into(),
            max_length: (options.max_prompt + options.new_tokens).into(),
            max_slots: (options.max_prompt + options.new_tokens).into(),
            max_image_tokens: (options.max_batch * options.max_prompt).into(),
            sampler: Sampler { steps: options.steps.into(), eps: options.eps, alg: options.alg },
            act,
        };
        let mut module = module(&Architecture::new(&config, &layout), &of_module);
        if optimized {
            dreamc_passes::optimize(&mut module, &mut |_, _, _| ());
        }
        if let Some(quant) = &options.quant {
            quantize(quant, &config, &mut [&mut module]).expect("the patterns fit");
        }
        let processor = config.variant.sees().then(|| {
            let found = ImageProcessor::from_dir(dir).expect("the settings of images are sound");
            found.expect("there are settings of images")
        });
        let weights = Weights { checkpoint, heads, read: BTreeMap::new() };
        Interpreter { config, weights, processor, statistics, act_forwards, module }
    }

    /// As [`Make`](super::Make) returns it.
    pub fn boxed(options: &BuildOptions, optimized: bool) -> Vec<Box<dyn Runner>> {
        vec![Box::new(Interpreter::new(options, optimized))]
    }

    pub(super) fn run(
        &mut self,
        entry: &str,
        named: &[(&str, Tensor)],
        observer: &mut dyn dreamc_interp::Observer,
    ) -> Vec<Tensor> {
        let verified = verify(&self.module).expect("the graph is sound");
        let inputs = ordered(&self.module, entry, named);
        dreamc_interp::run(verified, entry, &inputs, &mut self.weights, observer)
            .unwrap_or_else(|e| panic!("`{entry}`: {e}"))
    }

    pub(super) fn mask_token(&self) -> i32 {
        self.config.text.mask_token_id as i32
    }

    /// Mask, positions and, for a model that sees, images of a canvas. The first `prompt` ids of a row may stand for
    /// images.
    fn rows(&self, canvas: &Canvas, prompt: usize, visuals: &[Visual]) -> Named {
        let dims = [canvas.rows, canvas.length];
        let ints = |v: &[i32]| Tensor::i32(&dims, v.to_vec());
        let mut named = vec![("attention_mask", ints(&canvas.attention_mask))];
        let Some(vision) = &self.config.vision else {
            named.push(("position_ids", ints(&canvas.position_ids)));
            return named;
        };
        let (tokens, seen) = (vision_tokens(vision), self.look(visuals));
        let grids = |video: bool| seen.iter().filter(|s| s.1 == video).map(|s| s.0.grid).collect::<Vec<_>>();
        named.push((
            "position_ids",
            match self.config.variant {
                Variant::Vla => {
                    let all = positions::vla_positions(canvas.rows, &canvas.attention_mask);
                    ints(&all.expect("the mask fits the rows"))
                }
                Variant::Vl | Variant::Text => {
                    let (mask, of) = (&canvas.attention_mask, [grids(false), grids(true)]);
                    let all =
                        positions::vl_positions(canvas.rows, &canvas.tokens, mask, &tokens, &of[0], &of[1]);
                    let all = all.expect("images and placeholders go together");
                    Tensor::i32(&[3, canvas.rows, canvas.length], all)
                }
            },
        ));
        let in_prompt = |(at, id): (usize, &i32)| if at % canvas.length < prompt { *id } else { -1 };
        let ids: Vec<i32> = canvas.tokens.iter().enumerate().map(in_prompt).collect();
        let patches: Vec<Patches> = seen.into_iter().map(|s| s.0).collect();
        named.push(("image_index", ints(&image_index(&ids, &tokens, &patches))));
        named.extend(tower(&patches));
        named
    }

    /// Patches, and whether they are a video's.
    fn look(&self, visuals: &[Visual]) -> Vec<(Patches, bool)> {
        let cut = |frames: &[dream::Image]| {
            let processor = self.processor.as_ref().expect("the model sees");
            processor.preprocess(frames).expect("the image can be resized")
        };
        let patches = |visual: &Visual| match visual {
            Visual::Image(image) => (cut(std::slice::from_ref(image)), false),
            Visual::Video(frames) => (cut(frames), true),
            Visual::ImagePatches(patches) => (patches.clone(), false),
            Visual::VideoPatches(patches) => (patches.clone(), true),
        };
        visuals.iter().map(patches).collect()
    }

    /// Ids of a prompt that stand for images, as row numbers.
    pub(super) fn image_index(&self, ids: &[i32], patches: &[Patches]) -> Vec<i32> {
        image_index(ids, &vision_tokens(self.config.vision.as_ref().expect("the model sees")), patches)
    }
}

impl Runner for Interpreter {
    fn forward(&mut self, request: &Forward, probes: &[&str]) -> Values {
        let mask = request.attention_mask.as_deref();
        let canvas = Canvas::new(&request.input_ids, mask).expect("the case is sound");
        assert!(request.position_ids.is_none(), "the interpreter computes positions itself");
        let mut named = self.rows(&canvas, canvas.length, &request.visuals);
        named.push(("input_ids", Tensor::i32(&[canvas.rows, canvas.length], canvas.tokens)));
        let mut seen = Seen { paths: probes, values: Vec::new() };
        let logits = self.run(FORWARD, &named, &mut seen).remove(0);
        seen.values.push(("logits".to_owned(), logits));
        seen.values
    }

    fn encode_image(&mut self, visuals: &[Visual], probes: &[&str]) -> Values {
        let patches: Vec<Patches> = self.look(visuals).into_iter().map(|seen| seen.0).collect();
        let mut seen = Seen { paths: probes, values: Vec::new() };
        let features = self.run(ENCODE_IMAGE, &tower(&patches), &mut seen).remove(0);
        seen.values.push(("image_features".to_owned(), features));
        seen.values
    }

    fn generate(&mut self, request: &Generate, spy: &mut dyn Spy) -> [Tensor; 2] {
        let (mask, slots) = (request.attention_mask.as_deref(), request.canvas.as_deref());
        let slots = slots.expect("the case says what to append");
        let canvas = Canvas::for_generation(&request.prompt, mask, slots, self.mask_token());
        let canvas = canvas.expect("the case is sound");
        let mut named = self.rows(&canvas, canvas.length - slots.len(), &request.visuals);
        named.extend(sampling(&request.sampling));
        named.push(("canvas", Tensor::i32(&[canvas.rows, canvas.length], canvas.tokens)));
        let results = self.run(GENERATE, &named, &mut Spying(spy));
        results.try_into().expect("generate has two results")
    }
}

/// Stream and settings of the sampler.
pub(super) fn sampling(sampling: &Sampling) -> Named {
    let scalar = |x: f32| Tensor::f32(&[], vec![x]);
    let stream = StreamState { seed: sampling.seed, first_row: 0, step: 0 };
    vec![
        ("stream", Tensor::u32(&[4], stream.words().to_vec())),
        ("temperature", scalar(sampling.temperature)),
        ("top_p", scalar(sampling.top_p.unwrap_or(1.0))),
        ("top_k", Tensor::i32(&[], vec![sampling.top_k.unwrap_or(0) as i32])),
        ("alg_temp", scalar(sampling.alg_temp.unwrap_or(0.0))),
        ("eos_penalty", scalar(sampling.eos_penalty)),
        ("joint", Tensor::i32(&[], vec![sampling.joint.into()])),
    ]
}

fn vision_tokens(vision: &VisionConfig) -> VisionTokens {
    VisionTokens {
        image: vision.image_token_id as i32,
        video: vision.video_token_id as i32,
        vision_start: vision.vision_start_token_id as i32,
    }
}

fn image_index(ids: &[i32], tokens: &VisionTokens, patches: &[Patches]) -> Vec<i32> {
    let rows = patches.iter().map(|p| p.grid.tokens()).sum();
    splice_index(ids, tokens, rows).expect("images and placeholders go together")
}

/// The patches of all images; without one, four that nobody sees.
pub(super) fn tower(patches: &[Patches]) -> Named {
    let grids: Vec<Grid> = patches.iter().map(|p| p.grid).collect();
    let (pixels, segments, places) = match merged_tokens(&grids) {
        0 => (vec![0.0; 4 * PATCH_FEATURES], vec![0; 4], vec![[0; 2]; 4]),
        _ => {
            let pixels = patches.iter().flat_map(|p| p.values.iter().copied()).collect();
            (pixels, segments(&grids), coordinates(&grids))
        }
    };
    let n = segments.len();
    let axes = [0, 1].into_iter().flat_map(|axis| places.iter().map(move |place| place[axis]));
    vec![
        ("pixel_values", Tensor::f32(&[1, n, PATCH_FEATURES], pixels)),
        ("patch_segments", Tensor::i32(&[1, n], segments)),
        ("patch_positions", Tensor::i32(&[2, 1, n], axes.collect())),
    ]
}

fn statistics(options: &BuildOptions) -> Statistics {
    let file =
        StatisticsFile::read(&options.checkpoint.join(STATISTICS_FILE)).expect("the statistics are sound");
    let file = file.expect("there are statistics");
    let key = options.act.unnorm_key.as_deref();
    file.choose(key, BoundsKind::Quantiles, None, None).expect("there are statistics of that name")
}

/// What a build adds to the graphs for acting, and the weights of it.
fn act(options: &BuildOptions, statistics: &Statistics, hidden_size: u64) -> (Act, HeadSet) {
    let mode = options.act.mode;
    let action_dim = statistics.action().width() as u64;
    let proprio = statistics.proprio().filter(|_| options.act.proprio);
    let proprio_dim = proprio.map(|bounds| bounds.width() as u64);
    let kind = match mode {
        Mode::Discrete | Mode::OneStep => None,
        Mode::L1 => Some(HeadKind::L1),
        Mode::Flow => Some(HeadKind::Flow),
        Mode::Ddim => Some(HeadKind::Ddim),
    };
    let request = HeadRequest { kind, action_dim, proprio_dim, l1_as_ddim: false };
    let heads = HeadSet::open(&options.checkpoint, hidden_size, &request).expect("the heads are sound");
    let integrator = match mode {
        Mode::Discrete | Mode::OneStep | Mode::L1 => None,
        Mode::Flow => {
            let times = flow_times(options.steps, options.act.flow_clock).expect("the clock ends");
            Some(Integrator::Euler { times, dt: 1.0 / options.steps as f32 })
        }
        Mode::Ddim => {
            let (times, alphas) = ddim(options.steps);
            Some(Integrator::Ddim { times, alphas })
        }
    };
    let chunk = options.act.chunk.into();
    (Act { mode, chunk, action_dim, proprio_dim, kept: None, integrator }, heads)
}

/// Weights of a checkpoint and of the heads beside it.
struct Weights {
    checkpoint: Checkpoint,
    heads: Option<HeadSet>,
    read: BTreeMap<String, Tensor>,
}

impl dreamc_interp::Weights for Weights {
    fn weight(&mut self, name: &str, ty: &Type) -> Option<Tensor> {
        if let Some(tensor) = self.read.get(name) {
            return Some(tensor.clone());
        }
        let sources = Sources::new(&self.checkpoint);
        let mut sources = match &self.heads {
            Some(heads) => sources.with(heads),
            None => sources,
        };
        // The graph's shape: the matrix of the patches is stored as the convolution that it is.
        let dims: Vec<usize> =
            ty.dims.iter().map(|d| d.as_constant().map(|n| n as usize)).collect::<Option<_>>()?;
        let mut values = vec![0.0; sources.elements(name)? as usize];
        if values.len() != dims.iter().product::<usize>() {
            return None;
        }
        sources.read(name, 0, &mut values).expect("it is there");
        let tensor = Tensor::f32(&dims, values);
        self.read.insert(name.to_owned(), tensor.clone());
        Some(tensor)
    }
}

/// Keeps the results of the nodes of some paths; those after the first have their number behind a point.
struct Seen<'a> {
    paths: &'a [&'a str],
    values: Values,
}

impl dreamc_interp::Observer for Seen<'_> {
    fn after(&mut self, event: &Event<'_>, value: &mut Tensor) {
        let [path] = event.node.origin.0.as_slice() else { return };
        let name = if event.result == 0 { path.clone() } else { format!("{path}.{}", event.result) };
        if self.paths.contains(&name.as_str()) {
            self.values.push((name, value.clone()));
        }
    }
}
