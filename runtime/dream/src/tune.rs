//! Which candidates of a plan run here: those that `dreamc tune` found, else those of the compiler's model; and how they are
//! found.
//!
//! Requests are held as their programs take them ([`Model::hold`]), then each program is walked with the operands of the
//! request: every candidate computes what the portable one has computed, and is compared with it, before all are timed.

mod agreement;
mod choices;
mod finding;
mod held;
mod search;
mod walk;

pub use agreement::limit;
pub(crate) use choices::Choices;
pub use held::Held;

use crate::{Error, Model};
use dreamc_artifact::Tuned;
use dreamc_runtime::StepError;
use std::time::Duration;

impl Model {
    /// Whether requests from here on are kept for [`Model::tune`]: they are not answered, and end as [`StepError::Stopped`]
    /// says. Those that were kept before are forgotten.
    pub fn hold(&mut self, hold: bool) {
        self.with_engine(|engine| engine.held = hold.then(Vec::new));
    }

    /// The requests that were kept.
    pub fn held(&mut self) -> Vec<Held> {
        self.with_engine(|engine| engine.held.clone().unwrap_or_default())
    }

    /// Whether something is left to be chosen on the device that the model is open on.
    ///
    /// # Errors
    ///
    /// Where there is no such device, or the artifact carries no candidates for it.
    pub fn check_tunable(&mut self) -> Result<(), Error> {
        let about = self.device().ok_or(Error::Unopened)?.to_owned();
        self.with_engine(|engine| {
            let (opened, artifact) = engine.parts().ok_or(Error::Unopened)?;
            if opened.identity.is_none() {
                return Err(Error::NotTuned { device: about });
            }
            let target = opened.target.clone();
            let plan = artifact.plan(&target);
            let none = plan.is_none_or(|plan| plan.programs.iter().all(|p| p.choices().is_empty()));
            if none { Err(Error::NoCandidates { target }) } else { Ok(()) }
        })
    }

    /// Finds the fastest candidate of every choice that these requests reach, among those that agree with the portable one. The
    /// model then runs with them. `clock` gives the time since some moment; `watch` is told how many candidates are done and
    /// how many there are, and says whether to go on.
    ///
    /// # Errors
    ///
    /// As [`Model::check_tunable`], where the device fails, and [`StepError::Stopped`] where `watch` says so.
    pub fn tune(
        &mut self,
        requests: &[Held],
        clock: &mut dyn FnMut() -> Duration,
        watch: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Tuned, Error> {
        self.check_tunable()?;
        self.with_engine(|engine| {
            let (opened, artifact) = engine.parts().ok_or(Error::Unopened)?;
            let found = search::search(opened, artifact, requests, clock, watch)?;
            engine.choices.take(&found);
            Ok(found)
        })
    }
}

/// Somebody does not want it any more.
fn stopped() -> Error {
    StepError::Stopped.into()
}
