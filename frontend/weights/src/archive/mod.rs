//! PyTorch archives (`.pt`): a zip of stored entries, one of them a pickle that says how the others are tensors.
//!
//! Nothing is executed: `pickle` knows a handful of calls and refuses all others. Nothing is copied
//! either: an entry that is stored, not compressed, lies in the file as it is in memory, so its tensors are views of
//! the mapped file. Each entry's checksum is compared when the file is opened.

mod error;

pub use error::ArchiveError;

use crate::WeightsError;
use crate::pickle::{self, Described};
use crate::shard::{HeaderEntry, Shard};
use rawzip::{CompressionMethod, ZipArchive};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The most entries looked at. A head has under 30.
const ENTRIES_MAX: usize = 4096;
/// The longest pickle read. That of a head has under 8 KiB.
const PICKLE_BYTES_MAX: usize = 1 << 20;
/// First bytes of every zip archive with entries.
const MAGIC: &[u8] = b"PK\x03\x04";
/// The name of the pickle within the archive's folder.
const PICKLE_FILE: &str = "data.pkl";

/// The tensors of a mapped archive, in name order.
pub(crate) fn entries(shard: &Shard, path: &Path) -> Result<Vec<HeaderEntry>, WeightsError> {
    let archive = Archive { bytes: shard.bytes(), path };
    let files = archive.files()?;
    // Checksums have touched every page.
    shard.release(0, shard.bytes().len());
    let (folder, pickle) = archive.pickle(&files)?;
    archive.check_byte_order(&files, folder)?;
    let described = pickle::read(&archive.bytes[pickle]).map_err(|fault| fault.into_error(path))?;
    let mut entries = Vec::new();
    for (name, tensor) in described {
        entries.push(archive.entry(&files, folder, name, &tensor)?);
    }
    Ok(entries)
}

struct Archive<'a> {
    bytes: &'a [u8],
    path: &'a Path,
}

impl Archive<'_> {
    fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn malformed(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Malformed { path: self.path(), reason: reason.into() }
    }

    /// Where each entry lies, by its name.
    fn files(&self) -> Result<BTreeMap<String, Range<usize>>, ArchiveError> {
        if !self.bytes.starts_with(MAGIC) {
            return Err(ArchiveError::NotZip { path: self.path() });
        }
        let unzip = |e: rawzip::Error| self.malformed(e.to_string());
        let zip = ZipArchive::from_slice(self.bytes).map_err(unzip)?;
        let mut files = BTreeMap::new();
        for record in zip.entries() {
            let record = record.map_err(unzip)?;
            let name = std::str::from_utf8(record.file_path().as_ref())
                .map_err(|_| self.malformed("the name of an entry is not UTF-8"))?
                .to_owned();
            if files.len() == ENTRIES_MAX {
                return Err(self.malformed(format!("it has more than {ENTRIES_MAX} entries")));
            }
            if record.compression_method() != CompressionMethod::STORE || record.flags().is_encrypted() {
                return Err(ArchiveError::Compressed { path: self.path(), entry: name });
            }
            let entry = zip.get_entry(record.wayfinder()).map_err(unzip)?;
            let data = entry.data();
            if data.len() as u64 != record.uncompressed_size_hint() || rawzip::crc32(data) != record.crc32() {
                return Err(ArchiveError::Checksum { path: self.path(), entry: name });
            }
            // Within the map, whose length is a usize.
            let (start, end) = entry.compressed_data_range();
            if files.insert(name.clone(), start as usize..end as usize).is_some() {
                return Err(self.malformed(format!("it has two entries `{name}`")));
            }
        }
        // A table of contents that was cut off ends like a whole one.
        if files.len() as u64 != zip.entries_hint() {
            return Err(self.malformed("its table of contents is incomplete"));
        }
        Ok(files)
    }

    /// The folder that all entries are in, with its slash, and the pickle.
    fn pickle<'f>(
        &self,
        files: &'f BTreeMap<String, Range<usize>>,
    ) -> Result<(&'f str, Range<usize>), ArchiveError> {
        let folder =
            |name: &'f str| name.strip_suffix(PICKLE_FILE).filter(|f| f.is_empty() || f.ends_with('/'));
        let mut pickles = files.iter().filter_map(|(name, range)| Some((folder(name)?, range.clone())));
        match (pickles.next(), pickles.next()) {
            (Some((_, range)), None) if range.len() > PICKLE_BYTES_MAX => {
                let (found, limit) = (range.len(), PICKLE_BYTES_MAX);
                Err(self.malformed(format!("`{PICKLE_FILE}` has {found} bytes; the limit is {limit}")))
            }
            (Some(one), None) => Ok(one),
            (None, _) => {
                Err(self.malformed(format!("it has no `{PICKLE_FILE}`, so it is not a PyTorch file")))
            }
            (Some(_), Some(_)) => Err(self.malformed(format!("it has more than one `{PICKLE_FILE}`"))),
        }
    }

    fn check_byte_order(
        &self,
        files: &BTreeMap<String, Range<usize>>,
        folder: &str,
    ) -> Result<(), ArchiveError> {
        // Older versions do not say, and wrote little-endian.
        let Some(range) = files.get(&format!("{folder}byteorder")) else { return Ok(()) };
        match &self.bytes[range.clone()] {
            b"little" => Ok(()),
            _ => Err(ArchiveError::ByteOrder { path: self.path() }),
        }
    }

    /// A tensor's place in the file.
    fn entry(
        &self,
        files: &BTreeMap<String, Range<usize>>,
        folder: &str,
        name: String,
        tensor: &Described,
    ) -> Result<HeaderEntry, ArchiveError> {
        let fault =
            |reason: String| Err(ArchiveError::Tensor { path: self.path(), tensor: name.clone(), reason });
        let key = format!("data/{}", tensor.storage.key);
        let Some(stored) = files.get(&format!("{folder}{key}")) else {
            return fault(format!("lies in `{key}`, which the file does not have"));
        };
        let size = (tensor.storage.dtype.bitsize() / 8) as u64;
        if tensor.storage.elements.checked_mul(size) != Some(stored.len() as u64) {
            let (elements, found) = (tensor.storage.elements, stored.len());
            return fault(format!(
                "lies in `{key}` of {elements} elements of {size} bytes, but that has {found} bytes"
            ));
        }
        let elements = tensor.shape.iter().try_fold(1u64, |n, extent| n.checked_mul(*extent));
        let Some(elements) = elements else {
            return fault(format!("of shape {:?} has more elements than can be counted", tensor.shape));
        };
        if !is_row_major(&tensor.shape, &tensor.strides) {
            let (shape, strides) = (&tensor.shape, &tensor.strides);
            return fault(format!(
                "of shape {shape:?} has strides {strides:?}, which are not those of rows one after the other"
            ));
        }
        match tensor.offset.checked_add(elements) {
            Some(end) if end <= tensor.storage.elements => {}
            _ => {
                let (offset, all) = (tensor.offset, tensor.storage.elements);
                return fault(format!(
                    "has elements {offset} and the {elements} from there on, but `{key}` has {all}"
                ));
            }
        }
        // At most the length of the entry, so within the map.
        let start = stored.start + (tensor.offset * size) as usize;
        let end = start + (elements * size) as usize;
        Ok(HeaderEntry { name, dtype: tensor.storage.dtype, shape: tensor.shape.clone(), start, end })
    }
}

/// Whether elements lie one after the other. The strides of an axis of one element, and of no elements, are never used.
fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    if shape.len() != strides.len() {
        return false;
    }
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1u64;
    for (&extent, &stride) in shape.iter().zip(strides).rev() {
        if extent != 1 && stride != expected {
            return false;
        }
        expected = expected.saturating_mul(extent);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::is_row_major;

    #[test]
    fn strides() {
        assert!(is_row_major(&[], &[]));
        assert!(is_row_major(&[2, 3], &[3, 1]));
        assert!(is_row_major(&[2, 1], &[1, 7]));
        assert!(is_row_major(&[0, 3], &[9, 9]));
        assert!(!is_row_major(&[2, 3], &[1, 2]));
        assert!(!is_row_major(&[2, 3], &[1]));
        assert!(!is_row_major(&[2, 3], &[0, 1]));
    }
}
