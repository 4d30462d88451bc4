//! Fixtures and their tensors.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use dreamc_front::image::Grid;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A file of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/fixtures").join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// The reference's tensors of a fixture.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn of(fixture_name: &str) -> Golden {
        Golden(std::fs::read(fixture(fixture_name).join("golden.safetensors")).unwrap())
    }

    fn with<T>(&self, name: &str, dtype: Dtype, read: impl Fn(&[u8]) -> Vec<T>) -> Vec<T> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let view: TensorView<'_> = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(view.dtype(), dtype, "{name}");
        read(view.data())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().shape().to_vec()
    }

    pub(crate) fn u8(&self, name: &str) -> Vec<u8> {
        self.with(name, Dtype::U8, <[u8]>::to_vec)
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        let read = |b: &[u8]| b.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
        self.with(name, Dtype::F32, read)
    }

    pub(crate) fn f64(&self, name: &str) -> Vec<f64> {
        let read = |b: &[u8]| b.as_chunks().0.iter().map(|c| f64::from_le_bytes(*c)).collect();
        self.with(name, Dtype::F64, read)
    }

    pub(crate) fn i32(&self, name: &str) -> Vec<i32> {
        let read = |b: &[u8]| b.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c) as i32).collect();
        self.with(name, Dtype::I64, read)
    }

    /// Rows of an `image_grid_thw`.
    pub(crate) fn grids(&self, name: &str) -> Vec<Grid> {
        let numbers = self.i32(name);
        numbers.chunks_exact(3).map(|c| grid(&[c[0] as u64, c[1] as u64, c[2] as u64])).collect()
    }
}

pub(crate) fn grid(thw: &[u64]) -> Grid {
    Grid { t: thw[0] as u32, h: thw[1] as u32, w: thw[2] as u32 }
}

pub(crate) fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

/// The largest difference of two lists of one length.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The largest difference of two lists of one length.
pub(crate) fn levels(found: &[u8], expected: &[u8]) -> u8 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

/// Bytes of splitmix64, low byte first.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
