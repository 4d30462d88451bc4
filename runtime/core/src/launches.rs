//! The launches of a program, for devices that run emitted kernels: what stays as it is, and what the lengths of a
//! request decide. Knows no driver.

use crate::device::{DeviceError, Operand, RANK_MAX, Shape};
use crate::launch::{Grid, resolve};
use alloc::vec::Vec;
use core::ops::Range;
use dreamc_artifact::code::Module;
use dreamc_artifact::plan::{Dim, Dispatch, Launch, Program, Value};

/// A launch, and what it is at the lengths of the request.
#[derive(Debug)]
struct Prepared {
    launch: Launch,
    /// Its block of scalars, in [`Launches::words`].
    info: Range<usize>,
    /// Nothing where there is nothing to do, or another variant or candidate does it.
    grid: Option<Grid>,
}

/// All launches of a program, in the order in which they stand.
#[derive(Debug)]
pub struct Launches {
    list: Vec<Prepared>,
    /// The launches of each dispatch, by its number.
    dispatches: Vec<Range<usize>>,
    dims: Vec<Vec<Dim>>,
    operands: Vec<Operand>,
    /// What grids and words are for; none before the first lengths, and after an error.
    symbols: Option<Vec<u32>>,
    words: Vec<u32>,
    /// The words before the last change of lengths.
    former: Vec<u32>,
    /// The block of one launch in the making.
    block: Vec<u32>,
}

/// A launch with something to do at the lengths of the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Active<'t> {
    /// As the plan has it.
    pub launch: &'t Launch,
    /// Its number among all launches of the program.
    pub index: usize,
    /// Index of its module.
    pub module: u32,
    /// Numbers of workgroups.
    pub grid: Grid,
    /// Its block of scalars; empty if it has none.
    pub info: &'t [u32],
    /// The first word of the block among [`Launches::words`].
    pub info_at: usize,
}

/// A plan that the loader did not validate.
pub const UNSOUND: DeviceError = DeviceError::Unsupported { kernel: "a launch" };

impl Launches {
    /// The launches of `program`; of candidates those that the compiler's model takes, unless others were
    /// [chosen](crate::chosen). Blocks of scalars begin at multiples of `info_align` words, which is at least 1.
    ///
    /// # Errors
    ///
    /// Where a launch is not one that the loader validated.
    pub fn new<'m>(
        program: &Program,
        module: impl Fn(u32) -> Option<&'m Module>,
        info_align: usize,
    ) -> Result<Launches, DeviceError> {
        let (mut list, mut dispatches, mut words) = (Vec::new(), Vec::new(), 0_usize);
        for dispatch in program.dispatches() {
            let first = list.len();
            for launch in &dispatch.launches {
                let module = module(launch.module).ok_or(UNSOUND)?;
                if launch.buffers.len() != module.buffers.len() {
                    return Err(UNSOUND);
                }
                let info = words..words + module.info.len();
                words = info.end.next_multiple_of(info_align);
                list.push(Prepared { launch: launch.clone(), info, grid: None });
            }
            dispatches.push(first..list.len());
        }
        let operand = |v: &Value| Operand { dtype: v.dtype, shape: Shape::default(), place: v.place };
        Ok(Launches {
            list,
            dispatches,
            dims: program.values.iter().map(|v| v.dims.clone()).collect(),
            operands: program.values.iter().map(operand).collect(),
            symbols: None,
            words: alloc::vec![0; words],
            former: Vec::new(),
            block: Vec::new(),
        })
    }

    /// Every launch as the plan has it, with the block of scalars among [`Launches::words`]; all variants.
    pub fn all(&self) -> impl Iterator<Item = (&Launch, Range<usize>)> {
        self.list.iter().map(|prepared| (&prepared.launch, prepared.info.clone()))
    }

    /// The lengths that grids and words are for.
    pub fn symbols(&self) -> Option<&[u32]> {
        self.symbols.as_deref()
    }

    /// All blocks of scalars.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The words that the last change of lengths changed: the first byte of each among all, and what it is now.
    pub fn changed(&self) -> impl Iterator<Item = (u64, u32)> {
        let words = (0..).zip(self.words.iter().zip(&self.former));
        words.filter(|(_, (now, former))| now != former).map(|(i, (now, _)): (u64, _)| (i * 4, *now))
    }

    /// Says that the launches are for no lengths.
    pub fn forget(&mut self) {
        self.symbols = None;
    }

    /// Makes the launches those of `symbols`, and says whether they were others. `groups_max`: most workgroups along
    /// each axis for a workgroup of so many units. Takes memory the first time alone.
    ///
    /// # Errors
    ///
    /// Where the device cannot take a grid. The launches are for no lengths then.
    pub fn resize<'m>(
        &mut self,
        symbols: &[u32],
        module: impl Fn(u32) -> Option<&'m Module>,
        groups_max: impl Fn([u32; 3]) -> Grid,
    ) -> Result<bool, DeviceError> {
        if self.symbols() == Some(symbols) {
            return Ok(false);
        }
        // Half of the launches may be at the new lengths if one of them fails.
        let mut kept = self.symbols.take().unwrap_or_default();
        self.former.clone_from(&self.words);
        for (operand, dims) in self.operands.iter_mut().zip(&self.dims) {
            let mut at = [0; RANK_MAX];
            for (to, dim) in at.iter_mut().zip(dims) {
                *to = dim.at(symbols).ok_or(UNSOUND)?;
            }
            operand.shape = at.get(..dims.len()).and_then(Shape::new).ok_or(UNSOUND)?;
        }
        for Prepared { launch, info, grid } in &mut self.list {
            *grid = None;
            if !launch.is_usual() || !launch.serves(symbols).ok_or(UNSOUND)? {
                continue;
            }
            let module = module(launch.module).ok_or(UNSOUND)?;
            self.block.clear();
            let max = groups_max(module.workgroup);
            *grid = resolve(launch, module, &self.operands, symbols, max, &mut self.block)?;
            let block = self.words.get_mut(info.clone()).ok_or(UNSOUND)?;
            if block.len() != self.block.len() {
                return Err(UNSOUND);
            }
            block.copy_from_slice(&self.block);
        }
        kept.clear();
        kept.extend_from_slice(symbols);
        self.symbols = Some(kept);
        Ok(true)
    }

    /// The launches of `dispatch`, which is the program's `number`th, that have something to do.
    ///
    /// # Errors
    ///
    /// Where it is another one, or no lengths are set.
    pub fn of(
        &self,
        number: u32,
        dispatch: &Dispatch,
    ) -> Result<impl Iterator<Item = Active<'_>>, DeviceError> {
        let range = self.range(number, dispatch)?;
        Ok(self.list.get(range.clone()).ok_or(UNSOUND)?.iter().zip(range.clone()).filter_map(
            |(prepared, index)| {
                let info = self.words.get(prepared.info.clone())?;
                let (launch, info_at) = (&prepared.launch, prepared.info.start);
                Some(Active { launch, index, module: launch.module, grid: prepared.grid?, info, info_at })
            },
        ))
    }

    fn range(&self, number: u32, dispatch: &Dispatch) -> Result<Range<usize>, DeviceError> {
        let range = self.dispatches.get(number as usize).cloned().ok_or(UNSOUND)?;
        let same = self.symbols.is_some() && range.len() == dispatch.launches.len();
        if same { Ok(range) } else { Err(UNSOUND) }
    }
}
