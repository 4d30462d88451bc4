//! What a program needs of a device of launches: where buffers are, and how much a recorded run holds.

use crate::driver::{Address, InfoPlace};
use dreamc_artifact::code::{Module, Word};
use dreamc_artifact::plan::{Binding, Dim, Dispatch, Launch, Place, Program, Scalar, Step};
use dreamc_runtime::{Active, DeviceError, Operand, UNSOUND};
use std::ops::Range;

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

/// Where the buffers of all launches of a program are.
pub(crate) struct Addresses {
    all: Vec<Address>,
    /// Those of each launch.
    of: Vec<Range<usize>>,
}

impl Addresses {
    /// `address` finds a binding of an operand at the maxima.
    pub(crate) fn new(
        program: &Program,
        address: impl Fn(&Binding, &Operand) -> Option<Address>,
    ) -> Result<Addresses, DeviceError> {
        let maxima = program.maxima();
        let mut addresses = Addresses { all: Vec::new(), of: Vec::new() };
        for launch in program.dispatches().flat_map(|dispatch| &dispatch.launches) {
            let first = addresses.all.len();
            for binding in &launch.buffers {
                let value = program.values.get(binding.value.0 as usize).ok_or(UNSOUND)?;
                let operand = dreamc_runtime::operand(value, &maxima).ok_or(UNSOUND)?;
                addresses.all.push(address(binding, &operand).ok_or(UNSOUND)?);
            }
            addresses.of.push(first..addresses.all.len());
        }
        Ok(addresses)
    }

    /// Those of a launch, in the order of its buffers.
    pub(crate) fn of(&self, active: &Active<'_>) -> Option<&[Address]> {
        self.all.get(self.of.get(active.index)?.clone())
    }
}

/// Launches, copies and fills of a whole run, at most. Of a table of variants one is made: as many launches as the first has.
pub(crate) fn nodes<'m>(
    program: &Program,
    module: impl Fn(u32) -> Option<&'m Module>,
    info: InfoPlace,
) -> Result<u64, DeviceError> {
    let refilled = match info {
        InfoPlace::Value => None,
        InfoPlace::Buffer => refilled(program),
    };
    // A loop sets its index and keeps its history.
    let loops = program.steps.iter().map(|step| match step {
        Step::Dispatch(_) => 0,
        Step::Denoise(denoise) => 2 * u64::from(denoise.steps),
    });
    let mut nodes: u64 = loops.sum();
    let mut found = Vec::new();
    dispatches(&program.steps, 1, &mut |dispatch, times| found.push((dispatch, times)));
    for (dispatch, times) in found {
        let of_any = |launch: &&Launch| launch.variant.as_ref().is_none_or(|variant| variant.above == 0);
        let made = dispatch.launches.iter().filter(of_any).count() as u64;
        nodes = nodes.saturating_add(times.saturating_mul(made));
        let Some((symbol, times)) = refilled else { continue };
        for launch in &dispatch.launches {
            let module = module(launch.module).ok_or(UNSOUND)?;
            let changes = module.info.iter().filter(|word| depends(program, launch, **word, symbol));
            nodes = nodes.saturating_add(times.saturating_mul(changes.count() as u64));
        }
    }
    Ok(nodes)
}

/// The weights that `program` launches with, each once.
pub(crate) fn weights_of(program: &Program) -> Vec<usize> {
    let bindings =
        program.dispatches().flat_map(|dispatch| &dispatch.launches).flat_map(|launch| &launch.buffers);
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
