//! Which bytes of the arena hold a value that is still needed, dispatch by dispatch: the least memory that a program of
//! this order can do with, to compare its arena with.
//!
//! Computed from the finished plan alone. Times are the plan's dispatches in order, those of a loop once: each iteration
//! has the same values.

use dreamc_artifact::plan::{Denoise, Dispatch, Place, Program, Step, ValueId};
use std::collections::BTreeMap;

/// A piece of the arena and when it is needed. Values that lie in the same place in turn, as operand and result of a
/// kernel that writes in place, are one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// A value that lies there: the largest, then the first.
    pub value: ValueId,
    /// Where it begins in the arena.
    pub offset: u64,
    /// Bytes at the maxima of all symbols.
    pub bytes: u64,
    /// First time, counted in dispatches.
    pub first: usize,
    /// Last time, included.
    pub last: usize,
}

/// The blocks of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Sorted by first time, then by offset.
    pub blocks: Vec<Live>,
    /// Number of dispatches.
    pub times: usize,
}

impl Liveness {
    /// Of a plan that validates.
    pub fn of(program: &Program) -> Liveness {
        let mut walk = Walk { program, spans: BTreeMap::new(), time: 0 };
        program.inputs.iter().for_each(|port| walk.touch(port.value, 0));
        walk.steps(&program.steps);
        let times = walk.time;
        let end = times.saturating_sub(1);
        program.outputs.iter().for_each(|port| walk.touch(port.value, end));
        let mut values = walk.values();
        values.sort_by_key(|live| (live.offset, live.first, std::cmp::Reverse(live.bytes), live.value));
        let mut blocks: Vec<Live> = Vec::new();
        for live in values {
            // In place: the result begins where the operand ends.
            match blocks.last_mut().filter(|b| b.offset == live.offset && live.first <= b.last) {
                Some(block) => {
                    block.last = block.last.max(live.last);
                    if live.bytes > block.bytes {
                        (block.value, block.bytes) = (live.value, live.bytes);
                    }
                }
                None => blocks.push(live),
            }
        }
        blocks.sort_by_key(|live| (live.first, live.offset));
        Liveness { blocks, times }
    }

    /// Live bytes at each time.
    pub fn bytes(&self) -> Vec<u64> {
        // What begins and what has ended at each time: a sum of these is never negative.
        let mut changes = vec![0_u64; self.times + 1];
        let mut change = |time: usize, by: u64| {
            if let Some(sum) = changes.get_mut(time) {
                *sum = sum.wrapping_add(by);
            }
        };
        for live in &self.blocks {
            change(live.first, live.bytes);
            change(live.last + 1, live.bytes.wrapping_neg());
        }
        let mut live = 0_u64;
        let sums = changes.iter().take(self.times).map(|by| {
            live = live.wrapping_add(*by);
            live
        });
        sums.collect()
    }

    /// The most bytes that live at the same time.
    pub fn peak_bytes(&self) -> u64 {
        self.bytes().into_iter().max().unwrap_or(0)
    }
}

struct Walk<'a> {
    program: &'a Program,
    /// First and last time of each value.
    spans: BTreeMap<ValueId, (usize, usize)>,
    time: usize,
}

impl Walk<'_> {
    fn touch(&mut self, id: ValueId, time: usize) {
        let span = self.spans.entry(id).or_insert((time, time));
        span.1 = span.1.max(time);
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Dispatch(dispatch) => self.dispatch(dispatch),
                Step::Denoise(denoise) => self.denoise(denoise),
            }
        }
    }

    fn dispatch(&mut self, dispatch: &Dispatch) {
        let time = self.time;
        dispatch.reads.iter().for_each(|id| self.touch(*id, time));
        dispatch.writes.iter().for_each(|id| self.touch(*id, time));
        for binding in dispatch.launches.iter().flat_map(|launch| &launch.buffers) {
            // Scratch memory, or an operand that is known already.
            self.touch(binding.value, time);
        }
        self.time += 1;
    }

    fn denoise(&mut self, denoise: &Denoise) {
        let start = self.time;
        let kept = [Some(denoise.index), denoise.history.map(|(_, into)| into)];
        kept.into_iter().flatten().for_each(|id| self.touch(id, start));
        self.steps(&denoise.body);
        let end = self.time.saturating_sub(1).max(start);
        kept.into_iter().flatten().for_each(|id| self.touch(id, end));
        // What comes from outside and is needed in the loop is needed by every iteration.
        for (first, last) in self.spans.values_mut() {
            if *first < start && *last >= start {
                *last = end.max(*last);
            }
        }
    }

    /// One for each value in the arena.
    fn values(&self) -> Vec<Live> {
        let program = self.program;
        let maxima = program.maxima();
        let live = |(id, (first, last)): (&ValueId, &(usize, usize))| {
            let value = program.values.get(id.0 as usize)?;
            let Place::Arena(offset) = value.place else { return None };
            let elements = value.dims.iter().map(|dim| u64::from(dim.at(&maxima).unwrap_or(u32::MAX)));
            let bytes = elements.fold(value.dtype.bytes() as u64, u64::saturating_mul);
            Some(Live { value: *id, offset, bytes, first: *first, last: *last })
        };
        self.spans.iter().filter_map(live).collect()
    }
}
