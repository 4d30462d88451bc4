//! A driver that executes on the host, for tests. As with Metal, nothing happens before it is committed or waited for.

use crate::driver::{Compiled, Driver, Limits};
use dreamc_artifact::code::{Buffer, Extent, Form, Image, Module, ScalarType, Word};
use dreamc_runtime::Grid;
use std::cell::RefCell;
use std::rc::Rc;

/// What the device takes.
pub(crate) const LIMITS: Limits =
    Limits { buffer_bytes: 4096, memory_bytes: 8192, units: [1024, 1024, 64], shared_bytes: 32 << 10 };

/// Most units of a workgroup.
const UNITS_MAX: u64 = 64;

/// A module whose text says what it does, see [`Fake::compile`]. Scalar 0 is the number of elements; a workgroup does 32.
pub(crate) fn module(name: &str, buffers: usize, scalars: &[ScalarType]) -> Module {
    let first = match scalars {
        [] => Extent::Constant(1),
        [..] => Extent::Ceil { of: 0, per: 32, any: false },
    };
    Module {
        name: name.to_owned(),
        images: vec![Image::any(Form::Msl, name.as_bytes().to_vec())],
        workgroup: [32, 1, 1],
        shared_bytes: 0,
        buffers: vec![Buffer { element_bytes: 4, written: true }; buffers],
        scalars: scalars.to_vec(),
        grid: [first, Extent::Constant(1), Extent::Constant(1)],
        info: (0..scalars.len() as u32).map(Word::Scalar).collect(),
    }
}

pub(crate) type Memory = Rc<RefCell<Vec<u8>>>;

/// What a kernel does with its buffers, from their offsets on, and its words.
type Action = fn(&[(Memory, u64)], &[u32]);

#[derive(Clone)]
enum Command {
    Launch(Action, Vec<(Memory, u64)>, Vec<u32>),
    Copy((Memory, u64), (Memory, u64), u64),
}

/// The driver.
#[derive(Default)]
pub(crate) struct Fake {
    taken: RefCell<u64>,
    recorded: Vec<Command>,
    action: Option<Action>,
    buffers: Vec<(Memory, u64)>,
    words: Vec<u32>,
    /// Workgroups of all launches.
    pub(crate) grids: Vec<Grid>,
    /// How many commands went to the device together, each time that some did.
    pub(crate) commits: Vec<usize>,
    /// What the next commit fails with.
    pub(crate) failure: Option<String>,
}

impl Driver for Fake {
    type Kernel = Action;
    type Memory = Memory;

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn taken_bytes(&self) -> u64 {
        *self.taken.borrow()
    }

    fn memory(&self, bytes: u64) -> Option<Memory> {
        *self.taken.borrow_mut() += bytes;
        Some(Rc::new(RefCell::new(vec![0; bytes as usize])))
    }

    fn compile(&self, _: &Module, text: &str) -> Result<Compiled<Action>, String> {
        let kernel: Action = match text {
            "add_constant" => |buffers, words| each(words[0], &buffers[0], |_, x| x + words[1]),
            "add" => |buffers, words| each(words[0], &buffers[0], |i, x| x + word(&buffers[1], i)),
            other => return Err(format!(" line 1: `{other}` is not a kernel\n")),
        };
        Ok(Compiled { kernel, units_max: UNITS_MAX, shared_bytes: 0 })
    }

    fn set_kernel(&mut self, kernel: &Action) -> Result<(), String> {
        self.action = Some(*kernel);
        self.buffers.clear();
        Ok(())
    }

    fn set_buffer(&mut self, index: usize, memory: &Memory, offset: u64) -> Result<(), String> {
        assert_eq!(index, self.buffers.len());
        self.buffers.push((memory.clone(), offset));
        Ok(())
    }

    fn set_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), String> {
        assert_eq!(index, self.buffers.len(), "the block of scalars stands behind the buffers");
        self.words = bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        Ok(())
    }

    fn launch(&mut self, groups: Grid, units: [u32; 3]) -> Result<(), String> {
        assert_eq!(units, [32, 1, 1]);
        self.grids.push(groups);
        self.recorded.push(Command::Launch(self.action.unwrap(), self.buffers.clone(), self.words.clone()));
        Ok(())
    }

    fn copy(&mut self, from: (&Memory, u64), to: (&Memory, u64), bytes: u64) -> Result<(), String> {
        assert!([from.1, to.1, bytes].iter().all(|n| n.is_multiple_of(4)));
        assert!(!Rc::ptr_eq(from.0, to.0) || from.1.abs_diff(to.1) >= bytes, "the ranges overlap");
        self.recorded.push(Command::Copy((from.0.clone(), from.1), (to.0.clone(), to.1), bytes));
        Ok(())
    }

    fn commit(&mut self) -> Result<(), String> {
        if !self.recorded.is_empty() {
            self.commits.push(self.recorded.len());
        }
        for command in self.recorded.drain(..) {
            match command {
                Command::Launch(action, buffers, words) => action(&buffers, &words),
                Command::Copy((from, from_at), (to, to_at), bytes) => {
                    let bytes = from.borrow()[from_at as usize..][..bytes as usize].to_vec();
                    to.borrow_mut()[to_at as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn wait(&mut self) -> Result<(), String> {
        self.commit()
    }

    fn write(&mut self, memory: &Memory, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.wait()?;
        memory.borrow_mut()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, memory: &Memory, at: u64, bytes: &mut [u8]) -> Result<(), String> {
        self.wait()?;
        bytes.copy_from_slice(&memory.borrow()[at as usize..][..bytes.len()]);
        Ok(())
    }
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

/// Word `i` of a buffer.
fn word((memory, offset): &(Memory, u64), i: u32) -> u32 {
    let at = *offset as usize + i as usize * 4;
    u32::from_le_bytes(memory.borrow()[at..at + 4].try_into().unwrap())
}

/// Changes the first `n` words of a buffer.
fn each(n: u32, buffer: &(Memory, u64), f: impl Fn(u32, u32) -> u32) {
    for i in 0..n {
        let new = f(i, word(buffer, i)).to_le_bytes();
        let at = buffer.1 as usize + i as usize * 4;
        buffer.0.borrow_mut()[at..at + 4].copy_from_slice(&new);
    }
}
