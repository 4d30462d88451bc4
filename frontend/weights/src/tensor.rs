//! A view of one stored tensor.

use crate::WeightsError;
use crate::shard::{HeaderEntry, Shard};
use dreamc_num::DType;
use std::ops::Range;

/// Where a tensor lies in its file.
#[derive(Debug)]
pub(crate) struct Entry {
    dtype: DType,
    shape: Vec<u64>,
    start: usize,
    end: usize,
}

impl Entry {
    /// Refuses all but the three float types. Gives the tensor's name back.
    pub(crate) fn new(entry: HeaderEntry, file: &str) -> Result<(String, Entry), WeightsError> {
        let HeaderEntry { name, dtype, shape, start, end } = entry;
        // The crate's list may grow; all but these three are refused.
        let dtype = if dtype == safetensors::Dtype::F32 {
            DType::F32
        } else if dtype == safetensors::Dtype::BF16 {
            DType::BF16
        } else if dtype == safetensors::Dtype::F16 {
            DType::F16
        } else {
            let (file, found) = (file.to_owned(), format!("{dtype:?}"));
            return Err(WeightsError::UnsupportedDType { tensor: name, file, found });
        };
        Ok((name, Entry { dtype, shape, start, end }))
    }

    /// The tensor, given the file that the entry is of.
    pub(crate) fn view<'a>(&'a self, name: &'a str, shard: &'a Shard) -> TensorRef<'a> {
        let bytes = &shard.bytes()[self.start..self.end];
        TensorRef { name, dtype: self.dtype, shape: &self.shape, bytes, shard, start: self.start }
    }

    /// The number of bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.end - self.start
    }
}

/// A tensor of a [`Checkpoint`](crate::Checkpoint): its type and its bytes as they lie in the file.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// F32, BF16 or F16.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: &'a [u64],
    /// Little-endian elements in row-major order; not necessarily aligned.
    pub bytes: &'a [u8],
    pub(crate) shard: &'a Shard,
    pub(crate) start: usize,
}

/// Elements converted at a time when two tensors are compared.
const SCAN_ELEMENTS: usize = 4096;

impl<'a> TensorRef<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The file that holds the tensor.
    pub fn file(&self) -> &'a str {
        &self.shard.file
    }

    /// Converts a range of elements, counted in row-major order, to f32. The conversion is exact.
    ///
    /// # Panics
    /// If the range ends beyond the tensor or `out` has another length than the range.
    pub fn to_f32(&self, elements: Range<usize>, out: &mut [f32]) {
        assert!(elements.end <= self.len() && elements.len() == out.len(), "range out of the tensor");
        let size = self.dtype.bytes();
        let bytes = &self.bytes[elements.start * size..elements.end * size];
        match self.dtype {
            DType::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
            DType::BF16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            DType::F16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = half::f16::from_le_bytes(*b).to_f32();
                }
            }
            DType::I32 | DType::U32 | DType::Bool => unreachable!("opening admits float tensors only"),
        }
    }

    /// Whether two tensors have the same shape and equal values. Compares bits, so -0 differs from 0 and a
    /// NaN equals itself.
    pub fn same_values(&self, other: &TensorRef<'_>) -> bool {
        if self.shape != other.shape {
            return false;
        }
        if self.dtype == other.dtype {
            return self.bytes == other.bytes;
        }
        let (mut a, mut b) = ([0.0f32; SCAN_ELEMENTS], [0.0f32; SCAN_ELEMENTS]);
        let mut start = 0;
        while start < self.len() {
            let count = SCAN_ELEMENTS.min(self.len() - start);
            self.to_f32(start..start + count, &mut a[..count]);
            other.to_f32(start..start + count, &mut b[..count]);
            if a[..count].iter().zip(&b[..count]).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return false;
            }
            start += count;
        }
        true
    }

    /// Drops the tensor's pages from memory, so that importing a large checkpoint stays small. The bytes
    /// remain readable and are fetched from the file again when needed.
    pub fn release(&self) {
        self.shard.release(self.start, self.bytes.len());
    }

    /// Like [`TensorRef::release`], for a range of elements only.
    ///
    /// # Panics
    /// If the range ends beyond the tensor.
    pub fn release_range(&self, elements: Range<usize>) {
        assert!(elements.end <= self.len(), "range out of the tensor");
        let size = self.dtype.bytes();
        self.shard.release(self.start + elements.start * size, elements.len() * size);
    }
}
