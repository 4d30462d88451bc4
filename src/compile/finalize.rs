//! Completes an artifact that carries source where no compiler was at hand.

use super::code::complete;
use super::{BuildError, BuildTarget, Events, rewrite};
use crate::output_path::OutputPath;
use dream::{DeviceChoice, Model, OpenOptions};
use dreamc_artifact::Kind;
use dreamc_artifact::code::{Module, encode_code};
use std::path::Path;

/// What was completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finalized {
    /// Targets whose sources are now binaries.
    pub targets: Vec<String>,
    /// Size of the file.
    pub file_bytes: u64,
}

/// Compiles what an artifact holds as source, and writes the file anew in its place. `cache` is as for [`complete`].
///
/// # Errors
///
/// Where the file is no artifact, a compiler is missing, or the new file cannot be written: the old one stays as it was.
pub fn finalize(path: &Path, cache: Option<&Path>, events: &mut dyn Events) -> Result<Finalized, BuildError> {
    let output = OutputPath::new::<&Path>("the artifact", path, &[])?;
    let model = Model::open(path, &OpenOptions { device: DeviceChoice::None, ..OpenOptions::default() })?;
    let artifact = model.artifact();
    let (mut targets, mut codes) = (Vec::new(), Vec::new());
    for target in &artifact.manifest().targets {
        let mut code = artifact.code(target).cloned().unwrap_or_default();
        if code.modules.iter().any(Module::is_source) {
            let known: BuildTarget =
                target.parse().map_err(|reason| BuildError::Toolchain { target: target.clone(), reason })?;
            let mut compiling = |done, total| {
                events.compiling(done, total);
                !events.cancelled()
            };
            let completed = complete(&mut code, &known, cache, &mut compiling)?;
            completed.warning.iter().for_each(|text| events.warning(text));
            if let Some(reason) = completed.missing {
                return Err(BuildError::Toolchain { target: target.clone(), reason });
            }
            targets.push(target.clone());
        }
        codes.push(encode_code(&code).map_err(|e| BuildError::Code(e.to_string()))?);
    }
    if targets.is_empty() {
        return Ok(Finalized { targets, file_bytes: artifact.file_len() });
    }
    // Everything but the code stays as it is.
    let mut codes = codes.into_iter();
    let new = |kind: Kind| if kind == Kind::Code { codes.next() } else { None };
    let file_bytes = rewrite(artifact, &output, new, events)?;
    Ok(Finalized { targets, file_bytes })
}
