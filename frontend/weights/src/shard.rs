//! One safetensors file, mapped, with its header checked.

use crate::WeightsError;
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Headers longer than this are refused before parsing. That of a 7B model has under 64 KiB.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// The length field before the header.
const LENGTH_BYTES: usize = 8;

/// A mapped file.
#[derive(Debug)]
pub(crate) struct Shard {
    /// The file's name within the checkpoint directory.
    pub(crate) file: String,
    map: Mmap,
}

/// A tensor as the header describes it; `start..end` lies within the file.
#[derive(Debug)]
pub(crate) struct HeaderEntry {
    pub(crate) name: String,
    pub(crate) dtype: safetensors::Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Shard {
    /// Maps a safetensors file and checks its header. Entries come back in name order.
    pub(crate) fn open(dir: &Path, file: &str) -> Result<(Shard, Vec<HeaderEntry>), WeightsError> {
        let shard = Shard::map(dir, file)?;
        let entries = parse_header(&shard.map, &dir.join(file))?;
        Ok((shard, entries))
    }

    /// Maps a file of at least 8 bytes.
    pub(crate) fn map(dir: &Path, file: &str) -> Result<Shard, WeightsError> {
        let path = dir.join(file);
        let io = |source| WeightsError::Io { path: path.clone(), source };
        let handle = File::open(&path).map_err(io)?;
        let meta = handle.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        if meta.len() < LENGTH_BYTES as u64 {
            return Err(WeightsError::Truncated {
                path,
                found_bytes: meta.len(),
                expected: "at least the 8 bytes of its length".to_owned(),
            });
        }
        let map = map_file(&handle).map_err(io)?;
        Ok(Shard { file: file.to_owned(), map })
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets the system forget the pages of a range. They are read again from the file when touched.
    pub(crate) fn release(&self, start: usize, len: usize) {
        if len == 0 {
            return;
        }
        #[cfg(unix)]
        drop_pages(&self.map, start, len);
    }
}

#[allow(unsafe_code, reason = "mapping a file has no safe form")]
fn map_file(handle: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is read-only and private to this process's view. As with every mapped file, the
    // contract is that nobody truncates or rewrites the checkpoint while it is imported; all reads are of
    // plain bytes, for which any content is a valid value.
    unsafe { Mmap::map(handle) }
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "dropping mapped pages has no safe form")]
fn drop_pages(map: &Mmap, start: usize, len: usize) {
    // SAFETY: the mapping is read-only and backed by a file, so a dropped page has no changes to lose and is
    // read again, with the same content, at the next access.
    let dropped = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
    // Only advice: where it fails, the pages stay in memory and nothing else changes.
    drop(dropped);
}

fn parse_header(bytes: &[u8], path: &Path) -> Result<Vec<HeaderEntry>, WeightsError> {
    let path: PathBuf = path.to_owned();
    let found_bytes = bytes.len() as u64;
    let malformed = |reason: String| WeightsError::Header { path: path.clone(), reason };
    let truncated = |expected: String| WeightsError::Truncated { path: path.clone(), found_bytes, expected };

    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(truncated("at least the 8 bytes of its length".to_owned()));
    };
    let header_bytes = u64::from_le_bytes(*length);
    if header_bytes > HEADER_BYTES_MAX {
        let limit_bytes = HEADER_BYTES_MAX;
        return Err(WeightsError::HeaderTooLong { path, found_bytes: header_bytes, limit_bytes });
    }
    // Fits: at most HEADER_BYTES_MAX.
    let header_len = header_bytes as usize;
    let Some(header) = rest.get(..header_len) else {
        return Err(truncated(format!("{} bytes of header alone", LENGTH_BYTES + header_len)));
    };
    // Deserialising checks offsets, shapes and sizes against each other: no overlap, no hole.
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| match find_faulty(header) {
        Some((tensor, reason)) => WeightsError::HeaderTensor { path: path.clone(), tensor, reason },
        None => malformed(e.to_string()),
    })?;
    let data_start = LENGTH_BYTES + header_len;
    let end = data_start.checked_add(metadata.data_len());
    if end != Some(bytes.len()) {
        let expected = match end {
            Some(end) => format!("{end} bytes"),
            None => "more than can be addressed".to_owned(),
        };
        return Err(truncated(expected));
    }
    let mut entries = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let (start, end) = info.data_offsets;
        entries.push(HeaderEntry {
            dtype: info.dtype,
            shape: info.shape.iter().map(|&n| n as u64).collect(),
            start: data_start + start,
            end: data_start + end,
            name,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// A tensor whose entry is wrong, and what is wrong: the library does not always say which it is, nor always the same.
fn find_faulty(header: &[u8]) -> Option<(String, String)> {
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let mut ranges = Vec::new();
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let fault = match serde_json::from_value(entry) {
            Ok(info) => {
                let TensorInfo { data_offsets: (start, end), .. } = info;
                ranges.push((start, end, name.clone()));
                size_fault(&info)
            }
            Err(e) => Some(format!("has a faulty entry: {e}")),
        };
        if let Some(fault) = fault {
            return Some((name, fault));
        }
    }
    // Each must begin where the one before it ends.
    ranges.sort();
    let mut before = (0, "the header".to_owned());
    for (start, end, name) in ranges {
        if start != before.0 {
            let fault = format!("begins at byte {start} of the data, but {} ends at {}", before.1, before.0);
            return Some((name, fault));
        }
        before = (end, format!("`{name}`, before it,"));
    }
    None
}

/// Where shape, dtype and range of a tensor disagree.
fn size_fault(info: &TensorInfo) -> Option<String> {
    let (start, end) = info.data_offsets;
    let Some(found) = end.checked_sub(start) else {
        return Some(format!("begins at byte {start} of the data, but ends at {end}"));
    };
    let elements = info.shape.iter().try_fold(1_usize, |count, n| count.checked_mul(*n));
    let needed = match elements.and_then(|count| count.checked_mul(info.dtype.bitsize())) {
        Some(bits) if bits == found.saturating_mul(8) => return None,
        Some(bits) => format!("{} bytes", bits.div_ceil(8)),
        None => "more bytes than can be counted".to_owned(),
    };
    let (shape, dtype) = (&info.shape, info.dtype);
    Some(format!("of shape {shape:?} and dtype {dtype:?} needs {needed} but its range has {found}"))
}
