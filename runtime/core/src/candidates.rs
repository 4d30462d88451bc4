//! The candidates of a plan: a program with some of them chosen, and one in which each can be dispatched by itself.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use dreamc_artifact::plan::{Choice, Denoise, Dispatch, Program, Step};

/// Which candidate of each choice is taken, by the number of the choice; 0 where none is given.
pub type Chosen = BTreeMap<u32, u32>;

/// `program` with these candidates and no others.
pub fn chosen(program: &Program, chosen: &Chosen) -> Program {
    let steps = steps(&program.steps, &mut |dispatch| alloc::vec![Step::Dispatch(taken(dispatch, chosen))]);
    Program { steps, ..program.clone() }
}

/// A dispatch of an [`unfolded`] program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfolded {
    /// The number of the dispatch in the program as it was.
    pub number: u32,
    /// Which candidate of which choice it takes; none of the dispatch that takes what is chosen for all.
    pub of: Option<(u32, u32)>,
}

/// `program` in which each dispatch with a choice is followed by itself once more for every candidate of `choices`, and what
/// each of its dispatches is. Where a dispatch has several choices, the others are as in `others`. Such a program is not to be
/// run as a whole.
pub fn unfolded(
    program: &Program,
    choices: &[(Choice, Vec<u32>)],
    others: &Chosen,
) -> (Program, Vec<Unfolded>) {
    let (mut list, mut number) = (Vec::new(), 0);
    let steps = steps(&program.steps, &mut |dispatch| {
        let mut copies = alloc::vec![Step::Dispatch(taken(dispatch, others))];
        list.push(Unfolded { number, of: None });
        for (choice, candidates) in choices {
            let has = |launch: &dreamc_artifact::plan::Launch| {
                launch.candidate.is_some_and(|candidate| candidate.choice == choice.number)
            };
            if !dispatch.launches.iter().any(has) {
                continue;
            }
            for nth in candidates {
                let mut one = others.clone();
                one.insert(choice.number, *nth);
                copies.push(Step::Dispatch(taken(dispatch, &one)));
                list.push(Unfolded { number, of: Some((choice.number, *nth)) });
            }
        }
        number += 1;
        copies
    });
    (Program { steps, ..program.clone() }, list)
}

/// Every dispatch as `each` has it, those of loops too.
fn steps(steps: &[Step], each: &mut dyn FnMut(&Dispatch) -> Vec<Step>) -> Vec<Step> {
    let mut list = Vec::with_capacity(steps.len());
    for step in steps {
        match step {
            Step::Dispatch(dispatch) => list.extend(each(dispatch)),
            Step::Denoise(denoise) => {
                // A validated loop holds no loop.
                let mut body = Vec::with_capacity(denoise.body.len());
                for step in &denoise.body {
                    if let Step::Dispatch(dispatch) = step {
                        body.extend(each(dispatch));
                    }
                }
                list.push(Step::Denoise(Denoise { body, ..denoise.clone() }));
            }
        }
    }
    list
}

/// A dispatch with the launches that were chosen, which belong to no choice any more.
fn taken(dispatch: &Dispatch, chosen: &Chosen) -> Dispatch {
    let mut dispatch = dispatch.clone();
    dispatch.launches.retain_mut(|launch| {
        let Some(candidate) = launch.candidate.take() else { return true };
        candidate.nth == chosen.get(&candidate.choice).copied().unwrap_or(0)
    });
    dispatch
}
