//! The entry `act`: images, instruction and the robot's state to a chunk of actions (`spec/actions.md`).
//!
//! One observation at a time. Its parameters are, in this order and where the mode has them:
//! `canvas` or `input_ids` i32[1, S] (prompt, slots and the two tokens that end a training sequence), the loop's first
//! state (`stream` `u32[4]`, `noise` f32[1, C, D]), `attention_mask` and `position_ids` i32[1, S + rows put before the
//! prompt], the settings of the sampler, `image_index` i32[1, S], `slot_index` i32[1, S] (the row of the slot features that
//! stands at each position, or -1), `action_rows` i32[1, C * D] (where the actions are read, rows before the prompt
//! included), the patches of the images, `proprio` f32[1, 1, P], normalised.
//!
//! Results: the discrete modes give tokens (`canvas` and `history`, or `tokens` i32[1, C * D]), the others
//! `normalized_actions` f32[1, C, D], and with a loop its `history` f32[steps, 1, C, D].

use crate::action_head;
use crate::builder::Builder;
use crate::entries::{Sampling, row_params, stream_param};
use crate::lm::Decoder;
use crate::module::{ACT, Options};
use crate::sampler::{Settings, choose};
use crate::vl::{Patches, Vision, splice};
use dreamc_ir::{Activation, Confidence, Dim, Graph, Literal, Op, Origin, Type, Value};
use dreamc_num::DType;

pub use dreamc_front::settings::Mode;

/// Name of the body of the action loops.
const STEP: &str = "act.step";

/// What a build decides about acting.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// How actions are made.
    pub mode: Mode,
    /// Actions of a chunk.
    pub chunk: u64,
    /// Numbers of an action.
    pub action_dim: u64,
    /// Numbers of the robot's state, if the model takes it.
    pub proprio_dim: Option<u64>,
    /// First action token and number of action tokens, where slots are restricted to them.
    pub kept: Option<(u64, u64)>,
    /// The integrator of the noisy actions, in the modes that have them.
    pub integrator: Option<Integrator>,
}

/// How noisy actions are refined.
#[derive(Clone, Debug, PartialEq)]
pub enum Integrator {
    /// Forward Euler: the time of each step, and the length of all.
    Euler {
        /// The time of each step.
        times: Vec<f32>,
        /// Length of a step.
        dt: f32,
    },
    /// DDIM.
    Ddim {
        /// The time of each step.
        times: Vec<f32>,
        /// Cumulative alphas of the steps, and that after the last.
        alphas: Vec<f32>,
    },
}

impl Integrator {
    /// The time of each step.
    pub fn times(&self) -> &[f32] {
        match self {
            Integrator::Euler { times, .. } | Integrator::Ddim { times, .. } => times,
        }
    }
}

/// The robot's state: f32 [1, 1, P].
pub(crate) fn proprio_param(b: &mut Builder, dim: u64) -> Value {
    b.param("proprio", DType::F32, &[1.into(), 1.into(), dim.into()])
}

/// A row of the sequence: f32 [1, 1, H].
pub(crate) fn row_param(b: &mut Builder, name: &str, hidden_size: u64) -> Value {
    b.param(name, DType::F32, &[1.into(), 1.into(), hidden_size.into()])
}

/// The row that stands before everything else.
pub(crate) fn proprio_row(b: &mut Builder, hidden_size: u64, proprio: Value, dim: u64) -> Value {
    action_head::projector(b, "proprio_projector", proprio, [hidden_size, dim])
}

/// The graphs of the entry.
pub(crate) fn act(decoder: Decoder<'_>, vision: Vision<'_>, options: &Options, act: &Act) -> Vec<Graph> {
    let acting = Acting { decoder, vision, dtype: options.dtype, act };
    match (act.mode, &act.integrator) {
        (Mode::Discrete, _) => Sampling {
            entry: ACT,
            decoder,
            vision: Some(vision),
            batch: 1.into(),
            proprio_dim: act.proprio_dim,
            kept: act.kept,
            options,
        }
        .graphs()
        .into(),
        (Mode::OneStep, _) => vec![acting.one_step()],
        (Mode::L1, _) => vec![acting.l1()],
        (Mode::Flow | Mode::Ddim, Some(integrator)) => {
            vec![acting.loop_entry(integrator), acting.loop_step(integrator)]
        }
        (Mode::Flow | Mode::Ddim, None) => panic!("bug: {} has no integrator", act.mode.name()),
    }
}

struct Acting<'a> {
    decoder: Decoder<'a>,
    vision: Vision<'a>,
    dtype: DType,
    act: &'a Act,
}

/// Parameters of the passes over empty or noisy slots.
struct Rows {
    mask: Value,
    positions: Value,
    slot_index: Value,
    action_rows: Value,
}

impl Rows {
    fn values(&self) -> [Value; 4] {
        [self.mask, self.positions, self.slot_index, self.action_rows]
    }
}

impl Acting<'_> {
    fn hidden_size(&self) -> u64 {
        self.decoder.config.hidden_size
    }

    fn slots(&self) -> u64 {
        self.act.chunk * self.act.action_dim
    }

    fn row_params(&self, b: &mut Builder) -> Rows {
        let before =
            u64::from(self.act.proprio_dim.is_some()) + u64::from(self.act.mode.is_continuous_loop());
        let s = Dim::symbol("S");
        let [mask, positions] = row_params(b, self.decoder, &[1.into(), s.plus(&before.into())]);
        Rows {
            mask,
            positions,
            slot_index: b.param("slot_index", DType::I32, &[1.into(), s]),
            action_rows: b.param("action_rows", DType::I32, &[1.into(), self.slots().into()]),
        }
    }

    fn noise_param(&self, b: &mut Builder, name: &str) -> Value {
        b.param(name, DType::F32, &[1.into(), self.act.chunk.into(), self.act.action_dim.into()])
    }

    /// Embeddings of prompt and slots with the images in their places, and the row of the robot's state.
    fn observation(&self, b: &mut Builder, ids: Value) -> (Value, Option<Value>) {
        let index = b.param("image_index", DType::I32, &[1.into(), Dim::symbol("S")]);
        let patches = Patches::params(b, self.vision.config);
        let proprio = self.act.proprio_dim.map(|dim| (proprio_param(b, dim), dim));
        let features = self.vision.features(b, &patches);
        let embeddings = self.decoder.embed(b, ids);
        let embeddings = splice(b, embeddings, index, features);
        let row = proprio.map(|(proprio, dim)| proprio_row(b, self.hidden_size(), proprio, dim));
        (embeddings, row)
    }

    /// One pass: the final-normed rows at which the actions are read.
    fn rows(&self, b: &mut Builder, embeddings: Value, slots: Value, before: &[Value], rows: &Rows) -> Value {
        let mut hidden = b.op(Op::Splice, &[embeddings, rows.slot_index, slots], "model.slot_embeds");
        if !before.is_empty() {
            let parts = [before, &[hidden]].concat();
            hidden = b.op(Op::Concat { axis: 1 }, &parts, "model.prefixed_embeds");
        }
        let hidden = self.decoder.layers(b, hidden, rows.mask, rows.positions);
        let taken = b.op(Op::TakeRows, &[hidden, rows.action_rows], "model.action_rows");
        self.decoder.norm(b, taken)
    }

    /// A pass over empty slots: embeddings of zeros.
    fn empty_pass(&self, b: &mut Builder, ids: Value, rows: &Rows) -> Value {
        let (embeddings, proprio) = self.observation(b, ids);
        let h = self.hidden_size();
        let zeros = Literal::Floats(vec![0.0; h as usize]);
        let slots = b.constant(zeros, Type::new(DType::F32, [1.into(), h.into()]), "model.empty_slot");
        self.rows(b, embeddings, slots, proprio.as_slice(), rows)
    }

    fn ids_param(&self, b: &mut Builder) -> Value {
        b.param("input_ids", DType::I32, &[1.into(), Dim::symbol("S")])
    }

    fn one_step(&self) -> Graph {
        let mut b = Builder::new(ACT, self.dtype);
        let ids = self.ids_param(&mut b);
        let stream = stream_param(&mut b);
        let rows = self.row_params(&mut b);
        let settings = Settings::params(&mut b);
        let normed = self.empty_pass(&mut b, ids, &rows);
        let mut logits = self.decoder.logits(&mut b, normed);
        let slots_type = Type::new(DType::I32, [1.into(), self.slots().into()]);
        let filled = |value: i64| Literal::Ints(vec![value; self.slots() as usize]);
        if let Some((first, len)) = self.act.kept {
            let all = b.constant(filled(0), slots_type.clone(), "sampler.restricted");
            logits = b.op(Op::KeepTokens { first, len }, &[logits, all], "sampler.kept");
        }
        let mask = self.decoder.config.mask_token_id;
        let slots = b.constant(filled(mask.into()), slots_type, "sampler.slots");
        let active = b.op(Op::IsToken { token: mask.into() }, &[slots], "sampler.active");
        let kind = Confidence::Probability;
        let [tokens, _] = choose(&mut b, kind, &settings, logits, active, slots, stream);
        b.result("tokens", tokens);
        b.graph
    }

    fn l1(&self) -> Graph {
        let mut b = Builder::new(ACT, self.dtype);
        let ids = self.ids_param(&mut b);
        let rows = self.row_params(&mut b);
        let normed = self.empty_pass(&mut b, ids, &rows);
        let actions = self.head(&mut b, normed);
        b.result("normalized_actions", actions);
        b.graph
    }

    fn head(&self, b: &mut Builder, rows: Value) -> Value {
        action_head::action_head(b, rows, self.hidden_size(), self.act.action_dim)
    }

    fn loop_entry(&self, integrator: &Integrator) -> Graph {
        let mut b = Builder::new(ACT, self.dtype);
        let ids = self.ids_param(&mut b);
        let noise = self.noise_param(&mut b, "noise");
        let rows = self.row_params(&mut b);
        let (embeddings, proprio) = self.observation(&mut b, ids);
        let mut inputs = vec![noise];
        inputs.extend(rows.values());
        inputs.push(embeddings);
        inputs.extend(proprio);
        let steps = integrator.times().len() as u64;
        let state = b.graph.ty(noise).clone();
        let history = Type::new(DType::F32, [steps.into()].into_iter().chain(state.dims.iter().cloned()));
        let op = Op::Denoise { steps, state: 1, body: STEP.to_owned(), slots: None };
        let node = b.graph.push(op, inputs, vec![state, history], Origin::path("actions"));
        let outputs = b.graph.node(node).outputs.clone();
        b.result("normalized_actions", outputs[0]);
        b.result("history", outputs[1]);
        b.graph
    }

    /// One pass over noisy actions, and the step that it leads to.
    fn loop_step(&self, integrator: &Integrator) -> Graph {
        let mut b = Builder::new(STEP, self.dtype);
        let (h, d) = (self.hidden_size(), self.act.action_dim);
        let step = b.param("step", DType::I32, &[]);
        let noisy = self.noise_param(&mut b, "noisy_actions");
        let rows = self.row_params(&mut b);
        let embeddings = b.param("inputs_embeds", DType::F32, &[1.into(), Dim::symbol("S"), h.into()]);
        let proprio = self.act.proprio_dim.map(|_| row_param(&mut b, "proprio_row", h));

        let scalars = b.op(Op::SplitRows { count: d }, &[noisy], "noisy_action_projector.scalars");
        let slots = action_head::projector(&mut b, "noisy_action_projector", scalars, [h, 1]);
        let times = Op::TimestepEmbed { times: integrator.times().to_vec(), width: h };
        let time = b.op(times, &[step], "time_encoder");
        let before: Vec<Value> = proprio.into_iter().chain([time]).collect();
        let normed = self.rows(&mut b, embeddings, slots, &before, &rows);
        let predicted = self.head(&mut b, normed);
        let next = match integrator {
            Integrator::Euler { dt, .. } => {
                b.op(Op::EulerStep { dt: *dt }, &[noisy, predicted], "actions.next")
            }
            Integrator::Ddim { alphas, .. } => {
                b.op(Op::DdimStep { alphas: alphas.clone() }, &[noisy, predicted, step], "actions.next")
            }
        };
        b.result("noisy_actions", next);
        b.graph
    }
}

/// `relu(x)`.
pub(crate) fn relu(b: &mut Builder, x: Value, path: &str) -> Value {
    b.op(Op::Activate(Activation::Relu), &[x], path)
}
