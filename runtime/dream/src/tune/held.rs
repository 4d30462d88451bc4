//! A request that is kept instead of answered.

use crate::engine::Inputs;

/// A request as a program takes it: lengths and inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub(crate) program: String,
    pub(crate) lengths: Vec<(String, u32)>,
    pub(crate) inputs: Inputs,
}

impl Held {
    pub(crate) fn new(program: &str, lengths: &[(&str, u32)], inputs: &Inputs) -> Held {
        let lengths = lengths.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Held { program: program.to_owned(), lengths, inputs: inputs.clone() }
    }

    /// Positions of a row; 0 where the program has none.
    pub fn positions(&self) -> u32 {
        self.lengths.iter().find(|(name, _)| name == "S").map_or(0, |(_, n)| *n)
    }
}
