//! How many slots are open in each iteration of a loop (`spec/sampling.md` section 6).

use dreamc_artifact::plan::{Denoise, Program, Slots, Step};
use dreamc_num::schedule::transfer_count;

/// What a run makes of the schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The number of slots is what the schedule leaves, not what it was at first.
    pub(crate) shrinks: bool,
    /// Iterations that fill no slot are left out.
    pub(crate) drops: bool,
}

impl Policy {
    /// A number for each.
    pub(crate) fn variant(self) -> u32 {
        u32::from(self.shrinks) | u32::from(self.drops) << 1
    }
}

/// Open slots of a row, iteration after iteration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    first: u32,
    left: u32,
    steps: u32,
    eps: f32,
    policy: Policy,
}

/// One iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Iteration {
    /// The number of slots that it computes, at least 1.
    pub(crate) slots: u32,
    /// Whether it is left out.
    pub(crate) idle: bool,
}

impl Open {
    /// From `first` open slots on.
    pub(crate) fn new(first: u32, denoise: &Denoise, slots: &Slots, policy: Policy) -> Open {
        Open { first, left: first, steps: denoise.steps, eps: slots.eps, policy }
    }

    /// Iteration `step`, after all before it.
    pub(crate) fn step(&mut self, step: u32) -> Iteration {
        let count = transfer_count(self.left, step, self.steps, self.eps).min(self.left);
        let slots = if self.policy.shrinks { self.left.max(1) } else { self.first };
        self.left -= count;
        Iteration { slots, idle: self.policy.drops && count == 0 }
    }

    /// What is open after the last iteration asked for.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }
}

/// The loop that knows its slots.
pub(crate) fn counted(program: &Program) -> Option<(&Denoise, &Slots)> {
    program.steps.iter().find_map(|step| match step {
        Step::Denoise(denoise) => denoise.slots.as_ref().map(|slots| (denoise, slots)),
        Step::Dispatch(_) => None,
    })
}

/// Whether the size of a value depends on a symbol.
pub(crate) fn matters(program: &Program, symbol: u32) -> bool {
    let terms = program.values.iter().flat_map(|v| &v.dims).flat_map(|dim| &dim.terms);
    terms.into_iter().any(|term| term.symbols.contains(&symbol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use dreamc_artifact::plan::ValueId;

    fn iterations(first: u32, steps: u32, policy: Policy) -> Vec<Iteration> {
        let slots = Slots { symbol: 0, token: 1, eps: 1e-3, joint: ValueId(0), idle: None };
        let denoise =
            Denoise { steps, index: ValueId(0), body: Vec::new(), history: None, slots: Some(slots.clone()) };
        let mut open = Open::new(first, &denoise, &slots, policy);
        (0..steps).map(|step| open.step(step)).collect()
    }

    fn slots(list: &[Iteration]) -> Vec<u32> {
        list.iter().map(|i| i.slots).collect()
    }

    const BOTH: Policy = Policy { shrinks: true, drops: true };

    #[test]
    fn counts_of_the_schedule() {
        assert_eq!(slots(&iterations(16, 4, BOTH)), [16, 13, 9, 5]);
        assert_eq!(slots(&iterations(58, 1, BOTH)), [58]);
        let all = iterations(128, 128, BOTH);
        assert_eq!((all[0].slots, all[1].slots, all[2].slots, all[127].slots), (128, 128, 127, 2));
        assert_eq!(all.iter().filter(|i| i.idle).count(), 1);
    }

    #[test]
    fn idle_iterations_are_left_out() {
        let all = iterations(4, 8, BOTH);
        assert_eq!(slots(&all), [4, 4, 4, 4, 4, 4, 3, 2]);
        let run: Vec<bool> = all.iter().map(|i| !i.idle).collect();
        assert_eq!(run, [false, false, false, false, false, true, true, true]);
        assert!(iterations(4, 8, Policy { drops: false, ..BOTH }).iter().all(|i| !i.idle));
    }

    #[test]
    fn slots_stay_without_a_schedule() {
        assert_eq!(slots(&iterations(16, 4, Policy::default())), [16; 4]);
    }
}
