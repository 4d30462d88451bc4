//! A dispatch whose launches a target is asked for: what it computes, who looks at its result, and the memory that it may take.

use crate::constants::Source;
use crate::space::{COUNTERS, Space};
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dim, Kernel, Value, ValueId};
use dreamc_ir::{Literal, NodeData, Type};
use dreamc_num::DType;

/// A dispatch whose launches are asked for.
pub struct Job<'a, 's> {
    pub(crate) space: &'a mut Space<'s>,
    /// What is computed.
    pub kernel: &'a Kernel,
    /// Operands.
    pub reads: &'a [ValueId],
    /// Results.
    pub writes: &'a [ValueId],
    pub(crate) spare: &'a [bool],
    pub(crate) users: Users<'a>,
    /// When what is computed again and again with this dispatch began to be.
    pub(crate) born: u32,
}

/// Who looks at the first result of a dispatch.
#[derive(Clone, Debug, Default)]
pub struct Users<'a> {
    /// The nodes, in order; one that looks twice stands there twice.
    pub nodes: Vec<User<'a>>,
    /// Whether it is a result of the graph as well.
    pub result: bool,
}

/// A node that looks at the first result of a dispatch.
#[derive(Clone, Debug)]
pub struct User<'a> {
    /// What it computes, of what.
    pub node: &'a NodeData,
    /// Which of its operands the result is.
    pub operand: usize,
    /// Its operands, as far as they were there before the dispatch.
    pub reads: Vec<Option<Operand>>,
}

impl<'a> Users<'a> {
    /// The only one.
    pub fn only(&self) -> Option<&User<'a>> {
        match self.nodes.as_slice() {
            [only] if !self.result => Some(only),
            _ => None,
        }
    }
}

impl<'a> Job<'a, '_> {
    /// Who looks at the first result: what they do to it may be done at once. [`Target::launches`](crate::Target::launches) sees to it that they do not
    /// do it again.
    pub fn users(&self) -> &Users<'a> {
        &self.users
    }

    /// A value that a dispatch before handed over is needed in this one, though it is no operand. Whether it can be had: what
    /// was made before a loop is gone after its first step.
    pub fn keep(&mut self, id: ValueId) -> bool {
        let made = self.space.slot_of(id).map(|slot| self.space.slot(slot).first);
        let there = made.is_some_and(|made| made >= self.born);
        if there {
            self.space.keep(id, self.space.time);
        }
        there
    }

    /// Type, dimensions and, of weights, the place of a value.
    pub fn value(&self, id: ValueId) -> &Value {
        self.space.value(id)
    }

    /// Whether result `write` lies where operand `read` lies.
    pub fn in_place(&self, read: usize, write: usize) -> bool {
        let slot = |ids: &[ValueId], i: usize| ids.get(i).and_then(|id| self.space.slot_of(*id));
        slot(self.reads, read).is_some_and(|s| slot(self.writes, write) == Some(s))
    }

    /// Whether nobody needs operand `read` any more, so that it may be written over.
    pub fn spare(&self, read: usize) -> bool {
        self.spare.get(read).copied().unwrap_or(false)
    }

    /// A value that lives for this dispatch, or until it is [kept](Job::keep) for the last time.
    ///
    /// # Errors
    ///
    /// Where it is too large.
    pub fn scratch(&mut self, dtype: DType, dims: &[Dim]) -> Result<ValueId, String> {
        let made = self.space.scratch(dtype, dims);
        made.ok_or_else(|| "its scratch memory is too large; lower --max-prompt or --max-batch".to_owned())
    }

    /// Integers that are 0 when the program begins, and that every launch leaves at 0; and how many there are.
    pub fn counters(&mut self) -> (ValueId, u32) {
        (self.space.counters(), COUNTERS)
    }

    /// A list of constants, stored in the artifact.
    ///
    /// # Errors
    ///
    /// Where it cannot be stored.
    pub fn constant(&mut self, literal: Literal) -> Result<ValueId, String> {
        let (dtype, len) = match &literal {
            Literal::Floats(list) => (DType::F32, list.len()),
            Literal::Ints(list) => (DType::I32, list.len()),
        };
        let ty = Type::new(dtype, vec![(len as u64).into()]);
        let source = Source::Literal(literal);
        self.space.constant(&source, &ty, Layout::RowMajor, "constants").map_err(|e| e.to_string())
    }

    /// An operand of one of the [users](Job::users) as a value of the program; a constant row by row, in its own type.
    ///
    /// # Errors
    ///
    /// Where it cannot be stored.
    pub fn operand(&mut self, operand: &Operand) -> Result<ValueId, String> {
        match operand {
            Operand::Value(id) => Ok(*id),
            Operand::Constant(source, ty) => {
                let stored = self.space.constant(source, ty, Layout::RowMajor, "constants");
                stored.map_err(|e| e.to_string())
            }
        }
    }

    /// Largest values of the program's symbols.
    pub fn maxima(&self) -> Vec<u32> {
        self.space.maxima()
    }
}

/// What a node of the graph looks at.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A value of the program.
    Value(ValueId),
    /// A constant, and the type it has in the graph.
    Constant(Source, Type),
}

impl Operand {
    /// The value, if it is none that the artifact holds.
    pub fn value(&self) -> Option<ValueId> {
        match self {
            Operand::Value(id) => Some(*id),
            Operand::Constant(..) => None,
        }
    }
}
