//! Results, on stdout. Everything else goes to stderr.

use super::error::Failure;
use clap::ValueEnum;
use dreamc::output_path::{OutputError, OutputPath};
use dreamc::whole::WholeError;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// Prints a result. That nobody reads on, as behind `head`, is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let help = "check that what stdout leads to can be written";
            Err(Failure::failed("cannot write the result", help).because(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a result as one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| bug(&e))?;
    print(&format!("{text}\n"))
}

/// Prints a result as indented JSON.
pub(crate) fn print_json_pretty(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| bug(&e))?;
    print(&format!("{text}\n"))
}

/// The JSON value of something. By way of its text, which has floats as short as they are, not widened to f64.
pub(crate) fn json_value(value: &impl Serialize) -> Result<serde_json::Value, Failure> {
    let text = serde_json::to_string(value).map_err(|e| bug(&e))?;
    serde_json::from_str(&text).map_err(|e| bug(&e))
}

fn bug(error: &serde_json::Error) -> Failure {
    Failure::failed("the result makes no JSON: this is a bug in dreamc", "report it with the command line")
        .because(error)
}

/// Looks at where a command is to write a file before it does its work: see [`OutputPath::new`].
pub(crate) fn output_path<P: AsRef<Path>>(
    flag: &'static str,
    path: &Path,
    inputs: &[P],
) -> Result<OutputPath, Failure> {
    OutputPath::new(flag, path, inputs).map_err(refused)
}

/// Why nothing may be written to a path. That a command would write over what it reads is shown by the command line.
pub(crate) fn refused(error: OutputError) -> Failure {
    let usage = matches!(error, OutputError::Input { .. });
    let failure = Failure::from(error);
    if usage { failure.into_usage() } else { failure }
}

/// Writes a file under a temporary name beside it, which it loses only when it is complete.
pub(crate) fn write_whole(output: &OutputPath, bytes: &[u8]) -> Result<(), Failure> {
    match output.write(|mut partial| partial.write_all(bytes)) {
        Ok(_) => Ok(()),
        Err(WholeError::Output(error)) => Err(refused(error)),
        Err(WholeError::File(error) | WholeError::Contents(error)) => {
            Err(Failure::io("write", output.path(), &error))
        }
    }
}

/// A remark on stderr.
pub(crate) fn note(text: &str) {
    // When the terminal is gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A count with its noun: `1 thread`, `2 threads`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
