//! Rows and columns that move.

use crate::launcher::{Bound, Launcher, count, moved};
use crate::size;
use dreamc_artifact::plan::{Dim, Kernel, Scalar, ValueId};
use dreamc_kernels::{self as kernels, Embed, Rows};

pub(crate) fn launches(l: &mut Launcher<'_, '_, '_>) -> Result<(), String> {
    match l.kernel() {
        Kernel::Embed => embed(l),
        Kernel::Slice { start } => {
            let (x, y) = (l.read(0), l.write(0));
            let (blocks, length) = (l.rows(y)?, l.columns(y)?);
            let (from, to) = ([l.columns(x)?, count(*start)], [l.columns(y)?, count(0)]);
            l.copy(x, y, blocks, length, from, to)
        }
        Kernel::Concat { axis } => concat(l, *axis as usize),
        Kernel::DropRows { count: dropped } => {
            let (x, y) = (l.read(0), l.write(0));
            let (of_x, of_y) = (l.value(x).dims.clone(), l.value(y).dims.clone());
            let kept = Scalar::Count(l.length(&of_y[1..])?);
            let first = l.length(&[Dim::constant(*dropped), of_x[2].clone()])?;
            let from = [Scalar::Count(l.length(&of_x[1..])?), Scalar::Count(first)];
            let blocks = Scalar::Count(of_y[0].clone());
            l.copy(x, y, blocks, kept.clone(), from, [kept, count(0)])
        }
        Kernel::TakeRows => {
            let (x, index, y) = (l.read(0), l.read(1), l.write(0));
            take(l, x, index, y)
        }
        Kernel::Splice => {
            let (x, index, given, y) = (l.read(0), l.read(1), l.read(2), l.write(0));
            let in_place = l.in_place(0);
            let mut buffers: Vec<(&str, Bound)> =
                vec![("index", index.into()), ("rows", given.into()), ("y", y.into())];
            if !in_place {
                buffers.push(("x", x.into()));
            }
            let scalars =
                [("all", l.elements(index)?), ("given", l.rows(given)?), ("columns", l.columns(y)?)];
            l.launch(kernels::Kernel::Rows(Rows::Splice { float: l.float(x)?, in_place }), &buffers, &scalars)
        }
        Kernel::ShiftRows => {
            let (x, y) = (l.read(0), l.write(0));
            let rows = Scalar::Count(l.value(x).dims[1].clone());
            let scalars = [("all", l.rows(x)?), ("rows", rows), ("columns", l.columns(x)?)];
            let kernel = Rows::Shift(moved(l.value(x).dtype));
            l.launch(kernels::Kernel::Rows(kernel), &[("x", x.into()), ("y", y.into())], &scalars)
        }
        other => Err(format!("bug: {other:?} moves no rows; please report it")),
    }
}

/// The rows of `x` that the index picks.
pub(crate) fn take(
    l: &mut Launcher<'_, '_, '_>,
    x: ValueId,
    index: ValueId,
    y: ValueId,
) -> Result<(), String> {
    let (taken, rows) = (l.value(y).dims[1].clone(), l.value(x).dims[1].clone());
    let scalars = [
        ("all", l.elements(index)?),
        ("taken", Scalar::Count(taken)),
        ("rows", Scalar::Count(rows)),
        ("columns", l.columns(y)?),
    ];
    let buffers: [(&str, Bound); 3] = [("x", x.into()), ("index", index.into()), ("y", y.into())];
    l.launch(kernels::Kernel::Rows(Rows::Take(l.float(x)?)), &buffers, &scalars)
}

/// A launch for each part of the table, in ascending order: the kernel leaves alone what lower parts have written.
fn embed(l: &mut Launcher<'_, '_, '_>) -> Result<(), String> {
    let (ids, table, y) = (l.read(0), l.read(1), l.write(0));
    let kernel = kernels::Kernel::Embed(Embed { table: l.table(table)?, y: l.float(y)? });
    for part in l.parts(table)? {
        let buffers = [("ids", ids.into()), ("table", l.bound(table, part)), ("y", y.into())];
        let scalars = [
            ("rows", l.elements(ids)?),
            ("columns", l.columns(y)?),
            ("first", count(part.first)),
            ("vocabulary", count(part.rows)),
        ];
        l.launch(kernel.clone(), &buffers, &scalars)?;
    }
    Ok(())
}

/// A launch for each operand: blocks of what lies behind the axis, one behind the other.
fn concat(l: &mut Launcher<'_, '_, '_>, axis: usize) -> Result<(), String> {
    let y = l.write(0);
    let all = l.value(y).dims.clone();
    let stride = Scalar::Count(l.length(&all[axis..])?);
    let blocks = Scalar::Count(l.length(&all[..axis])?);
    let mut first = Dim::constant(0);
    for i in 0..l.read_count() {
        let x = l.read(i);
        let dims = l.value(x).dims.clone();
        let length = l.length(&dims[axis..])?;
        let from = [Scalar::Count(length.clone()), count(0)];
        let to = [stride.clone(), Scalar::Count(first.clone())];
        l.copy(x, y, blocks.clone(), Scalar::Count(length.clone()), from, to)?;
        first = size::plus(&first, &length).ok_or("its parts are too long")?;
    }
    Ok(())
}
