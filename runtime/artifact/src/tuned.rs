//! What was found on a device about the candidates of a plan: a part of the manifest.

use crate::plan::{Choice, Plan, Program};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What one run of `dreamc tune` found about a target's plan. It holds for devices of this name and architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The target, as in the manifest.
    pub target: String,
    /// The device's name.
    pub device: String,
    /// Its architecture: `sm_90`.
    pub arch: String,
    /// The driver's version; empty where it tells none.
    pub driver: String,
    /// Positions of the requests that were timed, ascending.
    pub lengths: Vec<u32>,
    /// What was chosen: by program, then by number. What no request reached is not there.
    pub choices: Vec<TunedChoice>,
}

/// One choice of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedChoice {
    /// The program's name.
    pub program: String,
    /// The number of the choice.
    pub choice: u32,
    /// The candidate that was chosen.
    pub winner: u32,
    /// Every candidate, in order.
    pub candidates: Vec<Timed>,
}

/// What was found about one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// Its kernels, in the order of their launches.
    pub kernels: Vec<String>,
    /// Microseconds of a dispatch: the median, on average over the lengths; none where it was not timed.
    pub us: Option<f64>,
    /// Largest difference from the portable candidate, as a share of that one's largest magnitude; none where it computed
    /// something that is not finite, or nothing.
    pub error: Option<f64>,
    /// Why it cannot be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Tuned {
    /// Whether JSON has words for all its numbers.
    pub(crate) fn is_finite(&self) -> bool {
        let timed = self.choices.iter().flat_map(|choice| &choice.candidates);
        timed.flat_map(|timed| [timed.us, timed.error]).flatten().all(f64::is_finite)
    }

    /// Whether every choice is one that the plan leaves, once, with as many candidates and one of them chosen.
    pub fn fits(&self, plan: &Plan) -> bool {
        let key = |chosen: &TunedChoice| (chosen.program.clone(), chosen.choice);
        let of = |program: &Program| -> Vec<(String, Choice)> {
            program.choices().into_iter().map(|choice| (program.name.clone(), choice)).collect()
        };
        let left: Vec<(String, Choice)> = plan.programs.iter().flat_map(of).collect();
        let known = |chosen: &TunedChoice| {
            let candidates = chosen.candidates.len() as u32;
            let choice = Choice { number: chosen.choice, candidates };
            chosen.winner < candidates && left.iter().any(|own| own.0 == chosen.program && own.1 == choice)
        };
        self.choices.len() <= left.len()
            && self.choices.iter().all(known)
            && self.choices.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
    }

    /// The winners of a program, by the number of the choice.
    pub fn winners<'t>(&'t self, program: &'t str) -> impl Iterator<Item = (u32, u32)> + 't {
        let own = self.choices.iter().filter(move |chosen| chosen.program == program);
        own.map(|chosen| (chosen.choice, chosen.winner))
    }
}
