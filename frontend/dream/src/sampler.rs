//! One step of the sampler: logits to a canvas with some more slots filled (`spec/sampling.md` sections 3 to 5).

use crate::builder::Builder;
use dreamc_ir::{Confidence, Op, SlotSchedule, Value};
use dreamc_num::DType;
use dreamc_num::stream::Lane;

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

/// What a build fixes about sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Denoising steps.
    pub steps: u64,
    /// End of the schedule.
    pub eps: f32,
    /// How slots are chosen.
    pub alg: Alg,
}

/// Tokens that the sampler treats apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens {
    /// Marks a slot.
    pub(crate) mask: u32,
    /// Its logit takes the penalty.
    pub(crate) pad: u32,
    /// First token and number of tokens to which marked rows are restricted.
    pub(crate) kept: Option<(u64, u64)>,
}

/// Values of a step.
#[derive(Clone, Copy)]
pub(crate) struct State {
    pub(crate) step: Value,
    pub(crate) canvas: Value,
    pub(crate) stream: Value,
    pub(crate) settings: Settings,
    /// Not negative where the slot is restricted to [`Tokens::kept`].
    pub(crate) restricted: Option<Value>,
}

/// Sampling settings of a request.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    temperature: Value,
    top_p: Value,
    top_k: Value,
    alg_temp: Value,
    eos_penalty: Value,
    joint: Value,
}

impl Settings {
    /// Appends the settings to the parameters.
    pub(crate) fn params(b: &mut Builder) -> Settings {
        let mut scalar = |name: &str, dtype| b.param(name, dtype, &[]);
        Settings {
            temperature: scalar("temperature", DType::F32),
            top_p: scalar("top_p", DType::F32),
            top_k: scalar("top_k", DType::I32),
            alg_temp: scalar("alg_temp", DType::F32),
            eos_penalty: scalar("eos_penalty", DType::F32),
            joint: scalar("joint", DType::I32),
        }
    }

    /// In the order of the parameters.
    pub(crate) fn values(&self) -> [Value; 6] {
        [self.temperature, self.top_p, self.top_k, self.alg_temp, self.eos_penalty, self.joint]
    }
}

impl Sampler {
    /// What the loop may know about its slots; with `origin` chance decides.
    pub(crate) fn slot_schedule(&self, mask: u32) -> Option<SlotSchedule> {
        let schedule = SlotSchedule { token: mask.into(), eps: self.eps, drop_idle: false };
        (self.alg != Alg::Origin).then_some(schedule)
    }

    /// Logits (not shifted) to the next canvas and stream.
    pub(crate) fn step(&self, b: &mut Builder, tokens: Tokens, state: &State, logits: Value) -> [Value; 2] {
        let (steps, eps) = (self.steps, self.eps);
        let State { step, canvas, stream, settings, restricted } = *state;
        let active = b.op(Op::IsToken { token: tokens.mask.into() }, &[canvas], "sampler.active");
        let mut z = b.op(Op::ShiftRows, &[logits], "sampler.shift");
        let penalty = Op::EosPenalty { token: tokens.pad.into(), steps, eps };
        z = b.op(penalty, &[z, settings.eos_penalty, step], "sampler.logits");
        if let (Some(rows), Some((first, len))) = (restricted, tokens.kept) {
            z = b.op(Op::KeepTokens { first, len }, &[z, rows], "sampler.kept");
        }
        let [token, confidence] = choose(b, self.alg.confidence(), &settings, z, active, canvas, stream);
        let slot_bits = b.op(Op::RandomBits { lane: Lane::Slot }, &[canvas, stream], "sampler.slot_bits");
        let select = if self.alg == Alg::Origin {
            b.op(Op::OriginSlots { steps, eps }, &[active, step, slot_bits], "sampler.select")
        } else {
            let Settings { alg_temp, joint, .. } = settings;
            let count = b.op(Op::TransferCount { steps, eps }, &[active, step, joint], "sampler.count");
            let inputs = [confidence, active, count, alg_temp, slot_bits, joint];
            b.op(Op::SelectSlots, &inputs, "sampler.select")
        };
        let committed = b.op(Op::Commit, &[select, token, canvas], "sampler.canvas");
        let advanced = b.op(Op::AdvanceStream, &[stream], "sampler.stream");
        [committed, advanced]
    }
}

/// A token for every active slot from its own logits, and how certain it is.
pub(crate) fn choose(
    b: &mut Builder,
    kind: Confidence,
    settings: &Settings,
    logits: Value,
    active: Value,
    canvas: Value,
    stream: Value,
) -> [Value; 2] {
    let Settings { temperature, top_p, top_k, .. } = *settings;
    let probs = b.op(Op::SamplingProbs, &[logits, active, temperature, top_p, top_k], "sampler.probs");
    let bits = b.op(Op::RandomBits { lane: Lane::Token }, &[canvas, stream], "sampler.token_bits");
    let token = b.op(Op::DrawToken { first: 0 }, &[probs, active, temperature, bits], "sampler.token");
    let confidence = b.op(Op::Confidence(kind), &[probs, active, token], "sampler.confidence");
    [token, confidence]
}
