//! What a pickle's instructions make, and the calls that are known.

use super::{Described, Fault, Storage, malformed};
use safetensors::Dtype;

/// A value, by its number.
pub(super) type Id = usize;

/// Axes of a tensor. None of a head has more than two.
const AXES_MAX: usize = 8;
/// The longest name of a storage. PyTorch counts them: `0`, `1` and so on.
const KEY_BYTES_MAX: usize = 64;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    /// Which of the two never matters.
    Bool,
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Described),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::None => "none",
            Value::Bool => "boolean",
            Value::Int(_) => "number",
            Value::Text(_) => "string",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dictionary",
            Value::Global(_) => "function or class",
            Value::Storage(_) => "storage",
            Value::Tensor(_) => "tensor",
        }
    }
}

/// A function or class that a file of tensors may name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Global {
    /// Finds it by module and name.
    pub(super) fn find(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            // All are read, so that a tensor of a type that cannot be used is refused by its own name.
            ("torch", "FloatStorage") => Global::Storage(Dtype::F32),
            ("torch", "BFloat16Storage") => Global::Storage(Dtype::BF16),
            ("torch", "HalfStorage") => Global::Storage(Dtype::F16),
            ("torch", "DoubleStorage") => Global::Storage(Dtype::F64),
            ("torch", "LongStorage") => Global::Storage(Dtype::I64),
            ("torch", "IntStorage") => Global::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Global::Storage(Dtype::I16),
            ("torch", "CharStorage") => Global::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Global::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Global::Storage(Dtype::BOOL),
            _ => return None,
        })
    }
}

/// The storage that a persistent id stands for: `("storage", torch.*Storage, key, location, elements)`.
pub(super) fn storage(values: &[Value], id: Id) -> Result<Storage, Fault> {
    let Value::Tuple(parts) = &values[id] else { return malformed("a storage is not named by a tuple") };
    let parts: Vec<&Value> = parts.iter().map(|id| &values[*id]).collect();
    match parts[..] {
        [
            Value::Text(tag),
            Value::Global(Global::Storage(dtype)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(elements),
        ] if tag == "storage" && key.len() <= KEY_BYTES_MAX => match u64::try_from(*elements) {
            Ok(elements) => Ok(Storage { dtype: *dtype, key: key.clone(), elements }),
            Err(_) => malformed(format!("storage `{key}` has {elements} elements")),
        },
        _ => malformed("a storage is not named as PyTorch names it"),
    }
}

/// The result of a call.
pub(super) fn call(values: &[Value], callee: Id, arguments: Id) -> Result<Value, Fault> {
    let Value::Global(global) = values[callee] else {
        return malformed(format!("it calls a {}", values[callee].kind()));
    };
    let Value::Tuple(ids) = &values[arguments] else {
        return malformed("a call has no tuple of arguments");
    };
    let arguments: Vec<&Value> = ids.iter().map(|id| &values[*id]).collect();
    match (global, &arguments[..]) {
        (Global::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
        (Global::RebuildParameter, [Value::Tensor(tensor), Value::Bool, Value::Dict(_)]) => {
            Ok(Value::Tensor(tensor.clone()))
        }
        (
            Global::RebuildTensor,
            [
                Value::Storage(storage),
                Value::Int(offset),
                Value::Tuple(shape),
                Value::Tuple(strides),
                Value::Bool,
                Value::Dict(_),
            ],
        ) => {
            let (shape, strides) = (extents(values, shape)?, extents(values, strides)?);
            let Ok(offset) = u64::try_from(*offset) else {
                return malformed(format!("a tensor begins at element {offset}"));
            };
            Ok(Value::Tensor(Described { storage: storage.clone(), offset, shape, strides }))
        }
        (Global::OrderedDict | Global::RebuildParameter | Global::RebuildTensor | Global::Storage(_), _) => {
            malformed(format!("{global:?} is called with other arguments than PyTorch writes"))
        }
    }
}

fn extents(values: &[Value], ids: &[Id]) -> Result<Vec<u64>, Fault> {
    if ids.len() > AXES_MAX {
        return malformed(format!("a tensor has {} axes; the limit is {AXES_MAX}", ids.len()));
    }
    ids.iter()
        .map(|id| match &values[*id] {
            Value::Int(extent) => u64::try_from(*extent).or_else(|_| malformed("an extent is negative")),
            other => malformed(format!("an extent is a {}", other.kind())),
        })
        .collect()
}
