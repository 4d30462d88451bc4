//! `dreamc targets`: what can be built and run here, and what is missing.

use super::error::Failure;
use super::output::{Format, counted, print, print_json_pretty};
use dreamc::compile::BuildTarget;
use dreamc_backend::toolchain::Status;
use dreamc_device_cpu::Isa;
use dreamc_device_cuda::{GpuError, GpuOptions, Listed};
use dreamc_kernels::Form;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Target {
    target: String,
    /// Whether `dreamc build` makes complete artifacts for it here; if not, it stores source for `dreamc finalize`.
    build: bool,
    /// Whether `dreamc run` has a device for it here.
    run: bool,
    /// What builds and what runs it, or why nothing does.
    about: String,
    /// Best instruction set of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    isa: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u64>,
    /// Commands that install what is missing to build.
    missing: Vec<String>,
}

/// Devices of a kind in words, or why there is none.
type Devices = Result<Vec<String>, String>;

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let targets = targets();
    match args.format {
        Format::Json => print_json_pretty(&Report { targets }),
        Format::Text => {
            let mut text = format!("{:<15}{:<8}{:<5}{}\n", "target", "build", "run", "about");
            for Target { target, build, run, about, .. } in &targets {
                let build = if *build { "yes" } else { "source" };
                let run = if *run { "yes" } else { "no" };
                text.push_str(&format!("{target:<15}{build:<8}{run:<5}{about}\n"));
            }
            print(&text)
        }
    }
}

fn targets() -> Vec<Target> {
    let options = GpuOptions::default();
    let listed = |found: Result<Vec<Listed>, GpuError>| -> Devices {
        let name = |d: Listed| format!("{} ({})", d.name, d.arch);
        found.map(|list| list.into_iter().map(name).collect()).map_err(|e| e.to_string())
    };
    let (cuda, rocm) =
        (listed(dreamc_device_cuda::devices(&options)), listed(dreamc_device_rocm::devices(&options)));
    let metal = dreamc_device_metal::devices().map_err(|e| e.to_string());
    let metal = metal.map(|list| list.iter().map(ToString::to_string).collect());
    let adapters = dreamc_device_wgpu::adapters();
    let wgpu = |f16: bool| -> Devices {
        let fit = adapters.iter().filter(|a| a.f16 || !f16).map(ToString::to_string);
        Some(fit.collect::<Vec<_>>()).filter(|fit| !fit.is_empty()).ok_or_else(|| {
            let with = if f16 { " with f16" } else { "" };
            format!("no WebGPU adapter{with}; {}", dreamc_device_wgpu::INSTALL)
        })
    };
    let (nvrtc, clang) = (dreamc_backend_cuda::status(), dreamc_backend_rocm::status());
    let naga = dreamc_backend_wgpu::status();
    // The source is what is shipped; the driver compiles it.
    let shipped = Status::found("Metal's own compiler, on the device");
    let gpu = |target: BuildTarget| match target.kernels() {
        None => cpu(),
        Some(kernels) => {
            let (compiler, devices) = match kernels.form() {
                Form::Cuda => (&nvrtc, cuda.clone()),
                Form::Hip => (&clang, rocm.clone()),
                Form::Msl => (&shipped, metal.clone()),
                Form::Wgsl => (&naga, wgpu(kernels.capabilities().f16)),
            };
            described(&target, compiler, devices)
        }
    };
    BuildTarget::all().into_iter().map(gpu).collect()
}

fn described(target: &BuildTarget, compiler: &Status, devices: Devices) -> Target {
    let built = match (&compiler.found, &compiler.missing) {
        (Some(found), _) => format!("built by {found}"),
        (None, Some(command)) => format!("source only: `{command}` installs the compiler"),
        (None, None) => "source only".to_owned(),
    };
    let runs = match &devices {
        Ok(list) => format!("runs on {}", list.join(", ")),
        Err(reason) => reason.clone(),
    };
    Target {
        target: target.to_string(),
        build: compiler.found.is_some(),
        run: devices.is_ok(),
        about: format!("{built}; {runs}"),
        isa: None,
        threads: None,
        missing: compiler.missing.clone().into_iter().collect(),
    }
}

fn cpu() -> Target {
    let isa = isa_name(Isa::detect());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let about = format!("{isa}, {}; needs nothing installed", counted(threads, "thread"));
    let (isa, threads) = (Some(isa), Some(threads));
    Target { target: "cpu".to_owned(), build: true, run: true, about, isa, threads, missing: vec![] }
}

/// The name of an instruction set as processors list their features.
pub(crate) fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Avx512Bf16 => "avx512_bf16",
        Isa::Avx512Vnni => "avx512_vnni",
        Isa::Avx512 => "avx512",
        Isa::AvxVnni => "avx_vnni",
        Isa::Avx2 => "avx2",
        Isa::NeonMatrix => "neon_matrix",
        Isa::NeonDot => "neon_dot",
        Isa::Neon => "neon",
        Isa::Plain => "plain",
    }
}
