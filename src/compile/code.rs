//! From emitted source to what a device loads, where the vendor's compiler is at hand.

use super::BuildError;
use dreamc_artifact::code::{Code, Form, Module};
use dreamc_backend::toolchain::Search;
use dreamc_backend_cuda::{Nvrtc, Prebuilt};
use dreamc_backend_rocm::Clang;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Compiles the modules that are source, and validates those that a driver compiles.
///
/// Where the compiler is missing the source stays: the answer says what to do then.
///
/// # Errors
///
/// Where code does not compile, which is our bug.
pub fn complete(code: &mut Code) -> Result<Option<String>, BuildError> {
    let forms: BTreeSet<Form> = code.modules.iter().map(|module| module.form).collect();
    let arch = code.arch.clone();
    if forms.contains(&Form::Wgsl) {
        for module in code.modules.iter().filter(|module| module.form == Form::Wgsl) {
            let text = text(module)?;
            // As WGSL itself says it.
            let f16 = text.contains("enable f16;");
            dreamc_backend_wgpu::validate(&module.name, text, f16).map_err(bug)?;
        }
    }
    let prebuilt = Prebuilt::find(&Search::new()).filter(|_| forms.contains(&Form::CudaSource));
    if let Some(prebuilt) = &prebuilt {
        each(&mut code.modules, Form::CudaSource, &|module| {
            if let Some(binary) = prebuilt.binary(text(module)?, &arch).map_err(kept(prebuilt))? {
                (module.code, module.fallback, module.form) = (binary.cubin, binary.ptx, Form::Cubin);
            }
            Ok(())
        })?;
    }
    if code.modules.iter().any(|module| module.form == Form::CudaSource) {
        let nvrtc = match Nvrtc::find(&Search::new()) {
            Ok(nvrtc) => nvrtc,
            Err(error) => return Ok(Some(error.to_string())),
        };
        each(&mut code.modules, Form::CudaSource, &|module| {
            let binary = nvrtc.compile(&module.name, text(module)?, &arch).map_err(bug)?;
            if let Some(prebuilt) = &prebuilt {
                prebuilt.keep(text(module)?, &arch, &binary).map_err(kept(prebuilt))?;
            }
            (module.code, module.fallback, module.form) = (binary.cubin, binary.ptx, Form::Cubin);
            Ok(())
        })?;
    }
    if forms.contains(&Form::HipSource) {
        let clang = match Clang::find(&Search::new()) {
            Ok(clang) => clang,
            Err(error) => return Ok(Some(error.to_string())),
        };
        each(&mut code.modules, Form::HipSource, &|module| {
            let binary = clang.compile(&module.name, text(module)?, &arch).map_err(bug)?;
            (module.code, module.form) = (binary, Form::CodeObject);
            Ok(())
        })?;
    }
    Ok(None)
}

/// Does something to every module of a form, on all cores. The error is that of the first module that has one.
fn each(
    modules: &mut [Module],
    form: Form,
    compile: &(dyn Fn(&mut Module) -> Result<(), BuildError> + Sync),
) -> Result<(), BuildError> {
    let jobs: Vec<Mutex<&mut Module>> =
        modules.iter_mut().filter(|module| module.form == form).map(Mutex::new).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None::<(usize, BuildError)>));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else { break };
            let done = job.lock().map_or(Ok(()), |mut module| compile(&mut module));
            if let (Err(error), Ok(mut failed)) = (done, failed.lock())
                && failed.as_ref().is_none_or(|(first, _)| at < *first)
            {
                *failed = Some((at, error));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(jobs.len());
    std::thread::scope(|scope| {
        // Where the system gives fewer threads, fewer do the work.
        let _others: Vec<_> =
            (1..threads).map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        work();
    });
    match failed.into_inner() {
        Ok(Some((_, error))) => Err(error),
        Ok(None) | Err(_) => Ok(()),
    }
}

fn text(module: &Module) -> Result<&str, BuildError> {
    std::str::from_utf8(&module.code).map_err(bug)
}

/// The folder of what was compiled before cannot be used.
fn kept(prebuilt: &Prebuilt) -> impl Fn(std::io::Error) -> BuildError {
    let path = prebuilt.folder().to_owned();
    move |source| BuildError::File { path: path.clone(), source }
}

fn bug(error: impl std::error::Error) -> BuildError {
    BuildError::Code(error.to_string())
}
