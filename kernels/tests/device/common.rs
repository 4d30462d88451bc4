//! A launch, made from what `Emitted` says alone: a runtime without CubeCL in small. Who runs it is a [`Runner`].

use crate::judge::near_of;
use crate::{host, wgsl};
use dreamc_interp::{Data, Tensor};
use dreamc_kernels::{
    Access, Element, EmitError, Emitted, Extent, Float, Kernel, ScalarType, Slots, Target, Word,
};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Runs an emitted kernel on buffers, with a block of scalars and a grid.
type Execute = fn(&Emitted, &mut [Vec<u8>], &[u32], [u32; 3]);

/// One form of the kernels, and what executes it.
pub(crate) struct Runner {
    target: &'static str,
    /// Whether what it needs beyond the target is there.
    there: fn() -> bool,
    execute: Execute,
}

/// All of them. A device or a compiler that is missing is an error, not a test that passes.
static RUNNERS: [Runner; 7] = [
    Runner { target: "wgsl", there: || true, execute: wgsl::run },
    Runner { target: "wgsl-f16", there: wgsl::has_f16, execute: wgsl::run },
    Runner { target: "sm_80", there: || true, execute: host::run },
    Runner { target: "sm_89", there: || true, execute: host::run },
    Runner { target: "sm_90a", there: || true, execute: host::run },
    Runner { target: "gfx942", there: || true, execute: host::run },
    Runner { target: "metal3", there: || true, execute: host::run },
];

/// All float types.
pub(crate) const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::BF16];

/// The runners that can run a kernel in its types.
pub(crate) fn runners(kernel: &Kernel) -> Vec<&'static Runner> {
    let has = |target| match emit(target, kernel) {
        Ok(_) => true,
        Err(EmitError::Unsupported { .. }) => false,
        Err(e) => panic!("{e}"),
    };
    // What `wgsl` has is run there, and so is what `sm_80` has.
    let again = |target| match target {
        "wgsl-f16" => has("wgsl"),
        "sm_89" | "sm_90a" => has("sm_80"),
        _ => false,
    };
    let can = |runner: &&Runner| !again(runner.target) && has(runner.target);
    RUNNERS.iter().filter(can).filter(|runner| (runner.there)()).collect()
}

/// The runners of kernels that have no float type of their own.
pub(crate) fn everywhere() -> Vec<&'static Runner> {
    runners(&Kernel::Slots(Slots::Commit))
}

/// Emits a kernel once.
fn emit(target: &'static str, kernel: &Kernel) -> Result<Arc<Emitted>, EmitError> {
    type Cache = BTreeMap<(&'static str, Kernel), Arc<Emitted>>;
    static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);
    let cache = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (target, kernel.clone());
    if let Some(emitted) = cache().get(&key) {
        return Ok(Arc::clone(emitted));
    }
    let emitted = Arc::new(kernel.emit(&Target::named(target).expect("it is there"))?);
    cache().insert(key, Arc::clone(&emitted));
    Ok(emitted)
}

/// A kernel about to be run.
pub(crate) struct Launch {
    runner: &'static Runner,
    emitted: Arc<Emitted>,
    buffers: BTreeMap<&'static str, Vec<u8>>,
    scalars: BTreeMap<&'static str, u32>,
}

/// What the buffers hold after a run.
pub(crate) struct Results {
    runner: &'static Runner,
    emitted: Arc<Emitted>,
    buffers: Vec<Vec<u8>>,
}

fn bytes_of(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Floats as a buffer holds them. They must be numbers of its type: rounding is not for the launcher to do.
fn encode(element: Element, floats: &[f32]) -> Vec<u8> {
    let same = |x: f32, y: f32| assert!(x.to_bits() == y.to_bits() || x.is_nan(), "{x} is not rounded");
    match element {
        Element::F16 | Element::F16x2 => {
            let halves = floats.iter().map(|x| (f16::from_f32(*x), x));
            halves.inspect(|(h, x)| same(**x, h.to_f32())).flat_map(|(h, _)| h.to_le_bytes()).collect()
        }
        Element::BF16 | Element::BF16x2 => {
            let halves = floats.iter().map(|x| (bf16::from_f32(*x), x));
            halves.inspect(|(h, x)| same(**x, h.to_f32())).flat_map(|(h, _)| h.to_le_bytes()).collect()
        }
        Element::F32 | Element::I32 | Element::U32 | Element::Bool => {
            bytes_of(floats.iter().map(|x| x.to_bits()))
        }
    }
}

impl Launch {
    pub(crate) fn of(runner: &'static Runner, kernel: &Kernel) -> Launch {
        let emitted = emit(runner.target, kernel).unwrap_or_else(|e| panic!("{e}"));
        Launch { runner, emitted, buffers: BTreeMap::new(), scalars: BTreeMap::new() }
    }

    fn element(&self, name: &str) -> Element {
        let buffer = self.emitted.buffers.iter().find(|b| b.name == name);
        buffer.unwrap_or_else(|| panic!("{}: no buffer `{name}`", self.emitted.name)).element
    }

    pub(crate) fn bytes(mut self, name: &'static str, mut bytes: Vec<u8>) -> Launch {
        // Words of two of which the last is half full.
        bytes.resize(bytes.len().next_multiple_of(self.element(name).bytes()), 0xff);
        self.buffers.insert(name, bytes);
        self
    }

    pub(crate) fn words(self, name: &'static str, words: Vec<u32>) -> Launch {
        self.bytes(name, bytes_of(words))
    }

    /// In the buffer's type.
    pub(crate) fn floats(self, name: &'static str, floats: &[f32]) -> Launch {
        let bytes = encode(self.element(name), floats);
        self.bytes(name, bytes)
    }

    pub(crate) fn ints(self, name: &'static str, ints: &[i32]) -> Launch {
        self.words(name, ints.iter().map(|x| *x as u32).collect())
    }

    pub(crate) fn bools(self, name: &'static str, bools: &[bool]) -> Launch {
        self.words(name, bools.iter().map(|x| u32::from(*x)).collect())
    }

    /// A tensor of any kind.
    pub(crate) fn tensor(self, name: &'static str, tensor: &Tensor) -> Launch {
        match &tensor.data {
            Data::F32(v) => self.floats(name, v),
            Data::I32(v) => self.ints(name, v),
            Data::U32(v) => self.words(name, v.clone()),
            Data::Bool(v) => self.bools(name, v),
        }
    }

    /// A result, not a number before it is written.
    pub(crate) fn result(self, name: &'static str, elements: usize) -> Launch {
        let each = match self.element(name) {
            Element::F16x2 | Element::BF16x2 => 2,
            element => element.bytes(),
        };
        let bytes = vec![0xff; elements * each];
        self.bytes(name, bytes)
    }

    pub(crate) fn int(mut self, name: &'static str, value: usize) -> Launch {
        self.scalars.insert(name, value as u32);
        self
    }

    pub(crate) fn float(mut self, name: &'static str, value: f32) -> Launch {
        self.scalars.insert(name, value.to_bits());
        self
    }

    /// With another source, for faults that are to be found.
    pub(crate) fn edited(mut self, edit: impl Fn(&str) -> String) -> Launch {
        let emitted = Arc::make_mut(&mut self.emitted);
        emitted.source = edit(&emitted.source);
        self
    }

    pub(crate) fn run(mut self) -> Results {
        let emitted = Arc::clone(&self.emitted);
        let name = &emitted.name;
        let scalar = |i: u32| {
            let scalar = emitted.scalars[i as usize];
            let given = self.scalars.get(scalar.name);
            *given.unwrap_or_else(|| panic!("{name}: scalar `{}` is not given", scalar.name))
        };
        let mut given = |b: &str| self.buffers.remove(b);
        let given = emitted
            .buffers
            .iter()
            .map(|b| given(b.name).unwrap_or_else(|| panic!("{name}: buffer `{}` is not given", b.name)));
        let mut buffers: Vec<Vec<u8>> = given.collect();
        let before = buffers.clone();
        assert_eq!(self.scalars.len(), emitted.scalars.len(), "{name}: a scalar too many");
        let elements = |i: usize| buffers[i].len() / emitted.buffers[i].element.bytes();
        let word = |word: &Word| match word {
            Word::Scalar(i) => scalar(*i),
            Word::Length(i) => elements(*i as usize) as u32,
            Word::Zero => 0,
        };
        let info: Vec<u32> = emitted.info.words.iter().map(word).collect();
        let extent = |extent: &Extent| match extent {
            Extent::Constant(n) => *n,
            Extent::Ceil { of, per, .. } => {
                let i = emitted.scalars.iter().position(|s| s.name == *of).expect("a scalar of its own");
                assert_eq!(emitted.scalars[i].ty, ScalarType::U32);
                scalar(i as u32).div_ceil(*per)
            }
        };
        let grid = [0, 1, 2].map(|i| extent(&emitted.grid[i]));
        (self.runner.execute)(&emitted, &mut buffers, &info, grid);
        for ((buffer, before), after) in emitted.buffers.iter().zip(&before).zip(&buffers) {
            if buffer.access == Access::Read {
                assert_eq!(before, after, "{name}: wrote to `{}`, which it says it only reads", buffer.name);
            }
        }
        Results { runner: self.runner, emitted, buffers }
    }
}

impl Results {
    fn find(&self, name: &str) -> (Element, &[u8]) {
        let i = self.emitted.buffers.iter().position(|b| b.name == name).expect("a buffer of the kernel");
        (self.emitted.buffers[i].element, &self.buffers[i])
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.find(name).1.to_vec()
    }

    pub(crate) fn words(&self, name: &str) -> Vec<u32> {
        let word = |c: &[u8]| u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        self.find(name).1.chunks_exact(4).map(word).collect()
    }

    pub(crate) fn ints(&self, name: &str) -> Vec<i32> {
        self.words(name).iter().map(|w| *w as i32).collect()
    }

    pub(crate) fn bools(&self, name: &str) -> Vec<bool> {
        let words = self.words(name);
        assert!(words.iter().all(|w| *w < 2), "not conditions: {words:?}");
        words.iter().map(|w| *w == 1).collect()
    }

    /// Floats of the buffer's type.
    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let (element, bytes) = self.find(name);
        let pairs = || bytes.chunks_exact(2).map(|c| [c[0], c[1]]);
        match element {
            Element::F16 | Element::F16x2 => pairs().map(|c| f16::from_le_bytes(c).to_f32()).collect(),
            Element::BF16 | Element::BF16x2 => pairs().map(|c| bf16::from_le_bytes(c).to_f32()).collect(),
            Element::F32 | Element::I32 | Element::U32 | Element::Bool => {
                self.words(name).iter().map(|w| f32::from_bits(*w)).collect()
            }
        }
    }

    /// Buffer `name` holds what is wanted, up to `tolerance` of the largest and the rounding of its type.
    #[track_caller]
    pub(crate) fn near(&self, name: &str, wanted: &[f32], tolerance: f32) {
        let float = match self.find(name).0 {
            Element::F16 | Element::F16x2 => Float::F16,
            Element::BF16 | Element::BF16x2 => Float::BF16,
            Element::F32 | Element::I32 | Element::U32 | Element::Bool => Float::F32,
        };
        near_of(&self.label(), float, &self.floats(name), wanted, tolerance);
    }

    /// To the bit, except that no number is like another that is none.
    #[track_caller]
    pub(crate) fn same(&self, name: &str, wanted: &[f32]) {
        let bits = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
        let found = self.floats(name);
        let differ = found.iter().zip(wanted).position(|(f, w)| bits(f) != bits(w));
        let label = self.label();
        assert_eq!(found.len(), wanted.len(), "{label}");
        assert!(differ.is_none(), "{label}: element {differ:?} of {found:?}, wanted {wanted:?}");
    }

    /// For messages.
    pub(crate) fn label(&self) -> String {
        format!("{} on {}", self.emitted.name, self.runner.target)
    }
}
