//! The kernels that a target's programs launch, each emitted once.

use dreamc_artifact::code::{self, Code, Form, Image, Module, ScalarType};
use dreamc_kernels::{self as kernels, Access, EmitError, Emitted, Kernel, Target};
use std::collections::BTreeMap;

/// What travels beside the kernels that the model of the target chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Other kernels for a launch, at most.
    pub more: u32,
    /// For launches of so many products at the longest request, or more.
    pub products_min: u64,
}

impl Candidates {
    /// None.
    pub const NONE: Candidates = Candidates { more: 0, products_min: 0 };
    /// One where most time is spent: a matmul of 3584 x 3584 from 335 rows on. Each is a binary more for each of seven
    /// architectures.
    pub const HOT: Candidates = Candidates { more: 1, products_min: 1 << 32 };
}

/// See the module.
pub struct Modules {
    target: Target,
    candidates: Candidates,
    index: BTreeMap<Kernel, u32>,
    list: Vec<Emitted>,
}

impl Modules {
    /// None yet, for `target`; its programs have no candidates.
    pub fn new(target: Target) -> Modules {
        Modules { target, candidates: Candidates::NONE, index: BTreeMap::new(), list: Vec::new() }
    }

    /// The same with candidates.
    #[must_use]
    pub fn with(self, candidates: Candidates) -> Modules {
        Modules { candidates, ..self }
    }

    /// How many others a launch of so many products has.
    pub(crate) fn others(&self, products: u64) -> usize {
        if products >= self.candidates.products_min { self.candidates.more as usize } else { 0 }
    }

    /// What they are emitted for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// In order of their indices.
    pub fn list(&self) -> &[Emitted] {
        &self.list
    }

    /// The index of a kernel, which is emitted if it is new.
    pub(crate) fn index(&mut self, kernel: &Kernel) -> Result<u32, EmitError> {
        if let Some(index) = self.index.get(kernel) {
            return Ok(*index);
        }
        let index = self.list.len() as u32;
        self.list.push(kernel.emit(&self.target)?);
        self.index.insert(kernel.clone(), index);
        Ok(index)
    }

    /// As the artifact stores them: source for the driver's or the vendor's compiler.
    pub fn to_code(&self) -> Code {
        Code { modules: self.list.iter().map(module).collect() }
    }
}

fn module(emitted: &Emitted) -> Module {
    let extent = |extent: &kernels::Extent| match extent {
        kernels::Extent::Constant(n) => code::Extent::Constant(*n),
        kernels::Extent::Ceil { of, per, any } => {
            let at = emitted.scalars.iter().position(|s| s.name == *of);
            // A name that is not there points behind the last scalar, which the validator refuses.
            let of = at.unwrap_or(emitted.scalars.len()) as u32;
            code::Extent::Ceil { of, per: *per, any: *any }
        }
    };
    let word = |word: &kernels::Word| match word {
        kernels::Word::Scalar(i) => code::Word::Scalar(*i),
        kernels::Word::Length(i) => code::Word::Length(*i),
        kernels::Word::Zero => code::Word::Zero,
    };
    let buffer = |buffer: &kernels::Buffer| code::Buffer {
        element_bytes: buffer.element.bytes() as u8,
        written: matches!(buffer.access, Access::Write | Access::ReadWrite),
    };
    let scalar = |scalar: &kernels::Scalar| match scalar.ty {
        kernels::ScalarType::U32 => ScalarType::U32,
        kernels::ScalarType::F32 => ScalarType::F32,
    };
    let form = match emitted.form {
        kernels::Form::Wgsl => Form::Wgsl,
        kernels::Form::Msl => Form::Msl,
        kernels::Form::Cuda => Form::CudaSource,
        kernels::Form::Hip => Form::HipSource,
    };
    Module {
        name: emitted.name.clone(),
        images: vec![Image::any(form, emitted.source.clone().into_bytes())],
        workgroup: emitted.workgroup,
        shared_bytes: emitted.shared_bytes,
        buffers: emitted.buffers.iter().map(buffer).collect(),
        scalars: emitted.scalars.iter().map(scalar).collect(),
        grid: [0, 1, 2].map(|axis| extent(&emitted.grid[axis])),
        info: emitted.info.words.iter().map(word).collect(),
    }
}
