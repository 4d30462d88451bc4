//! The scale of a group of 4-bit codes that rounds its values with the least squared error. Each value has an importance, by
//! which its squared error is multiplied: that of what it is multiplied with, where that is known.
//!
//! The span of the values wastes codes on the few largest. So spans that are somewhat shorter are tried as well: the codes of
//! each give the scale that fits them best by least squares, and of all these groups the one that errs least is taken,
//! the plain span where it is none worse.

use super::{Group, INT4_MAX, INT4_MIDDLE, bounds};

/// Parts of the plain scale that a symmetric group tries, in both signs. Above 1 the extreme value has the last code of the
/// side that has fewer.
const PARTS: [f32; 8] = [1.12, 1.05, 1.0, 0.95, 0.9, 0.84, 0.78, 0.7];
/// Parts of the smallest and of the largest value between which other groups span.
const ENDS: [f32; 4] = [1.0, 0.92, 0.84, 0.75];
/// Partial sums, added up in one order on every host.
const LANES: usize = 8;

impl Group {
    /// The group that rounds `values` with the least squared error of those tried; never worse than [`Group::spanning`].
    /// Errors count as much as the `importance` of their value, one for each, not negative.
    pub fn fitting(values: &[f32], importance: &[f32], zero: bool) -> Group {
        let span = Group::spanning(values, zero);
        if span.scale == 0.0 {
            return span;
        }
        let mut best = Best { group: span, gain: f32::NEG_INFINITY };
        if zero {
            let (min, max) = bounds(values);
            for below in ENDS {
                for above in ENDS {
                    let (low, high) = (min * below, max * above);
                    best.with_zero((values, importance), low, (high - low) / INT4_MAX);
                }
            }
        } else {
            for part in PARTS {
                best.symmetric((values, importance), span.scale * part);
                best.symmetric((values, importance), -span.scale * part);
            }
        }
        // The best may be better still with codes of its own.
        let Group { scale, min } = best.group;
        if zero {
            best.with_zero((values, importance), min, scale);
        } else {
            best.symmetric((values, importance), scale);
        }
        // Its numbers were rounded to bf16 since, so that it may err more than the plain span.
        let of = (values, importance);
        if best.group.error(of) < span.error(of) { best.group } else { span }
    }

    /// Sum of the squared errors of values rounded in this group.
    fn error(self, values: Weighed<'_>) -> f32 {
        let inverse = 1.0 / self.scale;
        let [error] = sums(values, |x, weight| {
            let error = x - (self.min + self.scale * code(x, self.min, inverse));
            [error * error * weight]
        });
        error
    }
}

/// Values and the importance of each.
type Weighed<'a> = (&'a [f32], &'a [f32]);

/// The best group so far.
struct Best {
    group: Group,
    /// How much less it errs, by least squares, than zeros would.
    gain: f32,
}

impl Best {
    fn offer(&mut self, gain: f32, group: Group) {
        // False as well where something is not a number.
        if gain > self.gain && group.scale != 0.0 {
            (self.group, self.gain) = (group, gain);
        }
    }

    /// Offers the symmetric group of least squares for the codes at this scale.
    fn symmetric(&mut self, values: Weighed<'_>, scale: f32) {
        let (min, inverse) = (-INT4_MIDDLE * scale, 1.0 / scale);
        let [products, squares] = sums(values, |x, weight| {
            let code = code(x, min, inverse) - INT4_MIDDLE;
            [x * code * weight, code * code * weight]
        });
        if squares > 0.0 {
            let scale = products / squares;
            self.offer(products * scale, Group::symmetric(scale));
        }
    }

    /// Offers the group of least squares for the codes at this smallest value and scale.
    fn with_zero(&mut self, values: Weighed<'_>, min: f32, scale: f32) {
        let inverse = 1.0 / scale;
        // Codes around the middle, so that their sums stay small.
        let [count, codes, squares, total, products] = sums(values, |x, weight| {
            let code = code(x, min, inverse) - INT4_MIDDLE;
            [weight, code * weight, code * code * weight, x * weight, x * code * weight]
        });
        let determinant = count * squares - codes * codes;
        if determinant > 0.0 {
            let scale = (count * products - codes * total) / determinant;
            let middle = (total - scale * codes) / count;
            // The smallest value follows from the scale as it is stored.
            let stored = Group::with_zero(scale, 0.0).scale;
            let min = (total - stored * codes) / count - INT4_MIDDLE * stored;
            self.offer(scale * products + middle * total, Group::with_zero(stored, min));
        }
    }
}

/// The code of `x` as a float.
fn code(x: f32, min: f32, inverse: f32) -> f32 {
    // Adding so much leaves no bits behind the point: the nearest whole number, the even one on a tie.
    const WHOLE: f32 = 12_582_912.0;
    let steps = (x - min) * inverse;
    let steps = if steps > 0.0 { steps } else { 0.0 };
    let steps = if steps < INT4_MAX { steps } else { INT4_MAX };
    (steps + WHOLE) - WHOLE
}

/// Sums of several terms of each value and its importance.
fn sums<const N: usize>((values, importance): Weighed<'_>, terms: impl Fn(f32, f32) -> [f32; N]) -> [f32; N] {
    let mut partial = [[0.0_f32; LANES]; N];
    let (whole, rest) = values.as_chunks::<LANES>();
    let (whole_importance, rest_importance) = importance.as_chunks::<LANES>();
    for (eight, importance) in whole.iter().zip(whole_importance) {
        for lane in 0..LANES {
            let terms = terms(eight[lane], importance[lane]);
            for i in 0..N {
                partial[i][lane] += terms[i];
            }
        }
    }
    for (lane, (x, importance)) in rest.iter().zip(rest_importance).enumerate() {
        let terms = terms(*x, *importance);
        for i in 0..N {
            partial[i][lane] += terms[i];
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
                let (a, b) = (Group::fitting(&values, &[1.0; 32], zero), Group::spanning(&values, zero));
                assert!(error(a, &values) <= error(b, &values) * 1.0001, "{seed}");
                fitted += error(a, &values);
                spanned += error(b, &values);
            }
            assert!(fitted < 0.9 * spanned, "zero {zero}: {fitted} {spanned}");
        }
    }

    /// Errors of important values are smaller, at the cost of the others; where nothing is important the span is as good as
    /// any group.
    #[test]
    fn important_values_err_less() {
        let importance: [f32; 32] = core::array::from_fn(|i| if i % 8 == 0 { 100.0 } else { 1.0 });
        let important = |group: Group, values: &[f32]| {
            let chosen: [f32; 4] = core::array::from_fn(|i| values[8 * i]);
            error(group, &chosen)
        };
        for zero in [false, true] {
            let (mut weighed, mut plain) = (0.0, 0.0);
            for seed in 0..200 {
                let values: [f32; 32] = values(seed);
                weighed += important(Group::fitting(&values, &importance, zero), &values);
                plain += important(Group::fitting(&values, &[1.0; 32], zero), &values);
                let none = Group::fitting(&values, &[0.0; 32], zero);
                assert_eq!(none, Group::spanning(&values, zero));
            }
            assert!(weighed < 0.6 * plain, "zero {zero}: {weighed} {plain}");
        }
    }

    /// What four bits can hold stays as it is, and what is no number changes nothing else.
    #[test]
    fn edges() {
        for zero in [false, true] {
            let zeros = Group::fitting(&[0.0; 32], &[1.0; 32], zero);
            assert_eq!(zeros.value(zeros.code(0.0)), 0.0);
            let exact: [f32; 16] = core::array::from_fn(|i| i as f32 - 8.0);
            let group = Group::fitting(&exact, &[1.0; 16], zero);
            assert!(exact.iter().all(|x| group.value(group.code(*x)) == *x), "{group:?}");
            let one = Group::fitting(&[0.3], &[1.0], zero);
            assert!((one.value(one.code(0.3)) - 0.3).abs() < 2e-3);
            let odd = Group::fitting(&[1.0, f32::NAN, -0.5], &[1.0; 3], zero);
            assert!(odd.scale.is_finite() && odd.min.is_finite());
        }
    }
}
