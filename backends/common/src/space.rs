//! The values of a program in the making, and where they will lie.

use crate::constants::{Constants, Source};
use crate::lower::EmitError;
use crate::memory::{Block, arrange};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dim, Place, Symbol, Term, Value, ValueId};
use dreamc_artifact::{ARENA_BYTES_MAX, ELEMENTS_MAX};
use dreamc_ir::Type;
use dreamc_num::DType;

/// Counters of a program.
pub(crate) const COUNTERS: u32 = 1024;

/// One piece of the arena; values that are written in place share it.
pub(crate) struct Slot {
    bytes: u64,
    /// First step that needs it.
    pub(crate) first: u32,
    /// Last step that needs it.
    pub(crate) last: u32,
}

/// A value and the slot it lies in; weights lie elsewhere.
struct Placed {
    value: Value,
    slot: Option<usize>,
}

/// See the module.
pub(crate) struct Space<'a> {
    constants: &'a mut Constants,
    symbols: Vec<Symbol>,
    slots: Vec<Slot>,
    values: Vec<Placed>,
    /// See [`Space::counters`]; if a launch wanted them.
    pub(crate) counters: Option<ValueId>,
    /// Number of the next step.
    pub(crate) time: u32,
}

impl<'a> Space<'a> {
    pub(crate) fn new(symbols: Vec<Symbol>, constants: &'a mut Constants) -> Space<'a> {
        Space { constants, symbols, slots: Vec::new(), values: Vec::new(), counters: None, time: 0 }
    }

    /// Symbols, values in their places, and the size of the arena.
    pub(crate) fn arranged(self, program: &str) -> Result<(Vec<Symbol>, Vec<Value>, u64), EmitError> {
        let blocks: Vec<Block> =
            self.slots.iter().map(|s| Block { bytes: s.bytes, first: s.first, last: s.last }).collect();
        let arranged = arrange(&blocks).filter(|(_, bytes)| *bytes <= ARENA_BYTES_MAX);
        let (offsets, arena_bytes) = arranged.ok_or_else(|| EmitError::Arena(program.to_owned()))?;
        let place = |p: Placed| match p.slot {
            Some(slot) => Value { place: Place::Arena(offsets[slot]), ..p.value },
            None => p.value,
        };
        Ok((self.symbols, self.values.into_iter().map(place).collect(), arena_bytes))
    }

    pub(crate) fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize].value
    }

    /// A stored constant, in `dtype`.
    pub(crate) fn constant(
        &mut self,
        source: &Source,
        ty: &Type,
        layout: Layout,
        origin: &str,
    ) -> Result<ValueId, EmitError> {
        let too_large = || EmitError::TooLarge { origin: origin.to_owned(), ty: ty.clone() };
        let index = self.constants.intern(source, ty, layout).ok_or_else(too_large)?;
        let place = Place::Weight(index);
        if let Some(known) = self.values.iter().position(|p| p.value.place == place && p.slot.is_none()) {
            return Ok(ValueId(known as u32));
        }
        let dims = self.dims(ty, origin)?;
        self.values.push(Placed { value: Value { dtype: ty.dtype, dims, place }, slot: None });
        Ok(ValueId(self.values.len() as u32 - 1))
    }

    /// A value in a slot of its own.
    pub(crate) fn new_value(&mut self, ty: &Type, origin: &str) -> Result<ValueId, EmitError> {
        let max = |name: &str| self.symbols.iter().find(|s| s.name == name).map(|s| u64::from(s.max));
        let elements = ty.elements().at(&max).filter(|n| *n <= ELEMENTS_MAX);
        let bytes = elements.and_then(|n| n.checked_mul(ty.dtype.bytes() as u64));
        let bytes = bytes.ok_or_else(|| EmitError::TooLarge { origin: origin.to_owned(), ty: ty.clone() });
        // An unknown symbol is the clearer complaint.
        self.dims(ty, origin)?;
        self.slots.push(Slot { bytes: bytes?, first: self.time, last: self.time });
        self.add_value(ty, Some(self.slots.len() - 1), origin)
    }

    /// A value in a slot that others have too.
    pub(crate) fn add_value(
        &mut self,
        ty: &Type,
        slot: Option<usize>,
        origin: &str,
    ) -> Result<ValueId, EmitError> {
        let value = Value { dtype: ty.dtype, dims: self.dims(ty, origin)?, place: Place::Arena(0) };
        self.values.push(Placed { value, slot });
        Ok(ValueId(self.values.len() as u32 - 1))
    }

    /// A value for this step alone, of a type and shape that a value of the program has but for the element type. `None`
    /// if it is too large.
    pub(crate) fn scratch(&mut self, dtype: DType, dims: &[Dim]) -> Option<ValueId> {
        let max = self.maxima();
        let elements = dims.iter().try_fold(1_u64, |n, dim| n.checked_mul(dim.at(&max)?.into()));
        let bytes = elements.filter(|n| *n <= ELEMENTS_MAX)?.checked_mul(dtype.bytes() as u64)?;
        self.slots.push(Slot { bytes, first: self.time, last: self.time });
        let value = Value { dtype, dims: dims.to_vec(), place: Place::Arena(0) };
        self.values.push(Placed { value, slot: Some(self.slots.len() - 1) });
        Some(ValueId(self.values.len() as u32 - 1))
    }

    /// The program's counters: [`COUNTERS`] integers that nobody else's bytes ever lie in.
    pub(crate) fn counters(&mut self) -> ValueId {
        if let Some(counters) = self.counters {
            return counters;
        }
        let dims = vec![Dim::constant(COUNTERS)];
        self.slots.push(Slot { bytes: u64::from(COUNTERS) * 4, first: 0, last: u32::MAX });
        let value = Value { dtype: DType::I32, dims, place: Place::Arena(0) };
        self.values.push(Placed { value, slot: Some(self.slots.len() - 1) });
        let counters = ValueId(self.values.len() as u32 - 1);
        self.counters = Some(counters);
        counters
    }

    /// The number of a symbol.
    pub(crate) fn symbol(&self, name: &str) -> Option<u32> {
        self.symbols.iter().position(|s| s.name == name).map(|i| i as u32)
    }

    /// Largest values of the symbols.
    pub(crate) fn maxima(&self) -> Vec<u32> {
        self.symbols.iter().map(|s| s.max).collect()
    }

    fn dims(&self, ty: &Type, origin: &str) -> Result<Vec<Dim>, EmitError> {
        let too_large = || EmitError::TooLarge { origin: origin.to_owned(), ty: ty.clone() };
        let mut dims = Vec::new();
        for dim in &ty.dims {
            let mut terms = Vec::new();
            for (coefficient, names) in dim.terms() {
                let index = |name: &String| {
                    let at = self.symbols.iter().position(|s| s.name == *name);
                    at.map(|i| i as u32).ok_or_else(|| EmitError::Unbounded(name.clone()))
                };
                let symbols = names.iter().map(index).collect::<Result<_, _>>()?;
                let coefficient = u32::try_from(coefficient).map_err(|_| too_large())?;
                terms.push(Term { coefficient, symbols });
            }
            dims.push(Dim { terms });
        }
        Ok(dims)
    }

    pub(crate) fn slot_of(&self, id: ValueId) -> Option<usize> {
        self.values[id.0 as usize].slot
    }

    pub(crate) fn slot(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    /// The value is needed at `time`.
    pub(crate) fn keep(&mut self, id: ValueId, time: u32) {
        if let Some(slot) = self.slot_of(id) {
            self.slots[slot].last = self.slots[slot].last.max(time);
        }
    }
}
