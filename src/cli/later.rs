//! Flags and values of the command's contract that this version does not have: each is refused by name, with what
//! works instead, rather than taken for a slip of the keyboard.

use super::error::Failure;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// A flag that this version refuses.
struct Later {
    command: &'static str,
    flag: &'static str,
    /// Whether a value follows.
    takes_value: bool,
    /// What works instead.
    instead: &'static str,
}

const fn later(command: &'static str, flag: &'static str, takes_value: bool, instead: &'static str) -> Later {
    Later { command, flag, takes_value, instead }
}

const LATER: &[Later] = &[later(
    "build",
    "calib",
    true,
    "this version rounds weights by themselves, without calibration; leave --calib out",
)];

/// The command with those flags added, hidden from its help.
pub(crate) fn with_flags(command: Command) -> Command {
    LATER.iter().fold(command, |command, later| {
        let action = if later.takes_value { ArgAction::Append } else { ArgAction::SetTrue };
        let arg = Arg::new(later.flag).long(later.flag).action(action).hide(true);
        let arg = if later.takes_value { arg.allow_hyphen_values(true) } else { arg };
        command.mut_subcommand(later.command, |c| c.arg(arg))
    })
}

/// Refuses the first such flag given.
pub(crate) fn refuse(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    let given = |l: &&Later| matches.value_source(l.flag) == Some(ValueSource::CommandLine);
    match LATER.iter().filter(|l| l.command == name).find(given) {
        Some(later) => {
            let message = format!("`dreamc {name} --{}` is not supported by this version", later.flag);
            Err(Failure::usage(message, later.instead))
        }
        None => Ok(()),
    }
}

/// The value of a flag if this version has it. `known` are values that the contract has and this version has not.
pub(crate) fn only(text: &str, works: &[&str], known: &[&str]) -> Result<String, String> {
    let kind = text.split(':').next().unwrap_or_default();
    let works_text = works.join(", ");
    if works.contains(&text) {
        Ok(text.to_owned())
    } else if known.contains(&kind) {
        Err(format!("not supported by this version, which has: {works_text}"))
    } else {
        Err(format!("unknown; this version has: {works_text}"))
    }
}
