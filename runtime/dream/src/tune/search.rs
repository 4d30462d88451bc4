//! The search: which candidates agree with the portable one, and which of them is fastest.

use super::choices::launching;
use super::finding::{Finding, settle};
use super::held::Held;
use super::stopped;
use super::walk::Walk;
use crate::Error;
use crate::device::{Identity, Opened};
use dreamc_artifact::code::Module;
use dreamc_artifact::plan::{Candidate, Choice, Program};
use dreamc_artifact::{Artifact, Tuned};
use dreamc_runtime::{Chosen, Device, DeviceError, StepError, unfolded};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the candidates of a choice have shown, by program and number.
type Findings = BTreeMap<(String, u32), Vec<Finding>>;

/// Goes through the requests, and chooses.
pub(super) fn search(
    opened: &mut Opened<'_>,
    artifact: &Artifact<'_>,
    requests: &[Held],
    clock: &mut dyn FnMut() -> Duration,
    watch: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Tuned, Error> {
    let target = opened.target.clone();
    let identity = opened.identity.clone().ok_or_else(|| Error::NotTuned { device: opened.about.clone() })?;
    let Identity { name: device, arch, driver } = identity;
    let modules = artifact.code(&target).map_or(&[][..], |code| &code.modules);
    let programs = artifact.plan(&target).map_or(&[][..], |plan| &plan.programs);
    let mut asked = Vec::new();
    for request in requests {
        let Some(program) = programs.iter().find(|program| program.name == request.program) else { continue };
        let symbols = symbols(program, request)?;
        let reached = reached(program, &symbols);
        asked.push((request, program, symbols, reached));
    }
    let of = |reached: &[Choice]| reached.iter().map(|choice| u64::from(choice.candidates)).sum::<u64>();
    let total = asked.iter().map(|(.., reached)| of(reached)).sum();
    let (mut done, mut findings) = (0, Findings::new());
    let mut watch = |more: u64| {
        done += more;
        if watch(done, total) { Ok(()) } else { Err(stopped()) }
    };
    for (request, program, symbols, reached) in &asked {
        for choice in reached {
            let key = (program.name.clone(), choice.number);
            findings.entry(key).or_insert_with(|| none_yet(program, modules, *choice));
        }
        let device = opened.device.as_mut();
        one(device, modules, (request, program, symbols), reached, &mut findings, clock, &mut watch)?;
    }
    let lengths: BTreeSet<u32> = requests.iter().map(Held::positions).collect();
    let choices = findings.into_iter().map(|((program, choice), found)| settle(program, choice, found));
    let (lengths, choices) = (lengths.into_iter().collect(), choices.collect());
    Ok(Tuned { target, device, arch, driver, lengths, choices })
}

/// One request: all candidates that it reaches.
fn one(
    device: &mut dyn Device,
    modules: &[Module],
    (request, program, symbols): (&Held, &Program, &[u32]),
    reached: &[Choice],
    findings: &mut Findings,
    clock: &mut dyn FnMut() -> Duration,
    watch: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut refused: BTreeMap<String, String> = BTreeMap::new();
    let walk = loop {
        let loads = |choice: &Choice, nth: u32| {
            let only = Chosen::from([(choice.number, nth)]);
            let launches = |kernel: &String| {
                launching(program, modules, kernel, &only).iter().any(|own| own.number == choice.number)
            };
            !refused.keys().any(launches)
        };
        let others = program.choices().into_iter().map(|choice| {
            let usual = if loads(&choice, 0) { 0 } else { choice.portable() };
            (choice.number, usual)
        });
        // Where nothing can be compared with, nothing is chosen.
        let judged = reached.iter().filter(|choice| loads(choice, choice.portable()));
        let list: Vec<(Choice, Vec<u32>)> = judged
            .map(|choice| (*choice, (0..choice.candidates).filter(|nth| loads(choice, *nth)).collect()))
            .collect();
        let (all, what) = unfolded(program, &list, &others.collect());
        match device.prepare(&all) {
            Ok(()) => break Walk::new(all, what, modules, symbols)?,
            Err(DeviceError::Kernel { kernel, error }) if !refused.contains_key(&kernel) => {
                refused.insert(kernel, error);
            }
            Err(error) => return Err(error.into()),
        }
    };
    for choice in reached {
        let Some(found) = findings.get_mut(&(program.name.clone(), choice.number)) else { continue };
        found.iter_mut().for_each(|finding| finding.refuse(&refused));
    }
    walk.begin(device, request)?;
    walk.judge(device, &mut |choice, nth, judged| {
        let found =
            findings.get_mut(&(program.name.clone(), choice)).and_then(|all| all.get_mut(nth as usize));
        found.into_iter().for_each(|finding| finding.judge(judged.clone()));
        watch(0)
    })?;
    for choice in reached {
        let Some(found) = findings.get_mut(&(program.name.clone(), choice.number)) else { continue };
        let agree = (0..).zip(found.iter()).filter(|(_, finding)| finding.agrees());
        let agree: Vec<u32> = agree.map(|(nth, _)| nth).collect();
        for (nth, us) in walk.time(device, choice.number, &agree, clock)? {
            found.get_mut(nth as usize).into_iter().for_each(|finding| finding.time(us));
        }
        watch(u64::from(choice.candidates))?;
    }
    Ok(())
}

/// The lengths of a request in the order of the program's symbols.
fn symbols(program: &Program, request: &Held) -> Result<Vec<u32>, StepError> {
    let of = |symbol: &dreamc_artifact::plan::Symbol| {
        let given = request.lengths.iter().find(|(name, _)| *name == symbol.name);
        let found = given.map_or(symbol.max, |(_, n)| *n);
        let fits = (1..=symbol.max).contains(&found);
        let error = || StepError::Symbol { symbol: symbol.name.clone(), found, max: symbol.max };
        if fits { Ok(found) } else { Err(error()) }
    };
    program.symbols.iter().map(of).collect()
}

/// The choices that are made at these lengths.
fn reached(program: &Program, symbols: &[u32]) -> Vec<Choice> {
    let launches = || program.dispatches().flat_map(|dispatch| &dispatch.launches);
    let is_made = |choice: &Choice| {
        launches().any(|launch| {
            let own = launch.candidate.is_some_and(|candidate| candidate.choice == choice.number);
            own && launch.serves(symbols) == Some(true)
        })
    };
    program.choices().into_iter().filter(is_made).collect()
}

/// Candidates of which nothing is known but what they launch.
fn none_yet(program: &Program, modules: &[Module], choice: Choice) -> Vec<Finding> {
    let of = |nth: u32| {
        let own = Some(Candidate { choice: choice.number, nth });
        let dispatch = program.dispatches().find(|d| d.launches.iter().any(|launch| launch.candidate == own));
        let launches = dispatch.into_iter().flat_map(|dispatch| &dispatch.launches);
        let launched = launches.filter(|launch| launch.candidate == own);
        let kernels = launched.filter_map(|launch| modules.get(launch.module as usize));
        Finding::new(kernels.map(|module| module.name.clone()).collect())
    };
    (0..choice.candidates).map(of).collect()
}
