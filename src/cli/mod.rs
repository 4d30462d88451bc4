//! The command line: what can be asked, and the way from an error to an exit code.
//!
//! Exit codes: 0 fine, 1 the request failed, 2 wrong usage, 3 a check did not hold. What the command line alone shows
//! to be impossible, such as a target that this version does not have, is wrong usage.

mod act;
mod bench;
mod build;
mod calib;
mod defaults;
mod device;
mod error;
mod export;
mod families;
mod finalize;
mod forward;
mod golden;
mod html;
mod inspect;
mod later;
mod memory;
mod opt;
mod output;
mod plan;
mod profile;
mod progress;
mod quant;
mod requests;
mod run;
mod serve;
mod synth;
mod table;
mod targets;
mod tokenize;
mod toolchain;
mod tune;
mod verify;

use clap::{Parser, Subcommand};
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
    /// Compile a checkpoint to an artifact
    Build(Box<build::Args>),
    /// Send a request to an artifact
    Run(Box<run::Args>),
    /// Ask a policy for actions
    Act(Box<act::Args>),
    /// Serve an artifact behind the protocols of robots and chat clients
    Serve(Box<serve::Args>),
    /// Time a request of an artifact's own shape
    Bench(bench::Args),
    /// Record what an artifact answers, or compare answers
    Golden(golden::Args),
    /// Say what an artifact holds
    Inspect(inspect::Args),
    /// Check every byte of an artifact against its hashes, and the cases inside
    Verify(verify::Args),
    /// Compile kernels that an artifact carries as source
    Finalize(finalize::Args),
    /// Find the fastest kernels on this machine's GPU, and record them in the artifact
    Tune(tune::Args),
    /// Write an artifact as a framework of robots opens it
    Export(export::Args),
    /// Turn text into token ids, or back
    Tokenize(tokenize::Args),
    /// Say what can be built and run here
    Targets(targets::Args),
    /// Say which compilers for GPUs are there, or install one
    Toolchain(toolchain::Args),
    /// Run passes on IR text
    Opt(opt::Args),
    /// Write a checkpoint with made-up weights in the true layout
    Synth(synth::Args),
}

/// Runs the command of this process.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, errors to stderr. When both are gone there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = log().and_then(|()| perform(cli.command));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
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

fn perform(command: Command) -> Result<(), Failure> {
    tracing::debug!(?command);
    match command {
        Command::Build(args) => build::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Act(args) => act::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Golden(args) => golden::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Finalize(args) => finalize::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Targets(args) => targets::run(&args),
        Command::Toolchain(args) => toolchain::run(&args),
        Command::Opt(args) => opt::run(&args),
        Command::Synth(args) => synth::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
