//! `gpu-check prepare`: builds all that `run` builds, so that the binaries of its kernels are kept.

use crate::device::{ARCHS, cuda};
use crate::fixtures::{self, Make};
use crate::report::Checks;
use crate::run::SECTIONS;
use crate::timing::{self, SizeName};
use crate::{forms, halves, kernels, repeat, yardstick};
use clap::Args;
use dreamc_backend::Compiled;
use dreamc_backend::toolchain::FOLDER_VARIABLE;
use std::path::PathBuf;

/// Fill a folder with all that `run` needs on another machine.
#[derive(Debug, Args)]
pub(crate) struct Prepare {
    /// The toolchain folder to fill; DREAM_TOOLCHAIN must name it too
    #[arg(long, value_name = "DIR")]
    toolchain: PathBuf,
    /// A copy of the fixtures, to be made smaller in its place; `run` undoes it
    #[arg(long, value_name = "DIR")]
    shrink: Option<PathBuf>,
    /// Architectures of CUDA to compile for
    #[arg(long, value_delimiter = ',', default_values_t = ARCHS.map(str::to_owned))]
    arch: Vec<String>,
    /// Sections to build for, instead of all
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Shapes that will be timed
    #[arg(long, value_enum, default_values_t = [SizeName::SevenB])]
    size: Vec<SizeName>,
}

impl Prepare {
    /// Does it.
    pub(crate) fn go(self) -> Result<(), String> {
        let variable = FOLDER_VARIABLE;
        if std::env::var_os(variable).is_none_or(|named| named != self.toolchain) {
            return Err(format!("set {variable} to {}", self.toolchain.display()));
        }
        let prebuilt =
            Compiled::make(&self.toolchain).map_err(|e| format!("{}: {e}", self.toolchain.display()))?;
        for arch in &self.arch {
            let make = Make { place: cuda(arch)?, runs: false };
            let mut checks = Checks::default();
            for section in
                SECTIONS.iter().filter(|s| self.only.is_empty() || self.only.contains(&(**s).to_owned()))
            {
                match *section {
                    "forms" => self
                        .size
                        .iter()
                        .for_each(|size| forms::judge(section, make, size.size(), &mut checks)),
                    "kernels" => kernels::judge(section, make, &mut checks),
                    "repeat" => repeat::judge(section, make, &mut checks),
                    "timing" => {
                        self.size.iter().for_each(|size| timing::build(section, make, *size, &mut checks))
                    }
                    "torch" => {}
                    "yardstick" => {
                        self.size.iter().for_each(|size| yardstick::build(section, make, *size, &mut checks))
                    }
                    _ => fixtures::judge(section, make, &mut checks),
                }
            }
            if let (failed @ 1.., all) = checks.failed() {
                return Err(format!("{arch}: {failed} of {all} builds failed"));
            }
        }
        if let Some(fixtures) = &self.shrink {
            halves::part(fixtures).map_err(|e| format!("{}: {e}", fixtures.display()))?;
        }
        let count = std::fs::read_dir(prebuilt.folder()).map_or(0, Iterator::count);
        println!("{count} files of kernels in {}", prebuilt.folder().display());
        Ok(())
    }
}
