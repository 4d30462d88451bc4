//! The sampler, all of it on the device. What depends on the schedule alone is a list of constants, one for each step.

use crate::launcher::{Bound, Launcher, count};
use dreamc_artifact::plan::{self, Kernel, Scalar, ValueId};
use dreamc_ir::Literal;
use dreamc_kernels::{self as kernels, Confidence, Sampler, Slots};
use dreamc_num::schedule;

pub(crate) fn launches(l: &mut Launcher<'_, '_, '_>) -> Result<(), String> {
    let y = l.write(0);
    match l.kernel() {
        Kernel::IsToken { token } => {
            let scalars = [("elements", l.elements(y)?), ("token", count(*token))];
            slots(l, Slots::IsToken, &["canvas"], &[], &scalars)
        }
        Kernel::EosPenalty { token, steps, eps } => {
            let factors = schedule_list(*steps, |k| schedule::eos_penalty_factor(k, *steps, *eps));
            let factors = ("factors", l.constant(factors)?.into());
            let buffers = [("penalty", l.read(1).into()), ("index", l.read(2).into()), factors];
            logits(l, Sampler::EosPenalty, &[], &buffers, &[("token", count(*token))])
        }
        Kernel::KeepTokens { first, len } => {
            let scalars = [("first", count(*first)), ("length", count(*len))];
            logits(l, Sampler::KeepTokens, &[("marks", l.read(1))], &[], &scalars)
        }
        Kernel::SamplingProbs => {
            let names = ["temperature", "top_p", "top_k"];
            let buffers: Vec<_> = (2..).zip(names).map(|(i, name)| (name, l.read(i).into())).collect();
            logits(l, Sampler::SamplingProbs, &[("active", l.read(1))], &buffers, &[])
        }
        Kernel::RandomBits { lane } => {
            let positions = l.value(y).dims[1].clone();
            let scalars = [("elements", l.elements(y)?), ("positions", Scalar::Count(positions))];
            let buffers = [("stream", l.read(1).into()), ("y", y.into())];
            l.launch(kernels::Kernel::Slots(Slots::RandomBits(*lane)), &buffers, &scalars)
        }
        Kernel::DrawToken { first } => {
            let by_row = [("probs", l.read(0)), ("active", l.read(1)), ("bits", l.read(3)), ("y", y)];
            let rows = l.row_count(l.read(0))?;
            let buffers = [("temperature", l.read(2).into())];
            let kernel = kernels::Kernel::Sampler(Sampler::DrawToken);
            let scalars = [("columns", l.columns(l.read(0))?), ("first", count(*first))];
            l.launch_rows(&kernel, &rows, &by_row, &buffers, &scalars)
        }
        Kernel::Confidence(kind) => {
            let kind = match kind {
                plan::Confidence::Probability => Confidence::Probability,
                plan::Confidence::Margin => Confidence::Margin,
                plan::Confidence::NegativeEntropy => Confidence::NegativeEntropy,
            };
            let by_row = [("probs", l.read(0)), ("active", l.read(1)), ("token", l.read(2)), ("y", y)];
            let rows = l.row_count(l.read(0))?;
            let kernel = kernels::Kernel::Sampler(Sampler::Confidence(kind));
            l.launch_rows(&kernel, &rows, &by_row, &[], &[("columns", l.columns(l.read(0))?)])
        }
        Kernel::TransferCount { steps, eps } => {
            let shares = shares(l, *steps, *eps)?;
            let dims = l.value(l.read(0)).dims.clone();
            let scalars = [
                ("rows", Scalar::Count(dims[0].clone())),
                ("positions", Scalar::Count(dims[1].clone())),
                ("steps", count(*steps)),
            ];
            slots(l, Slots::TransferCount, &["active", "index", "joint"], &[shares], &scalars)
        }
        Kernel::SelectSlots => {
            let dims = l.value(y).dims.clone();
            let scalars =
                [("rows", Scalar::Count(dims[0].clone())), ("positions", Scalar::Count(dims[1].clone()))];
            let names = ["confidence", "active", "count", "alg_temp", "bits", "joint"];
            slots(l, Slots::SelectSlots, &names, &[], &scalars)
        }
        Kernel::OriginSlots { steps, eps } => {
            let shares = shares(l, *steps, *eps)?;
            let scalars = [("elements", l.elements(y)?)];
            slots(l, Slots::OriginSlots, &["active", "index", "bits"], &[shares], &scalars)
        }
        Kernel::Commit => {
            if !l.in_place(2) {
                l.copy_all(l.read(2), y)?;
            }
            let scalars = [("elements", l.elements(y)?)];
            slots(l, Slots::Commit, &["select", "token"], &[], &scalars)
        }
        Kernel::AdvanceStream => {
            if !l.in_place(0) {
                l.copy_all(l.read(0), y)?;
            }
            slots(l, Slots::AdvanceStream, &[], &[], &[])
        }
        other => Err(format!("bug: {other:?} is not of the sampler; please report it")),
    }
}

/// A kernel that works on the logits where they lie.
fn logits(
    l: &mut Launcher<'_, '_, '_>,
    kernel: Sampler,
    by_row: &[(&'static str, ValueId)],
    buffers: &[(&str, Bound)],
    scalars: &[(&str, Scalar)],
) -> Result<(), String> {
    let (x, y) = (l.read(0), l.write(0));
    if !l.in_place(0) {
        l.copy_all(x, y)?;
    }
    let mut all_by_row = vec![("y", y)];
    all_by_row.extend_from_slice(by_row);
    let mut all_scalars = vec![("columns", l.columns(y)?)];
    all_scalars.extend_from_slice(scalars);
    let rows = l.row_count(y)?;
    l.launch_rows(&kernels::Kernel::Sampler(kernel), &rows, &all_by_row, buffers, &all_scalars)
}

/// A kernel that takes the first operands by these names, further buffers, and `y`.
fn slots(
    l: &mut Launcher<'_, '_, '_>,
    kernel: Slots,
    names: &[&'static str],
    more: &[(&'static str, Bound)],
    scalars: &[(&str, Scalar)],
) -> Result<(), String> {
    let mut buffers: Vec<(&str, Bound)> =
        names.iter().enumerate().map(|(i, name)| (*name, l.read(i).into())).collect();
    buffers.extend_from_slice(more);
    buffers.push(("y", l.write(0).into()));
    l.launch(kernels::Kernel::Slots(kernel), &buffers, scalars)
}

/// The share of the slots that each step commits.
fn shares(l: &mut Launcher<'_, '_, '_>, steps: u32, eps: f32) -> Result<(&'static str, Bound), String> {
    let list = schedule_list(steps, |k| schedule::transfer_share(k, steps, eps));
    Ok(("shares", l.constant(list)?.into()))
}

fn schedule_list(steps: u32, of: impl Fn(u32) -> f32) -> Literal {
    Literal::Floats((0..steps).map(of).collect())
}
