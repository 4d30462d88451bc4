//! How ops are written: names and attributes.

use crate::op::{Activation, Attention, Confidence, Linear, Literal, Op, RopeTable, SlotSchedule, Weight};
use dreamc_num::Quant;
use dreamc_num::quant::Codes;
use dreamc_num::stream::Lane;

/// An attribute as text has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// `3`, `-1`.
    Int(i64),
    /// `1e-6`, `0.5`: always with a point or an exponent.
    Float(f32),
    /// `"text"`.
    Text(String),
    /// `token`: one of a list.
    Word(String),
    /// `[1, 2]`.
    Ints(Vec<i64>),
    /// `[1.0, 2.0]`.
    Floats(Vec<f32>),
}

impl Activation {
    const ALL: [Activation; 4] =
        [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::Relu];

    const fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::QuickGelu => "quick_gelu",
            Activation::Relu => "relu",
        }
    }
}

impl Confidence {
    const ALL: [Confidence; 3] = [Confidence::Probability, Confidence::Margin, Confidence::NegativeEntropy];

    const fn name(self) -> &'static str {
        match self {
            Confidence::Probability => "probability",
            Confidence::Margin => "margin",
            Confidence::NegativeEntropy => "negative_entropy",
        }
    }
}

type Attributes = Vec<(&'static str, Attribute)>;

impl Op {
    /// Name in text.
    pub fn name(&self) -> &'static str {
        self.spelling().0
    }

    /// Name and attributes in text, in a fixed order.
    pub fn spelling(&self) -> (&'static str, Attributes) {
        use Attribute::{Float, Floats, Int, Ints, Text, Word};
        let int = |n: u64| Int(n as i64);
        let flags = |list: &[(&'static str, bool)]| -> Attributes {
            list.iter().filter(|(_, on)| *on).map(|(key, _)| (*key, Int(1))).collect()
        };
        match self {
            Op::Weight(weight) => {
                let mut attributes = vec![("name", Text(weight.name.clone()))];
                attributes.extend(weight.columns.iter().map(|name| ("columns", Text(name.clone()))));
                match weight.quant {
                    None => {}
                    Some(Quant::Int8) => attributes.push(("bits", Int(8))),
                    Some(Quant::Fp8) => attributes.extend([("bits", Int(8)), ("float", Int(1))]),
                    Some(Quant::Int4 { group, zero }) => {
                        attributes.extend([("bits", Int(4)), ("group", int(group.into()))]);
                        attributes.extend(flags(&[("zero", zero)]));
                    }
                }
                attributes.extend(weight.importance.iter().map(|name| ("importance", Text(name.clone()))));
                attributes.extend(weight.feedback.iter().map(|name| ("feedback", Text(name.clone()))));
                ("weight", attributes)
            }
            Op::Const(Literal::Floats(v)) => ("const", vec![("floats", Floats(v.clone()))]),
            Op::Const(Literal::Ints(v)) => ("const", vec![("ints", Ints(v.clone()))]),
            Op::Embed => ("embed", vec![]),
            Op::RopeTable(RopeTable { theta, sections, axial }) => {
                let sections = sections.iter().map(|n| *n as i64).collect();
                let mut attributes = vec![("theta", Float(*theta)), ("sections", Ints(sections))];
                attributes.extend(flags(&[("axial", *axial)]));
                ("rope_table", attributes)
            }
            Op::RmsNorm { eps } => ("rms_norm", vec![("eps", Float(*eps))]),
            Op::LayerNorm { eps } => ("layer_norm", vec![("eps", Float(*eps))]),
            Op::Linear(l) => {
                let mut attributes = vec![];
                if l.weights != 1 {
                    attributes.push(("weights", int(l.weights)));
                }
                if let Some((first, len)) = l.rows {
                    attributes.extend([("first", int(first)), ("len", int(len))]);
                }
                attributes.extend(l.norm_eps.map(|eps| ("norm_eps", Float(eps))));
                attributes.extend(flags(&[
                    ("bias", l.bias),
                    ("swiglu", l.swiglu),
                    ("smooth", l.smooth),
                    ("int8", l.codes == Some(Codes::Int8)),
                    ("fp8", l.codes == Some(Codes::Fp8)),
                ]));
                attributes.extend(l.activation.map(|a| ("activation", Word(a.name().to_owned()))));
                attributes.extend(flags(&[("residual", l.residual)]));
                ("linear", attributes)
            }
            Op::Rope { head_dim } => ("rope", vec![("head_dim", int(*head_dim))]),
            Op::Attention(a) => {
                let mut attributes = vec![
                    ("heads", int(a.heads)),
                    ("kv_heads", int(a.kv_heads)),
                    ("head_dim", int(a.head_dim)),
                ];
                attributes.extend(flags(&[("packed", a.packed), ("rope", a.rope), ("rows", a.rows)]));
                ("attention", attributes)
            }
            Op::Add => ("add", vec![]),
            Op::Mul => ("mul", vec![]),
            Op::Activate(activation) => (activation.name(), vec![]),
            Op::SwiGlu => ("swiglu", vec![]),
            Op::Slice { start, len } => ("slice", vec![("start", int(*start)), ("len", int(*len))]),
            Op::Concat { axis: 0 } => ("concat", vec![]),
            Op::Concat { axis } => ("concat", vec![("axis", int(*axis))]),
            Op::MergeRows { count } => ("merge_rows", vec![("count", int(*count))]),
            Op::SplitRows { count } => ("split_rows", vec![("count", int(*count))]),
            Op::DropRows { count } => ("drop_rows", vec![("count", int(*count))]),
            Op::TakeRows => ("take_rows", vec![]),
            Op::Splice => ("splice", vec![]),
            Op::Stack => ("stack", vec![]),
            Op::ShiftRows => ("shift_rows", vec![]),
            Op::IsToken { token } => ("is_token", vec![("token", int(*token))]),
            Op::EosPenalty { token, steps, eps } => {
                ("eos_penalty", vec![("token", int(*token)), ("steps", int(*steps)), ("eps", Float(*eps))])
            }
            Op::KeepTokens { first, len } => {
                ("keep_tokens", vec![("first", int(*first)), ("len", int(*len))])
            }
            Op::SamplingProbs => ("sampling_probs", vec![]),
            Op::RandomBits { lane } => ("random_bits", vec![("lane", Word(lane.name().to_owned()))]),
            Op::DrawToken { first: 0 } => ("draw_token", vec![]),
            Op::DrawToken { first } => ("draw_token", vec![("first", int(*first))]),
            Op::Confidence(kind) => ("confidence", vec![("kind", Word(kind.name().to_owned()))]),
            Op::TransferCount { steps, eps } => {
                ("transfer_count", vec![("steps", int(*steps)), ("eps", Float(*eps))])
            }
            Op::SelectSlots => ("select_slots", vec![]),
            Op::OriginSlots { steps, eps } => {
                ("origin_slots", vec![("steps", int(*steps)), ("eps", Float(*eps))])
            }
            Op::Commit => ("commit", vec![]),
            Op::AdvanceStream => ("advance_stream", vec![]),
            Op::OpenSlots { token } => ("open_slots", vec![("token", int(*token))]),
            Op::ReadRows { before } => ("read_rows", vec![("before", int(*before))]),
            Op::SlotBits { lane } => ("slot_bits", vec![("lane", Word(lane.name().to_owned()))]),
            Op::TakeSlots => ("take_slots", vec![]),
            Op::CommitSlots => ("commit_slots", vec![]),
            Op::TimestepEmbed { times, width } => {
                ("timestep_embed", vec![("times", Floats(times.clone())), ("width", int(*width))])
            }
            Op::EulerStep { dt } => ("euler_step", vec![("dt", Float(*dt))]),
            Op::DdimStep { alphas } => ("ddim_step", vec![("alphas", Floats(alphas.clone()))]),
            Op::Denoise { steps, state, body, slots } => {
                let mut attributes =
                    vec![("steps", int(*steps)), ("state", int(*state)), ("body", Text(body.clone()))];
                if let Some(slots) = slots {
                    attributes.extend([("slots", int(slots.token)), ("eps", Float(slots.eps))]);
                    attributes.extend(flags(&[("drop_idle", slots.drop_idle)]));
                }
                ("denoise", attributes)
            }
        }
    }

    /// Inverse of [`Op::spelling`]. The message says what is unknown, missing or left over.
    pub fn from_spelling(name: &str, attributes: Vec<(String, Attribute)>) -> Result<Op, String> {
        let mut a = Reader { op: name, attributes };
        let op = match name {
            "weight" => Op::Weight(Weight {
                name: a.text("name")?,
                columns: if a.has("columns") { Some(a.text("columns")?) } else { None },
                quant: if a.has("bits") { Some(a.quant()?) } else { None },
                importance: if a.has("importance") { Some(a.text("importance")?) } else { None },
                feedback: if a.has("feedback") { Some(a.text("feedback")?) } else { None },
            }),
            "const" => Op::Const(a.literal()?),
            "embed" => Op::Embed,
            "rope_table" => Op::RopeTable(RopeTable {
                theta: a.float("theta")?,
                sections: a.ints("sections")?,
                axial: a.flag("axial")?,
            }),
            "rms_norm" => Op::RmsNorm { eps: a.float("eps")? },
            "layer_norm" => Op::LayerNorm { eps: a.float("eps")? },
            "linear" => Op::Linear(Linear {
                weights: if a.has("weights") { a.int("weights")? } else { 1 },
                norm_eps: if a.has("norm_eps") { Some(a.float("norm_eps")?) } else { None },
                bias: a.flag("bias")?,
                rows: if a.has("first") { Some((a.int("first")?, a.int("len")?)) } else { None },
                swiglu: a.flag("swiglu")?,
                smooth: a.flag("smooth")?,
                codes: a.codes()?,
                activation: if a.has("activation") {
                    Some(a.word("activation", &Activation::ALL, Activation::name)?)
                } else {
                    None
                },
                residual: a.flag("residual")?,
            }),
            "rope" => Op::Rope { head_dim: a.int("head_dim")? },
            "attention" => Op::Attention(Attention {
                heads: a.int("heads")?,
                kv_heads: a.int("kv_heads")?,
                head_dim: a.int("head_dim")?,
                packed: a.flag("packed")?,
                rope: a.flag("rope")?,
                rows: a.flag("rows")?,
            }),
            "add" => Op::Add,
            "mul" => Op::Mul,
            "swiglu" => Op::SwiGlu,
            "slice" => Op::Slice { start: a.int("start")?, len: a.int("len")? },
            "concat" => Op::Concat { axis: if a.has("axis") { a.int("axis")? } else { 0 } },
            "merge_rows" => Op::MergeRows { count: a.int("count")? },
            "split_rows" => Op::SplitRows { count: a.int("count")? },
            "drop_rows" => Op::DropRows { count: a.int("count")? },
            "take_rows" => Op::TakeRows,
            "splice" => Op::Splice,
            "stack" => Op::Stack,
            "shift_rows" => Op::ShiftRows,
            "is_token" => Op::IsToken { token: a.int("token")? },
            "eos_penalty" => {
                Op::EosPenalty { token: a.int("token")?, steps: a.int("steps")?, eps: a.float("eps")? }
            }
            "keep_tokens" => Op::KeepTokens { first: a.int("first")?, len: a.int("len")? },
            "sampling_probs" => Op::SamplingProbs,
            "random_bits" => Op::RandomBits { lane: a.word("lane", &Lane::ALL, Lane::name)? },
            "draw_token" => Op::DrawToken { first: if a.has("first") { a.int("first")? } else { 0 } },
            "confidence" => Op::Confidence(a.word("kind", &Confidence::ALL, Confidence::name)?),
            "transfer_count" => Op::TransferCount { steps: a.int("steps")?, eps: a.float("eps")? },
            "select_slots" => Op::SelectSlots,
            "origin_slots" => Op::OriginSlots { steps: a.int("steps")?, eps: a.float("eps")? },
            "commit" => Op::Commit,
            "advance_stream" => Op::AdvanceStream,
            "open_slots" => Op::OpenSlots { token: a.int("token")? },
            "read_rows" => Op::ReadRows { before: a.int("before")? },
            "slot_bits" => Op::SlotBits { lane: a.word("lane", &Lane::ALL, Lane::name)? },
            "take_slots" => Op::TakeSlots,
            "commit_slots" => Op::CommitSlots,
            "timestep_embed" => Op::TimestepEmbed { times: a.floats("times")?, width: a.int("width")? },
            "euler_step" => Op::EulerStep { dt: a.float("dt")? },
            "ddim_step" => Op::DdimStep { alphas: a.floats("alphas")? },
            "denoise" => Op::Denoise {
                steps: a.int("steps")?,
                state: a.int("state")?,
                body: a.text("body")?,
                slots: if a.has("slots") { Some(a.slot_schedule()?) } else { None },
            },
            _ => match Activation::ALL.into_iter().find(|activation| activation.name() == name) {
                Some(activation) => Op::Activate(activation),
                None => return Err(format!("unknown op `{name}`")),
            },
        };
        match a.attributes.first() {
            Some((key, _)) => Err(format!("`{name}` has no attribute `{key}`")),
            None => Ok(op),
        }
    }
}

/// Takes attributes out one by one.
struct Reader<'a> {
    op: &'a str,
    attributes: Vec<(String, Attribute)>,
}

impl Reader<'_> {
    fn has(&self, key: &str) -> bool {
        self.attributes.iter().any(|(k, _)| k == key)
    }

    fn take(&mut self, key: &str) -> Result<Attribute, String> {
        let at = self.attributes.iter().position(|(k, _)| k == key);
        at.map(|i| self.attributes.remove(i).1)
            .ok_or_else(|| format!("`{}` needs an attribute `{key}`", self.op))
    }

    fn wrong<T>(&self, key: &str, wanted: &str) -> Result<T, String> {
        Err(format!("attribute `{key}` of `{}` must be {wanted}", self.op))
    }

    fn int(&mut self, key: &str) -> Result<u64, String> {
        match self.take(key)? {
            Attribute::Int(n) if n >= 0 => Ok(n as u64),
            _ => self.wrong(key, "a whole number"),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        if !self.has(key) {
            return Ok(false);
        }
        match self.int(key)? {
            1 => Ok(true),
            _ => self.wrong(key, "1 or left out"),
        }
    }

    fn float(&mut self, key: &str) -> Result<f32, String> {
        match self.take(key)? {
            Attribute::Float(x) if x.is_finite() => Ok(x),
            _ => self.wrong(key, "a number with a point or an exponent"),
        }
    }

    fn ints(&mut self, key: &str) -> Result<Vec<u64>, String> {
        match self.take(key)? {
            Attribute::Ints(v) if v.iter().all(|n| *n >= 0) => Ok(v.iter().map(|n| *n as u64).collect()),
            _ => self.wrong(key, "a list of whole numbers"),
        }
    }

    fn floats(&mut self, key: &str) -> Result<Vec<f32>, String> {
        match self.take(key)? {
            Attribute::Floats(v) if v.iter().all(|x| x.is_finite()) => Ok(v),
            _ => self.wrong(key, "a list of numbers with a point or an exponent"),
        }
    }

    fn text(&mut self, key: &str) -> Result<String, String> {
        match self.take(key)? {
            Attribute::Text(text) => Ok(text),
            _ => self.wrong(key, "a quoted text"),
        }
    }

    fn word<T: Copy>(&mut self, key: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, String> {
        let known: Vec<_> = all.iter().map(|t| name(*t)).collect();
        match self.take(key)? {
            Attribute::Word(word) => match all.iter().find(|t| name(**t) == word) {
                Some(found) => Ok(*found),
                None => self.wrong(key, &format!("one of {}", known.join(", "))),
            },
            _ => self.wrong(key, &format!("one of {}", known.join(", "))),
        }
    }

    fn slot_schedule(&mut self) -> Result<SlotSchedule, String> {
        Ok(SlotSchedule {
            token: self.int("slots")?,
            eps: self.float("eps")?,
            drop_idle: self.flag("drop_idle")?,
        })
    }

    fn codes(&mut self) -> Result<Option<Codes>, String> {
        match (self.flag("int8")?, self.flag("fp8")?) {
            (false, false) => Ok(None),
            (true, false) => Ok(Some(Codes::Int8)),
            (false, true) => Ok(Some(Codes::Fp8)),
            (true, true) => self.wrong("fp8", "left out beside `int8`"),
        }
    }

    fn quant(&mut self) -> Result<Quant, String> {
        match self.int("bits")? {
            8 => Ok(if self.flag("float")? { Quant::Fp8 } else { Quant::Int8 }),
            4 => {
                let group = self.int("group")?;
                match u32::try_from(group).ok().filter(|group| Quant::GROUPS.contains(group)) {
                    Some(group) => Ok(Quant::Int4 { group, zero: self.flag("zero")? }),
                    None => self.wrong("group", "32, 64 or 128"),
                }
            }
            _ => self.wrong("bits", "4 or 8"),
        }
    }

    fn literal(&mut self) -> Result<Literal, String> {
        let key = if self.has("floats") { "floats" } else { "ints" };
        match self.take(key)? {
            Attribute::Floats(v) if key == "floats" => Ok(Literal::Floats(v)),
            Attribute::Ints(v) if key == "ints" => Ok(Literal::Ints(v)),
            // An empty list looks the same for both.
            Attribute::Ints(v) if v.is_empty() => Ok(Literal::Floats(vec![])),
            _ => self.wrong(key, "a list"),
        }
    }
}
