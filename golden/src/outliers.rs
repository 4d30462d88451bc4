//! Checkpoints with outlier channels: norms give some columns of the rows much larger values, and the weights behind them are
//! as much smaller. What a model computes stays the same to the bit, since all factors are powers of two; rounding rows to
//! few bits then loses the other columns.

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// Columns that become large behind each norm.
const CHANNELS: [usize; 3] = [3, 17, 40];
/// The weights' file of the fixtures.
const FILE: &str = "model.safetensors";

/// Copies a checkpoint of one file, whose layers are those of the decoder, with outliers of this factor.
///
/// # Panics
///
/// Where the checkpoint cannot be read or written, or the factor is no power of two.
pub fn plant(checkpoint: &Path, into: &Path, factor: f32) {
    assert!(factor.to_bits().trailing_zeros() >= 23, "{factor} is a power of two");
    for entry in std::fs::read_dir(checkpoint).expect("the checkpoint is a folder") {
        let path = entry.expect("it can be listed").path();
        if path.is_file() {
            let name = path.file_name().expect("it has a name");
            std::fs::copy(&path, into.join(name)).expect("files can be copied");
        }
    }
    let mut bytes = std::fs::read(checkpoint.join(FILE)).expect("it has weights");
    let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("they are sound");
    let tensors: BTreeMap<String, &TensorInfo> = metadata.tensors().into_iter().collect();
    for (name, info) in tensors {
        let columns = *info.shape.last().expect("weights have dimensions");
        let by = match name.rsplit('.').nth(1) {
            _ if !name.starts_with("model.layers.") => continue,
            Some("input_layernorm" | "post_attention_layernorm") => factor,
            Some("q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj") if info.shape.len() == 2 => {
                1.0 / factor
            }
            Some(_) | None => continue,
        };
        let (first, last) = info.data_offsets;
        let data = &mut bytes[8 + header + first..8 + header + last];
        for row in data.chunks_mut(columns * info.dtype.bitsize() / 8) {
            for channel in CHANNELS {
                scale(row, channel, info.dtype, by);
            }
        }
    }
    std::fs::write(into.join(FILE), bytes).expect("weights can be written");
}

fn scale(row: &mut [u8], channel: usize, dtype: Dtype, by: f32) {
    match dtype {
        Dtype::F32 => {
            let element = &mut row.as_chunks_mut::<4>().0[channel];
            *element = (f32::from_le_bytes(*element) * by).to_le_bytes();
        }
        Dtype::BF16 => {
            let element = &mut row.as_chunks_mut::<2>().0[channel];
            *element = half::bf16::from_f32(half::bf16::from_le_bytes(*element).to_f32() * by).to_le_bytes();
        }
        other => panic!("weights of {other:?}"),
    }
}
