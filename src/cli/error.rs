//! What a command that did not succeed says, and its exit code.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// Why the command ends other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// The request failed.
    Failed = 1,
    /// The command line asks for what there is not.
    Usage = 2,
    /// A check did not hold.
    Check = 3,
}

/// An error as the user sees it. Any [`miette::Diagnostic`] turns into one.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    causes: Vec<String>,
    help: Option<String>,
}

impl Failure {
    /// The request failed.
    pub(crate) fn failed(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, message: message.into(), causes: vec![], help: Some(help.into()) }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, ..Failure::failed(message, help) }
    }

    /// An error that carries no help of its own.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Failure {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        Failure { exit: Exit::Failed, message: error.to_string(), causes, help: None }
    }

    /// A file cannot be read or written: `doing` says what was tried.
    pub(crate) fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
        let help = "check that the path exists and its permissions allow access";
        Failure::failed(format!("cannot {doing} `{}`", path.display()), help).because(error)
    }

    /// What is wrong, without causes and help.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Adds a cause.
    pub(crate) fn because(mut self, cause: impl ToString) -> Failure {
        self.causes.push(cause.to_string());
        self
    }

    /// Sets the help.
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Failure {
        self.help = Some(help.into());
        self
    }

    /// A check did not hold, rather than that something could not be done.
    pub(crate) fn into_check(mut self) -> Failure {
        self.exit = Exit::Check;
        self
    }

    /// The command line is wrong, rather than that something could not be done.
    pub(crate) fn into_usage(mut self) -> Failure {
        self.exit = Exit::Usage;
        self
    }

    /// The error and its causes, one after the other.
    pub(crate) fn one_line(&self) -> String {
        std::iter::once(&self.message).chain(&self.causes).cloned().collect::<Vec<_>>().join(": ")
    }

    /// Says it on stderr: the error, its causes, what to do.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("help: {help}\n"));
        }
        // When the terminal is gone there is nobody left to tell.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        ExitCode::from(self.exit as u8)
    }
}

impl<E: miette::Diagnostic + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        let help = error.help().map(|help| help.to_string());
        Failure { help, ..Failure::of(&error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamc_frontend::ImportError;

    #[test]
    fn diagnostics_keep_causes_and_help() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "gone");
        let failure = Failure::from(ImportError::Io { path: "x/config.json".into(), source });
        assert_eq!(failure.message, "cannot access `x/config.json`");
        assert_eq!(failure.causes, ["gone"]);
        assert!(failure.help.is_some_and(|help| help.contains("permissions")));
        assert_eq!(failure.exit, Exit::Failed);
    }
}
