//! The tensors that an artifact stores: checkpoint tensors in the layout that the kernels read.

use dreamc_artifact::WeightInfo;
use dreamc_artifact::layout::Layout;
use dreamc_ir::{Literal, Type};
use dreamc_num::{DType, Quant};

/// Where the elements of a constant come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Checkpoint tensors, one after another along the first axis.
    Checkpoint(Vec<String>),
    /// Rows of a matrix of the checkpoint, as many as the constant has.
    Rows {
        /// The tensor.
        name: String,
        /// The first of them.
        first: u64,
        /// Rows of the whole tensor.
        of: u64,
    },
    /// Rows of a matrix of the checkpoint in few bits, as many as the constant has.
    Quantized {
        /// The tensor.
        name: String,
        /// The first of them.
        first: u64,
        /// Rows of the whole tensor.
        of: u64,
        /// Name of the vector by which its columns are multiplied before they are rounded.
        columns: Option<String>,
        /// How they are rounded.
        quant: Quant,
        /// Name of the vector that says how much the squared errors of its columns count.
        importance: Option<String>,
        /// Name of the matrix that says how they are fed back.
        feedback: Option<String>,
    },
    /// The elements themselves.
    Literal(Literal),
}

/// A tensor to store.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Where its elements come from.
    pub source: Source,
    /// Element type in the artifact.
    pub dtype: DType,
    /// Logical dimensions.
    pub dims: Vec<u64>,
    /// Order of the elements.
    pub layout: Layout,
}

/// All constants of an artifact; every program refers to them by index, and equal ones are stored once.
#[derive(Clone, Debug, Default)]
pub struct Constants {
    list: Vec<Constant>,
}

impl Constants {
    /// The index of a constant, added if it is new. `None` if its dimensions are not constant.
    pub fn intern(&mut self, source: &Source, ty: &Type, layout: Layout) -> Option<u32> {
        let dims = ty.dims.iter().map(dreamc_ir::Dim::as_constant).collect::<Option<Vec<u64>>>()?;
        let constant = Constant { source: source.clone(), dtype: ty.dtype, dims, layout };
        let known = self.list.iter().position(|c| *c == constant);
        Some(known.unwrap_or_else(|| {
            self.list.push(constant);
            self.list.len() - 1
        }) as u32)
    }

    /// In order of their indices.
    pub fn list(&self) -> &[Constant] {
        &self.list
    }

    /// The weight table without offsets and hashes; `None` if a tensor is too large to store.
    pub fn table(&self) -> Option<Vec<WeightInfo>> {
        let mut table: Vec<WeightInfo> = Vec::with_capacity(self.list.len());
        for (index, constant) in self.list.iter().enumerate() {
            let Constant { source, dtype, dims, layout } = constant;
            let mut name = match source {
                Source::Checkpoint(names) => names.join("+"),
                Source::Rows { name, first, .. } => {
                    let rows = dims.first().copied().unwrap_or(0);
                    format!("{name}[{first}..{}]", first.saturating_add(rows))
                }
                Source::Quantized { name, first, of, .. } => match dims.first() {
                    Some(rows) if rows != of => format!("{name}[{first}..{}]", first.saturating_add(*rows)),
                    Some(_) | None => name.clone(),
                },
                Source::Literal(_) => format!("constant.{index}"),
            };
            if table.iter().any(|w| w.name == name) {
                // The same tensor in a second layout or type: the tied embedding, for one.
                name = format!("{name}#{index}");
            }
            table.push(WeightInfo {
                name,
                dtype: *dtype,
                dims: dims.clone(),
                layout: *layout,
                offset: 0,
                bytes: layout.stored_bytes(*dtype, dims)?,
                hash: [0; 32],
            });
        }
        Some(table)
    }
}
