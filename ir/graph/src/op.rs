//! Operations: the closed list, and their spelling in text.

use dreamc_num::stream::Lane;

/// A tensor operation. All are pure: state (canvas, random stream) goes in and out as values.
///
/// `T` is any float type. Sums, softmax, norms and confidences are f32 whatever `T` is. What each computes is
/// written down in `dreamc-interp`.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `() -> T[..]`: a tensor of the checkpoint, converted to `T`.
    Weight {
        /// Its name in the checkpoint.
        name: String,
    },
    /// `() -> ..`: a small constant.
    Const(Literal),
    /// `(ids i32[B, S], table T[V, H]) -> U[B, S, H]`: rows of the table.
    Embed,
    /// `(positions i32[B, S]) -> (cos, sin) f32[B, S, d / 2]`: of `position * theta^(-2j / d)`, `d` = head_dim.
    RopeTable {
        /// Base of the frequencies.
        theta: f32,
        /// Dimensions of a head.
        head_dim: u64,
    },
    /// `(x T[.., H], gain f32[H]) -> U[.., H]`: `x / sqrt(mean(x^2) + eps) * gain`.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x T[.., K], [gain f32[K]], weight.. T[N_i, K], [bias f32[N]], [residual f32[.., N]]) -> U[.., N]`: see [`Linear`].
    Linear(Linear),
    /// `(x T[B, S, heads * d], cos, sin f32[B, S, d / 2]) -> T[..]`: rotates the halves of every head.
    Rope {
        /// Dimensions of a head.
        head_dim: u64,
    },
    /// `(q, k, v | qkv, mask i32[B, S], [cos, sin]) -> T[B, S, heads * d]`: see [`Attention`].
    Attention(Attention),
    /// `(a T[..], b T[..]) -> T[..]`.
    Add,
    /// `(a T[..], b T[..]) -> T[..]`.
    Mul,
    /// `(x T[..]) -> T[..]`: `x * sigmoid(x)`.
    Silu,
    /// `(gate T[..], up T[..]) -> T[..]`: `silu(gate) * up`.
    SwiGlu,
    /// `(x T[.., N]) -> T[.., len]`: columns `start..start + len`.
    Slice {
        /// First column.
        start: u64,
        /// Number of columns.
        len: u64,
    },
    /// `(T[N_i, ..]..) -> T[sum N_i, ..]`: one after another along the first axis.
    Concat,
    /// `(x T[B, S, N]) -> T[B, S, N]`: row `p` is row `p - 1`, row 0 stays: the logits shift of `spec/text-model.md` section 7.
    ShiftRows,
    /// `(canvas i32[B, S]) -> bool[B, S]`: where the token is `token`.
    IsToken {
        /// The token looked for.
        token: u64,
    },
    /// `(logits f32[B, S, V], penalty f32[], step i32[]) -> f32[B, S, V]`: column `token` plus `penalty * ln(1 - t + eps)`.
    EosPenalty {
        /// The column.
        token: u64,
        /// Steps of the schedule.
        steps: u64,
        /// End of the schedule.
        eps: f32,
    },
    /// `(logits f32[B, S, V], active bool[B, S], temperature f32[], top_p f32[], top_k i32[]) -> f32[B, S, V]`: the
    /// distribution of `spec/sampling.md` section 4. No filter at `top_p` outside `(0, 1)` and at `top_k` 0. Rows not
    /// active are unspecified.
    SamplingProbs,
    /// `(canvas i32[B, S], stream u32[4]) -> u32[B, S]`: see `dreamc_num::stream`.
    RandomBits {
        /// What the bits are for.
        lane: Lane,
    },
    /// `(probs f32[B, S, V], active bool[B, S], temperature f32[], bits u32[B, S]) -> i32[B, S]`: the most probable token, lowest
    /// id on a tie, or a draw when the temperature is above 0; -1 where not active.
    DrawToken,
    /// `(probs f32[B, S, V], active bool[B, S], token i32[B, S]) -> f32[B, S]`; 0 where not active.
    Confidence(Confidence),
    /// `(active bool[B, S], step i32[]) -> i32[B]`: slots that each row commits (`spec/sampling.md` section 5).
    TransferCount {
        /// Steps of the schedule.
        steps: u64,
        /// End of the schedule.
        eps: f32,
    },
    /// `(confidence f32[B, S], active bool[B, S], count i32[B], alg_temp f32[], bits u32[B, S]) -> bool[B, S]`: the most confident
    /// slots of each row, lowest position on a tie; drawn without replacement when `alg_temp` is above 0.
    SelectSlots,
    /// `(active bool[B, S], step i32[], bits u32[B, S]) -> bool[B, S]`: each slot with probability `1 - s/t`.
    OriginSlots {
        /// Steps of the schedule.
        steps: u64,
        /// End of the schedule.
        eps: f32,
    },
    /// `(select bool[B, S], token i32[B, S], canvas i32[B, S]) -> i32[B, S]`.
    Commit,
    /// `(stream u32[4]) -> u32[4]`: the stream of the next step.
    AdvanceStream,
    /// `(canvas i32[B, S], stream u32[4], captured..) -> (canvas, stream, history i32[steps, B, S])`: the denoising loop.
    ///
    /// The body is the graph `body`, `(step i32[], canvas, stream, captured..) -> (canvas, stream)`, run `steps` times with
    /// `step` from 0. `history` holds the canvas after every step.
    Denoise {
        /// Number of iterations, at least 1.
        steps: u64,
        /// Name of the body's graph.
        body: String,
    },
}

/// `act(norm(x) W^T + bias) + residual`. The rows of several weights follow each other, so `N` is the sum of
/// their rows; with `swiglu` there are two weights `gate, up` and the result is `silu(x gate^T) * (x up^T)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Linear {
    /// Number of weight operands, 1 to 3.
    pub weights: u64,
    /// `x` is RMS-normalised first, with this epsilon and the gain operand, to rows of the weights' type.
    pub norm_eps: Option<f32>,
    /// Whether there is a bias operand; not with `swiglu`.
    pub bias: bool,
    /// Whether the two weights are gate and up.
    pub swiglu: bool,
    /// Whether there is a residual operand, added last.
    pub residual: bool,
}

/// Bidirectional attention with grouped queries: head `h` reads key head `h / (heads / kv_heads)`, scale
/// `1 / sqrt(head_dim)`. Query `i` sees key `j` where both masks are not 0; masked rows are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Dimensions of a head.
    pub head_dim: u64,
    /// One operand holds q, k and v as column ranges.
    pub packed: bool,
    /// q and k are rotated here, by the tables that are the last two operands.
    pub rope: bool,
}

/// How certain a drawn token is (`spec/sampling.md` section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Its probability.
    Probability,
    /// Largest minus second largest probability.
    Margin,
    /// `sum p * ln(p + 1e-10)`.
    NegativeEntropy,
}

/// Elements of a constant, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// For float types.
    Floats(Vec<f32>),
    /// For integers and bools.
    Ints(Vec<i64>),
}

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
            Op::Weight { name } => ("weight", vec![("name", Text(name.clone()))]),
            Op::Const(Literal::Floats(v)) => ("const", vec![("floats", Floats(v.clone()))]),
            Op::Const(Literal::Ints(v)) => ("const", vec![("ints", Ints(v.clone()))]),
            Op::Embed => ("embed", vec![]),
            Op::RopeTable { theta, head_dim } => {
                ("rope_table", vec![("theta", Float(*theta)), ("head_dim", int(*head_dim))])
            }
            Op::RmsNorm { eps } => ("rms_norm", vec![("eps", Float(*eps))]),
            Op::Linear(l) => {
                let mut attributes = vec![];
                if l.weights != 1 {
                    attributes.push(("weights", int(l.weights)));
                }
                attributes.extend(l.norm_eps.map(|eps| ("norm_eps", Float(eps))));
                attributes.extend(flags(&[("bias", l.bias), ("swiglu", l.swiglu), ("residual", l.residual)]));
                ("linear", attributes)
            }
            Op::Rope { head_dim } => ("rope", vec![("head_dim", int(*head_dim))]),
            Op::Attention(a) => {
                let mut attributes = vec![
                    ("heads", int(a.heads)),
                    ("kv_heads", int(a.kv_heads)),
                    ("head_dim", int(a.head_dim)),
                ];
                attributes.extend(flags(&[("packed", a.packed), ("rope", a.rope)]));
                ("attention", attributes)
            }
            Op::Add => ("add", vec![]),
            Op::Mul => ("mul", vec![]),
            Op::Silu => ("silu", vec![]),
            Op::SwiGlu => ("swiglu", vec![]),
            Op::Slice { start, len } => ("slice", vec![("start", int(*start)), ("len", int(*len))]),
            Op::Concat => ("concat", vec![]),
            Op::ShiftRows => ("shift_rows", vec![]),
            Op::IsToken { token } => ("is_token", vec![("token", int(*token))]),
            Op::EosPenalty { token, steps, eps } => {
                ("eos_penalty", vec![("token", int(*token)), ("steps", int(*steps)), ("eps", Float(*eps))])
            }
            Op::SamplingProbs => ("sampling_probs", vec![]),
            Op::RandomBits { lane } => ("random_bits", vec![("lane", Word(lane.name().to_owned()))]),
            Op::DrawToken => ("draw_token", vec![]),
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
            Op::Denoise { steps, body } => {
                ("denoise", vec![("steps", int(*steps)), ("body", Text(body.clone()))])
            }
        }
    }

    /// Inverse of [`Op::spelling`]. The message says what is unknown, missing or left over.
    pub fn from_spelling(name: &str, attributes: Vec<(String, Attribute)>) -> Result<Op, String> {
        let mut a = Reader { op: name, attributes };
        let op = match name {
            "weight" => Op::Weight { name: a.text("name")? },
            "const" => Op::Const(a.literal()?),
            "embed" => Op::Embed,
            "rope_table" => Op::RopeTable { theta: a.float("theta")?, head_dim: a.int("head_dim")? },
            "rms_norm" => Op::RmsNorm { eps: a.float("eps")? },
            "linear" => Op::Linear(Linear {
                weights: if a.has("weights") { a.int("weights")? } else { 1 },
                norm_eps: if a.has("norm_eps") { Some(a.float("norm_eps")?) } else { None },
                bias: a.flag("bias")?,
                swiglu: a.flag("swiglu")?,
                residual: a.flag("residual")?,
            }),
            "rope" => Op::Rope { head_dim: a.int("head_dim")? },
            "attention" => Op::Attention(Attention {
                heads: a.int("heads")?,
                kv_heads: a.int("kv_heads")?,
                head_dim: a.int("head_dim")?,
                packed: a.flag("packed")?,
                rope: a.flag("rope")?,
            }),
            "add" => Op::Add,
            "mul" => Op::Mul,
            "silu" => Op::Silu,
            "swiglu" => Op::SwiGlu,
            "slice" => Op::Slice { start: a.int("start")?, len: a.int("len")? },
            "concat" => Op::Concat,
            "shift_rows" => Op::ShiftRows,
            "is_token" => Op::IsToken { token: a.int("token")? },
            "eos_penalty" => {
                Op::EosPenalty { token: a.int("token")?, steps: a.int("steps")?, eps: a.float("eps")? }
            }
            "sampling_probs" => Op::SamplingProbs,
            "random_bits" => Op::RandomBits { lane: a.word("lane", &Lane::ALL, Lane::name)? },
            "draw_token" => Op::DrawToken,
            "confidence" => Op::Confidence(a.word("kind", &Confidence::ALL, Confidence::name)?),
            "transfer_count" => Op::TransferCount { steps: a.int("steps")?, eps: a.float("eps")? },
            "select_slots" => Op::SelectSlots,
            "origin_slots" => Op::OriginSlots { steps: a.int("steps")?, eps: a.float("eps")? },
            "commit" => Op::Commit,
            "advance_stream" => Op::AdvanceStream,
            "denoise" => Op::Denoise { steps: a.int("steps")?, body: a.text("body")? },
            _ => return Err(format!("unknown op `{name}`")),
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
