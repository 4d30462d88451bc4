//! How stored tensors differ from those that a config implies.

use std::fmt;

/// How the stored tensors differ from what config.json implies. Each list is complete and sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorProblems {
    /// Implied but not stored.
    pub missing: Vec<String>,
    /// Stored but not implied.
    pub extra: Vec<String>,
    /// Stored in another shape.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor stored in another shape than the config implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub tensor: String,
    /// The stored shape.
    pub found: Vec<u64>,
    /// The implied shape.
    pub expected: Vec<u64>,
}

impl TensorProblems {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.misshapen.is_empty()
    }
}

/// The message names this many of each kind.
const LISTED_MAX: usize = 3;

impl fmt::Display for TensorProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |list: &[String]| list.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>();
        let shapes = self
            .misshapen
            .iter()
            .map(|m| format!("`{}` is {:?} instead of {:?}", m.tensor, m.found, m.expected))
            .collect::<Vec<_>>();
        let kinds = [("missing", names(&self.missing)), ("extra", names(&self.extra)), ("misshapen", shapes)];
        let mut separator = "";
        for (kind, list) in kinds.iter().filter(|(_, list)| !list.is_empty()) {
            let first = list[..list.len().min(LISTED_MAX)].join(", ");
            write!(f, "{separator}{} {kind} ({first}", list.len())?;
            if list.len() > LISTED_MAX {
                write!(f, " and {} more", list.len() - LISTED_MAX)?;
            }
            f.write_str(")")?;
            separator = "; ";
        }
        Ok(())
    }
}
