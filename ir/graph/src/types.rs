//! Types of values.

use crate::dim::Dim;
use dreamc_num::DType;
use std::fmt;

/// Element type and dimensions of a tensor, outermost dimension first. Prints as `f32[B, S, 64]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Dimensions; none for a scalar.
    pub dims: Vec<Dim>,
}

impl Type {
    /// A type of these parts.
    pub fn new(dtype: DType, dims: impl IntoIterator<Item = Dim>) -> Type {
        Type { dtype, dims: dims.into_iter().collect() }
    }

    /// A type without dimensions.
    pub fn scalar(dtype: DType) -> Type {
        Type { dtype, dims: Vec::new() }
    }

    /// The same dimensions with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Type {
        Type { dtype, dims: self.dims.clone() }
    }

    /// The last dimension if it is a constant.
    pub fn columns(&self) -> Option<u64> {
        self.dims.last()?.as_constant()
    }

    /// Number of elements.
    pub fn elements(&self) -> Dim {
        self.dims.iter().fold(Dim::from(1), |product, d| product.times(d))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.dims.iter().enumerate() {
            write!(f, "{}{dim}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}
