//! Operations: the closed list.

use dreamc_num::Quant;
use dreamc_num::quant::Codes;
use dreamc_num::stream::Lane;
use std::ops::Range;

/// A tensor operation. All are pure: state (canvas, random stream) goes in and out as values.
///
/// `T` is any float type. Sums, softmax, norms and confidences are f32 whatever `T` is. What each computes is
/// written down in `dreamc-interp`.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `() -> T[..]`: a tensor of the checkpoint, converted to `T`; see [`Weight`].
    Weight(Weight),
    /// `() -> ..`: a small constant.
    Const(Literal),
    /// `(ids i32[B, S], table T[V, H]) -> U[B, S, H]`: rows of the table.
    Embed,
    /// `(positions) -> (cos, sin) f32[B, S, n]`: cosine and sine of `position * frequency`, see [`RopeTable`].
    RopeTable(RopeTable),
    /// `(x T[.., H], gain f32[H]) -> U[.., H]`: `x / sqrt(mean(x^2) + eps) * gain`.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x T[.., H], gain f32[H], bias f32[H]) -> U[.., H]`: `(x - mean) / sqrt(variance + eps) * gain + bias`.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `(x T[.., K], [gain f32[K]], [smooth f32[K]], weight.. T[N_i, K], [bias f32[N]], [residual f32[.., N]]) -> U[.., N]`: see
    /// [`Linear`].
    Linear(Linear),
    /// `(x T[B, S, heads * d], cos, sin f32[B, S, d / 2]) -> T[..]`: rotates the halves of every head.
    Rope {
        /// Dimensions of a head.
        head_dim: u64,
    },
    /// `(q, k, v | qkv, mask i32[B, S], [cos, sin], [index i32[B, R]]) -> T[B, S or R, heads * d]`: see [`Attention`].
    Attention(Attention),
    /// `(a T[..], b T[..]) -> T[..]`.
    Add,
    /// `(a T[..], b T[..]) -> T[..]`.
    Mul,
    /// `(x T[..]) -> T[..]`: elementwise.
    Activate(Activation),
    /// `(gate T[..], up T[..]) -> T[..]`: `silu(gate) * up`.
    SwiGlu,
    /// `(x T[.., N]) -> T[.., len]`: columns `start..start + len`.
    Slice {
        /// First column.
        start: u64,
        /// Number of columns.
        len: u64,
    },
    /// `(T[.., N_i, ..]..) -> T[.., sum N_i, ..]`: one after another along an axis.
    Concat {
        /// The axis, counted from the outermost.
        axis: u64,
    },
    /// `(x T[.., R * count, N]) -> T[.., R, count * N]`: every `count` rows become one.
    MergeRows {
        /// Rows that make one.
        count: u64,
    },
    /// `(x T[.., R, count * N]) -> T[.., R * count, N]`: every row becomes `count`.
    SplitRows {
        /// Rows made from one.
        count: u64,
    },
    /// `(x T[B, count + S, N]) -> T[B, S, N]`: all rows but the first `count`.
    DropRows {
        /// Rows left out.
        count: u64,
    },
    /// `(x T[B, S, N], index i32[B, R]) -> T[B, R, N]`: the rows of these numbers; or of one number:
    /// `(x T[1, S, N], index i32[]) -> T[1, 1, N]`.
    TakeRows,
    /// `(x T[B, S, N], index i32[B, S], rows T[.., N]) -> T[B, S, N]`: row `index` of `rows`, counted over all its leading
    /// axes, where the index is not negative; elsewhere the row of `x`.
    Splice,
    /// `(x T[..]) -> T[1, ..]`, `T` any type: the same elements under one more axis.
    Stack,
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
    /// `(logits f32[B, S, V], rows i32[B, S]) -> f32[B, S, V]`: where `rows` is not negative, all columns but
    /// `first..first + len` become the lowest finite number.
    KeepTokens {
        /// First column that stays.
        first: u64,
        /// Number of columns that stay.
        len: u64,
    },
    /// `(logits f32[B, S, V], active bool[B, S], temperature f32[], top_p f32[], top_k i32[]) -> f32[B, S, V]`: the
    /// distribution of `spec/sampling.md` section 4. No filter at `top_p` outside `(0, 1)` and at `top_k` 0. Rows not
    /// active are unspecified. A row whose logits are not all finite is
    /// [`NO_DISTRIBUTION`](dreamc_num::distribution::NO_DISTRIBUTION) everywhere.
    SamplingProbs,
    /// `(canvas i32[B, S], stream u32[4]) -> u32[B, S]`: see `dreamc_num::stream`.
    RandomBits {
        /// What the bits are for.
        lane: Lane,
    },
    /// `(probs f32[B, S, V], active bool[B, S], temperature f32[], bits u32[B, S]) -> i32[B, S]`: the most probable token, lowest
    /// id on a tie, or a draw when the temperature is above 0; -1 where not active,
    /// [`NO_TOKEN`](dreamc_num::distribution::NO_TOKEN) where the row is no distribution.
    DrawToken {
        /// The token of column 0.
        first: u64,
    },
    /// `(probs f32[B, S, V], active bool[B, S], token i32[B, S]) -> f32[B, S]`; 0 where not active, or where the row is no
    /// distribution.
    Confidence(Confidence),
    /// `(active bool[B, S], step i32[], joint i32[]) -> i32[B]`: slots that each row commits (`spec/sampling.md` section 5).
    /// With `joint` not 0 the slots of all rows count together, and the whole number is in row 0.
    TransferCount {
        /// Steps of the schedule.
        steps: u64,
        /// End of the schedule.
        eps: f32,
    },
    /// `(confidence f32[B, S], active bool[B, S], count i32[B], alg_temp f32[], bits u32[B, S], joint i32[]) -> bool[B, S]`: the
    /// most confident slots of each row, lowest position on a tie; drawn without replacement when `alg_temp` is above 0.
    /// With `joint` not 0 the sum of the counts is chosen among the slots of all rows, the first row's first on a tie.
    SelectSlots,
    /// `(active bool[B, S], step i32[], bits u32[B, S]) -> bool[B, S]`: each slot with probability `1 - s/t`.
    OriginSlots {
        /// Steps of the schedule.
        steps: u64,
        /// End of the schedule.
        eps: f32,
    },
    /// `(select bool[B, S], token i32[B, S], canvas i32[B, S]) -> i32[B, S]`: `token` where selected, and wherever it is
    /// [`NO_TOKEN`](dreamc_num::distribution::NO_TOKEN); the canvas elsewhere.
    Commit,
    /// `(stream u32[4]) -> u32[4]`: the stream of the next step.
    AdvanceStream,
    /// `(canvas i32[B, S]) -> (slots i32[B, K], open bool[B, K])`: positions of the tokens equal to `token`, ascending, the
    /// first `K` of each row. A row that has fewer ends in position 0, not open. `K` is [`SLOTS`].
    OpenSlots {
        /// The token looked for.
        token: u64,
    },
    /// `(slots i32[B, K]) -> i32[B, K]`: the row whose logits a slot reads after the shift, `max(p - 1, 0) + before`.
    ReadRows {
        /// Rows that stand before the canvas.
        before: u64,
    },
    /// `(slots i32[B, K], stream u32[4]) -> u32[B, K]`: what [`Op::RandomBits`] gives for these positions.
    SlotBits {
        /// What the bits are for.
        lane: Lane,
    },
    /// `(x i32[B, S], slots i32[B, K]) -> i32[B, K]`: the elements at these positions.
    TakeSlots,
    /// `(select bool[B, K], token i32[B, K], slots i32[B, K], canvas i32[B, S]) -> i32[B, S]`: `token` at the positions that
    /// are selected, and wherever it is [`NO_TOKEN`](dreamc_num::distribution::NO_TOKEN); the canvas elsewhere. No position
    /// is selected twice.
    CommitSlots,
    /// `(step i32[] | i32[N]) -> f32[1, 1 | N, width]`: for each step sines, then cosines of `times[step] * 10000^(-k / (width / 2 - 1))`
    /// (`spec/actions.md` section 6).
    TimestepEmbed {
        /// The time of each step.
        times: Vec<f32>,
        /// Columns of the result, even and at least 4.
        width: u64,
    },
    /// `(x f32[..], velocity f32[..]) -> f32[..]`: `x + velocity * dt`.
    EulerStep {
        /// Length of the step.
        dt: f32,
    },
    /// `(x f32[..], noise f32[..], step i32[]) -> f32[..]`: one step of DDIM (`spec/actions.md` section 6).
    DdimStep {
        /// Cumulative alphas of the steps, and one more: that after the last.
        alphas: Vec<f32>,
    },
    /// `(state.., captured..) -> (state.., history [steps, ..])`: the denoising loop.
    ///
    /// The body is the graph `body`, `(step i32[], state.., captured..) -> (state..)`, run `steps` times with `step` from 0.
    /// `history` holds the first state after every step.
    ///
    /// With `slots` the first state is a canvas that is written only where it holds the token, in each row as often as
    /// [`Op::TransferCount`] says, and all other states are streams.
    Denoise {
        /// Number of iterations, at least 1.
        steps: u64,
        /// Number of states, at least 1.
        state: u64,
        /// Name of the body's graph.
        body: String,
        /// How many slots each step fills, where the schedule says it.
        slots: Option<SlotSchedule>,
    },
}

/// A tensor of the checkpoint. A matrix may be stored in few bits: its elements are first multiplied by `columns`, then
/// rounded, and only then converted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weight {
    /// Its name in the checkpoint.
    pub name: String,
    /// Name of a vector `[K]` by which the columns of a matrix `[N, K]` are multiplied.
    pub columns: Option<String>,
    /// How the rows of a matrix are rounded.
    pub quant: Option<Quant>,
    /// Name of a vector `[K]`: how much the squared errors of the columns of a matrix in groups count when it is rounded.
    pub importance: Option<String>,
    /// Name of a matrix `[K, BLOCK]`: by how much of the error of a column of a matrix in groups the others of its block become
    /// smaller when it is rounded.
    pub feedback: Option<String>,
}

impl Weight {
    /// The tensor of this name as the checkpoint has it.
    pub fn named(name: impl Into<String>) -> Weight {
        Weight { name: name.into(), ..Weight::default() }
    }
}

/// The symbol that counts the open slots of a row.
pub const SLOTS: &str = "K";

/// The schedule by which a loop fills the slots of its canvas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotSchedule {
    /// Marks a slot.
    pub token: u64,
    /// End of the schedule.
    pub eps: f32,
    /// Whether steps that fill no slot may be left out where nothing is drawn at random.
    pub drop_idle: bool,
}

/// Rotary angles: `sections` says how many frequencies belong to each axis of the positions. They are i32[B, S] for
/// one axis, else i32[axes, B, S]. `n` is the sum of the sections, half a head.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Base of the frequencies.
    pub theta: f32,
    /// Frequencies of each axis.
    pub sections: Vec<u64>,
    /// Each axis has frequencies of its own, `theta^(-j / n_i)` (`spec/vision.md` section 2); otherwise the axes share one
    /// sequence, `theta^(-j / n)` over all sections (`spec/text-model.md` section 4).
    pub axial: bool,
}

/// Elementwise functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
}

/// `activation(norm(x) W^T + bias) + residual`. The rows of several weights follow each other, so `N` is the sum of
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
    /// First row and number of rows of the one weight that is multiplied, where not all of it is; `N` is their number.
    pub rows: Option<(u64, u64)>,
    /// The columns of `x` are multiplied by an operand, after the norm: what weights with [`Weight::columns`] are divided by.
    pub smooth: bool,
    /// The rows that are multiplied, and the rows of weights that are not, are rounded to these codes ([`Codes::round`]), and
    /// the sums are those of the codes.
    pub codes: Option<Codes>,
    /// What is done to each sum after the bias, in f32 before it becomes `U`; not with `swiglu`.
    pub activation: Option<Activation>,
    /// Whether there is a residual operand, added last.
    pub residual: bool,
}

impl Linear {
    /// Which operands are the weights: behind `x`, the gain and the factors of columns.
    pub fn weight_operands(&self) -> Range<usize> {
        let first = 1 + usize::from(self.norm_eps.is_some()) + usize::from(self.smooth);
        first..first.saturating_add(self.weights as usize)
    }
}

/// Bidirectional attention with grouped queries: head `h` reads key head `h / (heads / kv_heads)`, scale
/// `1 / sqrt(head_dim)`. The mask numbers the segments that attend to themselves: query `i` sees key `j` where both have
/// the same number, which is not 0; rows of number 0 are 0.
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
    /// q and k are rotated here, by the tables that follow the mask.
    pub rope: bool,
    /// Queries are given at some rows only: `q` is `T[B, R, heads * d]`, not packed, and the last operand, the index, says
    /// where each stands: by that row's number it sees keys, and by that row of the tables it is rotated.
    pub rows: bool,
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
