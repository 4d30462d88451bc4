//! The command line: what can be asked, and the way from an error to an exit code.
//!
//! Exit codes: 0 fine, 1 the request failed, 2 wrong usage, 3 a check did not hold. What the command line alone shows
//! to be impossible, such as a target that this version does not have, is wrong usage.

#[allow(dead_code, reason = "for the commands that are still to come")]
mod error;
#[allow(dead_code, reason = "for the commands that are still to come")]
mod later;
mod opt;
mod output;
#[allow(dead_code, reason = "for the commands that are still to come")]
mod progress;
mod synth;
#[allow(dead_code, reason = "for the commands that are still to come")]
mod targets;
mod tokenize;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use error::Failure;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Ahead-of-time compiler for the Dream diffusion language models
#[derive(Debug, Parser)]
#[command(name = "dreamc", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn text into token ids, or back
    Tokenize(tokenize::Args),
    /// Say what can be built and run here
    Targets(targets::Args),
    /// Run passes on IR text
    Opt(opt::Args),
    /// Write a checkpoint with made-up weights in the true layout
    Synth(synth::Args),
}

/// Runs the command of this process.
pub(crate) fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, errors to stderr. When both are gone there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(failure) = log().and_then(|()| run(cli.command)) {
        return failure.report();
    }
    ExitCode::SUCCESS
}

fn parse() -> Result<Cli, clap::Error> {
    let mut command = later::with_flags(Cli::command());
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    later::refuse(&mut command, &matches)?;
    Cli::from_arg_matches(&matches)
}

/// Sets up the log as `DREAM_LOG` asks, or for warnings alone.
fn log() -> Result<(), Failure> {
    let filter = match std::env::var("DREAM_LOG") {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(
                format!("DREAM_LOG is `{text}`, which is no log filter"),
                "set it to a level such as `debug`, or to `dreamc=debug,info`",
            )
            .because(error)
        })?,
        Err(_) => EnvFilter::new("warn"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Targets(args) => targets::run(&args),
        Command::Opt(args) => opt::run(&args),
        Command::Synth(args) => synth::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        later::with_flags(Cli::command()).debug_assert();
    }
}
