//! The entries that all models have in common: `forward`, `generate`, `encode_image`.

use crate::builder::Builder;
use crate::lm::Decoder;
use crate::module::{ENCODE_IMAGE, FORWARD, GENERATE, Options};
use crate::sampler::{Settings, State, Tokens};
use crate::vl::{Patches, Vision, feature_param, splice};
use dreamc_ir::{Dim, Graph, Op, Origin, Type, Value};
use dreamc_num::DType;

/// The random stream: u32 [4].
pub(crate) fn stream_param(b: &mut Builder) -> Value {
    b.param("stream", DType::U32, &[4.into()])
}

/// Mask and positions of `rows`.
pub(crate) fn row_params(b: &mut Builder, decoder: Decoder<'_>, rows: &[Dim; 2]) -> [Value; 2] {
    let mask = b.param("attention_mask", DType::I32, rows);
    let axes = decoder.sections.len() as u64;
    let dims = if axes == 1 { rows.to_vec() } else { [&[axes.into()], rows.as_slice()].concat() };
    [mask, b.param("position_ids", DType::I32, &dims)]
}

/// Ids to logits.
pub(crate) fn forward(decoder: Decoder<'_>, vision: Option<Vision<'_>>, dtype: DType) -> Graph {
    let mut b = Builder::new(FORWARD, dtype);
    let rows = [Dim::symbol("B"), Dim::symbol("S")];
    let ids = b.param("input_ids", DType::I32, &rows);
    let [mask, positions] = row_params(&mut b, decoder, &rows);
    let images = vision.map(|vision| {
        let index = b.param("image_index", DType::I32, &rows);
        (vision, index, Patches::params(&mut b, vision.config))
    });
    let mut hidden = decoder.embed(&mut b, ids);
    if let Some((vision, index, patches)) = images {
        let features = vision.features(&mut b, &patches);
        hidden = splice(&mut b, hidden, index, features);
    }
    let hidden = decoder.layers(&mut b, hidden, mask, positions);
    let normed = decoder.norm(&mut b, hidden);
    let logits = decoder.logits(&mut b, normed);
    b.result("logits", logits);
    b.graph
}

/// Patches to image rows.
pub(crate) fn encode_image(vision: Vision<'_>, dtype: DType) -> Graph {
    let mut b = Builder::new(ENCODE_IMAGE, dtype);
    let patches = Patches::params(&mut b, vision.config);
    let features = vision.features(&mut b, &patches);
    b.result("image_features", features);
    b.graph
}

/// Canvas to canvas, and the step that is repeated.
pub(crate) fn generate(decoder: Decoder<'_>, vision: Option<Vision<'_>>, options: &Options) -> [Graph; 2] {
    Sampling {
        entry: GENERATE,
        decoder,
        vision,
        batch: Dim::symbol("B"),
        proprio_dim: None,
        kept: None,
        options,
    }
    .graphs()
}

/// A canvas that is denoised by the sampler.
pub(crate) struct Sampling<'a> {
    pub(crate) entry: &'static str,
    pub(crate) decoder: Decoder<'a>,
    pub(crate) vision: Option<Vision<'a>>,
    /// Rows of the canvas.
    pub(crate) batch: Dim,
    /// Numbers of the robot's state, whose row stands before the canvas.
    pub(crate) proprio_dim: Option<u64>,
    /// First token and number of tokens to which the slots with a `slot_index` are restricted.
    pub(crate) kept: Option<(u64, u64)>,
    pub(crate) options: &'a Options,
}

impl Sampling<'_> {
    pub(crate) fn graphs(&self) -> [Graph; 2] {
        [self.entry_graph(), self.step_graph()]
    }

    fn body(&self) -> String {
        format!("{}.step", self.entry)
    }

    fn canvas_dims(&self) -> [Dim; 2] {
        [self.batch.clone(), Dim::symbol("S")]
    }

    fn prefix(&self) -> u64 {
        u64::from(self.proprio_dim.is_some())
    }

    /// Parameters of the entry that the body takes in the same form.
    fn shared(&self, b: &mut Builder) -> Shared {
        let [batch, s] = self.canvas_dims();
        let [mask, positions] = row_params(b, self.decoder, &[batch.clone(), s.plus(&self.prefix().into())]);
        let settings = Settings::params(b);
        let image_index = self.vision.map(|_| b.param("image_index", DType::I32, &self.canvas_dims()));
        let restricted = self.kept.map(|_| b.param("slot_index", DType::I32, &self.canvas_dims()));
        Shared { mask, positions, settings, image_index, restricted }
    }

    fn entry_graph(&self) -> Graph {
        let mut b = Builder::new(self.entry, self.options.dtype);
        let canvas = b.param("canvas", DType::I32, &self.canvas_dims());
        let stream = stream_param(&mut b);
        let shared = self.shared(&mut b);
        let patches = self.vision.map(|vision| (vision, Patches::params(&mut b, vision.config)));
        let proprio = self.proprio_dim.map(|dim| crate::vla::proprio_param(&mut b, dim));

        let mut inputs = vec![canvas, stream];
        inputs.extend(shared.values());
        if let Some((vision, patches)) = patches {
            inputs.push(vision.features(&mut b, &patches));
        }
        if let (Some(proprio), Some(dim)) = (proprio, self.proprio_dim) {
            inputs.push(crate::vla::proprio_row(&mut b, self.decoder.config.hidden_size, proprio, dim));
        }
        let steps = self.options.sampler.steps;
        let history = [&[steps.into()], self.canvas_dims().as_slice()].concat();
        let types = [canvas, stream].map(|v| b.graph.ty(v).clone());
        let types = [types.as_slice(), &[Type::new(DType::I32, history)]].concat();
        let slots = self.options.sampler.slot_schedule(self.decoder.config.mask_token_id);
        let op = Op::Denoise { steps, state: 2, body: self.body(), slots };
        let node = b.graph.push(op, inputs, types, Origin::path("sampler"));
        let outputs = b.graph.node(node).outputs.clone();
        b.result("canvas", outputs[0]);
        b.result("history", outputs[2]);
        b.graph
    }

    /// One denoising step: forward, draw a token for every slot, commit some.
    fn step_graph(&self) -> Graph {
        let mut b = Builder::new(&self.body(), self.options.dtype);
        let h = self.decoder.config.hidden_size;
        let step = b.param("step", DType::I32, &[]);
        let canvas = b.param("canvas", DType::I32, &self.canvas_dims());
        let stream = stream_param(&mut b);
        let shared = self.shared(&mut b);
        let features = self.vision.map(|_| feature_param(&mut b, h));
        let proprio = self.proprio_dim.map(|_| crate::vla::row_param(&mut b, "proprio_row", h));

        let mut hidden = self.decoder.embed(&mut b, canvas);
        if let (Some(index), Some(features)) = (shared.image_index, features) {
            hidden = splice(&mut b, hidden, index, features);
        }
        if let Some(row) = proprio {
            hidden = b.op(Op::Concat { axis: 1 }, &[row, hidden], "model.prefixed_embeds");
        }
        let mut hidden = self.decoder.layers(&mut b, hidden, shared.mask, shared.positions);
        if proprio.is_some() {
            hidden = b.op(Op::DropRows { count: self.prefix() }, &[hidden], "model.rows");
        }
        let normed = self.decoder.norm(&mut b, hidden);
        let logits = self.decoder.logits(&mut b, normed);
        let config = self.decoder.config;
        let tokens = Tokens { mask: config.mask_token_id, pad: config.pad_token_id, kept: self.kept };
        let Shared { settings, restricted, .. } = shared;
        let state = State { step, canvas, stream, settings, restricted };
        let [canvas, stream] = self.options.sampler.step(&mut b, tokens, &state, logits);
        b.result("canvas", canvas);
        b.result("stream", stream);
        b.graph
    }
}

/// What entry and body take alike.
struct Shared {
    mask: Value,
    positions: Value,
    settings: Settings,
    image_index: Option<Value>,
    restricted: Option<Value>,
}

impl Shared {
    fn values(&self) -> Vec<Value> {
        let mut values = vec![self.mask, self.positions];
        values.extend(self.settings.values());
        values.extend(self.image_index.into_iter().chain(self.restricted));
        values
    }
}
