//! Opening a model: the flags of every command that runs one, and what the runtime's errors mean here.

use super::error::Failure;
use super::output::note;
use dream::{DeviceChoice, DeviceKind, Error, Model, OpenOptions};
use std::path::Path;

#[derive(Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    /// Device to run on: auto, cpu, cuda, rocm, metal or wgpu
    #[arg(long, value_name = "D", default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Keep the weights in memory, and take all other memory beforehand, so that no request waits for the disk or for a page
    #[arg(long)]
    lock_weights: bool,
}

/// Threads of the CPU.
#[derive(Debug, clap::Args)]
pub(crate) struct ThreadArgs {
    /// Number of threads; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u16,
    /// Processors to bind the threads to, in this order: `0-3,8`
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    pin: Option<Cpus>,
}

impl ThreadArgs {
    /// Whether any was given.
    pub(crate) fn are_given(&self) -> bool {
        self.threads > 0 || self.pin.is_some()
    }

    /// Opens an artifact to run it on the CPU.
    pub(crate) fn open_on_cpu(&self, file: &Path) -> Result<Model, Failure> {
        open(file, &OpenOptions { device: DeviceChoice::Only(DeviceKind::Cpu), ..self.options() })
    }

    fn options(&self) -> OpenOptions {
        let pin = self.pin.as_ref().map(|cpus| cpus.0.clone()).unwrap_or_default();
        OpenOptions { threads: self.threads.into(), pin, warn: Some(warn), ..OpenOptions::default() }
    }
}

impl DeviceArgs {
    /// Opens an artifact to run it.
    pub(crate) fn open(&self, file: &Path) -> Result<Model, Failure> {
        open(file, &self.options())
    }

    /// How an artifact is to be run.
    pub(crate) fn options(&self) -> OpenOptions {
        OpenOptions { device: self.device, lock_weights: self.lock_weights, ..self.threads.options() }
    }

    /// Whether one device is asked for, rather than the best that there is.
    pub(crate) fn is_chosen(&self) -> bool {
        self.device != DeviceChoice::Auto
    }
}

/// Says what the runtime found out and is no error.
pub(crate) fn warn(text: &str) {
    note(&format!("warning: {text}"));
}

pub(crate) fn open(file: &Path, options: &OpenOptions) -> Result<Model, Failure> {
    let model = Model::open(file, options).map_err(failure)?;
    if let Some(device) = model.device() {
        tracing::info!("{}: {device}", file.display());
    }
    Ok(model)
}

/// Opens an artifact to look at it.
pub(crate) fn open_to_read(file: &Path) -> Result<Model, Failure> {
    let options = OpenOptions { device: DeviceChoice::None, ..OpenOptions::default() };
    Model::open(file, &options).map_err(failure)
}

/// The runtime's errors say in themselves what to do, but for a few.
pub(crate) fn failure(error: Error) -> Failure {
    match error {
        Error::Tokenizer(error) => error.into(),
        Error::Prompt(error) => error.into(),
        Error::Image(error) => error.into(),
        Error::Action(error) => error.into(),
        error @ Error::Read { .. } => {
            Failure::of(&error).with_help("check that the file exists and its permissions allow access")
        }
        // Settings come from the command line alone.
        error @ Error::Setting { .. } => Failure::of(&error).into_usage(),
        error => Failure::of(&error),
    }
}

/// Processors by number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cpus(Vec<usize>);

fn cpus(text: &str) -> Result<Cpus, String> {
    /// Refused above this: Linux itself has no more.
    const CPU_MAX: usize = 8192;
    let number = |text: &str| {
        let number = text.trim().parse::<usize>().ok().filter(|n| *n < CPU_MAX);
        number.ok_or_else(|| format!("`{text}` is no processor; give numbers and ranges such as `0-3,8`"))
    };
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("the range `{part}` ends before it begins"));
        }
        list.extend(first..=last);
    }
    Ok(Cpus(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpus("0-2,8"), Ok(Cpus(vec![0, 1, 2, 8])));
        assert_eq!(cpus("5"), Ok(Cpus(vec![5])));
        for bad in ["", "a", "3-1", "1,,2", "-1", "0-99999"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }
}
