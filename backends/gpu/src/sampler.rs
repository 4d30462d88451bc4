//! The sampler, all of it on the device. What depends on the schedule alone is a list of constants, one for each step.

use crate::handed::GreedyRows;
use crate::launcher::{Bound, Launcher, count};
use dreamc_artifact::plan::{self, Dim, Kernel, Scalar, ValueId};
use dreamc_backend::User;
use dreamc_ir::{Literal, Op};
use dreamc_kernels::{self as kernels, Behind, Confidence, Greedy, Groups, Sampler, Slots};
use dreamc_num::{DType, schedule};
use std::slice;

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
            let active = ("active", l.read(1));
            let Some(kind) = greedy(l)? else {
                return logits(l, Sampler::SamplingProbs(Behind::Nothing), &[active], &buffers, &[]);
            };
            if !l.in_place(0) {
                l.copy_all(l.read(0), y)?;
            }
            let statistics = parts(l, y)?;
            let kernel = kernels::Kernel::Greedy(Greedy::Statistics(Groups::of(l.target())));
            let by_row = [("logits", y), active, ("statistics", statistics)];
            let (rows, columns) = (l.row_count(y)?, [("columns", l.columns(y)?)]);
            l.launch_rows(&kernel, &rows, &by_row, &buffers, &columns)?;
            l.handed.greedy.insert(y, GreedyRows { statistics, candidates: None, kind });
            let kernel = kernels::Kernel::Sampler(Sampler::SamplingProbs(Behind::Greedy));
            let by_row = [("y", y), active, ("statistics", statistics)];
            l.launch_rows(&kernel, &rows, &by_row, &buffers, &columns)
        }
        Kernel::RandomBits { lane } => {
            let positions = l.value(y).dims[1].clone();
            let scalars = [("elements", l.elements(y)?), ("positions", Scalar::Count(positions))];
            let buffers = [("stream", l.read(1).into()), ("y", y.into())];
            l.launch(kernels::Kernel::Slots(Slots::RandomBits(*lane)), &buffers, &scalars)
        }
        Kernel::DrawToken { first } => {
            let (probs, active) = (l.read(0), ("active", l.read(1)));
            let rows = l.row_count(probs)?;
            let columns = ("columns", l.columns(probs)?);
            let mut by_row = vec![("probs", probs), active, ("bits", l.read(3)), ("y", y)];
            let mut behind = Behind::Nothing;
            if let Some(GreedyRows { statistics, kind, .. }) = l.handed.greedy.get(&probs).copied() {
                if !l.keep(statistics) {
                    return Err(gone());
                }
                let candidates = parts(l, probs)?;
                let kernel = kernels::Kernel::Greedy(Greedy::Candidates(kind, Groups::of(l.target())));
                let found = [("statistics", statistics), ("candidates", candidates)];
                let looked_at = [("logits", probs), active, found[0], found[1]];
                l.launch_rows(&kernel, &rows, &looked_at, &[], slice::from_ref(&columns))?;
                let rows = GreedyRows { statistics, candidates: Some(candidates), kind };
                l.handed.greedy.insert(probs, rows);
                by_row.extend(found);
                behind = Behind::Greedy;
            }
            let buffers = [("temperature", l.read(2).into())];
            let kernel = kernels::Kernel::Sampler(Sampler::DrawToken(behind));
            l.launch_rows(&kernel, &rows, &by_row, &buffers, &[columns, ("first", count(*first))])
        }
        Kernel::Confidence(kind) => {
            let kind = match kind {
                plan::Confidence::Probability => Confidence::Probability,
                plan::Confidence::Margin => Confidence::Margin,
                plan::Confidence::NegativeEntropy => Confidence::NegativeEntropy,
            };
            let mut by_row =
                vec![("probs", l.read(0)), ("active", l.read(1)), ("token", l.read(2)), ("y", y)];
            let rows = l.row_count(l.read(0))?;
            let mut behind = Behind::Nothing;
            if let Some(GreedyRows { statistics, candidates, .. }) = l.handed.greedy.get(&l.read(0)).copied()
            {
                let candidates = candidates.filter(|id| l.keep(statistics) && l.keep(*id));
                let candidates = candidates.ok_or_else(gone)?;
                by_row.extend([("statistics", statistics), ("candidates", candidates)]);
                behind = Behind::Greedy;
            }
            let kernel = kernels::Kernel::Sampler(Sampler::Confidence(kind, behind));
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

/// Whether rows of greedy requests may stay logits, and what confidence wants to know of them then: all that look at the
/// distribution are one draw, at the same temperature, and one confidence in its token.
fn greedy(l: &Launcher<'_, '_, '_>) -> Result<Option<Confidence>, String> {
    let users = l.users();
    let (draw, confidence) = match users.nodes.as_slice() {
        [draw] => (draw, None),
        [draw, confidence] => (draw, Some(confidence)),
        _ => return Ok(None),
    };
    let (active, temperature) = (l.read(1), l.read(2));
    let Op::DrawToken { first } = draw.node.op else { return Ok(None) };
    let reads = |user: &User<'_>, i: usize, id: ValueId| {
        user.reads.get(i).and_then(|operand| operand.as_ref()?.value()) == Some(id)
    };
    let mut alike = draw.operand == 0 && reads(draw, 1, active) && reads(draw, 2, temperature);
    let mut kind = Confidence::Probability;
    if let Some(confidence) = confidence {
        let Op::Confidence(of) = confidence.node.op else { return Ok(None) };
        kind = match of {
            dreamc_ir::Confidence::Probability => Confidence::Probability,
            dreamc_ir::Confidence::Margin => Confidence::Margin,
            dreamc_ir::Confidence::NegativeEntropy => Confidence::NegativeEntropy,
        };
        alike &= confidence.operand == 0 && reads(confidence, 1, active);
        alike &= confidence.node.inputs.get(2) == draw.node.outputs.first();
        // The probability is that of the column of the token's number.
        alike &= kind != Confidence::Probability || first == 0;
    }
    let whole = l.constant_columns(l.write(0))?.is_multiple_of(Greedy::VECTOR);
    Ok((alike && whole && !users.result && Greedy::runs(l.target())).then_some(kind))
}

/// Of rows that stayed logits, what was found in them is the only thing to go by.
fn gone() -> String {
    "bug: what was found in its logits is gone; please report it".to_owned()
}

/// Room for what is found in parts of the rows of `logits`.
fn parts(l: &mut Launcher<'_, '_, '_>, logits: ValueId) -> Result<ValueId, String> {
    let mut dims = l.value(logits).dims.clone();
    if let Some(columns) = dims.last_mut() {
        *columns = Dim::constant(Greedy::ROW);
    }
    l.scratch(DType::F32, &dims)
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
