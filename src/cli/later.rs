//! Flags and values of the command's contract that this version does not have: each is refused by name, with what
//! works instead, rather than taken for a slip of the keyboard.

use clap::error::ErrorKind;
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

const TEXT_ONLY: &str = "this version builds and runs text models, which have no images";
const NO_ACTIONS: &str = "this version builds and runs text models, which have no actions";
const UNQUANTISED: &str =
    "this version stores weights as they are: leave it out and choose --dtype bf16 or f32";

const LATER: &[Later] = &[];

/// The command with those flags added, hidden from its help.
pub(crate) fn with_flags(command: Command) -> Command {
    LATER.iter().fold(command, |command, later| {
        let action = if later.takes_value { ArgAction::Append } else { ArgAction::SetTrue };
        let arg = Arg::new(later.flag).long(later.flag).action(action).hide(true);
        let arg = if later.takes_value { arg.allow_hyphen_values(true) } else { arg };
        // Whatever else is missing, this flag is what is to be said.
        let arg = arg.exclusive(false);
        command.mut_subcommand(later.command, |c| c.arg(arg))
    })
}

/// An error for the first such flag given.
pub(crate) fn refuse(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    for later in LATER.iter().filter(|l| l.command == name) {
        let given = matches.value_source(later.flag) == Some(clap::parser::ValueSource::CommandLine);
        if given {
            let message = format!("`--{}` is not supported by this version: {}", later.flag, later.instead);
            return Err(command.error(ErrorKind::InvalidValue, message));
        }
    }
    Ok(())
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
