//! `gpu-check run`: what is most worth knowing first, and a JSON document for each part, written as it comes.

use crate::fixtures::{self, Make};
use crate::report::{Checks, Results};
use crate::timing::{self, SizeName};
use crate::{device, forms, halves, kernels, repeat, yardstick};
use clap::Args;
use dream::DeviceKind;
use dreamc_artifact::code::Code;
use dreamc_backend::Compiled;
use dreamc_backend::toolchain::Search;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What can be asked for, in the order in which it is done.
pub(crate) const SECTIONS: [&str; 10] =
    ["timing", "torch", "forms", "repeat", "kernels", "text", "vl", "vla", "tabletop", "yardstick"];

/// The commit that a folder was prepared from.
const COMMIT_FILE: &str = "COMMIT";
/// Names the fixtures of a prepared folder.
const FIXTURES_VARIABLE: &str = "DREAM_FIXTURES";
/// Where the repository keeps what was found.
const RESULTS: &str = "golden/gpu";

/// Check and time the device of this machine.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The device: cuda, rocm, metal or wgpu
    #[arg(long, default_value = "cuda", value_parser = kind)]
    device: DeviceKind,
    /// Folder for the results, at most 7 files; by default one named after device and commit in golden/gpu/
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Begin nothing more after so many minutes
    #[arg(long, value_name = "N", default_value_t = 8)]
    minutes: u32,
    /// Do these sections instead of all: timing, torch, forms, repeat, kernels, text, vl, vla, tabletop, yardstick
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(SECTIONS))]
    only: Vec<String>,
    /// Shapes that are timed, and whose kernels are checked
    #[arg(long, value_enum, default_value_t = SizeName::SevenB)]
    size: SizeName,
    /// Positions of the canvas that are timed, at most 512
    #[arg(long, value_delimiter = ',', default_values_t = timing::LENGTHS)]
    lengths: Vec<u32>,
    /// Runs that a time is the median of
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
}

fn kind(text: &str) -> Result<DeviceKind, String> {
    let kind = DeviceKind::ALL.into_iter().find(|kind| kind.name() == text && *kind != DeviceKind::Cpu);
    kind.ok_or_else(|| "it is one of cuda, rocm, metal, wgpu".to_owned())
}

impl Run {
    /// Does it; whether all checks held.
    pub(crate) fn go(self) -> Result<bool, String> {
        let folder = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let folder = folder.unwrap_or_default();
        let commit = std::fs::read_to_string(folder.join(COMMIT_FILE)).unwrap_or_default().trim().to_owned();
        if let Some(fixtures) = std::env::var_os(FIXTURES_VARIABLE) {
            let fixtures = PathBuf::from(fixtures);
            halves::join(&fixtures).map_err(|e| format!("{}: {e}", fixtures.display()))?;
        }
        let (place, about) = device::find(self.device)?;
        if let (DeviceKind::Cuda, Some(prebuilt)) = (self.device, Compiled::find(&Search::new())) {
            let target = place.target(dreamc_num::DType::F32);
            let arch = target.kernels().and_then(|t| t.arch().map(str::to_owned)).unwrap_or_default();
            if !prebuilt.has(&arch).map_err(|e| format!("{}: {e}", prebuilt.folder().display()))? {
                return Err(format!(
                    "this folder has no kernels for {arch}: make it with `cargo xtask gpu-check --arch {arch}`"
                ));
            }
        }
        // As long as it is there, so is the device's context, which all checks share.
        let _context = dreamc_golden::device::open(self.device, &Code::default(), Vec::new());
        println!("{about}");
        let out = self.out.unwrap_or_else(|| Path::new(RESULTS).join(folder_name(&about, &commit)));
        let results = Results::new(&out, self.minutes)?;
        results.write(
            "device",
            &json!({
                "commit": commit,
                "version": env!("CARGO_PKG_VERSION"),
                "device": about,
                "target": place.target(dreamc_num::DType::F32).to_string(),
            }),
        );
        let make = Make { place, runs: true };
        let mut checks = Checks::writing(results);
        let mut not_timed = 0;
        for section in
            SECTIONS.iter().filter(|s| self.only.is_empty() || self.only.contains(&(**s).to_owned()))
        {
            match (*section, checks.results()) {
                ("timing", Some(results)) => {
                    not_timed +=
                        timing::time(place, self.size, &self.lengths, self.iterations as usize, results);
                }
                ("torch", Some(results)) => {
                    timing::peer(&folder, self.size.name(), &self.lengths, results);
                }
                ("yardstick", Some(results)) => {
                    not_timed += yardstick::compare(place, self.size, self.iterations as usize, results);
                }
                ("forms", _) => forms::judge(section, make, self.size.size(), &mut checks),
                ("kernels", _) => kernels::judge(section, make, &mut checks),
                ("repeat", _) => repeat::judge(section, make, &mut checks),
                _ => fixtures::judge(section, make, &mut checks),
            }
        }
        let ((failed, count), skipped) = (checks.failed(), checks.skipped());
        let held = count - failed - skipped;
        println!(
            "{held} of {count} checks held, {failed} failed, {skipped} had no time; the numbers are in {}",
            out.display()
        );
        Ok(failed == 0 && not_timed == 0)
    }
}

/// `nvidia-h100-0a1b2c3d`.
fn folder_name(about: &Value, commit: &str) -> String {
    // What stands in brackets is said in the file.
    let name =
        about["name"].as_str().and_then(|name| name.split('(').next()).unwrap_or("device").to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.chain([commit.get(..8).unwrap_or("unknown")]).collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_named_after_device_and_commit() {
        let about = json!({"name": "NVIDIA H100 80GB HBM3"});
        assert_eq!(folder_name(&about, "0123456789"), "nvidia-h100-80gb-hbm3-01234567");
        assert_eq!(folder_name(&json!({}), ""), "device-unknown");
    }

    #[test]
    fn kinds() {
        assert_eq!(kind("cuda"), Ok(DeviceKind::Cuda));
        assert!(kind("cpu").is_err());
    }
}
