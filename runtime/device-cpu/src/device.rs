//! The device: weights as they are mapped, the arena, the scratch, and the dispatch of kernels.

use crate::attention::{self, Attention};
use crate::context::{Context, Need};
use crate::elementwise::{self, Op};
use crate::isa::Isa;
use crate::matmul::pack::Norm;
use crate::matmul::{self, Matmul};
use crate::memory::{Buf, Memory, Shared};
use crate::pool::Pool;
use crate::{sampler, slots};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dispatch, Kernel, Place, Program, Step, Value, ValueId};
use dreamc_num::{DType, schedule};
use dreamc_runtime::{Device, DeviceError, Operand, Shape};

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

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Number of threads; 0 for one per core.
    pub threads: usize,
    /// Use this instruction set rather than the best one. One that the host lacks is not used.
    pub isa: Option<Isa>,
}

/// See the module documentation.
pub struct CpuDevice<'a> {
    weights: Vec<WeightView<'a>>,
    isa: Isa,
    pool: Pool,
    arena: Memory,
    shared: Memory,
    workers: Memory,
    have: Need,
}

impl<'a> CpuDevice<'a> {
    /// A device over `weights`, which [`Place::Weight`] indexes.
    pub fn new(weights: Vec<WeightView<'a>>, options: CpuOptions) -> CpuDevice<'a> {
        let isa = options.isa.filter(|isa| isa.is_available()).unwrap_or_else(Isa::detect);
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        };
        CpuDevice {
            weights,
            isa,
            pool: Pool::new(threads),
            arena: Memory::empty(),
            shared: Memory::empty(),
            workers: Memory::empty(),
            have: Need::default(),
        }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The tensor of an operand, checked to lie inside the arena or its weight.
    fn buf(&self, operand: &Operand) -> Option<Buf> {
        let Operand { dtype, shape, place } = *operand;
        match place {
            Place::Arena(offset) => {
                let bytes = (shape.elements() as u64).checked_mul(dtype.bytes() as u64)?;
                if offset.checked_add(bytes)? > self.arena.bytes() as u64 || offset % 4 != 0 {
                    return None;
                }
                // SAFETY: inside the arena as just checked.
                Some(unsafe {
                    Buf::new(self.arena.start().add(offset as usize), dtype, Layout::RowMajor, shape)
                })
            }
            Place::Weight(index) => {
                let weight = self.weights.get(index as usize)?;
                let mut dims = [0_u64; dreamc_runtime::device::RANK_MAX];
                dims.iter_mut().zip(shape.dims()).for_each(|(to, from)| *to = u64::from(*from));
                let bytes = weight.layout.stored_bytes(dtype, &dims[..shape.dims().len()])?;
                if weight.dtype != dtype || bytes > weight.bytes.len() as u64 {
                    return None;
                }
                // SAFETY: inside the weight as just checked; `write` keeps weights from being written.
                Some(unsafe { Buf::new(weight.bytes.as_ptr().cast_mut(), dtype, weight.layout, shape) })
            }
        }
    }

    fn inside(&self, offset: u64, bytes: u64) -> Result<usize, DeviceError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.arena.bytes() as u64 => Ok(offset as usize),
            _ => Err(DeviceError::Unsupported { kernel: "memory outside the arena" }),
        }
    }
}

/// The operands of one dispatch.
struct Operands<'d, 'a> {
    device: &'d CpuDevice<'a>,
    dispatch: &'d Dispatch,
    operands: &'d [Operand],
    kernel: &'static str,
}

impl Operands<'_, '_> {
    fn find(&self, ids: &[ValueId], i: usize) -> Result<(Operand, Buf), DeviceError> {
        let unsupported = DeviceError::Unsupported { kernel: self.kernel };
        let operand = ids.get(i).and_then(|id| self.operands.get(id.0 as usize)).ok_or(unsupported)?;
        Ok((*operand, self.device.buf(operand).ok_or(unsupported)?))
    }

    /// Operand `i` in row-major order.
    fn read(&self, i: usize) -> Result<Buf, DeviceError> {
        let (_, buf) = self.find(&self.dispatch.reads, i)?;
        self.check(buf.layout == Layout::RowMajor).map(|()| buf)
    }

    /// Operand `i` of real numbers.
    fn real(&self, i: usize) -> Result<Buf, DeviceError> {
        let buf = self.read(i)?;
        self.check(elementwise::is_computable(buf.dtype)).map(|()| buf)
    }

    /// Operand `i`, a matrix packed for a matmul.
    fn matrix(&self, i: usize) -> Result<Buf, DeviceError> {
        let (_, buf) = self.find(&self.dispatch.reads, i)?;
        self.check(Layout::of_matmul(buf.dtype) == Some(buf.layout) && buf.start().addr() % 4 == 0)?;
        Ok(buf)
    }

    fn write(&self, i: usize) -> Result<Buf, DeviceError> {
        let (operand, buf) = self.find(&self.dispatch.writes, i)?;
        self.check(matches!(operand.place, Place::Arena(_))).map(|()| buf)
    }

    fn check(&self, supported: bool) -> Result<(), DeviceError> {
        if supported { Ok(()) } else { Err(DeviceError::Unsupported { kernel: self.kernel }) }
    }
}

impl Device for CpuDevice<'_> {
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError> {
        let mut symbols = Vec::new();
        symbols.extend(program.symbols.iter().map(|s| s.max));
        let mut need = Need::default();
        steps_need(self.isa, program, &symbols, &program.steps, &mut need)?;
        // Workers do not share cache lines.
        need.worker = need.worker.next_multiple_of(16);
        self.have = Need::default();
        self.arena = Memory::zeroed(program.arena_bytes)?;
        self.shared = Memory::zeroed(need.shared as u64 * 4)?;
        self.workers = Memory::zeroed((need.worker * self.pool.threads()) as u64 * 4)?;
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

    fn dispatch(&mut self, dispatch: &Dispatch, operands: &[Operand]) -> Result<(), DeviceError> {
        let context = Context {
            isa: self.isa,
            pool: &self.pool,
            shared: Shared(self.shared.start().cast()),
            workers: Shared(self.workers.start().cast()),
            have: self.have,
        };
        let o = Operands { device: self, dispatch, operands, kernel: name(&dispatch.kernel) };
        run(&context, &dispatch.kernel, &o)
    }
}

/// Checks the operands of a kernel and runs it.
fn run(context: &Context<'_>, kernel: &Kernel, o: &Operands<'_, '_>) -> Result<(), DeviceError> {
    match kernel {
        Kernel::Copy => {
            let (x, out) = (o.read(0)?, o.write(0)?);
            o.check(x.dtype == out.dtype && x.elements() == out.elements())?;
            elementwise::copy(&x, 0, &out, 0, x.elements());
        }
        Kernel::Embed => return elementwise::embed(context, &o.read(0)?, &o.real(1)?, &o.write(0)?),
        Kernel::RopeTable { theta, head_dim } => {
            let (cos, sin) = (o.write(0)?, o.write(1)?);
            o.check(cos.columns() * 2 == *head_dim as usize)?;
            elementwise::rope_table(context, &o.read(0)?, *theta, &cos, &sin);
        }
        Kernel::RmsNorm { eps } => {
            elementwise::rms_norm(context, &o.real(0)?, &o.real(1)?, *eps, &o.write(0)?);
        }
        Kernel::Linear(linear) => {
            let norm = match linear.norm_eps {
                Some(eps) => Some(Norm { eps, gain: o.real(1)? }),
                None => None,
            };
            let first = 1 + usize::from(norm.is_some());
            let count = linear.weights as usize;
            o.check((1..=3).contains(&count) && (!linear.swiglu || (count == 2 && !linear.bias)))?;
            let mut weights = [o.matrix(first)?; 3];
            for (i, weight) in weights.iter_mut().enumerate().take(count) {
                *weight = o.matrix(first + i)?;
            }
            let weights = &weights[..count];
            let after = first + count;
            let bias = if linear.bias { Some(o.real(after)?) } else { None };
            let residual =
                if linear.residual { Some(o.real(after + usize::from(linear.bias))?) } else { None };
            let (x, out) = (o.real(0)?, o.write(0)?);
            let n = if linear.swiglu { weights[0].rows() } else { weights.iter().map(Buf::rows).sum() };
            let fits = |w: &Buf| w.columns() == x.columns() && w.dtype == weights[0].dtype;
            o.check(weights.iter().all(fits) && out.columns() == n && out.rows() == x.rows())?;
            o.check(!linear.swiglu || weights[1].rows() == n)?;
            let swiglu = linear.swiglu;
            matmul::run(context, &Matmul { x, weights, norm, bias, residual, swiglu, out });
        }
        Kernel::Rope { head_dim } => {
            let (cos, sin) = (o.read(1)?, o.read(2)?);
            o.check(cos.columns() * 2 == *head_dim as usize)?;
            elementwise::rope(context, &o.real(0)?, &cos, &sin, &o.write(0)?);
        }
        Kernel::Attention(a) => {
            let (heads, kv_heads, head_dim) = (a.heads as usize, a.kv_heads as usize, a.head_dim as usize);
            let q = o.real(0)?;
            let (k, v, next) = if a.packed {
                ((q, heads * head_dim), (q, (heads + kv_heads) * head_dim), 1)
            } else {
                ((o.real(1)?, 0), (o.real(2)?, 0), 3)
            };
            let mask = o.read(next)?;
            let rope = if a.rope { Some((o.read(next + 1)?, o.read(next + 2)?)) } else { None };
            o.check(kv_heads > 0 && heads % kv_heads == 0 && mask.shape.dims().len() == 2)?;
            let (q, out) = ((q, 0), o.write(0)?);
            attention::run(context, &Attention { q, k, v, mask, rope, heads, kv_heads, head_dim, out });
        }
        Kernel::Add | Kernel::Mul | Kernel::SwiGlu => {
            let op = match kernel {
                Kernel::Add => Op::Add,
                Kernel::Mul => Op::Mul,
                _ => Op::SwiGlu,
            };
            elementwise::run(context, op, &o.real(0)?, &o.real(1)?, &o.write(0)?);
        }
        Kernel::Silu => elementwise::run(context, Op::Silu, &o.real(0)?, &o.real(0)?, &o.write(0)?),
        Kernel::Slice { start } => {
            elementwise::slice(context, &o.read(0)?, *start as usize, &o.write(0)?);
        }
        Kernel::ShiftRows => {
            let x = o.read(0)?;
            o.check(x.shape.dims().len() == 3)?;
            elementwise::shift_rows(context, &x, &o.write(0)?);
        }
        Kernel::IsToken { token } => slots::is_token(&o.read(0)?, *token, &o.write(0)?),
        Kernel::EosPenalty { token, steps, eps } => {
            let step = o.read(2)?.get::<i32>(0) as u32;
            let amount = o.read(1)?.get::<f32>(0) * schedule::eos_penalty_factor(step, *steps, *eps);
            sampler::penalise(context, &o.read(0)?, *token as usize, amount, &o.write(0)?);
        }
        Kernel::SamplingProbs => {
            let (temperature, top_p, top_k) = (o.read(2)?.get(0), o.read(3)?.get(0), o.read(4)?.get(0));
            let out = o.write(0)?;
            sampler::probs(context, &o.real(0)?, &o.read(1)?, temperature, top_p, top_k, &out);
        }
        Kernel::RandomBits { lane } => slots::random_bits(&o.read(1)?, *lane, &o.write(0)?),
        Kernel::DrawToken => {
            let temperature = o.read(2)?.get(0);
            sampler::draw(context, &o.read(0)?, &o.read(1)?, temperature, &o.read(3)?, &o.write(0)?);
        }
        Kernel::Confidence(kind) => {
            sampler::confidence(context, *kind, &o.read(0)?, &o.read(1)?, &o.read(2)?, &o.write(0)?);
        }
        Kernel::TransferCount { steps, eps } => {
            let step = o.read(1)?.get::<i32>(0) as u32;
            slots::count(&o.read(0)?, step, *steps, *eps, &o.write(0)?);
        }
        Kernel::SelectSlots => {
            let (count, alg_temp, bits) = (o.read(2)?, o.read(3)?.get(0), o.read(4)?);
            slots::select(context, &o.read(0)?, &o.read(1)?, &count, alg_temp, &bits, &o.write(0)?);
        }
        Kernel::OriginSlots { steps, eps } => {
            let step = o.read(1)?.get::<i32>(0) as u32;
            slots::origin(&o.read(0)?, step, *steps, *eps, &o.read(2)?, &o.write(0)?);
        }
        Kernel::Commit => slots::commit(&o.read(0)?, &o.read(1)?, &o.read(2)?, &o.write(0)?),
        Kernel::AdvanceStream => slots::advance(&o.read(0)?, &o.write(0)?),
    }
    Ok(())
}

/// Takes into `need` what the steps need at the symbols' maxima.
fn steps_need(
    isa: Isa,
    program: &Program,
    symbols: &[u32],
    steps: &[Step],
    need: &mut Need,
) -> Result<(), DeviceError> {
    for step in steps {
        match step {
            Step::Dispatch(dispatch) => *need = need.max(kernel_need(isa, program, symbols, dispatch)?),
            Step::Denoise(denoise) => steps_need(isa, program, symbols, &denoise.body, need)?,
        }
    }
    Ok(())
}

fn kernel_need(
    isa: Isa,
    program: &Program,
    symbols: &[u32],
    dispatch: &Dispatch,
) -> Result<Need, DeviceError> {
    let unsupported = DeviceError::Unsupported { kernel: name(&dispatch.kernel) };
    let read = |i: usize| -> Result<(&Value, Shape), DeviceError> {
        let id = dispatch.reads.get(i).ok_or(unsupported)?;
        let value = program.values.get(id.0 as usize).ok_or(unsupported)?;
        let mut dims = [0; dreamc_runtime::device::RANK_MAX];
        for (to, dim) in dims.iter_mut().zip(&value.dims) {
            *to = dim.at(symbols).ok_or(unsupported)?;
        }
        let dims = dims.get(..value.dims.len()).ok_or(unsupported)?;
        Ok((value, Shape::new(dims).ok_or(unsupported)?))
    };
    Ok(match &dispatch.kernel {
        Kernel::Linear(linear) => {
            let (x, shape) = read(0)?;
            let (weight, _) = read(1 + usize::from(linear.norm_eps.is_some()))?;
            matmul::need(isa, x.dtype, weight.dtype, shape.rows(), shape.columns())
        }
        Kernel::Attention(a) => {
            let (_, mask) = read(if a.packed { 1 } else { 3 })?;
            attention::need(mask.rows(), mask.columns(), a.kv_heads as usize, a.head_dim as usize)
        }
        Kernel::SamplingProbs => Need { shared: 0, worker: sampler::need(read(0)?.1.columns()) },
        Kernel::SelectSlots => Need { shared: 0, worker: 2 * read(0)?.1.columns() },
        _ => Need::default(),
    })
}

/// The kernel's name in messages.
fn name(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel::Copy => "copy",
        Kernel::Embed => "embed",
        Kernel::RopeTable { .. } => "rope_table",
        Kernel::RmsNorm { .. } => "rms_norm",
        Kernel::Linear(_) => "linear",
        Kernel::Rope { .. } => "rope",
        Kernel::Attention(_) => "attention",
        Kernel::Add => "add",
        Kernel::Mul => "mul",
        Kernel::Silu => "silu",
        Kernel::SwiGlu => "swiglu",
        Kernel::Slice { .. } => "slice",
        Kernel::ShiftRows => "shift_rows",
        Kernel::IsToken { .. } => "is_token",
        Kernel::EosPenalty { .. } => "eos_penalty",
        Kernel::SamplingProbs => "sampling_probs",
        Kernel::RandomBits { .. } => "random_bits",
        Kernel::DrawToken => "draw_token",
        Kernel::Confidence(_) => "confidence",
        Kernel::TransferCount { .. } => "transfer_count",
        Kernel::SelectSlots => "select_slots",
        Kernel::OriginSlots { .. } => "origin_slots",
        Kernel::Commit => "commit",
        Kernel::AdvanceStream => "advance_stream",
    }
}
