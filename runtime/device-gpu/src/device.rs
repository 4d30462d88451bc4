//! The device: weights and modules that stay, and the program that it is ready for.

use crate::driver::{Address, Driver, InfoPlace};
use crate::error::GpuError;
use crate::graphs::{GRAPH_NODE_COUNT_MAX, Graphs, Key};
use crate::launches::{Addresses, nodes, weights_of};
use crate::library::GpuOptions;
use crate::memory::{DeviceMemory, Staging, Taking};
use crate::modules::Kernel;
use crate::upload::{Piece, STAGING_BYTES, upload};
use dreamc_artifact::code::{BUFFER_COUNT_MAX, Code, Form};
use dreamc_artifact::plan::{Binding, Dispatch, Place, Program};
use dreamc_runtime::{Active, Device, DeviceError, Launches, Operand, UNSOUND, WeightView};
use std::ffi::c_void;
use std::sync::Arc;

/// Words that a block of scalars is aligned to.
const INFO_ALIGN: usize = 4;

/// A device of the driver `D`. It may move to another thread between calls.
pub struct GpuDevice<'a, D: Driver> {
    // Dropped in this order: what work uses before the driver that does it.
    ready: Option<Ready<D>>,
    staging: Option<Staging<D>>,
    kernels: Vec<Kernel<D>>,
    /// The architecture of the text that the driver compiles, if there is no binary for the device.
    compiled: Option<String>,
    stored: Vec<Option<DeviceMemory<D>>>,
    weights: Vec<WeightView<'a>>,
    /// Of each pinned buffer that weights go through.
    staging_bytes: usize,
    /// The run that is being recorded, if the work that is queued is.
    recording: Option<Key>,
    driver: Arc<D>,
}

/// The program that the device is ready for.
struct Ready<D: Driver> {
    name: String,
    graphs: Graphs<D>,
    /// Whether runs are recorded.
    records: bool,
    launches: Launches,
    addresses: Addresses,
    /// The blocks of scalars, where kernels read them from memory.
    info: Option<DeviceMemory<D>>,
    arena: DeviceMemory<D>,
}

impl<'a, D: Driver> GpuDevice<'a, D> {
    /// A device over `weights`, which [`Place::Weight`] indexes, for plans with launches of `code`. What was validated
    /// together belongs together. Nothing is loaded yet.
    ///
    /// # Errors
    ///
    /// Where there is no driver or no such device, or the code does not run on it.
    pub fn new(
        code: &Code,
        weights: Vec<WeightView<'a>>,
        options: &GpuOptions,
    ) -> Result<GpuDevice<'a, D>, GpuError> {
        // First what can be known without a device.
        if let Some(module) = code.modules.iter().find(|module| module.is_source()) {
            return Err(GpuError::Source { kernel: module.name.clone() });
        }
        let driver = D::open(options)?;
        let mut kernels = Vec::with_capacity(code.modules.len());
        let mut compiled = None;
        for module in &code.modules {
            let image = driver.image(module)?;
            if image.form == Form::Ptx {
                compiled = Some(image.arch.clone());
            }
            kernels.push(Kernel::new(module, image));
        }
        let stored = weights.iter().map(|_| None).collect();
        let driver = Arc::new(driver);
        Ok(GpuDevice {
            ready: None,
            staging: None,
            kernels,
            compiled,
            stored,
            weights,
            staging_bytes: if options.staging_bytes == 0 { STAGING_BYTES } else { options.staging_bytes },
            recording: None,
            driver,
        })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        self.driver.name()
    }

    /// The device's architecture: `sm_90`, `gfx942`; empty if unknown.
    pub fn arch(&self) -> String {
        self.driver.arch()
    }

    /// The driver's version; empty if unknown.
    pub fn driver_version(&self) -> String {
        self.driver.version()
    }

    /// The device in words: name, architecture, and whether its driver compiles the kernels, which takes a while at the first
    /// use and is not what was built for the device.
    pub fn about(&self) -> String {
        let (name, arch) = (self.name(), self.arch());
        match &self.compiled {
            Some(of) => {
                format!("{name} ({arch}, for which there is no binary: its driver compiles the PTX of {of})")
            }
            None => format!("{name} ({arch})"),
        }
    }

    /// Bytes that are taken on the device: weights, and what the program needs.
    pub fn bytes(&self) -> u64 {
        let weights: u64 = self.stored.iter().flatten().map(DeviceMemory::bytes).sum();
        let program =
            |ready: &Ready<D>| ready.arena.bytes() + ready.info.as_ref().map_or(0, DeviceMemory::bytes);
        weights + self.ready.as_ref().map_or(0, program)
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.driver.bind().map_err(|failure| failure.doing("making the device current"))
    }

    /// Ends a recording that nobody wants.
    fn abandon(&mut self) {
        if self.recording.take().is_none() {
            return;
        }
        if let Some(ready) = &mut self.ready {
            // Changes of lengths were recorded and are lost.
            ready.launches.forget();
        }
        if let Ok(graph) = self.driver.end_recording() {
            // SAFETY: it was just made.
            unsafe { self.driver.destroy_graph(graph) };
        }
    }

    /// The lengths and the variant of a run to come; none where runs are not recorded, or no lengths were set.
    fn key(&self, variant: u32) -> Option<Key> {
        let ready = self.ready.as_ref().filter(|ready| ready.records)?;
        Some(Key { symbols: ready.launches.symbols()?.to_vec(), variant })
    }

    /// Ends the recording, if there is one, and keeps it.
    fn finish_recording(&mut self) -> Result<Option<Key>, DeviceError> {
        let Some(key) = self.recording.take() else { return Ok(None) };
        let GpuDevice { ready: Some(ready), driver, .. } = self else { return Err(UNSOUND) };
        let kept = driver.end_recording().and_then(|graph| ready.graphs.keep(driver, graph, &key));
        if let Err(failure) = kept {
            // This run is lost; those to come are done without recording.
            ready.records = false;
            return Err(failure.doing(format!("recording `{}`", ready.name)));
        }
        Ok(Some(key))
    }

    /// Gives back what the program needs.
    fn clear(&mut self) {
        self.abandon();
        // Where the driver refuses to wait, nothing runs any more.
        let _ = self.driver.synchronize();
        self.ready = None;
    }

    /// Takes memory for weights, each by its index.
    fn take_weights(
        &self,
        indices: &[usize],
        taking: &mut Taking<D>,
    ) -> Result<Vec<(usize, DeviceMemory<D>)>, DeviceError> {
        let take = |index: &usize| {
            let view = self.weights.get(*index).ok_or(UNSOUND)?;
            Ok((*index, taking.take(view.bytes.len() as u64)?))
        };
        indices.iter().map(take).collect()
    }

    /// Copies weights to memory that was taken for them: all, or after an error none.
    fn store(&mut self, taken: Vec<(usize, DeviceMemory<D>)>) -> Result<(), DeviceError> {
        let piece = |(index, memory): &(usize, DeviceMemory<D>)| {
            let bytes = self.weights.get(*index)?.bytes;
            Some(Piece { to: memory.part(0, bytes.len() as u64)?, bytes })
        };
        let pieces: Vec<Piece<'_>> = taken.iter().map(piece).collect::<Option<_>>().ok_or(UNSOUND)?;
        upload(&self.driver, &pieces, self.staging_bytes)?;
        for (index, memory) in taken {
            *self.stored.get_mut(index).ok_or(UNSOUND)? = Some(memory);
        }
        Ok(())
    }

    /// Where a binding begins, if all of it is there.
    fn address(&self, arena: &DeviceMemory<D>, binding: &Binding, operand: &Operand) -> Option<Address> {
        let count = operand.shape.dims().iter().try_fold(1_u64, |n, dim| n.checked_mul(u64::from(*dim)))?;
        let all = count.checked_mul(operand.dtype.bytes() as u64)?;
        let (first, bytes) = binding.part.unwrap_or((0, all));
        match operand.place {
            Place::Arena(offset) => arena.part(offset.checked_add(first)?, bytes),
            Place::Weight(index) => {
                let given = self.weights.get(index as usize)?.bytes.len() as u64;
                let inside = first.checked_add(bytes)? <= given;
                self.stored.get(index as usize)?.as_ref()?.part(first, bytes).filter(|_| inside)
            }
        }
    }

    /// Everything that `program` needs, with the old program's memory given back.
    fn make_ready(&mut self, program: &Program) -> Result<Ready<D>, DeviceError> {
        for launch in program.dispatches().flat_map(|dispatch| &dispatch.launches) {
            self.kernels.get_mut(launch.module as usize).ok_or(UNSOUND)?.load(&self.driver)?;
        }
        if self.staging.is_none() {
            let taken = Staging::take(&self.driver)
                .map_err(|failure| failure.doing("taking pinned memory of the host for requests"))?;
            self.staging = Some(taken);
        }
        let kernels = &self.kernels;
        let module = |i: u32| kernels.get(i as usize).map(|kernel| &kernel.module);
        let launches = Launches::new(program, module, INFO_ALIGN)?;
        let records = self.driver.records() && nodes(program, module, D::INFO)? <= GRAPH_NODE_COUNT_MAX;
        let info_bytes = match D::INFO {
            InfoPlace::Value => 0,
            InfoPlace::Buffer => launches.words().len() as u64 * 4,
        };
        let weights = weights_of(program);
        let size =
            |index: &usize| self.weights.get(*index).map(|view| view.bytes.len() as u64).ok_or(UNSOUND);
        let sum = |indices: &[usize]| indices.iter().map(size).sum::<Result<u64, _>>();
        let is_missing = |index: &usize| self.stored.get(*index).is_none_or(Option::is_none);
        let missing: Vec<usize> = weights.iter().copied().filter(is_missing).collect();
        let (all, held) = (sum(&weights)?, sum(&weights)? - sum(&missing)?);
        let mut taking = Taking::new(&self.driver, all, program.arena_bytes + info_bytes, held);
        let arena = taking.take(program.arena_bytes)?;
        let stored = self.take_weights(&missing, &mut taking)?;
        let info = (info_bytes > 0).then(|| taking.take(info_bytes)).transpose()?;
        // What does not fit was said before anything is copied.
        self.store(stored)?;
        let addresses = Addresses::new(program, |binding, operand| self.address(&arena, binding, operand))?;
        arena.clear().map_err(|failure| failure.doing("clearing memory of the device"))?;
        let (name, graphs) = (program.name.clone(), Graphs::new());
        Ok(Ready { name, graphs, records, launches, addresses, info, arena })
    }

    fn ready(&self) -> Result<&Ready<D>, DeviceError> {
        self.ready.as_ref().ok_or(DeviceError::Unsupported { kernel: "a device without a program" })
    }

    /// Where `bytes` bytes at `offset` of the arena begin.
    fn inside(&self, offset: u64, bytes: u64) -> Result<Address, DeviceError> {
        let part = self.ready()?.arena.part(offset, bytes);
        part.ok_or(DeviceError::Unsupported { kernel: "memory outside the arena" })
    }

    /// Refuses what waits for the device while it records.
    fn not_recording(&self) -> Result<(), DeviceError> {
        let refused = DeviceError::Unsupported { kernel: "reading or writing in a recorded run" };
        if self.recording.is_some() { Err(refused) } else { Ok(()) }
    }

    fn launch(&self, ready: &Ready<D>, active: &Active<'_>) -> Result<(), DeviceError> {
        let kernel = self.kernels.get(active.module as usize).ok_or(UNSOUND)?;
        let function = kernel.function().ok_or(UNSOUND)?;
        let buffers = ready.addresses.of(active).ok_or(UNSOUND)?;
        let words = active.info;
        let mut arguments = [std::ptr::null_mut::<c_void>(); BUFFER_COUNT_MAX + 1];
        let mut count = buffers.len();
        let places = arguments.get_mut(..count).ok_or(UNSOUND)?;
        for (argument, buffer) in places.iter_mut().zip(buffers) {
            *argument = (&raw const *buffer).cast_mut().cast();
        }
        let (first, bytes) = (active.info_at as u64 * 4, words.len() as u64 * 4);
        let block = ready.info.as_ref().map(|info| info.part(first, bytes).ok_or(UNSOUND)).transpose()?;
        if !words.is_empty() {
            let info = match &block {
                Some(address) => (&raw const *address).cast_mut().cast(),
                None => words.as_ptr().cast_mut().cast(),
            };
            *arguments.get_mut(count).ok_or(UNSOUND)? = info;
            count += 1;
        }
        let arguments = arguments.get_mut(..count).ok_or(UNSOUND)?;
        let (workgroup, shared_bytes) = (kernel.module.workgroup, kernel.module.shared_bytes);
        // SAFETY: the module is loaded as long as `self` is; its buffers and the block behind them are what the
        // validated launch has, and live beyond the call, in which the driver copies them.
        let done = unsafe { self.driver.launch(function, active.grid, workgroup, shared_bytes, arguments) };
        done.map_err(|failure| failure.doing(format!("launching `{}`", kernel.module.name)))
    }
}

impl<D: Driver> Device for GpuDevice<'_, D> {
    fn prepare(&mut self, program: &Program) -> Result<(), DeviceError> {
        self.bind()?;
        self.clear();
        self.ready = Some(self.make_ready(program)?);
        Ok(())
    }

    fn resize(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
        self.bind()?;
        self.abandon();
        self.ready()?;
        let GpuDevice { ready: Some(ready), kernels, driver, staging: Some(staging), .. } = self else {
            return Err(UNSOUND);
        };
        let launches = &mut ready.launches;
        let module = |i: u32| kernels.get(i as usize).map(|kernel| &kernel.module);
        if !launches.resize(symbols, module, |workgroup| driver.groups_max(workgroup))? {
            return Ok(());
        }
        if let Some(info) = &ready.info {
            let bytes: Vec<u8> = launches.words().iter().flat_map(|word| word.to_le_bytes()).collect();
            let to = info.part(0, bytes.len() as u64).ok_or(UNSOUND)?;
            if let Err(failure) = staging.write(to, &bytes) {
                launches.forget();
                return Err(failure.doing("copying the scalars of launches to the device"));
            }
        }
        Ok(())
    }

    fn resize_within(&mut self, symbols: &[u32]) -> Result<(), DeviceError> {
        self.bind()?;
        self.ready()?;
        let GpuDevice { ready: Some(ready), kernels, driver, .. } = self else { return Err(UNSOUND) };
        let Ready { launches, info, .. } = ready;
        let module = |i: u32| kernels.get(i as usize).map(|kernel| &kernel.module);
        if !launches.resize(symbols, module, |workgroup| driver.groups_max(workgroup))? {
            return Ok(());
        }
        let Some(info) = info else { return Ok(()) };
        // Work before reads the words that it was queued with, work behind the new ones.
        let fill = |(at, word): (u64, u32)| {
            let to = info.part(at, 4).ok_or(UNSOUND)?;
            // SAFETY: inside the block and aligned, as words are.
            let done = unsafe { driver.fill(to, word, 1) };
            done.map_err(|failure| failure.doing("setting the scalars of launches"))
        };
        let filled = launches.changed().try_for_each(fill);
        if filled.is_err() {
            launches.forget();
        }
        filled
    }

    fn begin(&mut self, variant: u32) -> Result<bool, DeviceError> {
        self.bind()?;
        self.abandon();
        self.ready()?;
        let Some(key) = self.key(variant) else { return Ok(false) };
        let GpuDevice { ready: Some(ready), driver, recording, .. } = self else { return Err(UNSOUND) };
        // SAFETY: graphs are dropped with the program's memory, and modules stay.
        match unsafe { ready.graphs.run(&key) } {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(failure) => return Err(failure.doing(format!("running `{}` as recorded", ready.name))),
        }
        // What cannot be recorded is run step by step.
        *recording = driver.begin_recording().is_ok().then_some(key);
        Ok(false)
    }

    fn end(&mut self, complete: bool) -> Result<(), DeviceError> {
        self.bind()?;
        if !complete {
            self.abandon();
            return Ok(());
        }
        let Some(key) = self.finish_recording()? else { return Ok(()) };
        let Some(ready) = &mut self.ready else { return Err(UNSOUND) };
        // SAFETY: as in `begin`.
        let run = unsafe { ready.graphs.run(&key) };
        run.map(|_| ()).map_err(|failure| failure.doing(format!("running `{}` as recorded", ready.name)))
    }

    fn record(&mut self, variant: u32) -> Result<bool, DeviceError> {
        self.bind()?;
        self.abandon();
        let ready = self.ready()?;
        self.recording = self.key(variant).filter(|key| !ready.graphs.has(key));
        // What cannot be recorded now may be when it is asked for.
        if self.recording.is_some() && self.driver.begin_recording().is_err() {
            self.recording = None;
        }
        Ok(self.recording.is_some())
    }

    fn keep(&mut self, complete: bool) -> Result<(), DeviceError> {
        self.bind()?;
        if !complete {
            self.abandon();
            return Ok(());
        }
        self.finish_recording()?;
        let Some(ready) = &self.ready else { return Err(UNSOUND) };
        // SAFETY: as in `begin`.
        let brought = unsafe { ready.graphs.upload() };
        brought.map_err(|failure| failure.doing(format!("bringing `{}` to the device", ready.name)))
    }

    fn set(&mut self, offset: u64, value: u32) -> Result<(), DeviceError> {
        self.bind()?;
        let to = self.inside(offset, 4)?;
        if !offset.is_multiple_of(4) {
            return Err(DeviceError::Unsupported { kernel: "a number across words" });
        }
        // SAFETY: inside the arena and aligned, as just checked.
        let done = unsafe { self.driver.fill(to, value, 1) };
        done.map_err(|failure| failure.doing("setting the index of a loop"))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.bind()?;
        self.not_recording()?;
        let to = self.inside(offset, bytes.len() as u64)?;
        let staging = self.staging.as_mut().ok_or(UNSOUND)?;
        staging.write(to, bytes).map_err(|failure| failure.doing("copying to the device"))
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.bind()?;
        self.not_recording()?;
        let from = self.inside(offset, bytes.len() as u64)?;
        let staging = self.staging.as_mut().ok_or(UNSOUND)?;
        // Kernels that fail do so now.
        staging.read(from, bytes).map_err(|failure| failure.doing("running, or copying from the device"))
    }

    fn finish(&mut self) -> Result<(), DeviceError> {
        self.bind()?;
        self.not_recording()?;
        self.driver.synchronize().map_err(|failure| failure.doing("waiting for the device"))
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DeviceError> {
        self.bind()?;
        let (source, target) = (self.inside(from, bytes)?, self.inside(to, bytes)?);
        if from.abs_diff(to) < bytes {
            return Err(DeviceError::Unsupported { kernel: "a copy onto itself" });
        }
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both inside the arena and apart, as just checked.
        let done = unsafe { self.driver.copy(target, source, bytes) };
        done.map_err(|failure| failure.doing("copying on the device"))
    }

    fn dispatch(
        &mut self,
        number: u32,
        dispatch: &Dispatch,
        _operands: &[Operand],
    ) -> Result<(), DeviceError> {
        self.bind()?;
        let ready = self.ready()?;
        ready.launches.of(number, dispatch)?.try_for_each(|active| self.launch(ready, &active))
    }
}

impl<D: Driver> Drop for GpuDevice<'_, D> {
    fn drop(&mut self) {
        // Where the driver refuses, memory is freed with the process.
        let _ = self.driver.bind();
        self.clear();
    }
}
