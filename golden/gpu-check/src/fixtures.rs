//! The judges of the golden tests: every fixture that the reference has outputs for.

use crate::report::Checks;
use dreamc::compile::{Bits, BuildOptions};
use dreamc_frontend::vla::Mode;
use dreamc_golden::runners::{Built, Compiled, CompiledPolicy, Place, Runner};
use dreamc_golden::tabletop::{Trained, judge_episodes, judge_observations, judge_vision};
use dreamc_golden::vla::{Actor, HeadFiles, judge_predict};
use dreamc_golden::{fp8, text, vl, vla};
use dreamc_num::DType;
use serde_json::{Map, Value};

/// Policies of the simulated robot, with the numbers of steps that they are judged at. The reference has more; those
/// and the third policy are left to where they cost no time.
pub(crate) const POLICIES: [(&str, &[u32]); 2] = [("tabletop-vla", &[1, 4]), ("tabletop-vla-flow", &[4])];

/// Builds what the judges ask for and runs nothing, or also runs it.
#[derive(Clone, Copy)]
pub(crate) struct Make {
    pub(crate) place: Place<'static>,
    pub(crate) runs: bool,
}

impl Make {
    fn build(self, options: &BuildOptions) {
        drop(Built::new(&BuildOptions {
            targets: vec![self.place.target(options.dtype)],
            ..options.clone()
        }));
    }

    fn runners(self, options: &BuildOptions) -> Vec<Box<dyn Runner>> {
        if self.runs {
            return Compiled::of(self.place, options);
        }
        self.build(options);
        Vec::new()
    }

    fn actors(self, options: &BuildOptions) -> Vec<Box<dyn Actor>> {
        if self.runs {
            return CompiledPolicy::of(self.place, options);
        }
        self.build(options);
        Vec::new()
    }
}

/// Judges a section.
pub(crate) fn judge(section: &str, make: Make, checks: &mut Checks) {
    let runners = |options: &BuildOptions| make.runners(options);
    let actors = |options: &BuildOptions| make.actors(options);
    let form = HeadFiles::Safetensors;
    let mut check = |name: &str, judge: &dyn Fn()| {
        checks.check(section, name, || {
            judge();
            Map::new()
        });
    };
    match section {
        "text" => {
            check("forward", &|| text::judge_forward(&runners));
            check("sampling", &|| text::judge_sampling(&runners));
            for dtype in [DType::F32, DType::BF16] {
                if Bits::Fp8.fits(&make.place.target(dtype)) {
                    let judge = || drop(fp8::judge_forward(dtype, &runners));
                    check(&format!("forward in fp8, {dtype}"), &judge);
                }
            }
        }
        "vl" => {
            check("vision", &|| vl::judge_vision(&runners, false));
            check("forward", &|| vl::judge_forward(&runners, false));
            check("sampling", &|| vl::judge_sampling(&runners));
        }
        "vla" => {
            check("forward", &|| vla::judge_forward(&runners, false));
            check("tokens", &|| judge_predict(&[Mode::Discrete, Mode::OneStep], form, &actors, true));
            check("heads", &|| judge_predict(&[Mode::L1, Mode::Flow, Mode::Ddim], form, &actors, true));
        }
        _ => tabletop(section, make, checks),
    }
}

/// Sees, chooses and picks up what the reference does, in f32; in bf16 success alone counts.
fn tabletop(section: &str, make: Make, checks: &mut Checks) {
    let open = |name: &str| Trained::open(name).on(make.place);
    for (name, steps) in POLICIES {
        checks.check(section, &format!("{name}, what it sees"), || {
            if make.runs {
                judge_vision(&open(name));
            } else {
                drop(open(name).build(1, DType::F32, &dreamc_golden::tabletop::VISION_ENTRIES));
            }
            Map::new()
        });
        for (steps, dtype) in steps.iter().flat_map(|s| [(*s, DType::F32), (*s, DType::BF16)]) {
            checks.check(section, &format!("{name}, {steps} steps, {dtype}"), || {
                let trained = open(name);
                if !make.runs {
                    drop(trained.build(steps, dtype, &[dreamc::compile::Entry::Act]));
                    return Map::new();
                }
                let mut robot = trained.robot(steps, dtype);
                if dtype == DType::F32 {
                    judge_observations(&trained, steps, &mut robot);
                }
                let line = judge_episodes(&trained, steps, &mut robot, dtype == DType::F32);
                Map::from_iter([("result".to_owned(), Value::from(line))])
            });
        }
    }
}
