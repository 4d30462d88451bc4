//! Plans in postcard. Reading goes through types that cannot nest: a plan is recursive (a loop holds steps), and a
//! hostile one could nest so deep that reading it would exhaust the stack.

use crate::code::{BUFFER_COUNT_MAX, SCALAR_COUNT_MAX};
use crate::plan::{
    Binding, Denoise, Dispatch, Launch, Plan, Port, Program, Scalar, Slots, Step, Symbol, Value, ValueId,
};
use crate::{LAUNCH_COUNT_MAX, OpenError, ROPE_SECTION_COUNT_MAX, STEPS_MAX};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The writer failed: out of memory, or a plan that holds what postcard cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a section could not be written: this is a bug in the compiler")]
pub struct EncodeError;

/// The section's bytes.
///
/// # Errors
///
/// Where the writer fails.
pub fn encode_plan(plan: &Plan) -> Result<Vec<u8>, EncodeError> {
    postcard::to_allocvec(plan).map_err(|_| EncodeError)
}

/// Inverse of [`encode_plan`]. The plan still has to pass [`crate::validate()`].
///
/// # Errors
///
/// Where the bytes are not exactly one plan, or a loop holds a loop.
pub fn decode_plan(bytes: &[u8]) -> Result<Plan, OpenError> {
    match postcard::take_from_bytes::<PlanWire>(bytes) {
        Ok((plan, [])) => Ok(Plan { programs: plan.programs.into_iter().map(Program::from).collect() }),
        Ok(_) | Err(_) => Err(OpenError::PlanBytes),
    }
}

/// [`Kernel::RopeTable`](crate::plan::Kernel::RopeTable)'s sections.
pub(crate) fn sections<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    at_most(from, ROPE_SECTION_COUNT_MAX)
}

/// [`Kernel::TimestepEmbed`](crate::plan::Kernel::TimestepEmbed)'s times.
pub(crate) fn times<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
    at_most(from, STEPS_MAX as usize)
}

/// [`Kernel::DdimStep`](crate::plan::Kernel::DdimStep)'s alphas.
pub(crate) fn alphas<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
    at_most(from, STEPS_MAX as usize + 1)
}

/// [`Dispatch::launches`].
pub(crate) fn launches<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Launch>, D::Error> {
    at_most(from, LAUNCH_COUNT_MAX)
}

/// [`Launch::buffers`].
pub(crate) fn bindings<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Binding>, D::Error> {
    at_most(from, BUFFER_COUNT_MAX)
}

/// [`Launch::scalars`].
pub(crate) fn scalars<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Scalar>, D::Error> {
    at_most(from, SCALAR_COUNT_MAX)
}

/// A list of at most `max` items; the length is looked at before memory is taken.
pub(crate) fn at_most<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
    max: usize,
) -> Result<Vec<T>, D::Error> {
    struct AtMost<T>(usize, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {}", self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let claimed = items.size_hint().unwrap_or(0);
            if claimed > self.0 {
                return Err(A::Error::invalid_length(claimed, &self));
            }
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == self.0 {
                    return Err(A::Error::invalid_length(list.len() + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(AtMost(max, PhantomData))
}

// The fields stand in the order of `plan.rs`: postcard writes no names.

#[derive(Deserialize)]
struct PlanWire {
    programs: Vec<ProgramWire>,
}

#[derive(Deserialize)]
struct ProgramWire {
    name: String,
    symbols: Vec<Symbol>,
    values: Vec<Value>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    steps: Vec<StepWire>,
    arena_bytes: u64,
}

#[derive(Deserialize)]
enum StepWire {
    Dispatch(Dispatch),
    Denoise(DenoiseWire),
}

#[derive(Deserialize)]
struct DenoiseWire {
    steps: u32,
    index: ValueId,
    body: Vec<BodyWire>,
    history: Option<(ValueId, ValueId)>,
    slots: Option<Slots>,
}

#[derive(Deserialize)]
enum BodyWire {
    Dispatch(Dispatch),
}

impl From<ProgramWire> for Program {
    fn from(wire: ProgramWire) -> Program {
        let ProgramWire { name, symbols, values, inputs, outputs, steps, arena_bytes } = wire;
        let steps = steps.into_iter().map(Step::from).collect();
        Program { name, symbols, values, inputs, outputs, steps, arena_bytes }
    }
}

impl From<StepWire> for Step {
    fn from(wire: StepWire) -> Step {
        match wire {
            StepWire::Dispatch(dispatch) => Step::Dispatch(dispatch),
            StepWire::Denoise(DenoiseWire { steps, index, body, history, slots }) => {
                let body =
                    body.into_iter().map(|BodyWire::Dispatch(dispatch)| Step::Dispatch(dispatch)).collect();
                Step::Denoise(Denoise { steps, index, body, history, slots })
            }
        }
    }
}
