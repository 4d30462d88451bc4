//! The text model as a graph: entries `forward` and `generate` (`spec/text-model.md`, `spec/sampling.md`).
//!
//! What is built is the reference's own order of operations, unfused; making it fast is the passes' work.
//! Origins are module paths of the checkpoint, so that messages and probes speak the user's language.

use crate::config::TextConfig;
use crate::layout::{EMBEDDING, Layout};
use dreamc_ir::{Attention, Confidence, Dim, Graph, Linear, Module, Op, Origin, Port, Type, Value, infer};
use dreamc_num::DType;
use dreamc_num::stream::Lane;

/// Name of the regression entry: ids to logits.
pub const FORWARD: &str = "forward";
/// Name of the sampling entry: canvas to canvas.
pub const GENERATE: &str = "generate";
/// Name of the body of the denoising loop.
pub const GENERATE_STEP: &str = "generate.step";

/// What a build decides about the text model.
#[derive(Clone, Debug, PartialEq)]
pub struct TextOptions {
    /// Type of weights and activations; the residual stream and the logits are f32.
    pub dtype: DType,
    /// Most rows computed at a time.
    pub max_batch: u64,
    /// Longest canvas: prompt and new tokens.
    pub max_length: u64,
    /// Denoising steps.
    pub steps: u64,
    /// End of the schedule.
    pub eps: f32,
    /// How slots are chosen.
    pub alg: Alg,
}

/// How the slots to commit are chosen (`spec/sampling.md` section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alg {
    /// Each slot with the schedule's probability.
    Origin,
    /// The most probable tokens.
    MaskgitPlus,
    /// The largest margins between best and second best.
    TopkMargin,
    /// The lowest entropies.
    Entropy,
}

impl Alg {
    /// Every algorithm.
    pub const ALL: [Alg; 4] = [Alg::Origin, Alg::MaskgitPlus, Alg::TopkMargin, Alg::Entropy];

    /// The reference's name.
    pub const fn name(self) -> &'static str {
        match self {
            Alg::Origin => "origin",
            Alg::MaskgitPlus => "maskgit_plus",
            Alg::TopkMargin => "topk_margin",
            Alg::Entropy => "entropy",
        }
    }

    /// Inverse of [`Alg::name`].
    pub fn from_name(name: &str) -> Option<Alg> {
        Alg::ALL.into_iter().find(|a| a.name() == name)
    }

    fn confidence(self) -> Confidence {
        match self {
            Alg::Origin | Alg::MaskgitPlus => Confidence::Probability,
            Alg::TopkMargin => Confidence::Margin,
            Alg::Entropy => Confidence::NegativeEntropy,
        }
    }
}

/// The module of a text checkpoint.
///
/// `forward(input_ids, attention_mask, position_ids: i32[B, S]) -> logits f32[B, S, V]`, not shifted.
///
/// `generate(canvas, attention_mask, position_ids: i32[B, S], stream u32[4], temperature, top_p f32[], top_k i32[], alg_temp,
/// eos_penalty f32[]) -> canvas i32[B, S], history i32[steps, B, S]`.
pub fn text_module(config: &TextConfig, layout: &Layout, options: &TextOptions) -> Module {
    let symbols = [("B".to_owned(), options.max_batch), ("S".to_owned(), options.max_length)];
    let graphs = vec![forward(config, layout, options), generate(options), step(config, layout, options)];
    Module { symbols: symbols.into_iter().collect(), graphs }
}

fn canvas_type() -> Type {
    Type::new(DType::I32, [Dim::symbol("B"), Dim::symbol("S")])
}

fn stream_type() -> Type {
    Type::new(DType::U32, [4.into()])
}

/// Sampling settings of a request: name and type, in the order of the parameters.
fn settings() -> [(&'static str, Type); 5] {
    let float = Type::scalar(DType::F32);
    let int = Type::scalar(DType::I32);
    [
        ("temperature", float.clone()),
        ("top_p", float.clone()),
        ("top_k", int),
        ("alg_temp", float.clone()),
        ("eos_penalty", float),
    ]
}

fn forward(config: &TextConfig, layout: &Layout, options: &TextOptions) -> Graph {
    let mut b = Builder::new(FORWARD, options.dtype);
    let [ids, mask, positions] =
        ["input_ids", "attention_mask", "position_ids"].map(|name| b.graph.param(name, canvas_type()));
    let logits = b.decoder(config, layout, ids, mask, positions);
    b.result("logits", logits);
    b.graph
}

fn generate(options: &TextOptions) -> Graph {
    let mut b = Builder::new(GENERATE, options.dtype);
    let canvas = b.graph.param("canvas", canvas_type());
    let mask = b.graph.param("attention_mask", canvas_type());
    let positions = b.graph.param("position_ids", canvas_type());
    let stream = b.graph.param("stream", stream_type());
    let settings = settings().map(|(name, ty)| b.graph.param(name, ty));
    let history = Type::new(DType::I32, [options.steps.into(), Dim::symbol("B"), Dim::symbol("S")]);
    let op = Op::Denoise { steps: options.steps, body: GENERATE_STEP.to_owned() };
    let inputs = [&[canvas, stream, mask, positions], settings.as_slice()].concat();
    let types = vec![canvas_type(), stream_type(), history];
    let node = b.graph.push(op, inputs, types, Origin::path("sampler"));
    let outputs = b.graph.node(node).outputs.clone();
    b.result("canvas", outputs[0]);
    b.result("history", outputs[2]);
    b.graph
}

/// One denoising step: forward, draw a token for every slot, commit some.
fn step(config: &TextConfig, layout: &Layout, options: &TextOptions) -> Graph {
    let mut b = Builder::new(GENERATE_STEP, options.dtype);
    let step = b.graph.param("step", Type::scalar(DType::I32));
    let canvas = b.graph.param("canvas", canvas_type());
    let stream = b.graph.param("stream", stream_type());
    let mask = b.graph.param("attention_mask", canvas_type());
    let positions = b.graph.param("position_ids", canvas_type());
    let [temperature, top_p, top_k, alg_temp, eos_penalty] =
        settings().map(|(name, ty)| b.graph.param(name, ty));
    let (steps, eps) = (options.steps, options.eps);

    let logits = b.decoder(config, layout, canvas, mask, positions);
    let active = b.op(Op::IsToken { token: config.mask_token_id.into() }, &[canvas], "sampler.active");
    let shifted = b.op(Op::ShiftRows, &[logits], "sampler.shift");
    let token = config.pad_token_id.into();
    let penalized =
        b.op(Op::EosPenalty { token, steps, eps }, &[shifted, eos_penalty, step], "sampler.logits");
    let probs = b.op(Op::SamplingProbs, &[penalized, active, temperature, top_p, top_k], "sampler.probs");
    let bits = b.op(Op::RandomBits { lane: Lane::Token }, &[canvas, stream], "sampler.token_bits");
    let token = b.op(Op::DrawToken, &[probs, active, temperature, bits], "sampler.token");
    let slot_bits = b.op(Op::RandomBits { lane: Lane::Slot }, &[canvas, stream], "sampler.slot_bits");
    let confidence =
        b.op(Op::Confidence(options.alg.confidence()), &[probs, active, token], "sampler.confidence");
    let select = if options.alg == Alg::Origin {
        b.op(Op::OriginSlots { steps, eps }, &[active, step, slot_bits], "sampler.select")
    } else {
        let count = b.op(Op::TransferCount { steps, eps }, &[active, step], "sampler.count");
        b.op(Op::SelectSlots, &[confidence, active, count, alg_temp, slot_bits], "sampler.select")
    };
    let committed = b.op(Op::Commit, &[select, token, canvas], "sampler.canvas");
    let advanced = b.op(Op::AdvanceStream, &[stream], "sampler.stream");
    b.result("canvas", committed);
    b.result("stream", advanced);
    b.graph
}

/// Appends nodes with inferred types.
struct Builder {
    graph: Graph,
    /// Of weights and of activations between the residual stream's reads and writes.
    dtype: DType,
}

impl Builder {
    fn new(name: &str, dtype: DType) -> Builder {
        Builder { graph: Graph::new(name), dtype }
    }

    fn result(&mut self, name: &str, value: Value) {
        self.graph.results.push(Port { value, name: name.to_owned() });
    }

    fn op_as(&mut self, op: Op, inputs: &[Value], dtype: DType, path: &str) -> Vec<Value> {
        let types: Vec<Type> = inputs.iter().map(|v| self.graph.ty(*v).clone()).collect();
        let types = infer(&op, &types, dtype)
            .unwrap_or_else(|rule| panic!("bug: importer builds `{path}` wrongly: {rule}"));
        let node = self.graph.push(op, inputs.to_vec(), types, Origin::path(path));
        self.graph.node(node).outputs.clone()
    }

    fn op(&mut self, op: Op, inputs: &[Value], path: &str) -> Value {
        self.op_as(op, inputs, self.dtype, path)[0]
    }

    fn weight(&mut self, name: String, dtype: DType, dims: &[u64]) -> Value {
        let ty = Type::new(dtype, dims.iter().map(|n| Dim::from(*n)));
        let origin = Origin::path(name.as_str());
        let node = self.graph.push(Op::Weight { name }, vec![], vec![ty], origin);
        self.graph.node(node).outputs[0]
    }

    /// The whole decoder: ids to logits (`spec/text-model.md` section 3).
    fn decoder(
        &mut self,
        config: &TextConfig,
        layout: &Layout,
        ids: Value,
        mask: Value,
        positions: Value,
    ) -> Value {
        let TextConfig { hidden_size: h, vocab_size: v, .. } = *config;
        let table = self.weight(EMBEDDING.to_owned(), self.dtype, &[v, h]);
        let mut hidden = self.op_as(Op::Embed, &[ids, table], DType::F32, "model.embed_tokens")[0];
        let head_dim = config.head_dim();
        let op = Op::RopeTable { theta: config.rope_theta as f32, head_dim };
        let tables = self.op_as(op, &[positions], DType::F32, "model.rotary_emb");
        for layer in 0..config.num_hidden_layers {
            hidden =
                self.layer(config, &format!("model.layers.{layer}"), hidden, mask, [tables[0], tables[1]]);
        }
        let normed = self.norm(config, hidden, "model.norm");
        let weight = self.weight(layout.lm_head.to_owned(), self.dtype, &[v, h]);
        let linear = Op::Linear(Linear { weights: 1, ..Linear::default() });
        self.op_as(linear, &[normed, weight], DType::F32, "lm_head")[0]
    }

    fn norm(&mut self, config: &TextConfig, x: Value, path: &str) -> Value {
        let gain = self.weight(format!("{path}.weight"), DType::F32, &[config.hidden_size]);
        self.op(Op::RmsNorm { eps: config.rms_norm_eps as f32 }, &[x, gain], path)
    }

    /// `x W^T`, with the bias if `bias`.
    fn linear(&mut self, x: Value, path: &str, [n, k]: [u64; 2], bias: bool, dtype: DType) -> Value {
        let weight = self.weight(format!("{path}.weight"), self.dtype, &[n, k]);
        let mut inputs = vec![x, weight];
        if bias {
            inputs.push(self.weight(format!("{path}.bias"), DType::F32, &[n]));
        }
        let linear = Linear { weights: 1, bias, ..Linear::default() };
        self.op_as(Op::Linear(linear), &inputs, dtype, path)[0]
    }

    fn layer(
        &mut self,
        config: &TextConfig,
        path: &str,
        hidden: Value,
        mask: Value,
        [cos, sin]: [Value; 2],
    ) -> Value {
        let TextConfig { hidden_size: h, intermediate_size: i, .. } = *config;
        let (heads, kv_heads, head_dim) =
            (config.num_attention_heads, config.num_key_value_heads, config.head_dim());
        let (t, kv) = (self.dtype, kv_heads * head_dim);

        let x = self.norm(config, hidden, &format!("{path}.input_layernorm"));
        let attn = format!("{path}.self_attn");
        let q = self.linear(x, &format!("{attn}.q_proj"), [h, h], true, t);
        let k = self.linear(x, &format!("{attn}.k_proj"), [kv, h], true, t);
        let v = self.linear(x, &format!("{attn}.v_proj"), [kv, h], true, t);
        let q = self.op(Op::Rope { head_dim }, &[q, cos, sin], &format!("{attn}.q_rope"));
        let k = self.op(Op::Rope { head_dim }, &[k, cos, sin], &format!("{attn}.k_rope"));
        let op = Op::Attention(Attention { heads, kv_heads, head_dim, packed: false, rope: false });
        let a = self.op(op, &[q, k, v, mask], &format!("{attn}.attention_out"));
        let o = self.linear(a, &format!("{attn}.o_proj"), [h, h], false, DType::F32);
        let hidden = self.op(Op::Add, &[hidden, o], &attn);

        let x = self.norm(config, hidden, &format!("{path}.post_attention_layernorm"));
        let mlp = format!("{path}.mlp");
        let gate = self.linear(x, &format!("{mlp}.gate_proj"), [i, h], false, t);
        let up = self.linear(x, &format!("{mlp}.up_proj"), [i, h], false, t);
        let silu = self.op(Op::Silu, &[gate], &format!("{mlp}.act_fn"));
        let product = self.op(Op::Mul, &[silu, up], &format!("{mlp}.product"));
        let down = self.linear(product, &format!("{mlp}.down_proj"), [h, i], false, DType::F32);
        self.op(Op::Add, &[hidden, down], path)
    }
}
