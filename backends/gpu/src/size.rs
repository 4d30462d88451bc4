//! Arithmetic on the dimensions of a plan.

use dreamc_artifact::plan::{Dim, Term};

/// The product of dimensions; `None` where a factor is too large for a plan.
pub(crate) fn product(dims: &[Dim]) -> Option<Dim> {
    dims.iter().try_fold(Dim::constant(1), |product, dim| times(&product, dim))
}

/// `a * b`.
pub(crate) fn times(a: &Dim, b: &Dim) -> Option<Dim> {
    let mut terms: Vec<Term> = Vec::new();
    for x in &a.terms {
        for y in &b.terms {
            let mut symbols = [x.symbols.as_slice(), &y.symbols].concat();
            symbols.sort_unstable();
            add(&mut terms, x.coefficient.checked_mul(y.coefficient)?, symbols)?;
        }
    }
    Some(Dim { terms })
}

/// `a + b`.
pub(crate) fn plus(a: &Dim, b: &Dim) -> Option<Dim> {
    let mut terms = Vec::new();
    for term in a.terms.iter().chain(&b.terms) {
        add(&mut terms, term.coefficient, term.symbols.clone())?;
    }
    Some(Dim { terms })
}

/// The dimension if it is the same in every request.
pub(crate) fn constant(dim: &Dim) -> Option<u32> {
    dim.terms.iter().all(|t| t.symbols.is_empty()).then(|| dim.at(&[]))?
}

fn add(terms: &mut Vec<Term>, coefficient: u32, symbols: Vec<u32>) -> Option<()> {
    match terms.iter_mut().find(|t| t.symbols == symbols) {
        Some(term) => term.coefficient = term.coefficient.checked_add(coefficient)?,
        None => terms.push(Term { coefficient, symbols }),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials() {
        let symbol = |i| Dim { terms: vec![Term { coefficient: 1, symbols: vec![i] }] };
        let sum = plus(&symbol(0), &Dim::constant(3)).unwrap();
        let squared = times(&sum, &sum).unwrap();
        assert_eq!(squared.at(&[5]), Some(64));
        assert_eq!(squared.terms.len(), 3);
        assert_eq!(product(&[symbol(1), symbol(0), Dim::constant(2)]).unwrap().at(&[3, 4]), Some(24));
        assert_eq!(constant(&product(&[]).unwrap()), Some(1));
        assert_eq!(constant(&sum), None);
        assert_eq!(times(&Dim::constant(1 << 31), &Dim::constant(2)), None);
    }
}
