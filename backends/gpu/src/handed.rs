//! What a dispatch has done or found ahead of those that look at its result.

use dreamc_artifact::plan::{ValueId, Variant};
use std::collections::{BTreeMap, BTreeSet};

/// See the module. By the value that was looked at or changed.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    /// Queries and keys that were turned where they were computed.
    pub(crate) turned: BTreeSet<ValueId>,
    /// What was found in masks.
    pub(crate) segments: BTreeMap<ValueId, ValueId>,
    /// Results that were left for a norm, by it and its gain.
    pub(crate) weighted: BTreeMap<(ValueId, ValueId), Weighted>,
    /// Logits of which greedy rows were left as they are.
    pub(crate) greedy: BTreeMap<ValueId, GreedyRows>,
    /// What is left to be chosen on the device; the place in the list is the number.
    choices: Vec<Left>,
}

/// What is left to be chosen: the same kernels for the same lengths are one choice, wherever they are launched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Left {
    pub(crate) variant: Option<Variant>,
    /// The modules of each candidate, by its number.
    pub(crate) kernels: Vec<(u32, u32)>,
}

impl Handed {
    /// The number of a choice.
    pub(crate) fn choice(&mut self, left: Left) -> u32 {
        let known = self.choices.iter().position(|other| *other == left);
        let number = known.unwrap_or(self.choices.len());
        if known.is_none() {
            self.choices.push(left);
        }
        number as u32
    }
}

/// Rows times the gain of a norm, and sums of their squares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighted {
    pub(crate) rows: ValueId,
    pub(crate) squares: ValueId,
}

/// What was found in rows of logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GreedyRows {
    pub(crate) statistics: ValueId,
    /// Once there is a token.
    pub(crate) candidates: Option<ValueId>,
    /// What confidence wants to know of the candidates.
    pub(crate) kind: dreamc_kernels::Confidence,
}
