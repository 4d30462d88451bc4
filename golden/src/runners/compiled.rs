//! The whole product: build, file, load, device.

use super::{Runner, Values};
use crate::emulator::Emulator;
use crate::spy::{Spy, Spying};
use dream::{DeviceChoice, DeviceKind, Forward, Generate, Isa, Model, OpenOptions, Output, Visual};
use dreamc::compile::{Bits, BuildOptions, BuildTarget, build};
use dreamc_interp::Tensor;
use dreamc_num::DType;
use std::path::PathBuf;
use std::rc::Rc;

/// Name of a built file in its folder.
const ARTIFACT: &str = "model.dream";
/// Name of the driver's library beside it.
const DRIVER: &str = "driver.so";
/// Threads of the runners; the tests of the device itself try other numbers.
const THREADS: usize = 2;

/// A built artifact; the file goes when this does.
pub struct Built {
    folder: tempfile::TempDir,
}

impl Built {
    /// Builds an artifact.
    pub fn new(options: &BuildOptions) -> Built {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let output = folder.path().join(ARTIFACT);
        build(&BuildOptions { output, ..options.clone() }, &mut ()).unwrap_or_else(|e| panic!("{e}"));
        Built { folder }
    }

    /// Builds an artifact for an emulated device; the driver's library lies beside it.
    pub fn emulated(emulator: &Emulator, kind: DeviceKind, options: &BuildOptions) -> Built {
        let fp8 = options.quant.as_ref().is_some_and(|quant| quant.bits == Bits::Fp8);
        // The first of CUDA's that has it.
        let (target, capability) = if fp8 { ("cuda:sm_89", 89) } else { (emulated_target(kind), 80) };
        Built::emulated_as(emulator, kind, (target, capability), options)
    }

    /// The same for a target, and a device of a capability: 90 for sm_90a.
    pub fn emulated_as(
        emulator: &Emulator,
        kind: DeviceKind,
        (target, capability): (&str, u32),
        options: &BuildOptions,
    ) -> Built {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let output = folder.path().join(ARTIFACT);
        emulator.build(&BuildOptions { output, targets: vec![parse(target)], ..options.clone() });
        emulator.driver(kind, capability, &folder.path().join(DRIVER));
        Built { folder }
    }

    /// The driver's library of an emulated device.
    pub fn driver(&self) -> PathBuf {
        self.folder.path().join(DRIVER)
    }

    /// Opens it on an emulated device.
    pub fn open_emulated(&self, kind: DeviceKind) -> Model {
        let device = DeviceChoice::Only(kind);
        self.open_with(&OpenOptions { device, driver: Some(self.driver()), ..OpenOptions::default() })
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(ARTIFACT)
    }

    /// Opens it on the CPU.
    pub fn open(&self, threads: usize, isa: Option<Isa>) -> Model {
        self.open_with(&OpenOptions { threads, isa, ..OpenOptions::default() })
    }

    /// Opens it.
    pub fn open_with(&self, options: &OpenOptions) -> Model {
        Model::open(&self.path(), options).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// Where what is built is run.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// On the CPU, with every instruction set that there is.
    Cpu,
    /// On the WebGPU adapter of this machine.
    Wgpu,
    /// On a device of this machine, built for a target.
    Device(DeviceKind, &'static str),
    /// On an emulated device.
    Emulated(&'a Emulator, DeviceKind),
    /// On an emulated Hopper.
    Hopper(&'a Emulator),
}

/// Hopper's target, and its capability.
const HOPPER: (&str, u32) = ("cuda:sm_90a", 90);

fn emulated_target(kind: DeviceKind) -> &'static str {
    if kind == DeviceKind::Cuda { "cuda:sm_80" } else { "rocm:gfx942" }
}

fn parse(target: &str) -> BuildTarget {
    target.parse().unwrap_or_else(|e| panic!("{e}"))
}

impl Place<'_> {
    /// What to build for.
    pub fn target(self, dtype: DType) -> BuildTarget {
        parse(match self {
            Place::Cpu => "cpu",
            Place::Wgpu if dtype == DType::F16 => "wgpu:f16",
            Place::Wgpu => "wgpu",
            Place::Device(_, target) => target,
            Place::Emulated(_, kind) => emulated_target(kind),
            Place::Hopper(_) => HOPPER.0,
        })
    }

    /// The device that runs it.
    pub fn device(self) -> DeviceKind {
        match self {
            Place::Cpu => DeviceKind::Cpu,
            Place::Wgpu => DeviceKind::Wgpu,
            Place::Device(kind, _) | Place::Emulated(_, kind) => kind,
            Place::Hopper(_) => DeviceKind::Cuda,
        }
    }

    pub(crate) fn build(self, options: &BuildOptions) -> Built {
        let targets = vec![self.target(options.dtype)];
        match self {
            Place::Emulated(emulator, kind) => Built::emulated(emulator, kind, options),
            Place::Hopper(emulator) => Built::emulated_as(emulator, DeviceKind::Cuda, HOPPER, options),
            Place::Cpu | Place::Wgpu | Place::Device(..) => {
                Built::new(&BuildOptions { targets, ..options.clone() })
            }
        }
    }

    /// Every way to open it.
    pub(crate) fn open(self, built: &Built) -> Vec<Model> {
        match self {
            Place::Cpu => {
                let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
                available.map(|isa| built.open(THREADS, Some(isa))).collect()
            }
            Place::Wgpu | Place::Device(..) => {
                let device = DeviceChoice::Only(self.device());
                vec![built.open_with(&OpenOptions { device, ..OpenOptions::default() })]
            }
            Place::Emulated(_, kind) => vec![built.open_emulated(kind)],
            Place::Hopper(_) => vec![built.open_emulated(DeviceKind::Cuda)],
        }
    }
}

/// Builds for a place, and opens what was built in every way that there is.
pub(super) fn everywhere<R>(
    place: Place<'_>,
    options: &BuildOptions,
    runner: impl Fn(Model, Rc<Built>) -> R,
) -> Vec<R> {
    let built = Rc::new(place.build(options));
    place.open(&built).into_iter().map(|model| runner(model, Rc::clone(&built))).collect()
}

/// An artifact for text and images.
pub struct Compiled {
    model: Model,
    /// Keeps the artifact as long as it is mapped.
    _built: Rc<Built>,
}

impl Compiled {
    /// Builds an artifact and opens it on the CPU, for every instruction set.
    pub fn all(options: &BuildOptions) -> Vec<Box<dyn Runner>> {
        Compiled::of(Place::Cpu, options)
    }

    /// Builds an artifact and opens it on the WebGPU adapter.
    pub fn wgpu(options: &BuildOptions) -> Vec<Box<dyn Runner>> {
        Compiled::of(Place::Wgpu, options)
    }

    /// Builds an artifact and opens it on an emulated device.
    pub fn emulated(emulator: &Emulator, kind: DeviceKind, options: &BuildOptions) -> Vec<Box<dyn Runner>> {
        Compiled::of(Place::Emulated(emulator, kind), options)
    }

    /// Builds an artifact for a place, and opens it there.
    pub fn of(place: Place<'_>, options: &BuildOptions) -> Vec<Box<dyn Runner>> {
        everywhere(place, options, |model, built| {
            Box::new(Compiled { model, _built: built }) as Box<dyn Runner>
        })
    }
}

fn values(outputs: Vec<Output>) -> Values {
    outputs.into_iter().map(|o| (o.name, Tensor::f32(&o.dims, o.data))).collect()
}

impl Runner for Compiled {
    fn forward(&mut self, request: &Forward, probes: &[&str]) -> Values {
        // Without probes the fused program runs, with probes the one that keeps every value: both are judged.
        let mut outputs = self.model.forward(request, &[]).unwrap_or_else(|e| panic!("{e}"));
        outputs.extend(self.model.forward(request, probes).unwrap_or_else(|e| panic!("{e}")));
        values(outputs)
    }

    fn encode_image(&mut self, visuals: &[Visual], probes: &[&str]) -> Values {
        let mut outputs = self.model.encode_image(visuals, &[]).unwrap_or_else(|e| panic!("{e}"));
        outputs.extend(self.model.encode_image(visuals, probes).unwrap_or_else(|e| panic!("{e}")));
        values(outputs)
    }

    fn generate(&mut self, request: &Generate, spy: &mut dyn Spy) -> [Tensor; 2] {
        let request = Generate { history: true, ..request.clone() };
        let generated =
            self.model.generate_with(&request, &mut Spying(spy)).unwrap_or_else(|e| panic!("{e}"));
        let (rows, length) = (generated.sequences.len(), generated.sequences[0].len());
        let batches = rows.div_ceil(self.model.manifest().model.max_batch as usize) as u32;
        // Whoever looks on sees every step, and all of them again where a slot took the mask token.
        let all = generated.steps * batches;
        assert!((all..=2 * all).contains(&generated.forwards), "{} passes", generated.forwards);
        let history = generated.history.expect("asked for").concat().concat();
        let last = Tensor::i32(&[rows, length], generated.sequences.concat());
        [last, Tensor::i32(&[generated.steps as usize, rows, length], history)]
    }
}
