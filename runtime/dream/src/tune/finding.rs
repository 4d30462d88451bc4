//! What is found about candidates, and which of them is chosen.

use dreamc_artifact::{Timed, TunedChoice};
use std::collections::BTreeMap;

/// By how much another candidate must be faster than the compiler's choice to take its place: less than that may be chance.
const FASTER: f64 = 0.02;

/// How far a candidate is from the portable one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Judged {
    /// As a share of the largest, and how much may be.
    Off { off: f32, limit: f32 },
    /// Something is not finite, or what must be the same is not.
    NotComparable,
    /// The driver does not run it.
    Refused(String),
}

/// What one candidate has shown so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    kernels: Vec<String>,
    /// The worst difference.
    error: Option<f32>,
    /// Why it cannot be chosen.
    refused: Option<String>,
    /// Microseconds of a dispatch, for each request.
    us: Vec<f64>,
}

impl Finding {
    pub(super) fn new(kernels: Vec<String>) -> Finding {
        Finding { kernels, error: None, refused: None, us: Vec::new() }
    }

    /// Notes kernels that the driver does not load, and why.
    pub(super) fn refuse(&mut self, kernels: &BTreeMap<String, String>) {
        if let Some((kernel, error)) = kernels.iter().find(|(kernel, _)| self.kernels.contains(kernel)) {
            self.refused.get_or_insert_with(|| format!("the driver does not load `{kernel}`: {error}"));
        }
    }

    /// Notes what came of a comparison.
    pub(super) fn judge(&mut self, judged: Judged) {
        match judged {
            Judged::Off { off, limit } => {
                self.error = Some(self.error.map_or(off, |error| error.max(off)));
                if off > limit {
                    self.refused.get_or_insert_with(|| {
                        format!("it differs from the portable kernel by {off} of the largest, which may be {limit}")
                    });
                }
            }
            Judged::NotComparable => {
                let why = "it or the portable kernel computes what is not finite";
                self.refused.get_or_insert_with(|| why.to_owned());
            }
            Judged::Refused(error) => {
                self.refused.get_or_insert(error);
            }
        }
    }

    /// Whether it has been compared, and may be chosen.
    pub(super) fn agrees(&self) -> bool {
        self.error.is_some() && self.refused.is_none()
    }

    pub(super) fn time(&mut self, us: f64) {
        self.us.push(us);
    }

    /// On average, if it was timed.
    fn us(&self) -> Option<f64> {
        (!self.us.is_empty()).then(|| self.us.iter().sum::<f64>() / self.us.len() as f64)
    }
}

/// The fastest of those that agree; the compiler's choice unless another is clearly faster.
pub(super) fn settle(program: String, choice: u32, found: Vec<Finding>) -> TunedChoice {
    let time = |finding: &Finding| finding.us().filter(|_| finding.agrees());
    let times = (0..).zip(&found).filter_map(|(nth, finding)| Some((nth, time(finding)?)));
    let fastest = times.reduce(|best: (u32, f64), other| if other.1 < best.1 { other } else { best });
    let usual = found.first().and_then(time);
    let winner = match (fastest, usual) {
        (Some((_, us)), Some(usual)) if us >= usual * (1.0 - FASTER) => 0,
        (Some((nth, _)), _) => nth,
        (None, _) => 0,
    };
    let timed = |finding: Finding| Timed {
        us: finding.us().map(|us| (us * 1e3).round() / 1e3),
        error: finding.error.map(f64::from),
        kernels: finding.kernels,
        refused: finding.refused,
    };
    TunedChoice { program, choice, winner, candidates: found.into_iter().map(timed).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(us: f64, judged: Judged) -> Finding {
        let mut finding = Finding::new(vec!["k".to_owned()]);
        finding.judge(judged);
        finding.time(us);
        finding
    }

    fn winner(found: &[Finding]) -> u32 {
        settle("f".to_owned(), 0, found.to_vec()).winner
    }

    const FINE: Judged = Judged::Off { off: 0.001, limit: 0.01 };

    #[test]
    fn the_fastest_of_those_that_agree() {
        let wrong = Judged::Off { off: 0.02, limit: 0.01 };
        assert_eq!(winner(&[finding(10.0, FINE), finding(8.0, FINE), finding(30.0, FINE)]), 1);
        assert_eq!(winner(&[finding(10.0, FINE), finding(1.0, wrong.clone()), finding(30.0, FINE)]), 0);
        assert_eq!(
            winner(&[finding(10.0, FINE), finding(1.0, Judged::NotComparable), finding(9.0, FINE)]),
            2
        );
        // Hardly faster is not faster; what is wrong is not kept either.
        assert_eq!(winner(&[finding(10.0, FINE), finding(9.9, FINE), finding(30.0, FINE)]), 0);
        assert_eq!(winner(&[finding(10.0, wrong.clone()), finding(11.0, FINE), finding(30.0, FINE)]), 1);
        assert_eq!(winner(&[finding(10.0, wrong.clone()), finding(11.0, wrong), finding(30.0, FINE)]), 2);
        // With nothing to compare there is nothing to choose.
        assert_eq!(winner(&[finding(10.0, Judged::NotComparable), finding(1.0, Judged::NotComparable)]), 0);
    }

    #[test]
    fn one_bad_comparison_is_enough() {
        let mut bad = finding(1.0, Judged::Off { off: 0.5, limit: 0.01 });
        bad.judge(FINE);
        assert!(!bad.agrees());
        let chosen = settle("f".to_owned(), 3, vec![finding(2.0, FINE), bad]);
        assert_eq!((chosen.winner, chosen.candidates[1].error), (0, Some(0.5)));
        assert!(chosen.candidates[1].refused.as_deref().is_some_and(|why| why.contains("differs")));
    }
}
