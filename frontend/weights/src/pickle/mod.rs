//! The part of pickle that a dictionary of tensors needs: a stack machine that builds descriptions and calls nothing.
//!
//! Allowed are the instructions of `opcode.rs`, protocol 2, and these calls: `collections.OrderedDict()`,
//! `torch._utils._rebuild_tensor_v2` and `torch._utils._rebuild_parameter`, on `torch.*Storage`. Whatever else a file
//! asks for is refused by name. Values live in one list and refer to each other by number, and every instruction adds
//! at most one: time and memory are bounded by the length of the pickle, however values share each other.

mod opcode;
mod value;

use crate::ArchiveError;
use opcode::Op;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;
use value::{Global, Id, Value};

/// A tensor as the pickle describes it. Nothing here has been compared with the data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Described {
    pub(crate) storage: Storage,
    /// First element within the storage.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
}

/// A run of elements that tensors are views of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    pub(crate) dtype: Dtype,
    /// Its name within the archive.
    pub(crate) key: String,
    pub(crate) elements: u64,
}

/// Why a pickle is refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// An instruction outside the list.
    Opcode(String),
    /// A function or class outside the list.
    Global(String),
    /// Anything else.
    Malformed(String),
}

impl Fault {
    /// The error, given the file.
    pub(crate) fn into_error(self, path: &Path) -> ArchiveError {
        let path = path.to_owned();
        match self {
            Fault::Opcode(opcode) => ArchiveError::Opcode { path, opcode },
            Fault::Global(global) => ArchiveError::Global { path, global },
            Fault::Malformed(reason) => ArchiveError::Pickle { path, reason },
        }
    }
}

fn malformed<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(reason.into()))
}

/// Reads a dictionary of tensors.
pub(crate) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Described>, Fault> {
    let mut machine =
        Machine { bytes, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new() };
    let result = machine.run()?;
    let Value::Dict(items) = &machine.values[result] else {
        return malformed(format!(
            "it holds a {} instead of a dictionary of tensors",
            machine.values[result].kind()
        ));
    };
    let mut tensors = BTreeMap::new();
    for &(key, value) in items {
        let Value::Text(name) = &machine.values[key] else {
            return malformed(format!("a key of the dictionary is a {}", machine.values[key].kind()));
        };
        let Value::Tensor(tensor) = &machine.values[value] else {
            return malformed(format!("`{name}` is a {} and not a tensor", machine.values[value].kind()));
        };
        if tensors.insert(name.clone(), tensor.clone()).is_some() {
            return malformed(format!("`{name}` stands there twice"));
        }
    }
    Ok(tensors)
}

struct Machine<'a> {
    /// What is left to read.
    bytes: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl Machine<'_> {
    /// Runs to the end and gives the result.
    fn run(&mut self) -> Result<Id, Fault> {
        loop {
            let byte = self.take::<1>()?[0];
            let Some(op) = Op::from_byte(byte) else { return Err(Fault::Opcode(opcode::spelling(byte))) };
            if op == Op::Stop {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    fn step(&mut self, op: Op) -> Result<(), Fault> {
        match op {
            Op::Stop => {}
            Op::Proto => match self.take::<1>()?[0] {
                2 => {}
                other => return malformed(format!("it is of protocol {other}; `torch.save` writes 2")),
            },
            Op::Mark => self.marks.push(self.stack.len()),
            Op::None => self.push(Value::None),
            Op::True => self.push(Value::Bool),
            Op::False => self.push(Value::Bool),
            Op::Int => {
                let number = i32::from_le_bytes(self.take()?);
                self.push(Value::Int(number.into()));
            }
            Op::Int1 => {
                let number = self.take::<1>()?[0];
                self.push(Value::Int(number.into()));
            }
            Op::Int2 => {
                let number = u16::from_le_bytes(self.take()?);
                self.push(Value::Int(number.into()));
            }
            Op::Long1 => self.long()?,
            Op::Text => {
                let length = u32::from_le_bytes(self.take()?);
                let text = self.take_slice(length as usize)?;
                match std::str::from_utf8(text) {
                    Ok(text) => self.push(Value::Text(text.to_owned())),
                    Err(_) => return malformed("a string is not UTF-8"),
                }
            }
            Op::Global => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(
                    Global::find(module, name).ok_or_else(|| Fault::Global(format!("{module}.{name}")))?,
                ));
            }
            Op::EmptyTuple => self.push(Value::Tuple(Vec::new())),
            Op::Tuple => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items));
            }
            Op::Tuple1 => self.tuple(1)?,
            Op::Tuple2 => self.tuple(2)?,
            Op::Tuple3 => self.tuple(3)?,
            Op::EmptyDict => self.push(Value::Dict(Vec::new())),
            Op::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            Op::SetItems => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            Op::Put | Op::LongPut => {
                let slot = self.slot(op == Op::LongPut)?;
                let Some(&top) = self.stack.last() else {
                    return malformed("it puts aside what is not there");
                };
                self.memo.insert(slot, top);
            }
            Op::Get | Op::LongGet => {
                let slot = self.slot(op == Op::LongGet)?;
                let Some(&id) = self.memo.get(&slot) else {
                    return malformed("it takes up what was not put aside");
                };
                self.stack.push(id);
            }
            Op::PersistentId => {
                let id = self.pop()?;
                let storage = value::storage(&self.values, id)?;
                self.push(Value::Storage(storage));
            }
            Op::Reduce => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let result = value::call(&self.values, callee, arguments)?;
                self.push(result);
            }
            Op::Build => self.build()?,
        }
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        // What lies under a mark belongs to another value.
        match self.stack.pop() {
            Some(id) if self.marks.last().is_none_or(|mark| self.stack.len() >= *mark) => Ok(id),
            _ => malformed("it uses more values than it makes"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Fault> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => malformed("it ends a group that it did not begin"),
        }
    }

    fn tuple(&mut self, count: usize) -> Result<(), Fault> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), Fault> {
        let (pairs, []) = items.as_chunks::<2>() else { return malformed("a key has no value") };
        let target = self.stack.last().copied();
        match target.map(|id| &mut self.values[id]) {
            Some(Value::Dict(dict)) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Some(other) => return malformed(format!("it stores items in a {}", other.kind())),
            None => return malformed("it stores items in nothing"),
        }
        Ok(())
    }

    /// `state_dict()` has the versions of its modules as an attribute of the dictionary; it is of no use here.
    fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        let target = self.stack.last().map(|id| &self.values[*id]);
        let (Some(Value::Dict(_)), Value::Dict(attributes)) = (target, &self.values[state]) else {
            return Err(Fault::Opcode("BUILD".to_owned()));
        };
        match attributes[..] {
            [(key, _)] if matches!(&self.values[key], Value::Text(k) if k == "_metadata") => Ok(()),
            _ => malformed("it sets attributes other than `_metadata`"),
        }
    }

    fn long(&mut self) -> Result<(), Fault> {
        let length = self.take::<1>()?[0];
        let digits = self.take_slice(length.into())?;
        let negative = digits.last().is_some_and(|d| d & 0x80 != 0);
        let mut bytes = if negative { [0xff; 8] } else { [0; 8] };
        let Some(room) = bytes.get_mut(..digits.len()) else {
            return malformed("a number is too large");
        };
        room.copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn slot(&mut self, long: bool) -> Result<u32, Fault> {
        if long { Ok(u32::from_le_bytes(self.take()?)) } else { Ok(self.take::<1>()?[0].into()) }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.bytes.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(*taken)
            }
            None => malformed("it ends in the middle"),
        }
    }
}

impl<'a> Machine<'a> {
    fn take_slice(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        match self.bytes.split_at_checked(length) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None => malformed("it ends in the middle"),
        }
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let Some(end) = self.bytes.iter().position(|b| *b == b'\n') else {
            return malformed("it ends in the middle");
        };
        let line = self.take_slice(end)?;
        self.take_slice(1)?;
        std::str::from_utf8(line).or_else(|_| malformed("a name is not UTF-8"))
    }
}

#[cfg(test)]
mod tests;
