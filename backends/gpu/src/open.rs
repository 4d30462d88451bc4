//! The open slots of a canvas.

use crate::launcher::{Bound, Launcher, count};
use dreamc_artifact::plan::{Kernel, Scalar, ValueId};
use dreamc_kernels::{self as kernels, Open};

pub(crate) fn launches(l: &mut Launcher<'_, '_, '_>) -> Result<(), String> {
    let y = l.write(0);
    match l.kernel() {
        Kernel::OpenSlots { token } => {
            let (canvas, open) = (l.read(0), l.write(1));
            let dims = l.value(canvas).dims.clone();
            let scalars = [
                ("rows", Scalar::Count(dims[0].clone())),
                ("positions", Scalar::Count(dims[1].clone())),
                ("count", second(l, y)),
                ("token", count(*token)),
            ];
            let buffers = [("canvas", canvas), ("slots", y), ("open", open)];
            launch(l, Open::Find, &buffers, &scalars)
        }
        Kernel::ReadRows { before } => {
            let scalars = [("elements", l.elements(y)?), ("before", count(*before))];
            launch(l, Open::ReadRows, &[("slots", l.read(0)), ("y", y)], &scalars)
        }
        Kernel::SlotBits { lane } => {
            let scalars = [("elements", l.elements(y)?), ("count", second(l, y))];
            let buffers = [("slots", l.read(0)), ("stream", l.read(1)), ("y", y)];
            launch(l, Open::Bits(*lane), &buffers, &scalars)
        }
        Kernel::TakeSlots => {
            let (x, slots) = (l.read(0), l.read(1));
            let buffers = [("x", x), ("slots", slots), ("y", y)];
            let scalars = by_slot(l, slots, x)?;
            launch(l, Open::Take, &buffers, &scalars)
        }
        Kernel::CommitSlots => {
            let (slots, canvas) = (l.read(2), l.read(3));
            if !l.in_place(3) {
                l.copy_all(canvas, y)?;
            }
            let buffers = [("select", l.read(0)), ("token", l.read(1)), ("slots", slots), ("y", y)];
            let scalars = by_slot(l, slots, y)?;
            launch(l, Open::Commit, &buffers, &scalars)
        }
        other => Err(format!("bug: {other:?} is not of open slots; please report it")),
    }
}

/// Slots in all, in a row, and positions of a row.
fn by_slot(
    l: &Launcher<'_, '_, '_>,
    slots: ValueId,
    canvas: ValueId,
) -> Result<[(&'static str, Scalar); 3], String> {
    Ok([("elements", l.elements(slots)?), ("count", second(l, slots)), ("positions", second(l, canvas))])
}

/// The second dimension.
fn second(l: &Launcher<'_, '_, '_>, id: ValueId) -> Scalar {
    Scalar::Count(l.value(id).dims[1].clone())
}

fn launch(
    l: &mut Launcher<'_, '_, '_>,
    kernel: Open,
    buffers: &[(&'static str, ValueId)],
    scalars: &[(&'static str, Scalar)],
) -> Result<(), String> {
    let buffers: Vec<(&str, Bound)> = buffers.iter().map(|(name, id)| (*name, (*id).into())).collect();
    l.launch(kernels::Kernel::Open(kernel), &buffers, scalars)
}
