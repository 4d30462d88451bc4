//! What kind of error it is, for callers of other languages and over a wire.

use crate::Error;

/// What kind of error it is, which says who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The request is not what the model takes. Nothing was run.
    Argument,
    /// The file cannot be read.
    File,
    /// The file or the memory is not a sound artifact.
    Artifact,
    /// The artifact is sound but cannot do this: it was built for other entries or other devices.
    Unsupported,
    /// The system gave no memory, may not lock that much of it, or has no such device.
    System,
    /// What should not happen: a bug of the runtime. The model is of no use any more.
    Bug,
    /// The model's numbers are not finite. There is no answer; the model can be used again.
    NotFinite,
}

impl Error {
    /// What kind of error it is.
    pub fn status(&self) -> Status {
        match self {
            Error::Read { .. } => Status::File,
            Error::Open { .. } | Error::Damaged { .. } | Error::Manifest { .. } => Status::Artifact,
            Error::NoTarget { .. }
            | Error::NoEntry { .. }
            | Error::NoTokenizer
            | Error::NoActions { .. }
            | Error::NoImages => Status::Unsupported,
            Error::Copy { .. }
            | Error::Lock { .. }
            | Error::Device(_)
            | Error::DeviceMemory { .. }
            | Error::NoDevice { .. }
            | Error::Cpu(_)
            | Error::Gpu(_)
            | Error::Metal(_)
            | Error::Wgpu(_) => Status::System,
            Error::NotFinite { .. } => Status::NotFinite,
            // The requests that a plan does not take were refused before.
            Error::Step(_) => Status::Bug,
            // The request itself, which is most of them.
            _ => Status::Argument,
        }
    }

    /// What is wrong, why, and what to do, in one line.
    pub fn explained(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        if let Some(remedy) = self.remedy() {
            text.push_str(&format!("; {remedy}"));
        }
        text
    }

    /// What to do, where an error of the front has it apart from what is wrong.
    fn remedy(&self) -> Option<String> {
        let diagnostic: &dyn miette::Diagnostic = match self {
            Error::Tokenizer(error) => error,
            Error::Prompt(error) => error,
            Error::Image(error) => error,
            Error::Action(error) => error,
            _ => return None,
        };
        diagnostic.help().map(|help| help.to_string())
    }
}
