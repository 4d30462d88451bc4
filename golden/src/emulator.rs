//! Drivers of GPUs that compute on this host: they run an artifact's own kernels, compiled as C++.
//!
//! ```text
//! checkpoint ──build──► artifact with sources ──clang──► artifact with libraries ──open──► our driver code
//!                                                                                     │ dlopen
//!                       stub of the driver's library, with `emulator/modules.h`  ◄────┘
//! ```
//!
//! The stubs are those of `runtime/device-*/tests/stub`, kernels are compiled and run as in `kernels/tests/host`: both
//! say what a device would let pass.

use crate::library::{Compiler, Language, Source};
use dream::DeviceKind;
use dreamc::compile::{BuildOptions, build};
use dreamc_artifact::code::{Code, Form, Image, Module, encode_code};
use dreamc_artifact::plan::Plan;
use dreamc_artifact::{Artifact, Kind, assemble};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What a module's image begins with, as `modules.h` has it.
const MAGIC: &[u8; 8] = b"HOSTCODE";

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// See the module.
pub struct Emulator {
    compiler: Compiler,
}

impl Emulator {
    /// Keeps what it compiles in `folder`.
    pub fn new(folder: &Path) -> Emulator {
        Emulator { compiler: Compiler::new(&Path::new(ROOT).join("kernels/tests/host"), folder) }
    }

    /// Puts a driver's library at `to`, with a device that an NVIDIA GPU of this capability is: 80 for sm_80. Each copy has a
    /// state of its own.
    pub fn driver(&self, kind: DeviceKind, capability: u32, to: &Path) {
        let (face, defines) = match kind {
            DeviceKind::Cuda => ("runtime/device-cuda/tests/stub/cuda.c", "-DBACKWARDS=0"),
            DeviceKind::Rocm => ("runtime/device-rocm/tests/stub/hip.c", "-DBACKWARDS=1"),
            DeviceKind::Metal | DeviceKind::Wgpu | DeviceKind::Cpu => {
                panic!("{kind} has no driver to emulate")
            }
        };
        let root = Path::new(ROOT);
        let [shared, own] = ["runtime/device-gpu/tests/stub", "golden/emulator"].map(|path| root.join(path));
        // The text of what is included is a part of what the library is known by.
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let files = [shared.join("core.h"), shared.join("log.h"), own.join("modules.h")].map(read);
        let text = format!("{}\n/* {} */\n", read(root.join(face)), mark(&files.concat()));
        let include = |folder: &Path| OsString::from(format!("-I{}", folder.display()));
        let arguments = [
            self.compiler.link(),
            include(&shared),
            include(&own),
            "-DKERNELS=\"modules.h\"".into(),
            format!("-DCAPABILITY={capability}").into(),
            defines.into(),
            "-D_GNU_SOURCE".into(),
            "-Wall".into(),
            "-Werror".into(),
            "-Wno-unused-function".into(),
        ];
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        let compiled = self.compiler.compile("c", &text, &arguments);
        std::fs::copy(&compiled, to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    }

    /// Builds an artifact whose kernels a driver of [`Emulator::driver`] runs.
    pub fn build(&self, options: &BuildOptions) {
        self.build_edited(options, &|_, _| ());
    }

    /// As [`Emulator::build`], with the sources of a plan's kernels changed before they are compiled.
    pub fn build_edited(&self, options: &BuildOptions, edit: &dyn Fn(&Plan, &mut Code)) {
        let file = sources_of(options);
        let artifact = Artifact::open(&file).unwrap_or_else(|e| panic!("{e}"));
        let targets = &artifact.manifest().targets;
        let mut codes = targets.iter().map(|target| {
            let mut code = artifact.code(target).expect("it is one of the artifact's targets").clone();
            edit(artifact.plan(target).expect("it has a plan"), &mut code);
            encode_code(&self.compiled(&code)).expect("the code can be written")
        });
        let mut weights_hash = [0; 32];
        let mut sections = Vec::new();
        for section in artifact.sections() {
            let bytes = &file[section.offset as usize..(section.offset + section.len) as usize];
            match section.kind {
                Kind::Code => sections.push((Kind::Code, codes.next().expect("one for each target"))),
                kind => sections.push((kind, bytes.to_vec())),
            }
            if section.kind == Kind::Weights {
                weights_hash = section.hash;
            }
        }
        let whole = assemble(&sections, weights_hash).expect("the libraries are small");
        std::fs::write(&options.output, whole).unwrap_or_else(|e| panic!("{e}"));
    }

    /// The same code with libraries in place of sources, compiled on all processors.
    fn compiled(&self, code: &Code) -> Code {
        let next = Mutex::new(code.modules.iter().enumerate());
        let done = Mutex::new(Vec::new());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let taken = next.lock().expect("no thread has failed").next();
                        let Some((i, module)) = taken else { break };
                        let compiled = self.module(module);
                        done.lock().expect("no thread has failed").push((i, compiled));
                    }
                });
            }
        });
        let mut done = done.into_inner().expect("no thread has failed");
        done.sort_by_key(|(i, _)| *i);
        Code { modules: done.into_iter().map(|(_, module)| module).collect() }
    }

    fn module(&self, module: &Module) -> Module {
        let source = &module.images[0];
        let (language, form) = match source.form {
            Form::CudaSource => (Language::Cuda, Form::Cubin),
            Form::HipSource => (Language::Hip, Form::CodeObject),
            Form::Wgsl | Form::Msl | Form::Cubin | Form::Ptx | Form::CodeObject => {
                panic!("`{}` is no source for CUDA or ROCm", module.name)
            }
        };
        let path = self.compiler.kernel(&Source {
            name: &module.name,
            language,
            text: str::from_utf8(&source.bytes).expect("sources are text"),
            rest: String::new(),
            buffers: module.buffers.len(),
            words: module.info.len(),
            workgroup: module.workgroup,
            shared_bytes: module.shared_bytes,
        });
        let library = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let len = (library.len() as u64).to_le_bytes();
        let image = Image::any(form, [MAGIC, &len, library.as_slice()].concat());
        Module { images: vec![image], ..module.clone() }
    }
}

/// The file of a build that leaves kernels as sources.
fn sources_of(options: &BuildOptions) -> Vec<u8> {
    build(&BuildOptions { sources: true, ..options.clone() }, &mut ()).unwrap_or_else(|e| panic!("{e}"));
    std::fs::read(&options.output).unwrap_or_else(|e| panic!("{}: {e}", options.output.display()))
}

/// A hash as text.
fn mark(text: &str) -> String {
    dreamc_artifact::hash(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
