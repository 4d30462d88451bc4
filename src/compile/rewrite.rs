//! An artifact written anew with some of its sections replaced.

use super::{BuildError, Events};
use crate::output_path::OutputPath;
use crate::whole::WholeError;
use dreamc_artifact::{Artifact, Kind, encode_header, hash};
use std::fs::File;
use std::io::{BufWriter, Error, ErrorKind, Write};

/// Bytes copied between two looks at whether to stop.
const CHUNK: usize = 1 << 20;

/// Writes `artifact` to `output`, section by section: what `new` gives in place of a section, else its bytes as they are. The
/// weights are no such section, since their hash is that of their tensors. Gives the size of the file.
///
/// # Errors
///
/// Where the file cannot be written, or somebody does not want it any more: what was at `output` is as it was.
pub fn rewrite(
    artifact: &Artifact<'_>,
    output: &OutputPath,
    mut new: impl FnMut(Kind) -> Option<Vec<u8>>,
    events: &mut dyn Events,
) -> Result<u64, BuildError> {
    let mut replaced = |kind| if kind == Kind::Weights { None } else { new(kind) };
    let sections: Vec<_> =
        artifact.sections().iter().map(|section| (section, replaced(section.kind))).collect();
    let entries = sections.iter().map(|(old, new)| match new {
        Some(bytes) => (old.kind, bytes.len() as u64, hash(bytes)),
        None => (old.kind, old.len, old.hash),
    });
    let too_large = || BuildError::Code("the new file is too large for its format".to_owned());
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
    output.write(write).map_err(|error| match error {
        WholeError::Output(error) => BuildError::Output(error),
        WholeError::File(source) | WholeError::Contents(source) => {
            BuildError::File { path: output.path().to_owned(), source }
        }
    })
}

/// Gaps are shorter than a section's alignment.
fn zeros(out: &mut impl Write, count: u64) -> Result<(), Error> {
    for _ in 0..count {
        out.write_all(&[0])?;
    }
    Ok(())
}
