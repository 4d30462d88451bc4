//! A program made ready: what each launch binds, and what it is at the lengths of a request. Knows no driver.

use dreamc_artifact::code::Module;
use dreamc_artifact::plan::{Binding, Dispatch, Launch, Place, Program, Value};
use dreamc_runtime::{Active, DeviceError, Grid, Launches, UNSOUND};

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

/// All launches of a program, bound.
#[derive(Debug)]
pub(crate) struct Prepared {
    launches: Launches,
    /// The buffers of each.
    sources: Vec<Vec<Source>>,
    /// The blocks of scalars of all.
    blocks: Vec<u8>,
}

impl Prepared {
    /// Binds the launches of `program`.
    pub(crate) fn new(program: &Program, modules: &[Module]) -> Result<Prepared, DeviceError> {
        let maxima = program.maxima();
        let launches = Launches::new(program, |i| modules.get(i as usize), 1)?;
        let bind = |launch: &Launch| {
            launch.buffers.iter().map(|binding| source(program, &maxima, binding)).collect()
        };
        let sources = launches.all().map(|(launch, _)| bind(launch)).collect::<Result<_, _>>()?;
        let blocks = vec![0; launches.words().len() * 4];
        Ok(Prepared { launches, sources, blocks })
    }

    /// The modules that are launched, and the weights that are bound, each as often as it is.
    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.launches.all().map(|(launch, _)| launch)
    }

    /// Sets the lengths of the requests from here on: grids and blocks of scalars of all launches.
    pub(crate) fn resize(&mut self, modules: &[Module], symbols: &[u32]) -> Result<(), DeviceError> {
        self.launches.resize(symbols, |i| modules.get(i as usize), |_| GROUPS_MAX)?;
        for (to, word) in self.blocks.chunks_exact_mut(4).zip(self.launches.words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// The launches of dispatch `number` with something to do.
    pub(crate) fn dispatch(
        &self,
        number: u32,
        dispatch: &Dispatch,
    ) -> Result<impl Iterator<Item = Active<'_>>, DeviceError> {
        self.launches.of(number, dispatch)
    }

    /// The buffers of a launch.
    pub(crate) fn sources(&self, active: &Active<'_>) -> &[Source] {
        self.sources.get(active.index).map_or(&[], Vec::as_slice)
    }

    /// Its block of scalars; empty if it has none.
    pub(crate) fn info(&self, active: &Active<'_>) -> &[u8] {
        let first = active.info_at * 4;
        self.blocks.get(first..first + active.info.len() * 4).unwrap_or_default()
    }
}

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
