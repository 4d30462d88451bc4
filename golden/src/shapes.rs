//! Modules with the shapes of the released models, and no weights: for what depends on shapes alone.

use dreamc::compile::{Bits, Quantization, quantize};
use dreamc_frontend::clock::{FlowClock, flow_times};
use dreamc_frontend::module::{ACT, Architecture, FORWARD, GENERATE, Options, module};
use dreamc_frontend::sampler::{Alg, Sampler};
use dreamc_frontend::synth::Size;
use dreamc_frontend::vla::{Act, Integrator, Mode};
use dreamc_frontend::{LM_HEAD, Layout, Variant};
use dreamc_ir::Module;
use dreamc_num::DType;
use dreamc_passes::{PIPELINE, run_passes};

/// Longest canvas of the plans, as that of an action model with two views and a long task.
pub const LENGTH_MAX: u64 = 512;
/// Steps of the sampler.
const STEPS: u64 = 8;

/// Modules of a size, and the entries that are lowered: of text, of images, of actions.
pub fn models(size: Size, dtype: DType) -> Vec<(Module, Vec<&'static str>)> {
    vec![
        (text(size, dtype, STEPS), vec![FORWARD, GENERATE]),
        (of(size, Variant::Vl, dtype, STEPS, None), vec![FORWARD, GENERATE]),
        (act(size, dtype), vec![ACT]),
    ]
}

/// A model of text, after all passes.
pub fn text(size: Size, dtype: DType, steps: u64) -> Module {
    of(size, Variant::Text, dtype, steps, None)
}

/// A model of actions by a flow of four steps, after all passes.
pub fn act(size: Size, dtype: DType) -> Module {
    of(size, Variant::Vla, dtype, STEPS, Some(flow()))
}

/// A model of actions by discrete diffusion in one step, after all passes.
pub fn act_at_once(size: Size, dtype: DType) -> Module {
    let act = Act {
        mode: Mode::Discrete,
        chunk: 8,
        action_dim: 7,
        proprio_dim: None,
        kept: None,
        integrator: None,
    };
    of(size, Variant::Vla, dtype, 1, Some(act))
}

/// The same in fp8, but for what the rule keeps.
///
/// # Panics
///
/// Where it cannot be quantized, which is a bug.
pub fn act_at_once_in_fp8(size: Size, dtype: DType) -> Module {
    let mut module = act_at_once(size, dtype);
    let quantization = Quantization::new(Bits::Fp8);
    quantize(&quantization, &size.model_config(Variant::Vla), &mut [&mut module])
        .unwrap_or_else(|e| panic!("{e}"));
    module
}

/// Eight actions by a flow of four steps, which the robot's state goes into.
pub fn flow() -> Act {
    let times = flow_times(4, FlowClock::Reference).expect("the clock takes four steps");
    Act {
        mode: Mode::Flow,
        chunk: 8,
        action_dim: 7,
        proprio_dim: Some(8),
        kept: None,
        integrator: Some(Integrator::Euler { times, dt: 0.25 }),
    }
}

/// A model as it is imported.
pub fn imported(size: Size, variant: Variant, options: &Options) -> Module {
    let config = size.model_config(variant);
    module(&Architecture::new(&config, &Layout { lm_head: LM_HEAD }), options)
}

fn of(size: Size, variant: Variant, dtype: DType, steps: u64, act: Option<Act>) -> Module {
    let options = Options {
        dtype,
        max_batch: 1,
        max_length: LENGTH_MAX,
        max_slots: LENGTH_MAX,
        max_image_tokens: LENGTH_MAX,
        sampler: Sampler { steps, eps: 1e-3, alg: Alg::Entropy },
        act,
    };
    let mut module = imported(size, variant, &options);
    run_passes(PIPELINE, &mut module, &mut |_, _, _| ());
    module
}
