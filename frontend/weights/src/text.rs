//! Text files of a checkpoint, of limited length.

use crate::WeightsError;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads a whole file. One longer than the limit is refused before anything is read.
pub fn read_limited(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, WeightsError> {
    let failed = |source| WeightsError::Io { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    if meta.len() > limit_bytes {
        return Err(WeightsError::TooLarge { path: path.to_owned(), found_bytes: meta.len(), limit_bytes });
    }
    let mut bytes = Vec::new();
    // Some files are longer than they say.
    File::open(path).and_then(|file| file.take(limit_bytes).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}
