//! A device that runs the launches of a plan on this machine: CUDA's, HIP's and Metal's sources, compiled as C++.
//!
//! Where [`emulator`](crate::emulator) stands below our drivers, this one stands in their place, and is for graphs of a
//! few ops. Buffers are as long as the request has them, with guards around.

use crate::execute::{Executor, metal_arguments};
use crate::library::{Language, Source};
use dreamc_artifact::code::{Code, Form, Module};
use dreamc_artifact::plan::{Binding, Dispatch, Place, Program};
use dreamc_runtime::{Device, DeviceError, Launches, Operand, UNSOUND, WeightView};
use std::path::Path;
use std::sync::LazyLock;

/// Keeps what it compiles in Cargo's folder for what tests make.
static EXECUTOR: LazyLock<Executor> = LazyLock::new(|| {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let target = std::env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(3)?.join("tmp")));
    let folder = target.unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    Executor::new(&root.join("kernels/tests/host"), &folder)
});

/// See the module.
#[derive(Debug)]
pub struct HostDevice<'a> {
    modules: Vec<Module>,
    weights: Vec<WeightView<'a>>,
    ready: Option<Ready>,
}

#[derive(Debug)]
struct Ready {
    launches: Launches,
    arena: Vec<u8>,
}

impl<'a> HostDevice<'a> {
    /// A device for code that is left as sources.
    pub fn new(code: &Code, weights: Vec<WeightView<'a>>) -> HostDevice<'a> {
        HostDevice { modules: code.modules.clone(), weights, ready: None }
    }

    fn ready(&mut self) -> Result<&mut Ready, DeviceError> {
        self.ready.as_mut().ok_or(UNSOUND)
    }

    /// Where a buffer lies: in the arena, or in a weight.
    fn buffer(
        &self,
        binding: &Binding,
        operand: &Operand,
    ) -> Result<(Place, std::ops::Range<usize>), DeviceError> {
        let bytes = operand.shape.elements() * operand.dtype.bytes();
        let (first, bytes) =
            binding.part.map_or((0, bytes), |(first, bytes)| (first as usize, bytes as usize));
        let first = match operand.place {
            Place::Arena(offset) => offset as usize + first,
            Place::Weight(_) => first,
        };
        Ok((operand.place, first..first + bytes))
    }
}

fn source(module: &Module) -> Source<'_> {
    let image = &module.images[0];
    let text = str::from_utf8(&image.bytes).expect("sources are text");
    let (language, rest) = match image.form {
        Form::CudaSource => (Language::Cuda, String::new()),
        Form::HipSource => (Language::Hip, String::new()),
        Form::Msl => (Language::Metal, metal_arguments(text, module.buffers.len())),
        Form::Wgsl | Form::Cubin | Form::Ptx | Form::CodeObject => {
            panic!("`{}` is no source that C++ compilers read", module.name)
        }
    };
    Source {
        name: &module.name,
        language,
        text,
        rest,
        buffers: module.buffers.len(),
        words: module.info.len(),
        workgroup: module.workgroup,
        shared_bytes: module.shared_bytes,
    }
}

impl Device for HostDevice<'_> {
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError> {
        let launches = Launches::new(program, |i| self.modules.get(i as usize), 1)?;
        // Nothing of it is a number before it is written.
        self.ready = Some(Ready { launches, arena: vec![0xff; program.arena_bytes as usize] });
        Ok(())
    }

    fn resize(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
        let HostDevice { modules, ready: Some(ready), .. } = self else { return Err(UNSOUND) };
        ready.launches.resize(symbols, |i| modules.get(i as usize), |_| [i32::MAX as u32; 3]).map(|_| ())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let first = offset as usize;
        self.ready()?.arena[first..first + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let first = offset as usize;
        bytes.copy_from_slice(&self.ready()?.arena[first..first + bytes.len()]);
        Ok(())
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError> {
        let first = from as usize;
        self.ready()?.arena.copy_within(first..first + bytes as usize, to as usize);
        Ok(())
    }

    fn dispatch(
        &mut self,
        number: u32,
        dispatch: &Dispatch,
        operands: &[Operand],
    ) -> Result<(), DeviceError> {
        let mut ready = self.ready.take().ok_or(UNSOUND)?;
        for active in ready.launches.of(number, dispatch)? {
            let module = self.modules.get(active.module as usize).ok_or(UNSOUND)?;
            let of = |binding: &Binding| self.buffer(binding, &operands[binding.value.0 as usize]);
            let places = active.launch.buffers.iter().map(of).collect::<Result<Vec<_>, _>>()?;
            let mut buffers: Vec<Vec<u8>> = places
                .iter()
                .map(|(place, range)| match place {
                    Place::Arena(_) => ready.arena[range.clone()].to_vec(),
                    Place::Weight(index) => self.weights[*index as usize].bytes[range.clone()].to_vec(),
                })
                .collect();
            EXECUTOR.run(&source(module), &mut buffers, active.info, active.grid);
            for (((place, range), buffer), bytes) in places.into_iter().zip(&module.buffers).zip(buffers) {
                match place {
                    Place::Arena(_) if buffer.written => ready.arena[range].copy_from_slice(&bytes),
                    Place::Arena(_) => {
                        assert!(ready.arena[range] == bytes[..], "{} writes what it reads", module.name)
                    }
                    Place::Weight(_) => {}
                }
            }
        }
        self.ready = Some(ready);
        Ok(())
    }
}
