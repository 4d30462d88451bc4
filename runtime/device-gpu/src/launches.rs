//! The launches of a program: what stays as it is, and what the lengths of a request decide.

use crate::driver::{Address, InfoPlace};
use dreamc_artifact::code::{Module, Word};
use dreamc_artifact::plan::{Binding, Dim, Dispatch, Launch, Place, Program, Scalar, Step, Value};
use dreamc_runtime::{DeviceError, Grid, Operand};
use std::ops::Range;

/// Words that a block of scalars is aligned to.
const INFO_ALIGN: usize = 4;

/// A plan that the loader has not validated.
pub(crate) fn unsound() -> DeviceError {
    DeviceError::Unsupported { kernel: "a launch" }
}

/// One launch.
pub(crate) struct Prepared {
    /// As the plan has it.
    launch: Launch,
    /// Its buffers, in [`Launches::addresses`].
    buffers: Range<usize>,
    /// Its block of scalars, in [`Launches::words`].
    info: Range<usize>,
    /// `None` where there is nothing to do at these lengths.
    pub(crate) grid: Option<Grid>,
}

impl Prepared {
    /// Index of the module.
    pub(crate) fn module(&self) -> usize {
        self.launch.module as usize
    }
}

/// All launches of a program, in the order in which they stand.
pub(crate) struct Launches {
    prepared: Vec<Prepared>,
    /// By number of the dispatch.
    dispatches: Vec<Range<usize>>,
    addresses: Vec<Address>,
    words: Vec<u32>,
    /// The words before the last change of lengths.
    former: Vec<u32>,
    values: Vec<Value>,
    /// What the words and grids are for.
    symbols: Option<Vec<u32>>,
    /// Launches, copies and fills of a whole run.
    nodes: u64,
}

/// Calls `each` with every dispatch, in order, those of a loop's body once, and the number of times that it runs.
fn dispatches<'p>(steps: &'p [Step], times: u64, each: &mut impl FnMut(&'p Dispatch, u64)) {
    for step in steps {
        match step {
            Step::Dispatch(dispatch) => each(dispatch, times),
            Step::Denoise(denoise) => dispatches(&denoise.body, u64::from(denoise.steps), each),
        }
    }
}

/// The symbol that changes during a run, and how often it does: before each iteration, and behind the last.
fn refilled(program: &Program) -> Option<(u32, u64)> {
    program.steps.iter().find_map(|step| match step {
        Step::Dispatch(_) => None,
        Step::Denoise(denoise) => Some((denoise.slots.as_ref()?.symbol, u64::from(denoise.steps) + 1)),
    })
}

/// Whether a word of a launch's block of scalars is another where `symbol` is.
fn depends(program: &Program, launch: &Launch, word: Word, symbol: u32) -> bool {
    let has = |dim: &Dim| dim.terms.iter().any(|term| term.symbols.contains(&symbol));
    match word {
        Word::Scalar(i) => match launch.scalars.get(i as usize) {
            Some(Scalar::Count(dim) | Scalar::Part { of: dim, .. }) => has(dim),
            Some(Scalar::Float(_)) | None => false,
        },
        Word::Length(i) => {
            let value = launch.buffers.get(i as usize).and_then(|b| program.values.get(b.value.0 as usize));
            value.is_some_and(|value| value.dims.iter().any(has))
        }
        Word::Zero => false,
    }
}

/// The launches of `program`, as they stand.
pub(crate) fn launches_of(program: &Program) -> Vec<&Launch> {
    let mut launches = Vec::new();
    dispatches(&program.steps, 1, &mut |dispatch, _| launches.extend(&dispatch.launches));
    launches
}

impl Launches {
    /// The launches of `program`. `address` finds a binding of an operand at the maxima.
    pub(crate) fn new<'m>(
        program: &Program,
        module: impl Fn(usize) -> Option<&'m Module>,
        address: impl Fn(&Binding, &Operand) -> Option<Address>,
        info: InfoPlace,
    ) -> Result<Launches, DeviceError> {
        let maxima: Vec<u32> = program.symbols.iter().map(|s| s.max).collect();
        let mut all = Launches {
            prepared: Vec::new(),
            dispatches: Vec::new(),
            addresses: Vec::new(),
            words: Vec::new(),
            former: Vec::new(),
            values: program.values.clone(),
            symbols: None,
            nodes: 0,
        };
        // A loop sets its index and keeps its history.
        let loops = program.steps.iter().map(|step| match step {
            Step::Dispatch(_) => 0,
            Step::Denoise(denoise) => 2 * u64::from(denoise.steps),
        });
        all.nodes = loops.sum();
        let mut found = Vec::new();
        dispatches(&program.steps, 1, &mut |dispatch, times| found.push((dispatch, times)));
        let refilled = match info {
            InfoPlace::Value => None,
            InfoPlace::Buffer => refilled(program),
        };
        for (dispatch, times) in found {
            let first = all.prepared.len();
            for launch in &dispatch.launches {
                let module = module(launch.module as usize).ok_or_else(unsound)?;
                if launch.buffers.len() != module.buffers.len() {
                    return Err(unsound());
                }
                let (buffers, words) = (all.addresses.len(), all.words.len());
                for binding in &launch.buffers {
                    let value = program.values.get(binding.value.0 as usize).ok_or_else(unsound)?;
                    let operand = dreamc_runtime::operand(value, &maxima).ok_or_else(unsound)?;
                    all.addresses.push(address(binding, &operand).ok_or_else(unsound)?);
                }
                if let Some((symbol, times)) = refilled {
                    let changes = module.info.iter().filter(|word| depends(program, launch, **word, symbol));
                    all.nodes = all.nodes.saturating_add(times.saturating_mul(changes.count() as u64));
                }
                let info = words..words + module.info.len();
                all.words.resize(info.end.next_multiple_of(INFO_ALIGN), 0);
                let buffers = buffers..all.addresses.len();
                all.prepared.push(Prepared { launch: launch.clone(), buffers, info, grid: None });
            }
            all.dispatches.push(first..all.prepared.len());
            all.nodes = all.nodes.saturating_add(times.saturating_mul(dispatch.launches.len() as u64));
        }
        Ok(all)
    }

    /// Launches, copies and fills of a whole run, at most.
    pub(crate) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// The lengths that the launches are for.
    pub(crate) fn symbols(&self) -> Option<&[u32]> {
        self.symbols.as_deref()
    }

    /// All blocks of scalars.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// The words that the last change of lengths changed: the first byte of each among all, and what it is now.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (u64, u32)> {
        let words = (0..).zip(self.words.iter().zip(&self.former));
        words.filter(|(_, (now, former))| now != former).map(|(i, (now, _)): (u64, _)| (i * 4, *now))
    }

    /// Says that the launches are for no lengths.
    pub(crate) fn forget(&mut self) {
        self.symbols = None;
    }

    /// Makes the launches those of `symbols`. After an error they are for no lengths.
    pub(crate) fn resize<'m>(
        &mut self,
        symbols: &[u32],
        module: impl Fn(usize) -> Option<&'m Module>,
        groups_max: impl Fn([u32; 3]) -> Grid,
    ) -> Result<(), DeviceError> {
        self.symbols = None;
        self.former.clone_from(&self.words);
        let operand = |value| dreamc_runtime::operand(value, symbols).ok_or_else(unsound);
        let operands = self.values.iter().map(operand).collect::<Result<Vec<Operand>, DeviceError>>()?;
        let mut words = Vec::new();
        for prepared in &mut self.prepared {
            let module = module(prepared.module()).ok_or_else(unsound)?;
            let max = groups_max(module.workgroup);
            words.clear();
            prepared.grid =
                dreamc_runtime::resolve(&prepared.launch, module, &operands, symbols, max, &mut words)?;
            let info = self.words.get_mut(prepared.info.clone()).ok_or_else(unsound)?;
            if info.len() != words.len() {
                return Err(unsound());
            }
            info.copy_from_slice(&words);
        }
        self.symbols = Some(symbols.to_vec());
        Ok(())
    }

    /// The launches of a dispatch; `None` where the program has no such dispatch, or no lengths are set.
    pub(crate) fn of(&self, number: u32) -> Option<&[Prepared]> {
        self.symbols.as_ref()?;
        self.prepared.get(self.dispatches.get(number as usize)?.clone())
    }

    /// Where the buffers of a launch are.
    pub(crate) fn buffers(&self, prepared: &Prepared) -> Option<&[Address]> {
        self.addresses.get(prepared.buffers.clone())
    }

    /// The block of scalars of a launch, and its first byte among all.
    pub(crate) fn info(&self, prepared: &Prepared) -> Option<(&[u32], u64)> {
        Some((self.words.get(prepared.info.clone())?, prepared.info.start as u64 * 4))
    }
}

/// The weights that `program` launches with, each once.
pub(crate) fn weights_of(program: &Program) -> Vec<usize> {
    let bindings = launches_of(program).into_iter().flat_map(|launch| &launch.buffers);
    let values = bindings.filter_map(|binding| program.values.get(binding.value.0 as usize));
    let mut weights: Vec<usize> = values
        .filter_map(|value| match value.place {
            Place::Weight(index) => Some(index as usize),
            Place::Arena(_) => None,
        })
        .collect();
    weights.sort_unstable();
    weights.dedup();
    weights
}
