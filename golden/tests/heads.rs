//! `fixtures/tiny-vla`, `heads/`: every part around the decoder alone, as the importer makes it, in the interpreter and on
//! the device; and the clocks of the loops.
#![allow(clippy::unwrap_used, reason = "tests")]

use dreamc_frontend::clock::{FlowClock, ddim, flow_times};
use dreamc_frontend::module::{Architecture, Options, module};
use dreamc_frontend::sampler::{Alg, Sampler};
use dreamc_frontend::vla::{Act, Integrator, Mode};
use dreamc_frontend::{HeadKind, HeadRequest, HeadSet, LM_HEAD, Layout, ModelConfig};
use dreamc_golden::Fixture;
use dreamc_golden::fixture::{assert_within, max_difference};
use dreamc_golden::graph::{On, execute_given, interpret_given, part};
use dreamc_golden::vla::{HeadFiles, checkpoint};
use dreamc_interp::Tensor;
use dreamc_ir::{Module, Type};
use dreamc_num::DType;

const CHUNK: usize = 8;
const ACTION_DIM: usize = 7;
const PROPRIO_DIM: usize = 8;
/// The entry.
const ENTRY: &str = "act";
/// The body of its loop.
const STEP: &str = "act.step";

/// The graphs of the fixture's model in a mode, with the robot's state.
fn acting(fixture: &Fixture, mode: Mode, integrator: Option<Integrator>) -> Module {
    let config = ModelConfig::read(fixture.path("checkpoint")).unwrap();
    let act = Act {
        mode,
        chunk: CHUNK as u64,
        action_dim: ACTION_DIM as u64,
        proprio_dim: Some(PROPRIO_DIM as u64),
        kept: None,
        integrator,
    };
    let options = Options {
        dtype: DType::F32,
        max_batch: 1,
        max_length: 64,
        max_slots: 64,
        max_image_tokens: 1,
        sampler: Sampler { steps: 1, eps: 1e-3, alg: Alg::Entropy },
        act: Some(act),
    };
    module(&Architecture::new(&config, &Layout { lm_head: LM_HEAD }), &options)
}

/// The result of a part of a graph: by the interpreter, the same after all passes, and by every instruction set.
fn results(part: &Module, inputs: &[Tensor], heads: Option<&HeadSet>) -> Vec<Tensor> {
    let weights = |name: &str, ty: &Type| {
        let stored = heads.unwrap().get(name).unwrap_or_else(|| panic!("there is no `{name}`"));
        let mut values = vec![0.0; stored.len()];
        stored.to_f32(0..stored.len(), &mut values);
        let dims: Vec<usize> = ty.dims.iter().map(|d| d.as_constant().unwrap() as usize).collect();
        Tensor::f32(&dims, values)
    };
    let entry = part.graphs[0].name.as_str();
    let mut optimized = part.clone();
    dreamc_passes::optimize(&mut optimized, &mut |_, _, _| ());
    let interpreted = [part, &optimized].map(|m| interpret_given(m, entry, inputs, &weights, &mut ()));
    let executed = On::all().into_iter().map(|on| execute_given(&optimized, entry, inputs, on, &weights));
    interpreted.into_iter().chain(executed).map(|mut results| results.remove(0)).collect()
}

/// Judges `part` on every row of a golden tensor of inputs; a row has these dimensions.
fn judge_rows(
    fixture: &Fixture,
    part: &Module,
    heads: &HeadSet,
    [input, output]: [&str; 2],
    [input_dims, output_dims]: [&[usize]; 2],
) {
    let [inputs, outputs] = [input, output].map(|name| fixture.tensor(&format!("heads/{name}")));
    let (size, wanted_size) = (input_dims.iter().product(), output_dims.iter().product());
    let pairs = inputs.floats().chunks(size).zip(outputs.floats().chunks(wanted_size));
    assert!(pairs.len() > 1);
    for (given, wanted) in pairs {
        let wanted = Tensor::f32(output_dims, wanted.to_vec());
        for found in results(part, &[Tensor::f32(input_dims, given.to_vec())], Some(heads)) {
            let off = max_difference(&found, &wanted, |_| true);
            assert_within(off, fixture.tolerance("heads_abs"), output);
        }
    }
}

/// From either form of file.
fn each_form(fixture: &Fixture, folders: &[&str], kind: HeadKind, judge: impl Fn(&HeadSet)) {
    for form in [HeadFiles::Archives, HeadFiles::Safetensors] {
        let folder = checkpoint(fixture, &[folders, &["proprio"]].concat(), form);
        let request = HeadRequest {
            kind: Some(kind),
            action_dim: ACTION_DIM as u64,
            proprio_dim: Some(PROPRIO_DIM as u64),
            l1_as_ddim: false,
        };
        let hidden_size = fixture.json["config"]["hidden_size"].as_u64().unwrap();
        judge(&HeadSet::open(folder.path(), hidden_size, &request).unwrap());
    }
}

fn width(fixture: &Fixture) -> usize {
    fixture.json["config"]["hidden_size"].as_u64().unwrap() as usize
}

fn euler() -> Option<Integrator> {
    Some(Integrator::Euler { times: vec![0.0], dt: 1.0 })
}

fn ddim_of(steps: u32) -> Option<Integrator> {
    let (times, alphas) = ddim(steps);
    Some(Integrator::Ddim { times, alphas })
}

#[test]
fn action_heads() {
    let fixture = Fixture::open("tiny-vla");
    let dims: [&[usize]; 2] = [&[1, CHUNK * ACTION_DIM, width(&fixture)], &[1, CHUNK, ACTION_DIM]];
    for (folder, kind, mode, integrator, entry, golden) in [
        ("l1_regression", HeadKind::L1, Mode::L1, None, ENTRY, "l1/actions"),
        ("flow_matching", HeadKind::Flow, Mode::Flow, euler(), STEP, "flow/velocity"),
        ("diffusion", HeadKind::Ddim, Mode::Ddim, ddim_of(10), STEP, "diffusion/noise_pred"),
    ] {
        let module = acting(&fixture, mode, integrator);
        let part = part(&module, entry, &["model.norm"], "action_head.fc2");
        each_form(&fixture, &[folder], kind, |heads| {
            judge_rows(&fixture, &part, heads, ["hidden_in", golden], dims);
        });
    }
}

#[test]
fn noisy_action_projectors() {
    let fixture = Fixture::open("tiny-vla");
    let dims: [&[usize]; 2] = [&[1, CHUNK, ACTION_DIM], &[1, CHUNK * ACTION_DIM, width(&fixture)]];
    for (folder, kind, mode, integrator, golden) in [
        ("flow_matching", HeadKind::Flow, Mode::Flow, euler(), "noisy_action_projector/flow_out"),
        ("diffusion", HeadKind::Ddim, Mode::Ddim, ddim_of(10), "noisy_action_projector/diffusion_out"),
    ] {
        let module = acting(&fixture, mode, integrator);
        let part = part(&module, STEP, &["noisy_actions"], "noisy_action_projector.fc2");
        each_form(&fixture, &[folder], kind, |heads| {
            judge_rows(&fixture, &part, heads, ["noisy_action_projector/in", golden], dims);
        });
    }
}

#[test]
fn proprio_projector() {
    let fixture = Fixture::open("tiny-vla");
    let module = acting(&fixture, Mode::L1, None);
    let part = part(&module, ENTRY, &["proprio"], "proprio_projector.fc2");
    let dims: [&[usize]; 2] = [&[1, 1, PROPRIO_DIM], &[1, 1, width(&fixture)]];
    let names = ["proprio_projector/in", "proprio_projector/out"];
    each_form(&fixture, &["l1_regression"], HeadKind::L1, |heads| {
        judge_rows(&fixture, &part, heads, names, dims);
    });
}

#[test]
fn time_encoder() {
    let fixture = Fixture::open("tiny-vla");
    let times = fixture.tensor("heads/time_encoder/t").floats().to_vec();
    let wanted = fixture.tensor("heads/time_encoder/embedding");
    let module = acting(&fixture, Mode::Flow, Some(Integrator::Euler { times, dt: 1.0 }));
    let part = part(&module, STEP, &["step"], "time_encoder");
    for (step, wanted) in wanted.floats().chunks(wanted.columns()).enumerate() {
        let wanted = Tensor::f32(&[1, 1, wanted.len()], wanted.to_vec());
        for found in results(&part, &[Tensor::i32(&[], vec![step as i32])], None) {
            let off = max_difference(&found, &wanted, |_| true);
            assert_within(off, fixture.tolerance("heads_abs"), &format!("time {step}"));
        }
    }
}

/// One step of DDIM from the same state at every time, with as many steps as the head was trained with, and fewer.
#[test]
fn ddim_steps() {
    let fixture = Fixture::open("tiny-vla");
    for steps in [7, 10, 50] {
        let golden = |name: &str| fixture.tensor(&format!("heads/diffusion/step.{steps}/{name}"));
        let module = acting(&fixture, Mode::Ddim, ddim_of(steps));
        let part = part(&module, STEP, &["noisy_actions", "action_head.fc2", "step"], "actions.next");
        let all = golden("prev_sample");
        assert_eq!(all.dims[0], steps as usize);
        for (step, wanted) in all.floats().chunks(CHUNK * ACTION_DIM).enumerate() {
            let wanted = Tensor::f32(&[1, CHUNK, ACTION_DIM], wanted.to_vec());
            let inputs = [golden("sample"), golden("noise_pred"), Tensor::i32(&[], vec![step as i32])];
            for found in results(&part, &inputs, None) {
                let off = max_difference(&found, &wanted, |_| true);
                assert_within(off, fixture.tolerance("heads_abs"), &format!("step {step} of {steps}"));
            }
        }
    }
}

#[test]
fn ddim_schedule() {
    let fixture = Fixture::open("tiny-vla");
    let (_, mut alphas) = ddim(50);
    assert_eq!(alphas.pop(), Some(1.0));
    alphas.reverse();
    let off = max_difference(
        &Tensor::f32(&[50], alphas),
        &fixture.tensor("heads/diffusion/alphas_cumprod"),
        |_| true,
    );
    assert_within(off, fixture.tolerance("heads_abs"), "alphas_cumprod");
    for steps in [7, 10, 50] {
        let wanted = fixture.tensor(&format!("heads/diffusion/timesteps.{steps}"));
        let found: Vec<i32> = ddim(steps).0.iter().map(|t| *t as i32).collect();
        assert_eq!(found, wanted.ints(), "{steps} steps");
    }
}

/// The reference's clock, to the bit.
#[test]
fn flow_time_table() {
    let fixture = Fixture::open("tiny-vla");
    let table = fixture.json["flow_time_table"]["table"].as_array().unwrap();
    assert_eq!(table.len(), 32);
    for row in table {
        let steps = row["steps"].as_u64().unwrap() as u32;
        let times = row["times"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap() as f32);
        let found = flow_times(steps, FlowClock::Reference).unwrap();
        assert_eq!(found, times.collect::<Vec<f32>>(), "{steps} steps");
        assert_eq!(found.len() as u64, row["iterations"].as_u64().unwrap(), "{steps} steps");
    }
}
