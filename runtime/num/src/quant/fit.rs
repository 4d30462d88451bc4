//! The scale of a group of 4-bit codes that rounds its values with the least squared error.
//!
//! The span of the values wastes codes on the few largest. So spans that are somewhat shorter are tried as well: the codes of
//! each give the scale that fits them best by least squares, and of all these groups the one that errs least is taken,
//! the plain span where it is none worse.

use super::{Group, INT4_MAX, INT4_MIDDLE};

/// Parts of the span that are tried, the whole first.
const PARTS: [f32; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.74, 0.68];
/// Where the extreme value has a code of its own on the side of fewer codes: the span from 0 to it over 7 steps.
const NARROW: f32 = INT4_MIDDLE / (INT4_MIDDLE - 1.0);
/// Partial sums, added up in one order on every host.
const LANES: usize = 8;

impl Group {
    /// The group that rounds `values` with the least squared error of those tried; never worse than [`Group::spanning`].
    pub fn fitting(values: &[f32], zero: bool) -> Group {
        let mut best = Best::new(values, Group::spanning(values, zero));
        if best.group.scale == 0.0 {
            return best.group;
        }
        if zero {
            let (min, max) = bounds(values);
            for below in PARTS {
                for above in PARTS {
                    let (low, high) = (min * below, max * above);
                    best.offer(best.with_zero(Group::with_zero((high - low) / INT4_MAX, low)));
                }
            }
        } else {
            let scale = best.group.scale;
            for part in PARTS.into_iter().flat_map(|part| [part, part * NARROW]) {
                for scale in [scale * part, -scale * part] {
                    best.offer(best.symmetric(Group::symmetric(scale)));
                }
            }
        }
        // The best may be better still with codes of its own.
        let again = if zero { best.with_zero(best.group) } else { best.symmetric(best.group) };
        best.offer(again);
        best.group
    }

    /// Sum of the squared errors of values rounded in this group.
    fn error(self, values: &[f32]) -> f32 {
        let rounding = Rounding::of(self);
        sums(values, |x| {
            let error = x - (self.min + self.scale * rounding.code(x));
            [error * error]
        })[0]
    }
}

/// The best group so far.
struct Best<'a> {
    values: &'a [f32],
    group: Group,
    error: f32,
}

impl<'a> Best<'a> {
    fn new(values: &'a [f32], group: Group) -> Best<'a> {
        Best { values, group, error: group.error(values) }
    }

    fn offer(&mut self, group: Group) {
        let error = group.error(self.values);
        // False as well where something is not a number.
        if error < self.error {
            (self.group, self.error) = (group, error);
        }
    }

    /// The symmetric group of least squares for the codes of another.
    fn symmetric(&self, group: Group) -> Group {
        let rounding = Rounding::of(group);
        let [products, squares] = sums(self.values, |x| {
            let code = rounding.code(x) - INT4_MIDDLE;
            [x * code, code * code]
        });
        if squares > 0.0 { Group::symmetric(products / squares) } else { group }
    }

    /// The group of least squares for the codes of another.
    fn with_zero(&self, group: Group) -> Group {
        let rounding = Rounding::of(group);
        let [ones, codes, squares, values, products] = sums(self.values, |x| {
            let code = rounding.code(x);
            [1.0, code, code * code, x, x * code]
        });
        let determinant = ones * squares - codes * codes;
        if determinant > 0.0 {
            let scale = (ones * products - codes * values) / determinant;
            // With the scale as it is stored.
            let scale = Group::with_zero(scale, 0.0).scale;
            Group::with_zero(scale, (values - scale * codes) / ones)
        } else {
            group
        }
    }
}

/// Rounds to the codes of a group, as floats.
struct Rounding {
    min: f32,
    inverse: f32,
}

impl Rounding {
    fn of(group: Group) -> Rounding {
        Rounding { min: group.min, inverse: if group.scale == 0.0 { 0.0 } else { 1.0 / group.scale } }
    }

    fn code(&self, x: f32) -> f32 {
        // Adding so much leaves no bits behind the point: the nearest whole number, the even one on a tie.
        const WHOLE: f32 = 12_582_912.0;
        let steps = ((x - self.min) * self.inverse).max(0.0).min(INT4_MAX);
        (steps + WHOLE) - WHOLE
    }
}

/// Smallest and largest value, 0 among them.
fn bounds(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0, 0.0), |(min, max): (f32, f32), x| (min.min(*x), max.max(*x)))
}

/// Sums of several terms of each value.
fn sums<const N: usize>(values: &[f32], terms: impl Fn(f32) -> [f32; N]) -> [f32; N] {
    let mut partial = [[0.0_f32; LANES]; N];
    let (whole, rest) = values.as_chunks::<LANES>();
    for eight in whole {
        for (lane, x) in eight.iter().enumerate() {
            let terms = terms(*x);
            for (sum, term) in partial.iter_mut().zip(terms) {
                sum[lane] += term;
            }
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        for (sum, term) in partial.iter_mut().zip(terms(*x)) {
            sum[lane] += term;
        }
    }
    partial.map(|lanes| lanes.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values like those of trained weights: most are small, some are not.
    fn values<const N: usize>(seed: u32) -> [f32; N] {
        let mut state = seed;
        core::array::from_fn(|_| {
            let mut uniform = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            (0..4).map(|_| uniform()).sum::<f32>()
        })
    }

    fn error(group: Group, values: &[f32]) -> f32 {
        values.iter().map(|x| x - group.value(group.code(*x))).map(|e| e * e).sum()
    }

    #[test]
    fn errs_less_than_the_span() {
        for zero in [false, true] {
            let (mut fitted, mut spanned) = (0.0, 0.0);
            for seed in 0..200 {
                let values: [f32; 32] = values(seed);
                let (a, b) = (Group::fitting(&values, zero), Group::spanning(&values, zero));
                assert!(error(a, &values) <= error(b, &values) * 1.0001, "{seed}");
                fitted += error(a, &values);
                spanned += error(b, &values);
            }
            assert!(fitted < 0.85 * spanned, "zero {zero}: {fitted} {spanned}");
        }
    }

    /// What four bits can hold stays as it is, and what is no number changes nothing else.
    #[test]
    fn edges() {
        for zero in [false, true] {
            assert_eq!(
                Group::fitting(&[0.0; 32], zero).value(Group::fitting(&[0.0; 32], zero).code(0.0)),
                0.0
            );
            let exact: [f32; 16] = core::array::from_fn(|i| i as f32 - 8.0);
            let group = Group::fitting(&exact, zero);
            assert!(exact.iter().all(|x| group.value(group.code(*x)) == *x), "{group:?}");
            let one = Group::fitting(&[0.3], zero);
            assert!((one.value(one.code(0.3)) - 0.3).abs() < 2e-3);
            let odd = Group::fitting(&[1.0, f32::NAN, -0.5], zero);
            assert!(odd.scale.is_finite() && odd.min.is_finite());
        }
    }
}
