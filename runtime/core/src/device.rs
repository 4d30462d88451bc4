//! What every device does: hold an arena, run one dispatch at a time.

use crate::size::Size;
use alloc::string::String;
use core::fmt;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dispatch, Place, Program};
use dreamc_num::DType;

/// Most dimensions a value may have.
pub use dreamc_artifact::RANK_MAX;

/// Concrete dimensions of a value in one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    dims: [u32; RANK_MAX],
    rank: u8,
}

impl Shape {
    /// A shape of these dimensions, outermost first; `None` if there are more than [`RANK_MAX`].
    pub fn new(dims: &[u32]) -> Option<Shape> {
        let mut shape = Shape { dims: [1; RANK_MAX], rank: dims.len() as u8 };
        shape.dims.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(shape)
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &[u32] {
        &self.dims[..self.rank as usize]
    }

    /// Number of elements. Cannot overflow: the loader checked the maxima.
    pub fn elements(&self) -> usize {
        self.dims().iter().map(|d| *d as usize).product()
    }

    /// The last dimension, 1 for a scalar.
    pub fn columns(&self) -> usize {
        self.dims().last().map_or(1, |d| *d as usize)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.elements().checked_div(self.columns()).unwrap_or(0)
    }
}

/// One stored weight.
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    /// Its stored bytes.
    pub bytes: &'a [u8],
    /// The order of its elements.
    pub layout: Layout,
    /// Their type.
    pub dtype: DType,
}

/// A value as a kernel sees it in one request.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Dimensions of this request.
    pub shape: Shape,
    /// Where it lies.
    pub place: Place,
}

/// What a program needs of a device's memory, and what there is of it; all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The program's weights.
    pub weights: u64,
    /// What it works in: the arena at the maxima, and what belongs to it.
    pub arena: u64,
    /// What the program can have: what is free, and what was taken for it, weights that were there before among them.
    pub free: u64,
    /// All that the device has.
    pub total: u64,
}

impl Memory {
    /// All that the program needs.
    pub fn needed(&self) -> u64 {
        self.weights.saturating_add(self.arena)
    }

    /// How much is missing. 0 where there is enough, but not in one piece.
    pub fn missing(&self) -> u64 {
        self.needed().saturating_sub(self.free)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [weights, arena, needed] = [self.weights, self.arena, self.needed()].map(Size);
        let [free, total, missing] = [self.free, self.total, self.missing()].map(Size);
        write!(f, "{weights} of weights and {arena} to work in make {needed}, ")?;
        write!(f, "and {free} of {total} can be had, ")?;
        match self.missing() {
            0 => write!(f, "but not in one piece"),
            _ => write!(f, "so {missing} are missing"),
        }
    }
}

/// Why a device could not do what the plan asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The arena or the scratch memory could not be had.
    #[error("out of memory: the plan needs {bytes} bytes; build with a smaller --max-prompt or --max-batch")]
    OutOfMemory {
        /// What was asked for.
        bytes: u64,
    },
    /// The device's own memory does not hold weights and arena.
    #[error("out of memory of the device: {memory}")]
    OutOfDeviceMemory {
        /// What is needed, and what there is.
        memory: Memory,
    },
    /// The plan names a kernel, dtype or layout that this device does not have.
    #[error(
        "the plan needs `{kernel}`, which this device does not have; build again with this version of dreamc"
    )]
    Unsupported {
        /// Its name.
        kernel: &'static str,
    },
    /// A token id outside the embedding table.
    #[error("token id {id} is outside the vocabulary of {vocabulary}")]
    TokenOutOfRange {
        /// The id.
        id: i32,
        /// Rows of the table.
        vocabulary: u32,
    },
    /// A row index outside the rows that it picks from.
    #[error("row {index} was asked for where there are {rows}")]
    RowOutOfRange {
        /// The index.
        index: i32,
        /// How many rows there are.
        rows: u32,
    },
    /// More workgroups than the device takes.
    #[error(
        "`{kernel}` needs {groups} workgroups at these lengths, the device takes {max}; build with a smaller --max-prompt or --max-batch"
    )]
    Groups {
        /// Name of the module.
        kernel: String,
        /// Along the longest axis.
        groups: u32,
        /// What it takes.
        max: u32,
    },
    /// A buffer that the device cannot bind.
    #[error(
        "a buffer of {bytes} bytes is needed, the device takes {max}; build with a smaller --max-prompt or --max-batch"
    )]
    Buffer {
        /// Its size.
        bytes: u64,
        /// What it takes.
        max: u64,
    },
    /// The driver does not load a kernel.
    #[error("loading `{kernel}`: {error}")]
    Kernel {
        /// Name of the module.
        kernel: String,
        /// What the driver said.
        error: String,
    },
    /// The driver refused something.
    #[error("{what}: {error}")]
    Driver {
        /// What was being done, with the kernel's name.
        what: String,
        /// What the driver said.
        error: String,
    },
    /// Logits that no token can be drawn from. A device may leave it to who reads the canvas: see
    /// [`NO_TOKEN`](dreamc_num::distribution::NO_TOKEN).
    #[error("the logits of row {row} hold NaN or infinity")]
    NoDistribution {
        /// Row of the request.
        row: u32,
    },
    /// A step outside its schedule.
    #[error("step {step} is outside the schedule of {steps} steps")]
    StepOutOfRange {
        /// The step.
        step: i32,
        /// Steps of the schedule.
        steps: u32,
    },
}

/// One driver. Memory is taken in [`Device::prepare`]; nothing else allocates but what [`Device::begin`] keeps.
///
/// Calls take effect in the order in which they are made; only [`Device::read`] and [`Device::finish`] wait for the
/// device.
pub trait Device {
    /// Takes the arena and the scratch memory that `program` needs at its maxima. The program is validated.
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError>;

    /// The lengths of the requests from here on, by symbol of the program.
    fn resize(&mut self, _symbols: &[u32]) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The lengths from here on, between two steps of a run; in recordings too. When the run ends they are those of its
    /// beginning again.
    fn resize_within(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
        self.resize(symbols)
    }

    /// Before all steps of a run between which nobody looks. Whether the device has done them all by itself, as it
    /// recorded them in a run of the same lengths and `variant`: then none follows. Runs of one variant that begin at the
    /// same lengths have the same steps, and the same lengths in each.
    fn begin(&mut self, _variant: u32) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// After the steps of a run that [`Device::begin`] began and has not done; not `complete` if one failed.
    fn end(&mut self, _complete: bool) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Begins to record a run that nobody has asked for yet, of the lengths that were set and of this variant. Whether it
    /// does: not where there is one, and not on devices that record nothing. The steps follow, then [`Device::keep`].
    fn record(&mut self, _variant: u32) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// After the steps of a run that [`Device::record`] began: keeps it, and does not do it. Not `complete` if one failed.
    fn keep(&mut self, _complete: bool) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Puts a number at `offset` of the arena: the index of a loop, in recordings too.
    fn set(&mut self, offset: u64, value: u32) -> Result<(), DeviceError> {
        self.write(offset, &value.to_le_bytes())
    }

    /// Copies `bytes` to `offset` of the arena.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from `offset` of the arena into `bytes`.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies `bytes` bytes inside the arena.
    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError>;

    /// Waits until all that was asked for is done. Nothing to do where a dispatch is done when it returns.
    fn finish(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Runs one dispatch. `operands` is indexed by value id; `number` counts the program's dispatches as they stand,
    /// those of a loop's body once.
    fn dispatch(&mut self, number: u32, dispatch: &Dispatch, operands: &[Operand])
    -> Result<(), DeviceError>;
}
