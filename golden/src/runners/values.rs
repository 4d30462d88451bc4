//! Tensors as a device has them.

use dreamc_interp::{Data, Tensor};
use dreamc_num::DType;
use half::{bf16, f16};

/// A tensor from the bytes of a device.
pub fn tensor_of(dtype: DType, dims: &[usize], bytes: &[u8]) -> Tensor {
    let words = bytes.as_chunks::<4>().0;
    let data = match dtype {
        DType::F32 => Data::F32(words.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        DType::I32 => Data::I32(words.iter().map(|b| i32::from_le_bytes(*b)).collect()),
        DType::U32 => Data::U32(words.iter().map(|b| u32::from_le_bytes(*b)).collect()),
        DType::Bool => Data::Bool(bytes.iter().map(|b| *b != 0).collect()),
        DType::BF16 => {
            let halves = bytes.as_chunks::<2>().0.iter();
            Data::F32(halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect())
        }
        DType::F16 => {
            let halves = bytes.as_chunks::<2>().0.iter();
            Data::F32(halves.map(|b| f16::from_le_bytes(*b).to_f32()).collect())
        }
    };
    Tensor { dims: dims.to_vec(), data }
}

/// Inverse of [`tensor_of`]: floats are f32.
pub fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    match &tensor.data {
        Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::Bool(v) => v.iter().map(|x| u8::from(*x)).collect(),
    }
}
