//! Hostile plans are refused, and never make the validator panic.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::{plan, weights};
use dreamc_artifact::plan::*;
use dreamc_artifact::*;
use dreamc_num::DType;
use proptest::prelude::*;

/// The rule that the plan breaks after an edit of its program.
fn broken(edit: impl FnOnce(&mut Program)) -> Option<Rule> {
    let mut plan = plan();
    edit(&mut plan.programs[0]);
    validate(&plan, &weights().0).err().map(|e| e.rule)
}

fn denoise(program: &mut Program) -> &mut Denoise {
    match &mut program.steps[0] {
        Step::Denoise(denoise) => denoise,
        Step::Dispatch(_) => unreachable!("the plan is one loop"),
    }
}

fn dispatch(program: &mut Program, index: usize) -> &mut Dispatch {
    match &mut denoise(program).body[index] {
        Step::Dispatch(dispatch) => dispatch,
        Step::Denoise(_) => unreachable!("the body holds no loop"),
    }
}

#[test]
fn the_plan_is_valid() {
    assert_eq!(broken(|_| ()), None);
}

#[test]
fn each_rule_is_checked() {
    assert_eq!(broken(|p| p.symbols[0].max = 0), Some(Rule::SymbolMax));
    assert_eq!(broken(|p| p.symbols[1].name = "B".into()), Some(Rule::Names));
    assert_eq!(broken(|p| p.symbols[1].max = 1000), Some(Rule::ArenaEnd));
    assert_eq!(broken(|p| p.arena_bytes = 5120), Some(Rule::ArenaEnd));
    assert_eq!(broken(|p| p.arena_bytes = u64::MAX), Some(Rule::Limit));
    assert_eq!(broken(|p| p.values[7].place = Place::Arena(4097)), Some(Rule::Align));
    assert_eq!(broken(|p| p.values[7].place = Place::Arena(u64::MAX - 63)), Some(Rule::ArenaEnd));
    assert_eq!(broken(|p| p.values[1].place = Place::Weight(9)), Some(Rule::Index));
    assert_eq!(broken(|p| p.values[1].dims[0] = Dim::constant(21)), Some(Rule::WeightShape));
    assert_eq!(broken(|p| p.values[0].dims[0].terms[0].symbols[0] = 9), Some(Rule::Index));
    assert_eq!(broken(|p| p.values[7].dims[2] = Dim { terms: vec![] }), Some(Rule::Dim));
    assert_eq!(broken(|p| p.values[7].dims = vec![Dim::constant(1); 5]), Some(Rule::Limit));
    assert_eq!(broken(|p| p.outputs[0].value = ValueId(99)), Some(Rule::Index));
    assert_eq!(broken(|p| p.outputs[0].value = ValueId(1)), Some(Rule::Place));
    assert_eq!(broken(|p| denoise(p).steps = 0), Some(Rule::Setting));
    assert_eq!(broken(|p| denoise(p).steps = 4), Some(Rule::Shape));
    assert_eq!(broken(|p| denoise(p).index = ValueId(0)), Some(Rule::Shape));
    assert_eq!(broken(|p| p.values[5].place = Place::Arena(0)), Some(Rule::Overlap));
    assert_eq!(
        broken(|p| {
            let inner = p.steps.clone();
            denoise(p).body.extend(inner);
        }),
        Some(Rule::Nesting)
    );
    assert_eq!(broken(|p| dispatch(p, 0).reads.clear()), Some(Rule::OperandCount));
    assert_eq!(broken(|p| dispatch(p, 0).reads[1] = ValueId(3)), Some(Rule::WeightLayout));
    assert_eq!(broken(|p| dispatch(p, 2).reads[1] = ValueId(1)), Some(Rule::WeightLayout));
    assert_eq!(broken(|p| dispatch(p, 1).writes[0] = ValueId(1)), Some(Rule::Place));
    assert_eq!(broken(|p| dispatch(p, 0).reads[0] = ValueId(2)), Some(Rule::DType));
    // A linear must not write over what it multiplies.
    assert_eq!(broken(|p| dispatch(p, 2).reads[0] = ValueId(2)), Some(Rule::Overlap));
    // In place is exactly in place.
    assert_eq!(broken(|p| p.values[4].place = Place::Arena(1024 + 64)), Some(Rule::Overlap));
    // Equal at the maxima is not equal.
    assert_eq!(broken(|p| p.values[7].dims[1] = Dim::constant(16)), Some(Rule::Shape));
}

/// A loop in a loop in a loop .. is refused while it is read, before it could exhaust the stack.
#[test]
fn deep_nesting_is_refused() {
    let mut plan = plan();
    plan.programs[0].steps = vec![];
    let bytes = encode_plan(&plan).unwrap();
    // Behind the empty list of steps stand the arena's bytes (7168, two bytes).
    let mut hostile = bytes[..bytes.len() - 3].to_vec();
    hostile.push(1);
    for _ in 0..1_000_000 {
        // Loop, one iteration, value 0, one step in the body.
        hostile.extend_from_slice(&[1, 1, 0, 1]);
    }
    assert_eq!(decode_plan(&hostile), Err(OpenError::PlanBytes));
}

proptest! {
    /// Damaged bytes that still read as a plan are the most natural source of odd plans.
    #[test]
    fn mutations_do_not_panic(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = encode_plan(&plan()).unwrap();
        for (at, byte) in places {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(plan) = decode_plan(&bytes) {
            let _ = validate(&plan, &weights().0);
        }
    }

    #[test]
    fn odd_values_do_not_panic(
        index in 0..11_usize,
        dtype in prop::sample::select(DType::ALL.to_vec()),
        terms in prop::collection::vec((any::<u32>(), prop::collection::vec(0..4_u32, 0..10)), 0..20),
        rank in 0..6_usize,
        place in prop_oneof![any::<u64>().prop_map(Place::Arena), any::<u32>().prop_map(Place::Weight)],
    ) {
        let terms = terms.into_iter().map(|(coefficient, symbols)| Term { coefficient, symbols }).collect();
        let mut plan = plan();
        plan.programs[0].values[index] = Value { dtype, dims: vec![Dim { terms }; rank], place };
        let _ = validate(&plan, &weights().0);
    }
}
