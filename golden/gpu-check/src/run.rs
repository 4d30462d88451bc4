//! `gpu-check run`: every check, and one JSON document with what was found.

use crate::fixtures::{self, Make};
use crate::report::Checks;
use crate::timing::{self, SizeName};
use crate::{device, kernels, repeat};
use clap::Args;
use dream::DeviceKind;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What can be asked for, in the order in which it is done.
pub(crate) const SECTIONS: [&str; 8] =
    ["kernels", "text", "vl", "vla", "tabletop", "repeat", "timing", "torch"];

/// The commit that a folder was prepared from.
const COMMIT_FILE: &str = "COMMIT";
/// Where the repository keeps what was found.
const RESULTS: &str = "golden/gpu";

/// Check and time the device of this machine.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The device: cuda, rocm, metal or wgpu
    #[arg(long, default_value = "cuda", value_parser = kind)]
    device: DeviceKind,
    /// Where the JSON goes; by default a file named after device and commit in golden/gpu/
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do these sections instead of all: kernels, text, vl, vla, tabletop, repeat, timing, torch
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(SECTIONS))]
    only: Vec<String>,
    /// Shapes that are timed
    #[arg(long, value_enum, default_value_t = SizeName::SevenB)]
    size: SizeName,
    /// Positions of the canvas that are timed, at most 512
    #[arg(long, value_delimiter = ',', default_values_t = timing::LENGTHS)]
    lengths: Vec<u32>,
    /// Runs that a time is the median of
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
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
        let (place, about) = device::find(self.device)?;
        println!("{about}");
        let make = Make { place, runs: true };
        let mut checks = Checks::default();
        let (mut timed, mut torch) = (Value::Null, Value::Null);
        for section in
            SECTIONS.iter().filter(|s| self.only.is_empty() || self.only.contains(&(**s).to_owned()))
        {
            match *section {
                "kernels" => kernels::judge(section, make, &mut checks),
                "repeat" => repeat::judge(section, make, &mut checks),
                "timing" => timed = timing::time(place, self.size, &self.lengths, self.iterations as usize),
                "torch" => torch = timing::peer(&folder, self.size.name()),
                _ => fixtures::judge(section, make, &mut checks),
            }
        }
        let (failed, count) = checks.failed();
        let not_timed =
            timed.as_array().into_iter().flatten().filter(|entry| entry["error"].is_string()).count();
        let path = self.json.unwrap_or_else(|| Path::new(RESULTS).join(file_name(&about, &commit)));
        let document = json!({
            "commit": commit,
            "version": env!("CARGO_PKG_VERSION"),
            "device": about,
            "target": place.target(dreamc_num::DType::F32).to_string(),
            "checks": checks.into_json(),
            "timing": timed,
            "torch": torch,
        });
        write(&path, &document)?;
        println!("{} of {count} checks held; {} has the numbers", count - failed, path.display());
        Ok(failed == 0 && not_timed == 0)
    }
}

/// `nvidia-h100-0a1b2c3d.json`.
fn file_name(about: &Value, commit: &str) -> String {
    // What stands in brackets is said in the file.
    let name =
        about["name"].as_str().and_then(|name| name.split('(').next()).unwrap_or("device").to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.chain([commit.get(..8).unwrap_or("unknown")]).collect();
    format!("{}.json", words.join("-"))
}

fn write(path: &Path, document: &Value) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    }
    let text = serde_json::to_string_pretty(document).map_err(|e| failed(&e))?;
    std::fs::write(path, text + "\n").map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_named_after_device_and_commit() {
        let about = json!({"name": "NVIDIA H100 80GB HBM3"});
        assert_eq!(file_name(&about, "0123456789"), "nvidia-h100-80gb-hbm3-01234567.json");
        assert_eq!(file_name(&json!({}), ""), "device-unknown.json");
    }

    #[test]
    fn kinds() {
        assert_eq!(kind("cuda"), Ok(DeviceKind::Cuda));
        assert!(kind("cpu").is_err());
    }
}
