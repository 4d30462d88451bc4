//! Dimensions as polynomials in one normal form, so that "equal for every request" can be decided.

use crate::plan::Dim;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Most terms of a dimension.
pub(crate) const TERM_COUNT_MAX: usize = 16;
/// Most symbols in a term.
pub(crate) const FACTOR_COUNT_MAX: usize = 8;

/// Most terms of a product of dimensions: no shape has nearly as many.
const PRODUCT_TERM_COUNT_MAX: usize = 64;

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

    /// 0.
    pub(crate) fn zero() -> Poly {
        Poly(BTreeMap::new())
    }

    /// `self + other`; `None` on overflow.
    pub(crate) fn plus(mut self, other: &Poly) -> Option<Poly> {
        for (symbols, n) in &other.0 {
            let sum = self.0.entry(symbols.clone()).or_insert(0);
            *sum = sum.checked_add(*n)?;
        }
        Some(self)
    }

    /// `self * other`; `None` on overflow, or where there would be too many terms.
    fn times(&self, other: &Poly) -> Option<Poly> {
        let mut product = Poly::zero();
        for (a, n) in &self.0 {
            for (b, m) in &other.0 {
                let mut symbols = [a.as_slice(), b].concat();
                symbols.sort_unstable();
                let term = product.0.entry(symbols).or_insert(0);
                *term = n.checked_mul(*m).and_then(|nm| term.checked_add(nm))?;
                if product.0.len() > PRODUCT_TERM_COUNT_MAX {
                    return None;
                }
            }
        }
        Some(product)
    }

    /// The number of elements of a shape; `None` on overflow, or where there are too many terms.
    pub(crate) fn elements(dims: &[Dim]) -> Option<Poly> {
        let one = Poly::of(&Dim::constant(1));
        dims.iter().try_fold(one, |product, dim| product.times(&Poly::of(dim)))
    }
}

/// Whether two dimensions are equal for all values of the symbols.
pub(crate) fn same_dim(a: &Dim, b: &Dim) -> bool {
    a == b || Poly::of(a) == Poly::of(b)
}

/// Whether two shapes are equal for all values of the symbols.
pub fn same_dims(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_dim(a, b))
}

/// The dimension's value if no symbol occurs in it.
pub(crate) fn constant(dim: &Dim) -> Option<u32> {
    // `at` fails on every symbol, since none is given.
    dim.at(&[])
}
