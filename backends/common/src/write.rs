//! Writes an artifact as a stream: weights are packed straight into the file, hashes are filled in last.

use crate::constants::Constants;
use crate::pack::{PackError, WeightReader, pack};
use crate::quantize::Fidelity;
use dreamc_artifact::code::{Code, encode_code};
use dreamc_artifact::plan::Plan;
use dreamc_artifact::{
    EncodeError, Kind, Manifest, PlanError, encode_header, encode_plan, encode_table, hash, place,
    table_hash, validate,
};
use std::io::{Seek, SeekFrom, Write};

/// Everything that goes into an artifact besides the weights' elements.
pub struct Contents<'a> {
    /// Its `source_hash` is filled in while writing.
    pub manifest: Manifest,
    /// One plan per target of the manifest, and its code, which is empty for the CPU.
    pub plans: &'a [(Plan, Code)],
    /// What the plans refer to.
    pub constants: &'a Constants,
    /// The graphs as text.
    pub ir: &'a str,
    /// The tokenizer's bytes.
    pub tokenizer: Option<&'a [u8]>,
    /// The settings of images and actions.
    pub front: Option<&'a [u8]>,
    /// Recorded cases.
    pub golden: Option<&'a [u8]>,
}

/// Why an artifact could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A tensor could not be packed.
    #[error("tensor `{tensor}` cannot be packed")]
    Pack {
        /// Its name.
        tensor: String,
        /// Why.
        source: PackError,
    },
    /// The file could not be written.
    #[error("the artifact cannot be written")]
    Io(#[from] std::io::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// More or larger parts than the format takes.
    #[error("the artifact is too large for its format")]
    TooLarge,
    /// The compiler's own plan breaks a rule of the loader.
    #[error(
        "bug: the compiled plan would be refused by the loader ({0:?}); please report it with the output of `dreamc build -v`"
    )]
    Plan(PlanError),
}

impl From<EncodeError> for WriteError {
    fn from(_: EncodeError) -> WriteError {
        WriteError::TooLarge
    }
}

/// Writes the artifact to `out`, from its current start. `progress` is told the bytes of weights packed and their total,
/// and stops the writing by returning false. Returns how well each constant in few bits holds its weights, nothing for others,
/// in the order of the constants.
///
/// # Errors
///
/// See [`WriteError`]; what was written by then is not an artifact.
pub fn write_artifact(
    out: &mut (impl Write + Seek),
    contents: &Contents<'_>,
    reader: &mut dyn WeightReader,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Vec<Option<Fidelity>>, WriteError> {
    let mut table = contents.constants.table().ok_or(WriteError::TooLarge)?;
    let weights_bytes = place(&mut table).ok_or(WriteError::TooLarge)?;
    for (plan, code) in contents.plans {
        validate(plan, code, &table).map_err(WriteError::Plan)?;
    }
    let mut manifest = contents.manifest.clone();
    manifest.source_hash = reader.source_hash();
    let mut plans = Vec::new();
    for (plan, code) in contents.plans {
        plans.push((Kind::Plan, encode_plan(plan)?));
        plans.push((Kind::Code, encode_code(code)?));
    }

    // Hashes have a fixed length, so places are known before any hash is.
    let mut small: Vec<(Kind, Vec<u8>)> =
        vec![(Kind::Manifest, manifest.to_bytes().ok_or(WriteError::TooLarge)?)];
    small.extend(plans);
    small.push((Kind::WeightTable, encode_table(&table).map_err(|_| WriteError::TooLarge)?));
    small.push((Kind::Ir, contents.ir.as_bytes().to_vec()));
    small.extend(contents.tokenizer.map(|bytes| (Kind::Tokenizer, bytes.to_vec())));
    small.extend(contents.front.map(|bytes| (Kind::Front, bytes.to_vec())));
    small.extend(contents.golden.map(|bytes| (Kind::Golden, bytes.to_vec())));
    let header = |small: &[(Kind, Vec<u8>)], weights_hash: [u8; 32]| {
        let sections = small.iter().map(|(kind, bytes)| (*kind, bytes.len() as u64, hash(bytes)));
        let sections: Vec<_> = sections.chain([(Kind::Weights, weights_bytes, weights_hash)]).collect();
        encode_header(&sections).ok_or(WriteError::TooLarge)
    };
    let laid_out = header(&small, [0; 32])?;
    let weights_at = laid_out.sections.last().map_or(0, |s| s.offset);

    let mut at = 0;
    let mut fidelities = Vec::new();
    for (index, constant) in contents.constants.list().iter().enumerate() {
        // Seeking over a gap leaves zeros in a file; written out, it is the same everywhere.
        pad(out, &mut at, weights_at + table[index].offset)?;
        let mut hasher = blake3::Hasher::new();
        let mut cancelled = false;
        let result = pack(constant, reader, &mut |bytes| {
            hasher.update(bytes);
            out.write_all(bytes)?;
            at += bytes.len() as u64;
            cancelled = !progress(at - weights_at, weights_bytes);
            if cancelled { Err(PackError::Write(std::io::ErrorKind::Interrupted.into())) } else { Ok(()) }
        });
        match result {
            _ if cancelled => return Err(WriteError::Cancelled),
            Err(PackError::Write(error)) => return Err(error.into()),
            Err(source) => return Err(WriteError::Pack { tensor: table[index].name.clone(), source }),
            Ok(fidelity) => fidelities.push(fidelity),
        }
        table[index].hash = *hasher.finalize().as_bytes();
    }
    pad(out, &mut at, laid_out.file_len)?;

    manifest.source_hash = reader.source_hash();
    for (kind, bytes) in &mut small {
        match kind {
            Kind::Manifest => *bytes = manifest.to_bytes().ok_or(WriteError::TooLarge)?,
            Kind::WeightTable => *bytes = encode_table(&table).map_err(|_| WriteError::TooLarge)?,
            Kind::Plan
            | Kind::Code
            | Kind::Ir
            | Kind::Tokenizer
            | Kind::Front
            | Kind::Golden
            | Kind::Weights
            | Kind::Newer(_) => {}
        }
    }
    let finished = header(&small, table_hash(&table))?;
    if finished.file_len != laid_out.file_len {
        return Err(WriteError::TooLarge);
    }
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&finished.bytes)?;
    for (section, (_, bytes)) in finished.sections.iter().zip(&small) {
        out.seek(SeekFrom::Start(section.offset))?;
        out.write_all(bytes)?;
    }
    out.flush()?;
    Ok(fidelities)
}

/// Writes zeros up to offset `to`.
fn pad(out: &mut impl Write, at: &mut u64, to: u64) -> Result<(), WriteError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while *at < to {
        let n = (to - *at).min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..n as usize])?;
        *at += n;
    }
    Ok(())
}
