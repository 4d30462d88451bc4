//! `dreamc targets`: what can be built and run here, and what is missing.

use super::error::Failure;
use super::output::{Format, counted, print, print_json_pretty};
use dreamc_device_cpu::Isa;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Targets that the command line knows and this version cannot build.
pub(crate) const LATER: [&str; 4] = ["cuda", "rocm", "metal", "wgpu"];

#[derive(Serialize)]
struct Report {
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Target {
    target: &'static str,
    /// Whether `dreamc build` makes artifacts for it here.
    build: bool,
    /// Whether `dreamc run` runs them here.
    run: bool,
    /// What the device is, or why there is none.
    about: String,
    /// Best instruction set of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    isa: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u64>,
    /// Commands that install what is missing.
    missing: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let report = Report { targets: std::iter::once(cpu()).chain(LATER.map(absent)).collect() };
    match args.format {
        Format::Json => print_json_pretty(&report),
        Format::Text => {
            let yes = |holds: bool| if holds { "yes" } else { "no" };
            let mut text = format!("{:<8}{:<7}{:<5}{}\n", "target", "build", "run", "about");
            for Target { target, build, run, about, .. } in &report.targets {
                text.push_str(&format!("{target:<8}{:<7}{:<5}{about}\n", yes(*build), yes(*run)));
            }
            print(&text)
        }
    }
}

fn cpu() -> Target {
    let isa = isa_name(Isa::detect());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let about = format!("{isa}, {}; needs nothing installed", counted(threads, "thread"));
    let (isa, threads) = (Some(isa), Some(threads));
    Target { target: "cpu", build: true, run: true, about, isa, threads, missing: vec![] }
}

fn absent(target: &'static str) -> Target {
    let about = "not in this version".to_owned();
    Target { target, build: false, run: false, about, isa: None, threads: None, missing: vec![] }
}

/// The name of an instruction set as processors list their features.
pub(crate) fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Avx512Bf16 => "avx512_bf16",
        Isa::Avx512 => "avx512",
        Isa::Avx2 => "avx2",
        Isa::Neon => "neon",
        Isa::Plain => "plain",
    }
}
