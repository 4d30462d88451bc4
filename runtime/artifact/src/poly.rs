//! Dimensions as polynomials in one normal form, so that "equal for every request" can be decided.

use crate::plan::Dim;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Most terms of a dimension.
pub(crate) const TERM_COUNT_MAX: usize = 16;
/// Most symbols in a term.
pub(crate) const FACTOR_COUNT_MAX: usize = 8;

/// Coefficient per product of symbols; products are sorted, coefficients are not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Poly(BTreeMap<Vec<u32>, u128>);

impl Poly {
    /// The normal form of one dimension.
    pub(crate) fn of(dim: &Dim) -> Poly {
        let mut terms = BTreeMap::new();
        for term in &dim.terms {
            if term.coefficient != 0 {
                let mut symbols = term.symbols.clone();
                symbols.sort_unstable();
                *terms.entry(symbols).or_insert(0) += u128::from(term.coefficient);
            }
        }
        Poly(terms)
    }
}

/// Whether two dimensions are equal for all values of the symbols.
pub(crate) fn same_dim(a: &Dim, b: &Dim) -> bool {
    a == b || Poly::of(a) == Poly::of(b)
}

/// Whether two shapes are equal for all values of the symbols.
pub(crate) fn same_dims(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_dim(a, b))
}

/// The dimension's value if no symbol occurs in it.
pub(crate) fn constant(dim: &Dim) -> Option<u32> {
    // `at` fails on every symbol, since none is given.
    dim.at(&[])
}
