//! A program made ready: what each launch binds, and what it is at the lengths of a request. Knows no driver.

use crate::needs::has_info;
use dreamc_artifact::code::Module;
use dreamc_artifact::plan::{Binding, Dim, Dispatch, Launch, Place, Program, Value};
use dreamc_runtime::device::RANK_MAX;
use dreamc_runtime::{DeviceError, Grid, Operand, Shape, resolve};
use std::ops::Range;

/// Most workgroups along an axis: Metal counts them in 32 bits and names no limit.
const GROUPS_MAX: Grid = [i32::MAX as u32; 3];

/// Where a buffer of a launch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Byte of the arena.
    Arena(u64),
    /// Weight, and byte of it.
    Weight(u32, u64),
}

/// A launch whose bindings are fixed.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) module: u32,
    pub(crate) sources: Vec<Source>,
    /// At the lengths of the request; nothing to do if there is none.
    pub(crate) grid: Option<Grid>,
    launch: Launch,
    /// Where its block of scalars lies.
    info: Range<usize>,
}

/// All launches of a program.
#[derive(Debug)]
pub(crate) struct Prepared {
    bounds: Vec<Bound>,
    /// The launches of each dispatch, by its number.
    ranges: Vec<Range<usize>>,
    dims: Vec<Vec<Dim>>,
    operands: Vec<Operand>,
    /// Lengths of the request; none before the first.
    symbols: Option<Vec<u32>>,
    /// The blocks of scalars of all launches.
    blocks: Vec<u8>,
    words: Vec<u32>,
}

impl Prepared {
    /// Binds the launches of `program`.
    pub(crate) fn new(program: &Program, modules: &[Module]) -> Result<Prepared, DeviceError> {
        let maxima: Vec<u32> = program.symbols.iter().map(|s| s.max).collect();
        let (mut bounds, mut ranges, mut info_bytes) = (Vec::new(), Vec::new(), 0);
        for dispatch in program.dispatches() {
            let first = bounds.len();
            for launch in &dispatch.launches {
                let module = modules.get(launch.module as usize).ok_or(UNSOUND)?;
                if launch.buffers.len() != module.buffers.len() {
                    return Err(UNSOUND);
                }
                let bind = |binding: &Binding| source(program, &maxima, binding);
                let sources = launch.buffers.iter().map(bind).collect::<Result<_, _>>()?;
                let info = info_bytes..info_bytes + if has_info(module) { module.info.len() * 4 } else { 0 };
                info_bytes = info.end;
                bounds.push(Bound {
                    module: launch.module,
                    sources,
                    grid: None,
                    launch: launch.clone(),
                    info,
                });
            }
            ranges.push(first..bounds.len());
        }
        let operand = |v: &Value| Operand { dtype: v.dtype, shape: Shape::default(), place: v.place };
        Ok(Prepared {
            bounds,
            ranges,
            dims: program.values.iter().map(|v| v.dims.clone()).collect(),
            operands: program.values.iter().map(operand).collect(),
            symbols: None,
            blocks: vec![0; info_bytes],
            words: Vec::new(),
        })
    }

    /// The modules that are launched, and the weights that are bound, each as often as it is.
    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.bounds.iter().map(|bound| &bound.launch)
    }

    /// Sets the lengths of the requests from here on: grids and blocks of scalars of all launches.
    pub(crate) fn resize(&mut self, modules: &[Module], symbols: &[u32]) -> Result<(), DeviceError> {
        if self.symbols.as_deref() == Some(symbols) {
            return Ok(());
        }
        // Half of the launches may be at the new lengths if one of them fails.
        let mut kept = self.symbols.take().unwrap_or_default();
        for (operand, dims) in self.operands.iter_mut().zip(&self.dims) {
            let mut at = [0; RANK_MAX];
            for (to, dim) in at.iter_mut().zip(dims) {
                *to = dim.at(symbols).ok_or(UNSOUND)?;
            }
            operand.shape = at.get(..dims.len()).and_then(Shape::new).ok_or(UNSOUND)?;
        }
        for bound in &mut self.bounds {
            self.words.clear();
            let module = modules.get(bound.module as usize).ok_or(UNSOUND)?;
            let (launch, words) = (&bound.launch, &mut self.words);
            bound.grid = resolve(launch, module, &self.operands, symbols, GROUPS_MAX, words)?;
            let block = self.blocks.get_mut(bound.info.clone()).ok_or(UNSOUND)?;
            for (to, word) in block.chunks_exact_mut(4).zip(&self.words) {
                to.copy_from_slice(&word.to_le_bytes());
            }
        }
        kept.clear();
        kept.extend_from_slice(symbols);
        self.symbols = Some(kept);
        Ok(())
    }

    /// The launches of dispatch `number`.
    pub(crate) fn dispatch(&self, number: u32, dispatch: &Dispatch) -> Result<&[Bound], DeviceError> {
        let bounds = self.ranges.get(number as usize).and_then(|range| self.bounds.get(range.clone()));
        let known = |bounds: &&[Bound]| self.symbols.is_some() && bounds.len() == dispatch.launches.len();
        bounds.filter(known).ok_or(UNSOUND)
    }

    /// The block of scalars of a launch; empty if it has none.
    pub(crate) fn info(&self, bound: &Bound) -> &[u8] {
        self.blocks.get(bound.info.clone()).unwrap_or_default()
    }
}

/// A plan that the loader did not validate.
pub(crate) const UNSOUND: DeviceError = DeviceError::Unsupported { kernel: "a launch" };

/// Where `binding` begins. What a weight's part is, is checked where weights are placed.
fn source(program: &Program, maxima: &[u32], binding: &Binding) -> Result<Source, DeviceError> {
    let value = program.values.get(binding.value.0 as usize).ok_or(UNSOUND)?;
    match value.place {
        Place::Weight(index) => Ok(Source::Weight(index, binding.part.map_or(0, |(first, _)| first))),
        Place::Arena(offset) => {
            let end = value_bytes(value, maxima).and_then(|bytes| offset.checked_add(bytes));
            let inside = end.is_some_and(|end| end <= program.arena_bytes) && binding.part.is_none();
            if inside { Ok(Source::Arena(offset)) } else { Err(UNSOUND) }
        }
    }
}

/// Bytes of a value with `symbols[i]` for symbol `i`; `None` on overflow or an unknown symbol.
fn value_bytes(value: &Value, symbols: &[u32]) -> Option<u64> {
    let mut dims = value.dims.iter().map(|dim| dim.at(symbols));
    dims.try_fold(value.dtype.bytes() as u64, |bytes, n| bytes.checked_mul(u64::from(n?)))
}
