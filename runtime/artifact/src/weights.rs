//! The weight table: one entry per tensor, in the order in which the tensors lie.

use crate::layout::Layout;
use crate::wire::EncodeError;
use crate::{OpenError, align};
use alloc::string::String;
use alloc::vec::Vec;
use dreamc_num::DType;
use serde::{Deserialize, Serialize};

/// Refused above this.
pub const WEIGHT_COUNT_MAX: usize = 1 << 16;
/// Most dimensions of a stored tensor.
const WEIGHT_RANK_MAX: usize = 8;

/// One stored tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightInfo {
    /// Path in the checkpoint; unique.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Logical dimensions, outermost first; none is 0.
    pub dims: Vec<u64>,
    /// Order of the elements.
    pub layout: Layout,
    /// First byte in the weights section, a multiple of [`crate::SECTION_ALIGN`].
    pub offset: u64,
    /// Stored bytes, filling rows and columns included.
    pub bytes: u64,
    /// blake3 of the stored bytes.
    pub hash: [u8; 32],
}

/// Sets the offset of every tensor, in order, and gives the length of the weights section. `None` on overflow.
pub fn place(weights: &mut [WeightInfo]) -> Option<u64> {
    let mut end = 0;
    for weight in weights {
        weight.offset = align(end)?;
        end = weight.offset.checked_add(weight.bytes)?;
    }
    Some(end)
}

/// Hash of the weights section: that of the tensors' hashes one after the other.
pub fn table_hash(weights: &[WeightInfo]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for weight in weights {
        hasher.update(&weight.hash);
    }
    *hasher.finalize().as_bytes()
}

/// The section's bytes.
///
/// # Errors
///
/// Where the writer fails.
pub fn encode_table(weights: &[WeightInfo]) -> Result<Vec<u8>, EncodeError> {
    postcard::to_allocvec(weights).map_err(|_| EncodeError)
}

/// Reads a weight table for a weights section of `section_len` bytes and checks that every tensor lies where
/// [`place`] puts it and is as long as its layout says.
///
/// # Errors
///
/// Names the first entry that is wrong.
pub fn decode_table(bytes: &[u8], section_len: u64) -> Result<Vec<WeightInfo>, OpenError> {
    let (weights, rest) =
        postcard::take_from_bytes::<Vec<WeightInfo>>(bytes).map_err(|_| OpenError::WeightTable)?;
    if !rest.is_empty() {
        return Err(OpenError::WeightTable);
    }
    if weights.len() > WEIGHT_COUNT_MAX {
        return Err(OpenError::WeightCount { found: weights.len() as u64 });
    }
    let mut end = 0;
    for (weight, index) in weights.iter().zip(0_u32..) {
        let stored = weight.layout.stored_bytes(weight.dtype, &weight.dims);
        if weight.dims.len() > WEIGHT_RANK_MAX || weight.dims.contains(&0) || stored != Some(weight.bytes) {
            return Err(OpenError::WeightBytes { index });
        }
        if Some(weight.offset) != align(end) {
            return Err(OpenError::WeightPlace { index });
        }
        end = weight.offset.checked_add(weight.bytes).ok_or(OpenError::WeightPlace { index })?;
    }
    let mut names: Vec<&str> = weights.iter().map(|w| w.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(OpenError::WeightNames);
    }
    if end != section_len { Err(OpenError::WeightsLength) } else { Ok(weights) }
}
