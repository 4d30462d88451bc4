//! Completes an artifact that carries source where no compiler was at hand.

use super::code::complete;
use super::{BuildError, BuildTarget, Events};
use crate::output_path::OutputPath;
use crate::whole::WholeError;
use dream::{DeviceChoice, Model, OpenOptions};
use dreamc_artifact::code::{Module, encode_code};
use dreamc_artifact::{Kind, encode_header, hash};
use std::fs::File;
use std::io::{BufWriter, Error, ErrorKind, Write};
use std::path::Path;

/// What was completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finalized {
    /// Targets whose sources are now binaries.
    pub targets: Vec<String>,
    /// Size of the file.
    pub file_bytes: u64,
}

/// Bytes copied between two looks at whether to stop.
const CHUNK: usize = 1 << 20;

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
    // Everything but the code as it is; the hash of the weights is that of their tensors, which stay.
    let mut codes = codes.into_iter();
    let sections = artifact.sections().iter().map(|section| {
        let new = if section.kind == Kind::Code { codes.next() } else { None };
        (section, new)
    });
    let sections: Vec<_> = sections.collect();
    let entries = sections.iter().map(|(old, new)| match new {
        Some(bytes) => (old.kind, bytes.len() as u64, hash(bytes)),
        None => (old.kind, old.len, old.hash),
    });
    let too_large = || BuildError::Code("the completed file is too large for its format".to_owned());
    let header = encode_header(&entries.collect::<Vec<_>>()).ok_or_else(too_large)?;
    let write = |partial: &File| {
        let mut out = BufWriter::with_capacity(CHUNK, partial);
        out.write_all(&header.bytes)?;
        let mut at = header.bytes.len() as u64;
        for (place, (old, new)) in header.sections.iter().zip(&sections) {
            zeros(&mut out, place.offset.saturating_sub(at))?;
            at = place.offset + place.len;
            let mut done = place.offset;
            for chunk in new.as_deref().unwrap_or_else(|| artifact.bytes(old)).chunks(CHUNK) {
                if events.cancelled() {
                    return Err(ErrorKind::Interrupted.into());
                }
                out.write_all(chunk)?;
                done += chunk.len() as u64;
                events.progress(done, header.file_len);
            }
        }
        zeros(&mut out, header.file_len.saturating_sub(at))?;
        out.flush()
    };
    let written = output.write(write).map_err(|error| match error {
        WholeError::Output(error) => BuildError::Output(error),
        WholeError::File(source) | WholeError::Contents(source) => {
            BuildError::File { path: path.to_owned(), source }
        }
    });
    Ok(Finalized { targets, file_bytes: written? })
}

/// Gaps are shorter than a section's alignment.
fn zeros(out: &mut impl Write, count: u64) -> Result<(), Error> {
    for _ in 0..count {
        out.write_all(&[0])?;
    }
    Ok(())
}
