//! From emitted source to what a device loads, where the vendor's compiler is at hand.

use super::{BuildError, BuildTarget};
use dreamc_artifact::code::{Code, Form, Image};
use dreamc_backend::Compiled;
use dreamc_backend::toolchain::Search;
use dreamc_backend_cuda::Nvrtc;
use dreamc_backend_rocm::Clang;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What came of the sources of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Why they are sources still, and what helps.
    pub missing: Option<String>,
    /// Why kernels were not looked up or not kept.
    pub warning: Option<String>,
}

/// A kernel to be compiled for an architecture.
struct Job<'a> {
    name: &'a str,
    source: &'a str,
    arch: &'a str,
    /// What is stored of it.
    forms: &'static [Form],
}

/// A job's code in all its forms; none while it is not done.
type Done = Option<Vec<Vec<u8>>>;

/// A vendor's compiler.
enum Compiler {
    Nvrtc(Nvrtc),
    Clang(Clang),
}

impl Compiler {
    fn find(hip: bool) -> Result<Compiler, String> {
        let search = Search::new();
        if hip {
            return Clang::find(&search).map(Compiler::Clang).map_err(|error| error.to_string());
        }
        Nvrtc::find(&search).map(Compiler::Nvrtc).map_err(|error| error.to_string())
    }

    /// What its output depends on beside the source and the architecture.
    fn identity(&self) -> Result<String, BuildError> {
        match self {
            Compiler::Nvrtc(nvrtc) => nvrtc.identity().map_err(bug),
            Compiler::Clang(clang) => clang.identity().map_err(bug),
        }
    }

    /// All forms of a job, in order.
    fn compile(&self, job: &Job<'_>) -> Result<Vec<Vec<u8>>, BuildError> {
        let Job { name, source, arch, forms } = *job;
        Ok(match self {
            Compiler::Nvrtc(nvrtc) => {
                let binary = nvrtc.compile(name, source, arch).map_err(bug)?;
                [binary.cubin, binary.ptx].into_iter().take(forms.len()).collect()
            }
            Compiler::Clang(clang) => vec![clang.compile(name, source, arch).map_err(bug)?],
        })
    }
}

/// Where kernels are kept that were compiled.
struct Keep<'a> {
    /// The user's, if there is one that can be used.
    cache: Option<Compiled>,
    /// That of the toolchain folder, if it is being made.
    prebuilt: Option<&'a Compiled>,
    /// The first thing that is wrong with the cache.
    warning: Mutex<Option<String>>,
}

impl<'a> Keep<'a> {
    fn open(
        compiler: &Compiler,
        cache: Option<&Path>,
        prebuilt: Option<&'a Compiled>,
    ) -> Result<Keep<'a>, BuildError> {
        let mut keep = Keep { cache: None, prebuilt, warning: Mutex::default() };
        if let Some(folder) = cache {
            match Compiled::open(folder, &compiler.identity()?) {
                Ok(cache) => keep.cache = Some(cache),
                Err(error) => keep.warn(folder, &error),
            }
        }
        Ok(keep)
    }

    fn warn(&self, folder: &Path, error: &std::io::Error) {
        if let Ok(mut warning) = self.warning.lock() {
            warning.get_or_insert_with(|| {
                let folder = folder.display();
                format!(
                    "compiled kernels are not kept in {folder}, which cannot be used ({error}); give another folder with \
                     --cache, or --no-cache"
                )
            });
        }
    }

    fn get(&self, job: &Job<'_>) -> Done {
        let cache = self.cache.as_ref()?;
        job.found(cache).unwrap_or_else(|error| {
            self.warn(cache.folder(), &error);
            None
        })
    }

    fn put(&self, job: &Job<'_>, code: &[Vec<u8>]) -> Result<(), BuildError> {
        if let Some(cache) = &self.cache
            && let Err(error) = job.keep(cache, code)
        {
            self.warn(cache.folder(), &error);
        }
        self.prebuilt.map_or(Ok(()), |prebuilt| job.keep(prebuilt, code).map_err(file(prebuilt)))
    }
}

/// Compiles the modules that are source, on all cores, and validates those that a driver compiles. Kernels that `cache` has are
/// taken from there, and others put there.
///
/// Where the compiler is missing the source stays: the answer says what to do then. `progress` is told how many kernels are
/// done of how many, and says whether to go on.
///
/// # Errors
///
/// Where code does not compile, which is our bug, or `progress` does not want to go on.
pub fn complete(
    code: &mut Code,
    target: &BuildTarget,
    cache: Option<&Path>,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Completed, BuildError> {
    for module in &code.modules {
        if let Some(text) = module.text(Form::Wgsl) {
            // As WGSL itself says it.
            let f16 = text.contains("enable f16;");
            dreamc_backend_wgpu::validate(&module.name, text, f16).map_err(bug)?;
        }
    }
    let archs = target.archs();
    let mut jobs = Vec::new();
    for module in &code.modules {
        for (i, arch) in archs.iter().enumerate() {
            let text = |form| module.text(form);
            if let Some(source) = text(Form::CudaSource) {
                // Text is for what comes later: of the oldest, which all others run, and of the newest. What ends in `a` runs
                // where the binary does and nowhere else.
                let ends = i == 0 || i + 1 == archs.len();
                let forms: &[Form] =
                    if ends && !arch.ends_with('a') { &[Form::Cubin, Form::Ptx] } else { &[Form::Cubin] };
                jobs.push(Job { name: &module.name, source, arch, forms });
            } else if let Some(source) = text(Form::HipSource) {
                jobs.push(Job { name: &module.name, source, arch, forms: &[Form::CodeObject] });
            }
        }
    }
    let mut done: Vec<Done> = jobs.iter().map(|_| None).collect();
    let prebuilt = Compiled::find(&Search::new());
    if let Some(prebuilt) = &prebuilt {
        for (job, done) in jobs.iter().zip(&mut done) {
            *done = job.found(prebuilt).map_err(file(prebuilt))?;
        }
    }
    let mut completed = Completed::default();
    if done.iter().any(Option::is_none) {
        let compiler = match Compiler::find(jobs.iter().any(|job| job.forms == [Form::CodeObject])) {
            Ok(compiler) => compiler,
            Err(reason) => return Ok(Completed { missing: Some(reason), ..completed }),
        };
        let keep = Keep::open(&compiler, cache, prebuilt.as_ref())?;
        fill(&jobs, &mut done, &compiler, &keep, progress)?;
        completed.warning = keep.warning.into_inner().unwrap_or_default();
    }
    if jobs.is_empty() {
        return Ok(completed);
    }
    let images: Vec<Vec<Image>> = jobs
        .iter()
        .zip(done)
        .map(|(job, code)| {
            let code = code.unwrap_or_default();
            job.forms
                .iter()
                .zip(code)
                .map(|(form, bytes)| Image { form: *form, arch: job.arch.to_owned(), bytes })
                .collect()
        })
        .collect();
    for (module, of_archs) in code.modules.iter_mut().zip(images.chunks(archs.len())) {
        module.images = of_archs.concat();
        // Binaries first.
        module.images.sort_by_key(|image| image.form);
    }
    Ok(completed)
}

impl Job<'_> {
    /// What a folder has of it, if it has all.
    fn found(&self, compiled: &Compiled) -> Result<Done, std::io::Error> {
        self.forms.iter().map(|form| compiled.get(self.source, self.arch, form.extension())).collect()
    }

    fn keep(&self, compiled: &Compiled, code: &[Vec<u8>]) -> Result<(), std::io::Error> {
        let mut each = self.forms.iter().zip(code);
        each.try_for_each(|(form, code)| compiled.put(self.source, self.arch, form.extension(), code))
    }
}

/// Does the jobs that are not done, on all cores. The error is that of the first job that has one.
fn fill(
    jobs: &[Job<'_>],
    done: &mut [Done],
    compiler: &Compiler,
    keep: &Keep<'_>,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(), BuildError> {
    let one = |job: &Job<'_>| {
        if let Some(code) = keep.get(job) {
            return Ok(code);
        }
        let code = compiler.compile(job)?;
        keep.put(job, &code)?;
        Ok(code)
    };
    let open: Vec<(&Job<'_>, Mutex<&mut Done>)> = jobs
        .iter()
        .zip(done)
        .filter(|(_, done)| done.is_none())
        .map(|(job, done)| (job, Mutex::new(done)))
        .collect();
    let (next, finished, stopped) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(None::<(usize, BuildError)>);
    // Whether there was one.
    let step = || {
        if stopped.load(Ordering::Relaxed) {
            return false;
        }
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some((job, place)) = open.get(at) else { return false };
        match one(job) {
            Ok(code) => place.lock().map(|mut place| **place = Some(code)).unwrap_or(()),
            Err(error) => {
                stopped.store(true, Ordering::Relaxed);
                if let Ok(mut failed) = failed.lock()
                    && failed.as_ref().is_none_or(|(first, _)| at < *first)
                {
                    *failed = Some((at, error));
                }
            }
        }
        finished.fetch_add(1, Ordering::Relaxed);
        true
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(open.len());
    let mut cancelled = !progress(0, open.len() as u64);
    stopped.store(cancelled, Ordering::Relaxed);
    std::thread::scope(|scope| {
        // Where the system gives fewer threads, fewer do the work.
        let _others: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, || while step() {}).ok())
            .collect();
        while step() {
            if !progress(finished.load(Ordering::Relaxed) as u64, open.len() as u64) {
                cancelled = true;
                stopped.store(true, Ordering::Relaxed);
            }
        }
    });
    // Another thread may have done the last.
    cancelled |= !stopped.load(Ordering::Relaxed) && !progress(open.len() as u64, open.len() as u64);
    match failed.into_inner() {
        Ok(Some((_, error))) => Err(error),
        Ok(None) | Err(_) if cancelled => Err(BuildError::Cancelled),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// The folder of what was compiled before cannot be used.
fn file(compiled: &Compiled) -> impl Fn(std::io::Error) -> BuildError {
    let path = compiled.folder().to_owned();
    move |source| BuildError::File { path: path.clone(), source }
}

fn bug(error: impl std::error::Error) -> BuildError {
    BuildError::Code(error.to_string())
}
