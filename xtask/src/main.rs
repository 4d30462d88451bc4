//! Repository commands: `cargo xtask demo`, `cargo xtask toolchain`, `cargo xtask test`, `cargo xtask python`,
//! `cargo xtask page`, `cargo xtask check`, `cargo xtask dist`,
//! `cargo xtask field` and `cargo xtask gpu-check`.
//!
//! A clean `check` and `test` here is a clean run in CI, which does nothing else (`.ci/run`).

mod apt;
mod arm;
mod check;
mod demo;
mod dist;
mod field;
mod gpu_check;
mod layering;
mod page;
mod python;
mod step;
mod test;
mod toolchain;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

/// Exit code where everything ran and the result is wrong, as in the product and its example.
const CHECK_FAILED: u8 = 3;

/// Repository commands of dreamc.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

/// One command.
#[derive(Debug, Subcommand)]
enum Task {
    /// Build dreamc, compile checkpoints of the repository, solve a puzzle and drive a simulated robot
    Demo,
    /// Install the compilers for GPUs, whichever are missing
    Toolchain,
    /// Run all tests, on this machine and under emulation, installing what is missing
    Test,
    /// Build the wheel of the runtime and run its tests, which are part of `test`
    Python,
    /// Test the server's page in a browser, which is part of `test`; with a folder, take its pictures for the documents
    Page {
        /// Where the pictures go
        #[arg(long, value_name = "DIR")]
        pictures: Option<PathBuf>,
    },
    /// Check formatting, lints, documentation, layering and dependencies; run no tests
    Check,
    /// Build what is given to users: wheels, the library for C, the command, for x86-64 and Arm
    Dist(dist::Args),
    /// Run a check in a framework that is too large for CI, and keep the result in golden/field
    Field {
        /// Which
        #[arg(value_enum)]
        field: field::Field,
    },
    /// Make a folder that checks and times a GPU on another machine, which needs neither Rust nor a network
    GpuCheck {
        /// The folder; by default target/gpu-check
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// What its kernels are compiled for: sm_90a for Hopper, sm_80 for Ampere and Ada
        #[arg(long, default_value = "sm_90a")]
        arch: String,
    },
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let outcome = match args.command {
        Task::Demo => demo::run(),
        Task::Toolchain => toolchain::run(),
        Task::Test => test::run(),
        Task::Python => python::run(),
        Task::Page { pictures } => page::run(pictures.as_deref()),
        Task::Check => check::run(),
        Task::Dist(args) => dist::run(args),
        Task::Field { field } => field::run(field),
        Task::GpuCheck { out, arch } => gpu_check::run(out, &arch),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<demo::WrongAnswer>() { CHECK_FAILED.into() } else { ExitCode::FAILURE }
        }
    }
}

/// Prints what clap has to say (help included), and the known commands after an unknown one.
fn usage(error: &clap::Error) -> ExitCode {
    // When the terminal is gone there is nobody left to tell.
    let _ = error.print();
    if error.kind() == ErrorKind::InvalidSubcommand {
        eprintln!("\nknown commands: {}", known_commands().join(", "));
    }
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn known_commands() -> Vec<String> {
    Args::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn unknown_command_is_refused() {
        let error = Args::try_parse_from(["cargo xtask", "frobnicate"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
        assert!(error.use_stderr());
        assert_eq!(
            known_commands(),
            ["demo", "toolchain", "test", "python", "page", "check", "dist", "field", "gpu-check"]
        );
    }
}
