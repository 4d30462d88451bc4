//! Results, on stdout. Everything else goes to stderr.

use super::error::Failure;
use clap::ValueEnum;
use serde::Serialize;
use std::io::{ErrorKind, Write};

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

fn bug(error: &serde_json::Error) -> Failure {
    Failure::failed("the result makes no JSON: this is a bug in dreamc", "report it with the command line")
        .because(error)
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
