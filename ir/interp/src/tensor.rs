//! Tensors of the interpreter.

use dreamc_ir::Type;
use dreamc_num::DType;
use dreamc_num::stream::philox4x32_10;
use std::collections::BTreeMap;

/// A dense tensor, last axis fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// As many elements as the product of the dimensions.
    pub data: Data,
}

/// Elements of a tensor. f32, bf16 and f16 are all held as f32.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Any float type.
    F32(Vec<f32>),
    /// Token ids, positions, counts.
    I32(Vec<i32>),
    /// Random bits.
    U32(Vec<u32>),
    /// Conditions.
    Bool(Vec<bool>),
}

impl Tensor {
    /// A float tensor.
    pub fn f32(dims: &[usize], data: Vec<f32>) -> Tensor {
        Tensor { dims: dims.to_vec(), data: Data::F32(data) }
    }

    /// An integer tensor.
    pub fn i32(dims: &[usize], data: Vec<i32>) -> Tensor {
        Tensor { dims: dims.to_vec(), data: Data::I32(data) }
    }

    /// A tensor of unsigned words.
    pub fn u32(dims: &[usize], data: Vec<u32>) -> Tensor {
        Tensor { dims: dims.to_vec(), data: Data::U32(data) }
    }

    /// A tensor of conditions.
    pub fn bool(dims: &[usize], data: Vec<bool>) -> Tensor {
        Tensor { dims: dims.to_vec(), data: Data::Bool(data) }
    }

    /// Elements of a float tensor. Panics on another: a verified graph never asks for the wrong kind.
    pub fn floats(&self) -> &[f32] {
        match &self.data {
            Data::F32(v) => v,
            Data::I32(_) | Data::U32(_) | Data::Bool(_) => panic!("not a float tensor"),
        }
    }

    /// Elements of an i32 tensor. Panics on another.
    pub fn ints(&self) -> &[i32] {
        match &self.data {
            Data::I32(v) => v,
            Data::F32(_) | Data::U32(_) | Data::Bool(_) => panic!("not an i32 tensor"),
        }
    }

    /// Elements of a u32 tensor. Panics on another.
    pub fn words(&self) -> &[u32] {
        match &self.data {
            Data::U32(v) => v,
            Data::F32(_) | Data::I32(_) | Data::Bool(_) => panic!("not a u32 tensor"),
        }
    }

    /// Elements of a bool tensor. Panics on another.
    pub fn bools(&self) -> &[bool] {
        match &self.data {
            Data::Bool(v) => v,
            Data::F32(_) | Data::I32(_) | Data::U32(_) => panic!("not a bool tensor"),
        }
    }

    /// The last dimension, 1 for a scalar.
    pub fn columns(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// Whether the tensor is one of this type with these symbols.
    pub fn is_of(&self, ty: &Type, symbols: &BTreeMap<String, u64>) -> bool {
        let (len, kind) = match &self.data {
            Data::F32(v) => (v.len(), ty.dtype.is_float()),
            Data::I32(v) => (v.len(), ty.dtype == DType::I32),
            Data::U32(v) => (v.len(), ty.dtype == DType::U32),
            Data::Bool(v) => (v.len(), ty.dtype == DType::Bool),
        };
        kind && Some(&self.dims) == dims_of(ty, symbols).as_ref() && len == self.dims.iter().product()
    }
}

/// Dimensions of a type where the symbols have these values; `None` for an unknown symbol.
pub(crate) fn dims_of(ty: &Type, symbols: &BTreeMap<String, u64>) -> Option<Vec<usize>> {
    ty.dims.iter().map(|d| d.at(&|name| symbols.get(name).copied()).map(|n| n as usize)).collect()
}

/// A tensor of reproducible elements: floats in `[-1, 1)`, integers from 0 to 3, conditions of both kinds.
/// An unknown symbol counts as 3.
pub fn seeded(ty: &Type, symbols: &BTreeMap<String, u64>, seed: u64) -> Tensor {
    let size = |name: &str| symbols.get(name).copied().or(Some(3));
    let dims: Vec<usize> = ty.dims.iter().map(|d| d.at(&size).unwrap_or(1) as usize).collect();
    let words = (0..dims.iter().product::<usize>() as u32)
        .map(|i| philox4x32_10([i, 0, 0, 0], [seed as u32, (seed >> 32) as u32])[0]);
    let data = match ty.dtype {
        DType::F32 | DType::BF16 | DType::F16 => {
            Data::F32(words.map(|w| (w >> 8) as f32 / 8_388_608.0 - 1.0).collect())
        }
        DType::I32 => Data::I32(words.map(|w| (w >> 30) as i32).collect()),
        DType::U32 => Data::U32(words.collect()),
        DType::Bool => Data::Bool(words.map(|w| w >> 31 == 1).collect()),
    };
    Tensor { dims, data }
}
