//! The plan: what the runtime executes, decided completely by the compiler.
//!
//! A plan holds one [`Program`] per entry. A program is a list of steps over values whose places in the
//! arena are fixed; only the symbols (rows, length) vary from request to request, up to their maxima.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use dreamc_num::DType;
use dreamc_num::quant::Codes;
use dreamc_num::stream::Lane;
use serde::{Deserialize, Serialize};

/// All programs of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Sorted by name.
    pub programs: Vec<Program>,
}

/// One entry of the artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// `forward`, `generate`, ..
    pub name: String,
    /// What varies from request to request.
    pub symbols: Vec<Symbol>,
    /// Every tensor that a step reads or writes.
    pub values: Vec<Value>,
    /// Written by the caller before the first step.
    pub inputs: Vec<Port>,
    /// Read by the caller after the last step.
    pub outputs: Vec<Port>,
    /// In order of execution.
    pub steps: Vec<Step>,
    /// Size of the arena at the maxima of all symbols.
    pub arena_bytes: u64,
}

impl Program {
    /// All dispatches, those of loops once.
    pub fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        let mut rest: Vec<&Step> = self.steps.iter().rev().collect();
        core::iter::from_fn(move || {
            loop {
                match rest.pop()? {
                    Step::Dispatch(dispatch) => return Some(dispatch),
                    Step::Denoise(denoise) => rest.extend(denoise.body.iter().rev()),
                }
            }
        })
    }

    /// What is left to be chosen, by number. Of a validated program; else what stands there.
    pub fn choices(&self) -> Vec<Choice> {
        let launches = self.dispatches().flat_map(|dispatch| &dispatch.launches);
        let mut found: BTreeMap<u32, u32> = BTreeMap::new();
        for Candidate { choice, nth } in launches.filter_map(|launch| launch.candidate) {
            let candidates = found.entry(choice).or_default();
            *candidates = nth.saturating_add(1).max(*candidates);
        }
        found.into_iter().map(|(number, candidates)| Choice { number, candidates }).collect()
    }

    /// The largest lengths of requests: one for each symbol.
    pub fn maxima(&self) -> Vec<u32> {
        self.symbols.iter().map(|symbol| symbol.max).collect()
    }

    /// Passes through the model: the iterations of its loops, or 1 without one.
    pub fn passes(&self) -> u32 {
        let of = |step: &Step| match step {
            Step::Dispatch(_) => None,
            Step::Denoise(denoise) => Some(denoise.steps),
        };
        self.steps.iter().filter_map(of).reduce(u32::saturating_add).unwrap_or(1)
    }
}

/// A bounded run-time length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// As in the IR: `B`, `S`.
    pub name: String,
    /// Largest value that a request may have; the smallest is 1.
    pub max: u32,
}

/// Index into [`Program::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueId(pub u32);

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Element type.
    pub dtype: DType,
    /// Logical dimensions, outermost first.
    pub dims: Vec<Dim>,
    /// Where it lies.
    pub place: Place,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Byte offset in the arena, a multiple of [`ARENA_ALIGN`].
    Arena(u64),
    /// Index into the artifact's weight table.
    Weight(u32),
}

impl Place {
    /// The index of a weight.
    pub const fn weight(self) -> Option<u32> {
        match self {
            Place::Weight(index) => Some(index),
            Place::Arena(_) => None,
        }
    }
}

/// Alignment of every value in the arena, in bytes: that of a storage buffer's offset on any WebGPU device.
pub const ARENA_ALIGN: u64 = 256;

/// A dimension: a polynomial of the program's symbols, the sum of its terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dim {
    /// Empty means 0.
    pub terms: Vec<Term>,
}

/// `coefficient * product of symbols`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// The factor.
    pub coefficient: u32,
    /// Indices into [`Program::symbols`]; one that stands twice is squared.
    pub symbols: Vec<u32>,
}

impl Dim {
    /// A constant.
    pub fn constant(n: u32) -> Dim {
        Dim { terms: alloc::vec![Term { coefficient: n, symbols: Vec::new() }] }
    }

    /// The value with `symbols[i]` for symbol `i`; `None` on overflow or an unknown symbol.
    pub fn at(&self, symbols: &[u32]) -> Option<u32> {
        self.terms.iter().try_fold(0_u32, |sum, term| {
            let product = term
                .symbols
                .iter()
                .try_fold(term.coefficient, |p, s| p.checked_mul(*symbols.get(*s as usize)?))?;
            sum.checked_add(product)
        })
    }
}

/// A named input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// `input_ids`, `logits`, ..
    pub name: String,
    /// What it is bound to.
    pub value: ValueId,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Runs a kernel.
    Dispatch(Dispatch),
    /// Runs a body a fixed number of times.
    Denoise(Denoise),
}

/// One thing to compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// What to compute.
    pub kernel: Kernel,
    /// Operands in the order that [`Kernel`] documents.
    pub reads: Vec<ValueId>,
    /// Results; one may lie exactly where an operand lies if the kernel says so.
    pub writes: Vec<ValueId>,
    /// Module paths in the checkpoint, for messages and probes; more than one where ops were merged.
    pub origin: Vec<String>,
    /// What a device with [`Code`](crate::code::Code) launches, in order, to compute it; empty for the CPU.
    #[serde(deserialize_with = "crate::wire::launches")]
    pub launches: Vec<Launch>,
}

/// One launch of a module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`Code::modules`](crate::code::Code::modules).
    pub module: u32,
    /// One for each of the module's buffers, in order.
    #[serde(deserialize_with = "crate::wire::bindings")]
    pub buffers: Vec<Binding>,
    /// One for each of the module's scalars, in order.
    #[serde(deserialize_with = "crate::wire::scalars")]
    pub scalars: Vec<Scalar>,
    /// For which requests it is, where others stand beside it for the rest.
    pub variant: Option<Variant>,
    /// Which of several ways to compute the same it belongs to, where there are several.
    pub candidate: Option<Candidate>,
}

/// One of several ways to compute the same, of which a device takes one. A candidate is one launch or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// What is chosen: a number of the program. Dispatches that launch the same kernels for the same lengths share it.
    pub choice: u32,
    /// Which one it is: 0 is what the compiler's model takes, the last is [portable](Choice).
    pub nth: u32,
}

/// What a program leaves to be chosen on the device: its candidates are numbered from 0, and the last computes the same by
/// plain instructions that every device of the target has. The others are judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its number.
    pub number: u32,
    /// Candidates, at least 2.
    pub candidates: u32,
}

impl Choice {
    /// The portable candidate.
    pub const fn portable(self) -> u32 {
        self.candidates - 1
    }
}

impl Launch {
    /// Whether it belongs to no candidate but the one that the compiler's model takes.
    pub fn is_usual(&self) -> bool {
        self.candidate.is_none_or(|candidate| candidate.nth == 0)
    }

    /// Whether it is made with `symbols[i]` for symbol `i`; `None` where the loader has not validated it.
    pub fn serves(&self, symbols: &[u32]) -> Option<bool> {
        self.variant.as_ref().map_or(Some(true), |variant| variant.serves(symbols))
    }
}

/// A range of lengths: one kernel suits short requests, another long ones. Variants of a dispatch that stand behind one
/// another are a table: they have the same length, the ranges of neighbours are the same or meet, the first begins
/// at 0 and the last ends at the maximum or above it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// The length that decides.
    pub of: Dim,
    /// It is longer than this,
    pub above: u32,
    /// and at most this.
    pub up_to: u32,
}

impl Variant {
    fn serves(&self, symbols: &[u32]) -> Option<bool> {
        let length = self.of.at(symbols)?;
        // Nothing to do at length 0: any of the table will do.
        Some((self.above < length || (self.above == 0 && length == 0)) && length <= self.up_to)
    }
}

/// What a buffer of a launch is bound to: any value of the program. What is written lies in the arena, and overlaps no
/// other binding of the launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The value.
    pub value: ValueId,
    /// A part of the value's bytes at the maxima, first and length, where a device cannot bind all of them at once; both
    /// multiples of [`ARENA_ALIGN`] but for the end of the last part.
    pub part: Option<(u64, u64)>,
}

/// What a scalar of a launch is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    /// A length, of the type u32.
    Count(Dim),
    /// What of a length lies in a part: `min(of - first, most)`, 0 where the length does not reach the part.
    Part {
        /// The whole length.
        of: Dim,
        /// Where the part begins.
        first: u32,
        /// How long it is.
        most: u32,
    },
    /// A constant, of the type f32.
    Float(f32),
}

/// The denoising loop. The state lies in the arena; the body updates it in place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Denoise {
    /// Number of iterations.
    pub steps: u32,
    /// `i32[]`, set to the iteration's number before each iteration.
    pub index: ValueId,
    /// Executed `steps` times. Contains no loop.
    pub body: Vec<Step>,
    /// Copies `.0` (any type, at most 3 dimensions) into slot `index` of `.1` (the same type, with `steps` as a further
    /// first dimension) after each iteration.
    pub history: Option<(ValueId, ValueId)>,
    /// How many slots of the canvas are open in each iteration, where that is known.
    pub slots: Option<Slots>,
}

/// The slots of a loop's canvas, `i32[B, S]`, which its history copies. An iteration fills as many in each row as the
/// schedule says ([`dreamc_num::schedule`]), and writes nothing but those.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slots {
    /// Index of the symbol that counts the open slots of a row: those of the request outside of the loop and in the first
    /// iteration, those that the schedule leaves in every other.
    pub symbol: u32,
    /// Marks a slot.
    pub token: u32,
    /// End of the schedule.
    pub eps: f32,
    /// `i32[]`, an input: where it is not 0 the rows are counted together, and the number of slots of a row stays.
    pub joint: ValueId,
    /// `f32[]`, two inputs: where both are 0, iterations that fill no slot may be left out. None where they may not.
    pub idle: Option<(ValueId, ValueId)>,
}

/// What a dispatch computes. `T` stands for f32, bf16 or f16; softmax, norms and confidences accumulate in f32
/// whatever `T` is. A `bool` is a byte, 0 or 1; in plans with launches it may be a u32 instead. The meaning of each is that of the IR op of the same name, as `dreamc-interp` computes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kernel {
    /// `(x T[..]) -> T[..]`, bytes as they are: same type and number of elements, another shape if need be.
    Copy,
    /// `(ids i32[B, S], table T[V, H] row-major) -> U[B, S, H]`. An id outside the table is an error.
    Embed,
    /// `(positions) -> (cos, sin) f32[B, S, n]`, `n` the sum of the sections: `positions` is `i32[B, S]` with one section,
    /// else `i32[sections, B, S]`, a plane per section. The frequencies of a section turn by its own plane's positions.
    ///
    /// Frequency `j` of a section of `m` that begins at `o`: `theta^(-2 (o + j) / 2n)`, or if axial `theta^(-2j / 2m)`.
    RopeTable {
        /// Base of the frequencies.
        theta: f32,
        /// Frequencies that turn by each plane; 1 to [`ROPE_SECTION_COUNT_MAX`](crate::ROPE_SECTION_COUNT_MAX).
        #[serde(deserialize_with = "crate::wire::sections")]
        sections: Vec<u32>,
        /// Whether the frequencies start again in each section.
        axial: bool,
    },
    /// `(x T[.., H], gain f32[H]) -> U[.., H]`.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x T[.., H], gain f32[H], bias f32[H]) -> U[.., H]`: `(x - mean) / sqrt(var + eps) * gain + bias`.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `(x T[.., K], [gain f32[K]], [smooth f32[K]], weight.. [N_i, K], [bias f32[N]], [residual f32[.., N]]) -> U[.., N]`.
    ///
    /// The weights' rows follow each other: `N` is the sum of their rows. May write over the residual. Without a norm,
    /// `x` is taken as it is: f32 rows are multiplied in f32, also with bf16 weights. Weights in few
    /// bits stand for values of their type.
    Linear(Linear),
    /// `(x T[.., heads * head_dim], cos, sin) -> T[..]`. May write over `x`.
    Rope {
        /// Dimensions of a head.
        head_dim: u32,
    },
    /// Bidirectional attention, softmax scale `1 / sqrt(head_dim)`.
    ///
    /// `(q T[B, S, heads * head_dim], k, v T[B, S, kv_heads * head_dim], mask i32[B, S], [cos, sin])`, or with
    /// `packed` `(qkv T[B, S, (heads + 2 * kv_heads) * head_dim], mask, [cos, sin])` `-> T[B, S, heads * head_dim]`. With
    /// `rows` there is one more operand, `index i32[B, R]`, and queries and result have `R` rows: each stands at the
    /// position of its index.
    ///
    /// The mask numbers segments: a query sees the keys that have its own number. Rows whose mask is 0 belong to no
    /// segment and come out as 0.
    Attention(Attention),
    /// `(a, b) -> a + b`, same shapes. May write over either.
    Add,
    /// `(a, b) -> a * b`, same shapes. May write over either.
    Mul,
    /// `(x T[..]) -> T[..]`, element by element. May write over `x`.
    Activate(Activation),
    /// `(gate, up) -> silu(gate) * up`. May write over either.
    SwiGlu,
    /// `(x T[.., N]) -> T[.., n]`: columns `start..start + n` of the last axis.
    Slice {
        /// First column.
        start: u32,
    },
    /// `(part.. T[..]) -> T[..]`, `T` also i32: 1 to [`PART_COUNT_MAX`](crate::PART_COUNT_MAX) parts, one after the other
    /// along `axis`.
    Concat {
        /// The axis along which they are joined; all others are equal.
        axis: u32,
    },
    /// `(x T[B, S + count, N]) -> T[B, S, N]`: without the first `count` rows.
    DropRows {
        /// Rows left out.
        count: u32,
    },
    /// `(x T[B, S, N], index i32[B, R]) -> T[B, R, N]`: row `r` is row `index[b, r]` of `x`; or
    /// `(x T[1, S, N], index i32[]) -> T[1, 1, N]`. An index outside is an error.
    TakeRows,
    /// `(x T[B, S, H], index i32[B, S], rows T[.., H]) -> T[B, S, H]`: row `index[b, s]` of all `rows` where the index is
    /// not negative, else the row of `x`. An index behind the last row is an error. May write over `x`.
    Splice,
    /// `(x T[B, S, N]) -> T[B, S, N]`: row `p` takes row `p - 1`, row 0 stays. Never in place.
    ShiftRows,
    /// `(canvas i32[B, S]) -> bool[B, S]`: where the token is `token`.
    IsToken {
        /// The token looked for.
        token: u32,
    },
    /// `(logits f32[B, S, V], penalty f32[], index i32[]) -> logits`: adds `penalty * ln(1 - t + eps)` to column
    /// `token`. May write over the logits.
    EosPenalty {
        /// The column.
        token: u32,
        /// Steps of the schedule.
        steps: u32,
        /// End of the schedule.
        eps: f32,
    },
    /// `(logits f32[B, S, V], rows i32[B, S]) -> logits`: where `rows` is not negative, every column outside
    /// `first..first + len` becomes the lowest finite number. May write over the logits.
    KeepTokens {
        /// First column that stays.
        first: u32,
        /// How many stay.
        len: u32,
    },
    /// `(logits f32[B, S, V], active bool[B, S], temperature f32[], top_p f32[], top_k i32[]) -> f32[B, S, V]`: the
    /// distribution that a token is drawn from. Rows not active are unspecified. A row whose logits are not all finite is
    /// [`NO_DISTRIBUTION`](dreamc_num::distribution::NO_DISTRIBUTION) everywhere. May
    /// write over the logits.
    SamplingProbs,
    /// `(canvas i32[B, S], stream u32[4]) -> u32[B, S]`: random bits for every position.
    RandomBits {
        /// What they are for.
        lane: Lane,
    },
    /// `(probs f32[B, S, V], active bool[B, S], temperature f32[], bits u32[B, S]) -> i32[B, S]`: the most probable
    /// token (lowest id on a tie) at temperature 0, else a draw; -1 where not active. Where the row is no distribution it
    /// is [`NO_TOKEN`](dreamc_num::distribution::NO_TOKEN), or an error at once.
    DrawToken {
        /// The token of column 0.
        first: u32,
    },
    /// `(probs f32[B, S, V], active bool[B, S], token i32[B, S]) -> f32[B, S]`; 0 where not active, or where the row is no
    /// distribution.
    Confidence(Confidence),
    /// `(active bool[B, S], index i32[], joint i32[]) -> i32[B]`: how many slots a row commits in this step. If `joint`
    /// is not 0, the slots of all rows are counted as one row's: the count stands in row 0, and 0 in the others.
    TransferCount {
        /// Steps of the schedule.
        steps: u32,
        /// End of the schedule.
        eps: f32,
    },
    /// `(confidence f32[B, S], active bool[B, S], count i32[B], alg_temp f32[], bits u32[B, S], joint i32[]) ->
    /// bool[B, S]`: the `count` most confident active slots of each row (lowest position on a tie), or with
    /// `alg_temp > 0` as many drawn without replacement. If `joint` is not 0, the sum of the counts is chosen among the
    /// slots of all rows (lowest row, then lowest position on a tie).
    SelectSlots,
    /// `(active bool[B, S], index i32[], bits u32[B, S]) -> bool[B, S]`: each active slot with probability `1 - s/t`.
    OriginSlots {
        /// Steps of the schedule.
        steps: u32,
        /// End of the schedule.
        eps: f32,
    },
    /// `(select bool[B, S], token i32[B, S], canvas i32[B, S]) -> i32[B, S]`: `token` where selected, and wherever it is
    /// [`NO_TOKEN`](dreamc_num::distribution::NO_TOKEN). May write over the canvas.
    Commit,
    /// `(stream u32[4]) -> u32[4]`: the stream of the next step. May write over the stream.
    AdvanceStream,
    /// `(index i32[]) -> f32[.., W]`, all other dimensions 1, or `(index i32[N]) -> f32[.., N, W]`, `N` constant and all
    /// dimensions before it 1; `W` even and at least 4: with `t = times[index]`, element `k < W/2` of a row is `sin(t w)`
    /// and element `W/2 + k` is `cos(t w)`, `w = exp(-k ln(10000) / (W/2 - 1))`.
    TimestepEmbed {
        /// The time of each step: 1 to [`STEPS_MAX`](crate::STEPS_MAX), finite.
        #[serde(deserialize_with = "crate::wire::times")]
        times: Vec<f32>,
    },
    /// `(x f32[..], v f32[..]) -> f32[..]`: `x + v * dt`. May write over `x`.
    EulerStep {
        /// Size of the step.
        dt: f32,
    },
    /// `(x f32[..], noise f32[..], index i32[]) -> f32[..]`: with `a = alphas[index]` and `p = alphas[index + 1]`,
    /// `sqrt(p) * x0 + sqrt(1 - p) * noise`, where `x0 = clamp((x - sqrt(1 - a) * noise) / sqrt(a), -1, 1)`. May write
    /// over `x`.
    DdimStep {
        /// One more than there are steps, each in `0 < a <= 1`.
        #[serde(deserialize_with = "crate::wire::alphas")]
        alphas: Vec<f32>,
    },
    /// `(canvas i32[B, S]) -> (slots i32[B, K], open bool[B, K])`: positions of `token`, ascending, the first `K` of each
    /// row; where a row has fewer, position 0 and not open.
    OpenSlots {
        /// The token looked for.
        token: u32,
    },
    /// `(slots i32[B, K]) -> i32[B, K]`: `max(p - 1, 0) + before`.
    ReadRows {
        /// Rows before the canvas; fits i32.
        before: u32,
    },
    /// `(slots i32[B, K], stream u32[4]) -> u32[B, K]`: random bits for these positions.
    SlotBits {
        /// What they are for.
        lane: Lane,
    },
    /// `(x i32[B, S], slots i32[B, K]) -> i32[B, K]`: the elements at these positions. One outside is an error.
    TakeSlots,
    /// `(select bool[B, K], token i32[B, K], slots i32[B, K], canvas i32[B, S]) -> i32[B, S]`: `token` at the positions
    /// selected, each at most once, and wherever it is [`NO_TOKEN`](dreamc_num::distribution::NO_TOKEN). One outside is an
    /// error. May write over the canvas.
    CommitSlots,
}

/// See [`Kernel::Activate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`; what is not a number stays so.
    Relu,
}

/// See [`Kernel::Linear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// RMS norm of `x` before the matmul, with this epsilon; its gain is the second operand. What is multiplied then
    /// has the weights' type.
    pub norm_eps: Option<f32>,
    /// How many weight operands there are, 1 to 3.
    pub weights: u32,
    /// Whether there is a bias operand.
    pub bias: bool,
    /// Whether there is a residual operand, added last.
    pub residual: bool,
    /// `silu(first weight's features) * second weight's`: two weights of equal rows, no bias, `N` is the rows of one.
    pub swiglu: bool,
    /// Whether the columns of `x`, after the norm, are multiplied by the operand behind the gain.
    pub smooth: bool,
    /// The codes as which rows and weights are multiplied ([`dreamc_num::quant`]), if they are, with a scale per row of
    /// either. The weights are [`Layout::Quantized`](crate::layout::Layout::Quantized): for [`Codes::Fp8`] in fp8, else not.
    /// Sums of [`Codes::Int8`] are in integers, and `K` is at most [`INT8_COLUMNS_MAX`](crate::INT8_COLUMNS_MAX).
    pub codes: Option<Codes>,
    /// What is done to each sum after the bias and before the residual; not with `swiglu`.
    pub activation: Option<Activation>,
}

impl Linear {
    /// Which operands are the weights: behind `x`, the gain and the factors of columns. Of a plan that is not validated
    /// there may be fewer.
    pub fn weight_operands(&self) -> Range<usize> {
        let first = 1 + usize::from(self.norm_eps.is_some()) + usize::from(self.smooth);
        first..first.saturating_add(self.weights as usize)
    }
}

/// See [`Kernel::Attention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Dimensions of a head, even.
    pub head_dim: u32,
    /// Whether q, k and v are column ranges of one operand.
    pub packed: bool,
    /// Whether cos and sin are given: q and k are rotated here.
    pub rope: bool,
    /// Whether queries are given at the rows of an index only, the last operand; not packed.
    pub rows: bool,
}

/// How certain a drawn token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confidence {
    /// The token's probability.
    Probability,
    /// Largest minus second largest probability.
    Margin,
    /// `sum p * ln(p + 1e-10)`.
    NegativeEntropy,
}
