//! The candidates that are taken.

use crate::device::Opened;
use dreamc_artifact::code::Module;
use dreamc_artifact::plan::{Choice, Program};
use dreamc_artifact::{Artifact, Tuned};
use dreamc_runtime::Chosen;
use std::collections::BTreeMap;

/// By the name of the program; the compiler's choice where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choices(BTreeMap<String, Chosen>);

impl Choices {
    /// What the file records, if that was found on such a device; else `warn` is told.
    pub(crate) fn recorded(artifact: &Artifact<'_>, opened: &Opened<'_>, warn: Option<fn(&str)>) -> Choices {
        let mut choices = Choices::default();
        let recorded = artifact.manifest().tuned.iter().find(|tuned| tuned.target == opened.target);
        let (Some(tuned), Some(identity)) = (recorded, &opened.identity) else { return choices };
        if (&tuned.device, &tuned.arch) == (&identity.name, &identity.arch) {
            choices.take(tuned);
        } else if let Some(warn) = warn {
            let (device, arch) = (&tuned.device, &tuned.arch);
            warn(&format!(
                "the artifact is tuned for {device} ({arch}), and runs on {} ({}) with the kernels that the compiler chose; \
                 `dreamc tune FILE` on this machine finds its own",
                identity.name, identity.arch
            ));
        }
        choices
    }

    /// Takes the winners.
    pub(crate) fn take(&mut self, tuned: &Tuned) {
        self.0.clear();
        for chosen in &tuned.choices {
            self.0.entry(chosen.program.clone()).or_default().insert(chosen.choice, chosen.winner);
        }
    }

    /// Those of a program.
    pub(crate) fn of(&self, program: &str) -> &Chosen {
        const NONE: &Chosen = &Chosen::new();
        self.0.get(program).unwrap_or(NONE)
    }

    /// Takes the portable candidate wherever the one that is taken launches `kernel`. Whether there is such a place.
    pub(crate) fn without(&mut self, program: &Program, modules: &[Module], kernel: &str) -> bool {
        let chosen = self.0.entry(program.name.clone()).or_default();
        let mut changed = false;
        for choice in launching(program, modules, kernel, chosen) {
            changed |= chosen.insert(choice.number, choice.portable()) != Some(choice.portable());
        }
        changed
    }
}

/// The choices whose candidate in `chosen` launches `kernel`.
pub(super) fn launching(program: &Program, modules: &[Module], kernel: &str, chosen: &Chosen) -> Vec<Choice> {
    let launches = || program.dispatches().flat_map(|dispatch| &dispatch.launches);
    let is_taken = |choice: &Choice| {
        let nth = chosen.get(&choice.number).copied().unwrap_or(0);
        launches().any(|launch| {
            let own = launch.candidate.is_some_and(|c| (c.choice, c.nth) == (choice.number, nth));
            own && modules.get(launch.module as usize).is_some_and(|module| module.name == kernel)
        })
    };
    program.choices().into_iter().filter(is_taken).collect()
}
