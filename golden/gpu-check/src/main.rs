//! `gpu-check`: judges and times a GPU on a machine that has neither Rust nor a compiler for kernels.
//!
//! `prepare` runs where the compilers are. It builds everything that `run` will build and keeps the binaries of the
//! kernels, found by their sources; so `run` builds the same artifacts from the same small checkpoints, and every
//! judge of the golden tests can be asked. What is emitted depends on nothing but the compiler's own code, so both
//! must come from one commit.
#![allow(clippy::print_stdout, reason = "a command")]

mod device;
mod fixtures;
mod forms;
mod halves;
mod kernels;
mod prepare;
mod repeat;
mod report;
mod run;
mod script;
mod timing;
mod yardstick;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Exit code where everything ran and something is wrong.
const CHECK_FAILED: u8 = 3;

/// Checks a GPU: fixtures, kernels, repeatability, speed.
#[derive(Debug, Parser)]
#[command(name = "gpu-check", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill a folder with all that `run` needs on another machine
    Prepare(prepare::Prepare),
    /// Check and time the device of this machine
    Run(run::Run),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Prepare(prepare) => prepare.go().map(|()| true),
        Command::Run(run) => run.go(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => CHECK_FAILED.into(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
