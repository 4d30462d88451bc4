//! The wall between a file and a device: what a plan must fulfil before it is executed. A device may rely on every
//! rule here for memory safety; values read at run time (token ids, positions, the loop's index) it still checks itself.
//!
//! - Counts are within the named limits; program, symbol and port names are unique, programs sorted.
//! - Every symbol's maximum is in `1..=SYMBOL_MAX`.
//! - Every index (value, symbol, weight) points at something.
//! - Every dimension is at least 1 for all values of the symbols, and fits `u32` at the maxima. Since dimensions are
//!   polynomials without subtraction, what fits at the maxima fits for every request.
//! - A value in the arena is aligned and ends inside it at the maxima. A value in the weights has constant dimensions
//!   and the stored tensor's type and shape.
//! - Modules have sound settings and unique names. Where there are modules every dispatch has launches, elsewhere none:
//!   buffers and scalars fit the module, of variants one serves at every length, what is written lies in the arena and overlaps no other binding of the launch. A
//!   weight that is not row-major is bound in parts.
//! - A choice has 2 to `CANDIDATE_COUNT_MAX` candidates, numbered from 0. A dispatch with a launch of one of them has
//!   launches of all, for the same lengths, and what the dispatch is to write all of them write, or none.
//! - Operands and results of every kernel have the number, types and shapes that [`Kernel`](crate::plan::Kernel) documents,
//!   for all values of the symbols. Settings are in range. f16 stands only where there is code. Weights of a linear are packed where there is no
//!   code; elsewhere they are in fp8 where rows are, and else row-major, as all other tensors.
//! - Everything that is written lies in the arena. A result shares bytes with an operand only where the kernel allows it,
//!   and then lies exactly there, with the same type and shape. Results do not overlap each other.
//! - A loop runs `1..=STEPS_MAX` times and holds no loop. No step of its body writes its index or its history.
//!   Kernels with a schedule that read the loop's index have at least as many steps as the loop.
//! - At most one loop knows its slots: its settings are in range, its history copies a canvas, what it looks at are inputs.
//!   A value whose size depends on their number is no input or output, and is written and read in one iteration of it.

mod code;
mod kernel;
mod operands;
mod sampler;
mod shapes;
mod slots;

use crate::code::Code;
use crate::plan::{
    ARENA_ALIGN, Choice, Denoise, Dim, Dispatch, Place, Plan, Port, Program, Step, Value, ValueId,
};
use crate::poly::{FACTOR_COUNT_MAX, TERM_COUNT_MAX, constant, same_dims};
use crate::{At, PlanError, Rule, WeightInfo};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use code::{check_choices, check_code};
use dreamc_num::DType;
use shapes::ensure;

/// Most programs of a plan.
pub const PROGRAM_COUNT_MAX: usize = 64;
/// Most symbols of a program.
pub const SYMBOL_COUNT_MAX: usize = 16;
/// Largest maximum of a symbol.
pub const SYMBOL_MAX: u32 = 1 << 24;
/// Most values of a program.
pub const VALUE_COUNT_MAX: usize = 1 << 20;
/// Most inputs, and most outputs, of a program.
pub const PORT_COUNT_MAX: usize = 1 << 10;
/// Most steps of a program, those of loop bodies included.
pub const STEP_COUNT_MAX: u32 = 1 << 20;
/// Most operands of a dispatch.
pub const OPERAND_COUNT_MAX: usize = 16;
/// Most launches of a dispatch.
pub const LAUNCH_COUNT_MAX: usize = 256;
/// Most choices of a program.
pub const CHOICE_COUNT_MAX: usize = 1024;
/// Most candidates of a choice, the portable one included.
pub const CANDIDATE_COUNT_MAX: u32 = 16;
/// Most iterations of a loop and most steps of a schedule.
pub const STEPS_MAX: u32 = 1 << 16;
/// Most dimensions of a value.
pub const RANK_MAX: usize = 4;
/// Most sections of a rotary table: planes of positions.
pub const ROPE_SECTION_COUNT_MAX: usize = 4;
/// Most parts that are joined into one.
pub const PART_COUNT_MAX: usize = 8;
/// Most elements of a value at the maxima.
pub const ELEMENTS_MAX: u64 = 1 << 40;
/// Largest arena.
pub const ARENA_BYTES_MAX: u64 = 1 << 42;
/// Most columns of rows that are multiplied as 8-bit codes: their sums fit 32 bits, also with one side shifted to 0..=255.
pub const INT8_COLUMNS_MAX: u32 = 1 << 16;

/// Checks a plan and its target's code against every rule of the module documentation.
///
/// # Errors
///
/// The first rule that is broken, and where.
pub fn validate(plan: &Plan, code: &Code, weights: &[WeightInfo]) -> Result<(), PlanError> {
    let fail = |program: usize, at: At, rule: Rule| PlanError { program: program as u32, at, rule };
    check_code(code).map_err(|(at, rule)| fail(0, at, rule))?;
    if plan.programs.len() > PROGRAM_COUNT_MAX {
        return Err(fail(0, At::Program, Rule::Limit));
    }
    for (index, pair) in plan.programs.windows(2).enumerate() {
        if pair[0].name >= pair[1].name {
            return Err(fail(index + 1, At::Program, Rule::Names));
        }
    }
    for (index, program) in plan.programs.iter().enumerate() {
        check_program(program, code, weights).map_err(|(at, rule)| fail(index, at, rule))?;
    }
    Ok(())
}

type Fault = (At, Rule);

fn check_program(program: &Program, code: &Code, weights: &[WeightInfo]) -> Result<(), Fault> {
    let whole = |rule| (At::Program, rule);
    let counts = program.symbols.len() <= SYMBOL_COUNT_MAX
        && program.values.len() <= VALUE_COUNT_MAX
        && program.inputs.len() <= PORT_COUNT_MAX
        && program.outputs.len() <= PORT_COUNT_MAX
        && program.arena_bytes <= ARENA_BYTES_MAX
        && usize::try_from(program.arena_bytes).is_ok();
    ensure(counts, Rule::Limit).map_err(whole)?;
    for (symbol, i) in program.symbols.iter().zip(0..) {
        ensure((1..=SYMBOL_MAX).contains(&symbol.max), Rule::SymbolMax).map_err(|r| (At::Symbol(i), r))?;
    }
    let unique = unique(program.symbols.iter().map(|s| s.name.as_str()));
    ensure(unique, Rule::Names).map_err(whole)?;

    let maxima = program.maxima();
    let choices = check_choices(program).map_err(whole)?;
    let mut checker =
        Checker { program, code, weights, maxima, choices, ranges: Vec::new(), step: 0, in_loop: None };
    for (value, i) in program.values.iter().zip(0..) {
        let range = checker.value(value).map_err(|rule| (At::Value(i), rule))?;
        checker.ranges.push(range);
    }
    checker.ports(&program.inputs, At::Input)?;
    checker.ports(&program.outputs, At::Output)?;
    for (index, port) in program.inputs.iter().enumerate() {
        let clear = program.inputs[..index].iter().all(|p| !checker.overlap(p.value, port.value));
        ensure(clear, Rule::Overlap).map_err(|rule| (At::Input(index as u32), rule))?;
    }
    checker.steps(&program.steps)?;
    slots::check(program)
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = BTreeSet::new();
    names.into_iter().all(|name| seen.insert(name))
}

/// Bytes in the arena at the maxima, `None` for weights.
type Range = Option<(u64, u64)>;

struct Checker<'a> {
    program: &'a Program,
    code: &'a Code,
    weights: &'a [WeightInfo],
    /// Largest values of the symbols.
    maxima: Vec<u32>,
    /// What the program leaves to be chosen.
    choices: Vec<Choice>,
    /// Per value.
    ranges: Vec<Range>,
    /// Number of the next step.
    step: u32,
    /// The loop whose body is being checked.
    in_loop: Option<&'a Denoise>,
}

impl<'a> Checker<'a> {
    fn value(&self, value: &Value) -> Result<Range, Rule> {
        ensure(value.dims.len() <= RANK_MAX, Rule::Limit)?;
        ensure(value.dtype != DType::F16 || !self.code.modules.is_empty(), Rule::DType)?;
        let minima: Vec<u32> = self.maxima.iter().map(|_| 1).collect();
        let mut elements = 1_u64;
        for dim in &value.dims {
            let max = polynomial(dim, &self.maxima)?;
            ensure(dim.at(&minima).is_some_and(|d| d > 0), Rule::Dim)?;
            elements =
                elements.checked_mul(u64::from(max)).filter(|n| *n <= ELEMENTS_MAX).ok_or(Rule::Limit)?;
        }
        match value.place {
            Place::Arena(offset) => {
                ensure(offset % ARENA_ALIGN == 0, Rule::Align)?;
                let bytes = elements.checked_mul(value.dtype.bytes() as u64).ok_or(Rule::Limit)?;
                let end = offset.checked_add(bytes).filter(|end| *end <= self.program.arena_bytes);
                Ok(Some((offset, end.ok_or(Rule::ArenaEnd)?)))
            }
            Place::Weight(index) => {
                let weight = self.weights.get(index as usize).ok_or(Rule::Index)?;
                let same = weight.dtype == value.dtype
                    && weight.dims.len() == value.dims.len()
                    && value
                        .dims
                        .iter()
                        .zip(&weight.dims)
                        .all(|(d, w)| constant(d).map(u64::from) == Some(*w));
                ensure(same, Rule::WeightShape)?;
                Ok(None)
            }
        }
    }

    fn ports(&self, ports: &[Port], at: fn(u32) -> At) -> Result<(), Fault> {
        for (port, i) in ports.iter().zip(0..) {
            self.arena(port.value).map_err(|rule| (at(i), rule))?;
        }
        ensure(unique(ports.iter().map(|p| p.name.as_str())), Rule::Names).map_err(|rule| (At::Program, rule))
    }

    fn get(&self, id: ValueId) -> Result<&'a Value, Rule> {
        self.program.values.get(id.0 as usize).ok_or(Rule::Index)
    }

    fn range(&self, id: ValueId) -> Range {
        self.ranges.get(id.0 as usize).copied().flatten()
    }

    fn arena(&self, id: ValueId) -> Result<&'a Value, Rule> {
        let value = self.get(id)?;
        ensure(self.range(id).is_some(), Rule::Place)?;
        Ok(value)
    }

    fn overlap(&self, a: ValueId, b: ValueId) -> bool {
        matches!((self.range(a), self.range(b)), (Some(a), Some(b)) if a.0 < b.1 && b.0 < a.1)
    }

    fn steps(&mut self, steps: &'a [Step]) -> Result<(), Fault> {
        for step in steps {
            let at = At::Step(self.step);
            self.step += 1;
            ensure(self.step <= STEP_COUNT_MAX, Rule::Limit).map_err(|rule| (at, rule))?;
            match step {
                Step::Dispatch(dispatch) => self.dispatch(dispatch).map_err(|rule| (at, rule))?,
                Step::Denoise(denoise) => {
                    self.denoise(denoise).map_err(|rule| (at, rule))?;
                    self.in_loop = Some(denoise);
                    self.steps(&denoise.body)?;
                    self.in_loop = None;
                }
            }
        }
        Ok(())
    }

    fn denoise(&self, denoise: &Denoise) -> Result<(), Rule> {
        ensure(self.in_loop.is_none(), Rule::Nesting)?;
        ensure((1..=STEPS_MAX).contains(&denoise.steps), Rule::Setting)?;
        let index = self.arena(denoise.index)?;
        ensure(index.dtype == DType::I32, Rule::DType)?;
        ensure(index.dims.is_empty(), Rule::Shape)?;
        if let Some((from, history)) = denoise.history {
            let (source, target) = (self.arena(from)?, self.arena(history)?);
            ensure(source.dtype == target.dtype, Rule::DType)?;
            let [steps, slot @ ..] = target.dims.as_slice() else { return Err(Rule::Shape) };
            ensure(constant(steps) == Some(denoise.steps) && same_dims(slot, &source.dims), Rule::Shape)?;
            let clear = !self.overlap(from, history)
                && !self.overlap(denoise.index, history)
                && !self.overlap(denoise.index, from);
            ensure(clear, Rule::Overlap)?;
        }
        Ok(())
    }

    fn dispatch(&self, dispatch: &Dispatch) -> Result<(), Rule> {
        let few = dispatch.reads.len() <= OPERAND_COUNT_MAX && dispatch.writes.len() <= OPERAND_COUNT_MAX;
        ensure(few, Rule::OperandCount)?;
        let reads = dispatch.reads.iter().map(|id| self.get(*id)).collect::<Result<Vec<_>, _>>()?;
        let writes = dispatch.writes.iter().map(|id| self.arena(*id)).collect::<Result<Vec<_>, _>>()?;
        let packed = self.code.modules.is_empty();
        let facts = kernel::check(&dispatch.kernel, &reads, &writes, self.weights, packed)?;
        self.launches(dispatch)?;
        for (i, write) in dispatch.writes.iter().enumerate() {
            ensure(dispatch.writes[..i].iter().all(|w| !self.overlap(*w, *write)), Rule::Overlap)?;
            for (r, read) in dispatch.reads.iter().enumerate() {
                let exact = facts.in_place.contains(&r)
                    && reads[r].place == writes[i].place
                    && reads[r].dtype == writes[i].dtype
                    && same_dims(&reads[r].dims, &writes[i].dims);
                ensure(exact || !self.overlap(*write, *read), Rule::Overlap)?;
            }
        }
        if let Some(denoise) = self.in_loop {
            dispatch.writes.iter().try_for_each(|write| self.kept_in_loop(denoise, *write))?;
            if let Some((operand, steps)) = facts.schedule {
                let ours = dispatch.reads.get(operand) == Some(&denoise.index);
                ensure(!ours || denoise.steps <= steps, Rule::Setting)?;
            }
        }
        Ok(())
    }

    /// Inside a loop its index and its history are not written.
    fn kept_in_loop(&self, denoise: &Denoise, write: ValueId) -> Result<(), Rule> {
        let kept = denoise.history.is_none_or(|(_, history)| !self.overlap(write, history));
        ensure(kept && !self.overlap(write, denoise.index), Rule::Overlap)
    }
}

/// Checks that a dimension can be computed, and gives its value at the maxima.
fn polynomial(dim: &Dim, maxima: &[u32]) -> Result<u32, Rule> {
    let short =
        dim.terms.len() <= TERM_COUNT_MAX && dim.terms.iter().all(|t| t.symbols.len() <= FACTOR_COUNT_MAX);
    ensure(short, Rule::Limit)?;
    let known = dim.terms.iter().flat_map(|t| &t.symbols).all(|s| (*s as usize) < maxima.len());
    ensure(known, Rule::Index)?;
    dim.at(maxima).ok_or(Rule::Dim)
}
