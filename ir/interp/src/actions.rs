//! Ops of the action loops (`spec/actions.md` section 6).

use crate::run::RunError;
use crate::tensor::Tensor;

/// The entry of a step.
pub(crate) fn at(list: &[f32], step: i32) -> Result<f32, RunError> {
    usize::try_from(step).ok().and_then(|i| list.get(i)).copied().ok_or(RunError::Step(step))
}

pub(crate) fn timestep_embed(times: &[f32], width: usize) -> Tensor {
    let half = width / 2;
    let scale = 10_000_f32.ln() / (half - 1) as f32;
    let angles = |time: &f32| {
        let time = *time;
        (0..half).map(move |k| time * (-scale * k as f32).exp())
    };
    let row = |time: &f32| angles(time).map(f32::sin).chain(angles(time).map(f32::cos)).collect::<Vec<_>>();
    Tensor::f32(&[1, times.len(), width], times.iter().flat_map(row).collect())
}

pub(crate) fn ddim_step(x: f32, noise: f32, now: f32, next: f32) -> f32 {
    let clean = ((x - (1.0 - now).sqrt() * noise) / now.sqrt()).clamp(-1.0, 1.0);
    next.sqrt() * clean + (1.0 - next).sqrt() * noise
}
