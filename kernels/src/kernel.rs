//! All kernels, as data.

use crate::attention::Attention;
use crate::elementwise::Elementwise;
use crate::emit::{Element, EmitError, Emitted, emit};
use crate::fp8::LinearFp8;
use crate::greedy::Greedy;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::open::Open;
use crate::record::Recorder;
use crate::rope::{Rope, RopeTable, TimestepEmbed};
use crate::round::RoundRows;
use crate::rows::{Embed, Rows};
use crate::sampler::Sampler;
use crate::segments::Segments;
use crate::slots::Slots;
use crate::target::Target;
use crate::weigh::Weigh;
use serde::Deserialize;

/// A kernel: which family, and what is fixed in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    /// Element by element.
    Elementwise(Elementwise),
    /// Norms of rows.
    Norm(Norm),
    /// Angles of positions.
    RopeTable(RopeTable),
    /// Rotation by those angles.
    Rope(Rope),
    /// Rows of a table.
    Embed(Embed),
    /// Rows and columns that move.
    Rows(Rows),
    /// Matmuls.
    Linear(Linear),
    /// Attention.
    Attention(Attention),
    /// Segments of tiles, for attention.
    Segments(Segments),
    /// Logits and probabilities.
    Sampler(Sampler),
    /// Logits of greedy requests.
    Greedy(Greedy),
    /// Slots of the canvas.
    Slots(Slots),
    /// Those of them that are open.
    Open(Open),
    /// Angles of the action loops' times.
    TimestepEmbed(TimestepEmbed),
    /// Rows as codes of fp8.
    RoundRows(RoundRows),
    /// Matmuls of such codes.
    LinearFp8(LinearFp8),
    /// Rows left for a norm.
    Weigh(Weigh),
}

/// A float type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Float {
    /// 32 bits.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    BF16,
}

impl Float {
    /// The spelling in names.
    pub const fn name(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::F16 => "f16",
            Float::BF16 => "bf16",
        }
    }

    /// As an element of a buffer.
    pub const fn element(self) -> Element {
        match self {
            Float::F32 => Element::F32,
            Float::F16 => Element::F16,
            Float::BF16 => Element::BF16,
        }
    }
}

impl Kernel {
    /// Its name: `<dtype>_<op>[_<epilogue>]_<variant>`.
    pub fn name(&self) -> String {
        match self {
            Kernel::Elementwise(kernel) => kernel.name(),
            Kernel::Norm(kernel) => kernel.name(),
            Kernel::RopeTable(kernel) => kernel.name(),
            Kernel::Rope(kernel) => kernel.name(),
            Kernel::Embed(kernel) => kernel.name(),
            Kernel::Rows(kernel) => kernel.name(),
            Kernel::Linear(kernel) => kernel.name(),
            Kernel::Attention(kernel) => kernel.name(),
            Kernel::Segments(kernel) => kernel.name(),
            Kernel::Sampler(kernel) => kernel.name(),
            Kernel::Greedy(kernel) => kernel.name(),
            Kernel::Slots(kernel) => kernel.name(),
            Kernel::Open(kernel) => kernel.name(),
            Kernel::TimestepEmbed(kernel) => kernel.name(),
            Kernel::RoundRows(kernel) => kernel.name(),
            Kernel::LinearFp8(kernel) => kernel.name(),
            Kernel::Weigh(kernel) => kernel.name(),
        }
    }

    /// Source for `target`. The same kernel and target always give the same bytes.
    pub fn emit(&self, target: &Target) -> Result<Emitted, EmitError> {
        let name = self.name();
        let has = |float: Float| match float {
            Float::F32 => true,
            Float::F16 => target.capabilities().f16,
            Float::BF16 => target.capabilities().bf16,
        };
        let float = self.floats().into_iter().find(|float| !has(*float));
        if let Some(lacks) = float.map(|float| float.name().to_owned()).or_else(|| self.lacks(target)) {
            return Err(EmitError::Unsupported { kernel: name, target: target.name().into(), lacks });
        }
        if let Err(reason) = self.check(target) {
            return Err(EmitError::Shape { kernel: name, reason });
        }
        emit(&name, target, |recorder| self.launch(recorder))
    }

    /// Float types that it takes one by one.
    fn floats(&self) -> Vec<Float> {
        match self {
            Kernel::Elementwise(kernel) => vec![kernel.float],
            Kernel::Norm(kernel) => vec![kernel.x, kernel.y],
            Kernel::RopeTable(_)
            | Kernel::TimestepEmbed(_)
            | Kernel::Sampler(_)
            | Kernel::Greedy(_)
            | Kernel::Segments(_)
            | Kernel::Slots(_)
            | Kernel::Open(_) => Vec::new(),
            Kernel::Rope(kernel) => vec![kernel.float],
            Kernel::Embed(kernel) => kernel.table.float().into_iter().chain([kernel.y]).collect(),
            Kernel::Rows(kernel) => kernel.float().into_iter().collect(),
            Kernel::Linear(kernel) => {
                kernel.weights.float().into_iter().chain([kernel.x, kernel.y]).collect()
            }
            Kernel::Attention(kernel) => vec![kernel.float],
            Kernel::RoundRows(kernel) => vec![kernel.x],
            Kernel::LinearFp8(kernel) => vec![kernel.y],
            Kernel::Weigh(kernel) => vec![kernel.y, Float::BF16],
        }
    }

    /// What it needs beyond float types and `target` does not have.
    fn lacks(&self, target: &Target) -> Option<String> {
        match self {
            Kernel::Linear(kernel) => kernel.lacks(target),
            Kernel::Attention(kernel) => kernel.lacks(target),
            Kernel::RoundRows(_) => RoundRows::lacks(target),
            Kernel::LinearFp8(kernel) => kernel.lacks(target),
            Kernel::Greedy(_) => Greedy::lacks(target),
            Kernel::Segments(_) => Segments::lacks(target),
            Kernel::Elementwise(_)
            | Kernel::Norm(_)
            | Kernel::RopeTable(_)
            | Kernel::Rope(_)
            | Kernel::Embed(_)
            | Kernel::Rows(_)
            | Kernel::Sampler(_)
            | Kernel::Slots(_)
            | Kernel::Open(_)
            | Kernel::TimestepEmbed(_)
            | Kernel::Weigh(_) => None,
        }
    }

    /// Whether its constants are such that it can be written for this target.
    fn check(&self, target: &Target) -> Result<(), String> {
        match self {
            Kernel::Linear(kernel) => kernel.check(target.capabilities()),
            Kernel::Attention(kernel) => kernel.check(target.capabilities()),
            Kernel::LinearFp8(kernel) => kernel.check(target.capabilities()),
            Kernel::Elementwise(_)
            | Kernel::Norm(_)
            | Kernel::RopeTable(_)
            | Kernel::Rope(_)
            | Kernel::Embed(_)
            | Kernel::Rows(_)
            | Kernel::Sampler(_)
            | Kernel::Greedy(_)
            | Kernel::Segments(_)
            | Kernel::Slots(_)
            | Kernel::Open(_)
            | Kernel::TimestepEmbed(_)
            | Kernel::RoundRows(_)
            | Kernel::Weigh(_) => Ok(()),
        }
    }

    fn launch(&self, recorder: &Recorder) {
        match self {
            Kernel::Elementwise(kernel) => kernel.launch(recorder),
            Kernel::Norm(kernel) => kernel.launch(recorder),
            Kernel::RopeTable(kernel) => kernel.launch(recorder),
            Kernel::Rope(kernel) => kernel.launch(recorder),
            Kernel::Embed(kernel) => kernel.launch(recorder),
            Kernel::Rows(kernel) => kernel.launch(recorder),
            Kernel::Linear(kernel) => kernel.launch(recorder),
            Kernel::Attention(kernel) => kernel.launch(recorder),
            Kernel::Segments(kernel) => kernel.launch(recorder),
            Kernel::Sampler(kernel) => kernel.launch(recorder),
            Kernel::Greedy(kernel) => kernel.launch(recorder),
            Kernel::Slots(kernel) => kernel.launch(recorder),
            Kernel::Open(kernel) => kernel.launch(recorder),
            Kernel::TimestepEmbed(kernel) => kernel.launch(recorder),
            Kernel::RoundRows(kernel) => kernel.launch(recorder),
            Kernel::LinearFp8(kernel) => kernel.launch(recorder),
            Kernel::Weigh(kernel) => kernel.launch(recorder),
        }
    }
}

/// Calls a launch with the types of floats: `floats!((x: X, y: Y) => launch::<X, Y>(..))`. Nothing is run by a recorded
/// launch, so it cannot break what `launch_unchecked` asks its caller to keep.
macro_rules! floats {
    (() => $launch:expr) => {{
        #[allow(unsafe_code, reason = "launches are recorded, not run")]
        // SAFETY: the recording server reads and writes no memory.
        unsafe {
            $launch
        }
    }};
    (($float:expr => $name:ident $(, $rest:expr => $others:ident)*) => $launch:expr) => {
        match $float {
            $crate::kernel::Float::F32 => {
                type $name = f32;
                $crate::kernel::floats!(($($rest => $others),*) => $launch)
            }
            $crate::kernel::Float::F16 => {
                type $name = half::f16;
                $crate::kernel::floats!(($($rest => $others),*) => $launch)
            }
            $crate::kernel::Float::BF16 => {
                type $name = half::bf16;
                $crate::kernel::floats!(($($rest => $others),*) => $launch)
            }
        }
    };
}
pub(crate) use floats;
