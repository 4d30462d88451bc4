//! The rules of a loop that knows how many slots are open.

use super::Fault;
use super::sampler::schedule;
use super::shapes::{ensure, shaped, typed};
use crate::plan::{Denoise, Dispatch, Program, Slots, Step, Value, ValueId};
use crate::{At, Rule};
use alloc::collections::BTreeSet;
use dreamc_num::DType;

/// Checks a program whose values and dispatches are sound by themselves.
pub(super) fn check(program: &Program) -> Result<(), Fault> {
    let mut found = None;
    let mut number = 0;
    for step in &program.steps {
        let at = At::Step(number);
        number += 1;
        if let Step::Denoise(denoise) = step {
            number += denoise.body.len() as u32;
            if let Some(slots) = &denoise.slots {
                // One number of slots, one loop that changes it.
                ensure(found.is_none(), Rule::Limit).map_err(|rule| (at, rule))?;
                settings(program, denoise, slots).map_err(|rule| (at, rule))?;
                found = Some(slots.symbol);
            }
        }
    }
    match found {
        Some(symbol) => values(program, symbol),
        None => Ok(()),
    }
}

fn settings(program: &Program, denoise: &Denoise, slots: &Slots) -> Result<(), Rule> {
    ensure((slots.symbol as usize) < program.symbols.len(), Rule::Index)?;
    ensure(i32::try_from(slots.token).is_ok(), Rule::Setting)?;
    schedule(denoise.steps, slots.eps)?;
    let get = |id: ValueId| program.values.get(id.0 as usize).ok_or(Rule::Index);
    let (canvas, _) = denoise.history.ok_or(Rule::Slots)?;
    typed(get(canvas)?, DType::I32, 2)?;
    let input = |id: ValueId, dtype| {
        ensure(program.inputs.iter().any(|port| port.value == id), Rule::Slots)?;
        shaped(get(id)?, dtype, &[])
    };
    input(slots.joint, DType::I32)?;
    if let Some((temperature, alg_temp)) = slots.idle {
        input(temperature, DType::F32)?;
        input(alg_temp, DType::F32)?;
    }
    Ok(())
}

/// A value whose size depends on the slots is written and read in one iteration of the loop that counts them.
fn values(program: &Program, symbol: u32) -> Result<(), Fault> {
    let depends = |id: &ValueId| program.values.get(id.0 as usize).is_some_and(|value| has(value, symbol));
    for (ports, at) in [(&program.inputs, At::Input as fn(u32) -> At), (&program.outputs, At::Output)] {
        if let Some(i) = ports.iter().position(|port| depends(&port.value)) {
            return Err((at(i as u32), Rule::Slots));
        }
    }
    let mut number = 0;
    for step in &program.steps {
        let (body, counts) = match step {
            Step::Dispatch(_) => (core::slice::from_ref(step), false),
            Step::Denoise(denoise) => {
                number += 1;
                (denoise.body.as_slice(), denoise.slots.is_some())
            }
        };
        let mut written = BTreeSet::new();
        for step in body {
            let at = At::Step(number);
            number += 1;
            let Step::Dispatch(Dispatch { reads, writes, .. }) = step else { continue };
            let known = reads.iter().all(|id| !depends(id) || written.contains(id));
            written.extend(writes.iter().copied());
            ensure(known && (counts || !writes.iter().any(depends)), Rule::Slots)
                .map_err(|rule| (at, rule))?;
        }
    }
    Ok(())
}

fn has(value: &Value, symbol: u32) -> bool {
    value.dims.iter().flat_map(|dim| &dim.terms).any(|term| term.symbols.contains(&symbol))
}
