//! Dimensions: polynomials of symbols with natural coefficients.

use std::collections::BTreeMap;
use std::fmt;

/// A dimension: a sum of terms `coefficient * symbol * symbol ..`, kept in one canonical form, so that
/// equal polynomials are equal values. Prints as `B*S`, `S+16`, `2*B*S+1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim {
    /// Sorted symbols of a term to its coefficient, which is never 0.
    terms: BTreeMap<Vec<String>, u64>,
}

impl Dim {
    /// The dimension that is the symbol `name`.
    pub fn symbol(name: &str) -> Dim {
        Dim { terms: BTreeMap::from([(vec![name.to_owned()], 1)]) }
    }

    /// The value if no symbol occurs.
    pub fn as_constant(&self) -> Option<u64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    /// Sum; saturates at the largest `u64`.
    pub fn plus(&self, other: &Dim) -> Dim {
        let mut sum = self.clone();
        for (symbols, coefficient) in &other.terms {
            let entry = sum.terms.entry(symbols.clone()).or_insert(0);
            *entry = entry.saturating_add(*coefficient);
        }
        sum
    }

    /// Product; saturates at the largest `u64`.
    pub fn times(&self, other: &Dim) -> Dim {
        let mut product = Dim::default();
        for (left, a) in &self.terms {
            for (right, b) in &other.terms {
                let mut symbols = [left.clone(), right.clone()].concat();
                symbols.sort();
                let term = Dim { terms: BTreeMap::from([(symbols, a.saturating_mul(*b))]) };
                product = product.plus(&term);
            }
        }
        product
    }

    /// The polynomial without `n` of its constant term; `None` if that is smaller.
    pub fn minus(&self, n: u64) -> Option<Dim> {
        let constant = self.terms.get(&Vec::new()).copied().unwrap_or(0).checked_sub(n)?;
        let mut rest = self.clone();
        rest.terms.remove(&Vec::new());
        Some(rest.plus(&constant.into()))
    }

    /// The polynomial over `n`; `None` if a coefficient is no multiple of it.
    pub fn over(&self, n: u64) -> Option<Dim> {
        let over = |(symbols, c): (&Vec<String>, &u64)| {
            (n > 0 && c.is_multiple_of(n)).then(|| (symbols.clone(), c / n))
        };
        Some(Dim { terms: self.terms.iter().map(over).collect::<Option<_>>()? })
    }

    /// The value where `symbol(name)` gives each symbol; `None` on overflow or an unknown symbol.
    pub fn at(&self, symbol: &dyn Fn(&str) -> Option<u64>) -> Option<u64> {
        self.terms().try_fold(0_u64, |sum, (coefficient, symbols)| {
            let product = symbols.iter().try_fold(coefficient, |p, s| p.checked_mul(symbol(s)?))?;
            sum.checked_add(product)
        })
    }

    /// Whether `symbol` occurs.
    pub fn has(&self, symbol: &str) -> bool {
        self.terms.keys().flatten().any(|name| name == symbol)
    }

    /// Terms in canonical order: coefficient and its symbols.
    pub fn terms(&self) -> impl Iterator<Item = (u64, &[String])> {
        self.terms.iter().rev().map(|(symbols, coefficient)| (*coefficient, symbols.as_slice()))
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Dim {
        if n == 0 { Dim::default() } else { Dim { terms: BTreeMap::from([(Vec::new(), n)]) } }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        for (i, (coefficient, symbols)) in self.terms().enumerate() {
            let plus = if i > 0 { "+" } else { "" };
            match (coefficient, symbols) {
                (c, []) => write!(f, "{plus}{c}")?,
                (1, s) => write!(f, "{plus}{}", s.join("*"))?,
                (c, s) => write!(f, "{plus}{c}*{}", s.join("*"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical() {
        let (b, s) = (Dim::symbol("B"), Dim::symbol("S"));
        assert_eq!(b.times(&s), s.times(&b));
        assert_eq!(b.times(&s.plus(&2.into())).to_string(), "B*S+2*B");
        assert_eq!(b.times(&0.into()), Dim::from(0));
        assert_eq!(Dim::from(3).times(&Dim::from(4)).as_constant(), Some(12));
        assert_eq!(b.plus(&s).at(&|name| Some(if name == "B" { 2 } else { 5 })), Some(7));
        assert_eq!(b.at(&|_| None), None);
        assert!(b.times(&s).has("S") && !b.has("S"));
        assert_eq!(b.plus(&3.into()).minus(3), Some(b.clone()));
        assert_eq!((b.minus(1), Dim::from(2).minus(2)), (None, Some(Dim::from(0))));
        assert_eq!(b.times(&4.into()).plus(&8.into()).over(4), Some(b.plus(&2.into())));
        assert_eq!((b.times(&4.into()).over(3), b.over(0)), (None, None));
    }
}
