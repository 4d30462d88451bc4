//! The device: weights as they are mapped, the arena, the scratch, and the dispatch of kernels.

use crate::check::fits;
use crate::context::{Context, Need};
use crate::dispatch::{kernel_need, name, run};
use crate::isa::Isa;
use crate::memory::{Buf, Memory, Shared};
use crate::pool::Pool;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dispatch, Place, Program, ValueId};
use dreamc_runtime::{Device, DeviceError, Operand, Shape, WeightView};

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Number of threads; 0 for one per core, or one per core of `pin`.
    pub threads: usize,
    /// Use this instruction set rather than the best one. One that the host lacks is an error.
    pub isa: Option<Isa>,
    /// Cores to bind the threads to, thread `i` to the `i`-th, from the start again if there are more threads.
    /// The calling thread is thread 0 and stays bound. Empty: the system places them. Linux only; elsewhere it is an error.
    pub pin: Vec<usize>,
    /// Touch every page of the memory in `prepare`, so that no dispatch meets a page fault, whatever its lengths. Else pages
    /// are taken when they are first touched: by the first request of some length, and none like it later.
    pub prefault: bool,
}

/// Why a device could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// The instruction set asked for.
    #[error("this host does not have the instruction set `{isa}`; leave the choice open or take `{best}`")]
    Isa {
        /// What was asked for.
        isa: Isa,
        /// What the host has.
        best: Isa,
    },
    /// A thread could not be bound to its core.
    #[error("a thread cannot be bound to core {core}; name cores that this process may use, on Linux")]
    Pin {
        /// The core.
        core: usize,
    },
}

/// Most operands or results of a kernel: a linear has 7.
const OPERANDS: usize = 8;

/// See the module documentation.
pub struct CpuDevice<'a> {
    weights: Vec<WeightView<'a>>,
    isa: Isa,
    pool: Pool,
    prefault: bool,
    arena: Memory,
    shared: Memory,
    workers: Memory,
    have: Need,
}

impl<'a> CpuDevice<'a> {
    /// A device over `weights`, which [`Place::Weight`] indexes.
    ///
    /// # Errors
    ///
    /// [`CpuError`] if the host cannot do what the options ask for.
    pub fn new(weights: Vec<WeightView<'a>>, options: CpuOptions) -> Result<CpuDevice<'a>, CpuError> {
        let best = Isa::detect();
        let isa = options.isa.unwrap_or(best);
        if !isa.is_available() {
            return Err(CpuError::Isa { isa, best });
        }
        let threads = match (options.threads, options.pin.len()) {
            (0, 0) => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            (0, pinned) => pinned,
            (n, _) => n,
        };
        Ok(CpuDevice {
            weights,
            isa,
            pool: Pool::new(threads, &options.pin).map_err(|core| CpuError::Pin { core })?,
            prefault: options.prefault,
            arena: Memory::empty(),
            shared: Memory::empty(),
            workers: Memory::empty(),
            have: Need::default(),
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The tensor of an operand, checked to lie inside the arena or its weight. Nothing is empty in a plan.
    fn buf(&self, operand: &Operand) -> Option<Buf> {
        let Operand { dtype, shape, place } = *operand;
        let mut dims = [0_u64; dreamc_runtime::device::RANK_MAX];
        dims.iter_mut().zip(shape.dims()).for_each(|(to, from)| *to = u64::from(*from));
        let dims = dims.get(..shape.dims().len())?;
        let row_major = Layout::RowMajor.stored_bytes(dtype, dims).filter(|bytes| *bytes > 0)?;
        match place {
            Place::Arena(offset) => {
                let end = offset.checked_add(row_major)?;
                if end > self.arena.bytes() as u64 || !offset.is_multiple_of(4) {
                    return None;
                }
                // SAFETY: inside the arena as just checked; the arena and the offset are aligned to 4.
                Some(unsafe {
                    Buf::new(self.arena.start().add(offset as usize), dtype, Layout::RowMajor, shape)
                })
            }
            Place::Weight(index) => {
                let weight = self.weights.get(index as usize)?;
                let bytes = weight.layout.stored_bytes(dtype, dims)?;
                // The words of packed matrices are 32 bits.
                let align = if weight.layout == Layout::RowMajor { dtype.bytes() } else { 4 };
                let start = weight.bytes.as_ptr().cast_mut();
                if weight.dtype != dtype
                    || bytes > weight.bytes.len() as u64
                    || !start.addr().is_multiple_of(align)
                {
                    return None;
                }
                // SAFETY: inside the weight and aligned as just checked; results are never weights.
                Some(unsafe { Buf::new(start, dtype, weight.layout, shape) })
            }
        }
    }

    /// The tensors of `ids`, filled up with copies of the first.
    fn bufs(&self, ids: &[ValueId], operands: &[Operand]) -> Option<[Buf; OPERANDS]> {
        let find = |id: &ValueId| self.buf(operands.get(id.0 as usize)?);
        let mut bufs = [find(ids.first()?)?; OPERANDS];
        for (buf, id) in bufs.get_mut(..ids.len())?.iter_mut().zip(ids) {
            *buf = find(id)?;
        }
        Some(bufs)
    }

    fn inside(&self, offset: u64, bytes: u64) -> Result<usize, DeviceError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.arena.bytes() as u64 => Ok(offset as usize),
            _ => Err(DeviceError::Unsupported { kernel: "memory outside the arena" }),
        }
    }
}

impl Device for CpuDevice<'_> {
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError> {
        let mut symbols = Vec::new();
        symbols.extend(program.symbols.iter().map(|s| s.max));
        let mut need = need_of(self.isa, program, &symbols)?;
        // Workers do not share cache lines.
        need.worker = need.worker.next_multiple_of(16);
        self.have = Need::default();
        self.arena = Memory::zeroed(program.arena_bytes)?;
        self.shared = Memory::zeroed(need.shared as u64 * 4)?;
        self.workers = Memory::zeroed((need.worker * self.pool.threads()) as u64 * 4)?;
        if self.prefault {
            [&mut self.arena, &mut self.shared, &mut self.workers].into_iter().for_each(Memory::touch);
        }
        self.have = need;
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let at = self.inside(offset, bytes.len() as u64)?;
        // SAFETY: inside the arena; the caller's slice is memory of its own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.arena.start().add(at), bytes.len()) };
        Ok(())
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let at = self.inside(offset, bytes.len() as u64)?;
        // SAFETY: as for `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.arena.start().add(at), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError> {
        let (from, to) = (self.inside(from, bytes)?, self.inside(to, bytes)?);
        // SAFETY: both inside the arena; `copy` allows overlap.
        unsafe { std::ptr::copy(self.arena.start().add(from), self.arena.start().add(to), bytes as usize) };
        Ok(())
    }

    fn dispatch(
        &mut self,
        _number: u32,
        dispatch: &Dispatch,
        operands: &[Operand],
    ) -> Result<(), DeviceError> {
        let kernel = &dispatch.kernel;
        let unsupported = || DeviceError::Unsupported { kernel: name(kernel) };
        let reads = self.bufs(&dispatch.reads, operands).ok_or_else(unsupported)?;
        let writes = self.bufs(&dispatch.writes, operands).ok_or_else(unsupported)?;
        let in_arena = |id: &ValueId| matches!(operands.get(id.0 as usize), Some(o) if is_arena(o));
        let (reads, writes) = (&reads[..dispatch.reads.len()], &writes[..dispatch.writes.len()]);
        if !dispatch.writes.iter().all(in_arena) || !fits(kernel, reads, writes) {
            return Err(unsupported());
        }
        let need = kernel_need(self.isa, kernel, |i| reads.get(i).map(|r| (r.dtype, r.shape)));
        if !need.is_some_and(|need| need.shared <= self.have.shared && need.worker <= self.have.worker) {
            return Err(unsupported());
        }
        let context = Context {
            isa: self.isa,
            pool: &self.pool,
            shared: Shared(self.shared.start().cast()),
            workers: Shared(self.workers.start().cast()),
            have: self.have,
        };
        run(&context, kernel, reads, writes)
    }
}

fn is_arena(operand: &Operand) -> bool {
    matches!(operand.place, Place::Arena(_))
}

/// What the dispatches need at the symbols' maxima.
fn need_of(isa: Isa, program: &Program, symbols: &[u32]) -> Result<Need, DeviceError> {
    let mut need = Need::default();
    for dispatch in program.dispatches() {
        let read = |i: usize| {
            let value = program.values.get(dispatch.reads.get(i)?.0 as usize)?;
            let mut dims = [0; dreamc_runtime::device::RANK_MAX];
            for (to, dim) in dims.iter_mut().zip(&value.dims) {
                *to = dim.at(symbols)?;
            }
            Some((value.dtype, Shape::new(dims.get(..value.dims.len())?)?))
        };
        let kernel = &dispatch.kernel;
        let unsupported = DeviceError::Unsupported { kernel: name(kernel) };
        need = need.max(kernel_need(isa, kernel, read).ok_or(unsupported)?);
    }
    Ok(need)
}
