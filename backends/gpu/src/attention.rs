//! Attention, and the rotation of queries and keys before it.

use crate::launcher::{Launcher, count};
use crate::rows;
use dreamc_artifact::plan::{Attention, Dim, Scalar, ValueId};
use dreamc_kernels::{self as kernels, AttentionEngine, Rope, Segments};
use dreamc_num::DType;

/// Rotates all heads of the operand.
pub(crate) fn rope(l: &mut Launcher<'_, '_, '_>, head_dim: u32) -> Result<(), String> {
    let (x, y) = (l.read(0), l.write(0));
    let columns = l.constant_columns(x)?;
    let angles = [l.read(1), l.read(2)];
    let apart = if l.in_place(0) { None } else { Some(x) };
    rotate(l, apart, y, columns / head_dim, head_dim, angles)
}

pub(crate) fn launches(l: &mut Launcher<'_, '_, '_>, attention: &Attention) -> Result<(), String> {
    let Attention { heads, kv_heads, head_dim, packed, rope, rows } = *attention;
    let inputs = if packed { 1 } else { 3 };
    let (mask, index) = (l.read(inputs), l.read(l.read_count() - 1));
    let mut operands: Vec<ValueId> = (0..inputs).map(|i| l.read(i)).collect();
    if rope && !l.handed.turned.contains(&l.read(0)) {
        let angles = [l.read(inputs + 1), l.read(inputs + 2)];
        // Queries and keys stand side by side in a packed row, and are turned together.
        let turned = if packed { vec![heads + kv_heads] } else { vec![heads, kv_heads] };
        for (i, heads) in turned.into_iter().enumerate() {
            // Queries are turned by the rows of the tables at which they stand.
            let angles = if rows && i == 0 { taken(l, angles, index)? } else { angles };
            operands[i] = rotated(l, i, heads, head_dim, packed, angles)?;
        }
    }
    let y = l.write(0);
    let kernel = kernels::Attention::fitted(l.float(y)?, heads, kv_heads, head_dim, packed, rows, l.target());
    let kernel =
        kernel.ok_or_else(|| format!("no tile of it fits heads of {head_dim} dimensions on this target"))?;
    let names = if packed { &["qkv"][..] } else { &["q", "k", "v"] };
    let mut buffers: Vec<_> = names.iter().zip(&operands).map(|(name, v)| (*name, (*v).into())).collect();
    buffers.extend([("mask", mask.into()), ("y", y.into())]);
    if kernel.engine == AttentionEngine::Matrix {
        buffers.push(("segments", segments(l, mask)?.into()));
    }
    let mut scalars = of_mask(l, mask)?;
    if rows {
        buffers.push(("index", index.into()));
        scalars.push(("taken", Scalar::Count(l.length(&l.value(index).dims[1..])?)));
    }
    l.launch(kernels::Kernel::Attention(kernel), &buffers, &scalars)
}

/// Rows and positions of a mask.
fn of_mask(l: &Launcher<'_, '_, '_>, mask: ValueId) -> Result<Vec<(&'static str, Scalar)>, String> {
    let dims = &l.value(mask).dims;
    let [rows, positions] = [l.length(&dims[..1])?, l.length(&dims[1..])?];
    Ok(vec![("rows", Scalar::Count(rows)), ("positions", Scalar::Count(positions))])
}

/// What is found in a mask, if it was not found before.
fn segments(l: &mut Launcher<'_, '_, '_>, mask: ValueId) -> Result<ValueId, String> {
    if let Some(found) = l.handed.segments.get(&mask).copied()
        && l.keep(found)
    {
        return Ok(found);
    }
    // Room for a tile of each position, which is more than there are.
    let mut dims = l.value(mask).dims.clone();
    dims.push(Dim::constant(Segments::WORDS));
    let found = l.scratch(DType::I32, &dims)?;
    l.handed.segments.insert(mask, found);
    let scalars = of_mask(l, mask)?;
    let buffers = [("mask", mask.into()), ("segments", found.into())];
    l.launch(kernels::Kernel::Segments(Segments), &buffers, &scalars)?;
    Ok(found)
}

/// The rows of both tables at which the queries stand.
fn taken(l: &mut Launcher<'_, '_, '_>, angles: [ValueId; 2], index: ValueId) -> Result<[ValueId; 2], String> {
    let mut rows = angles;
    for (to, table) in rows.iter_mut().zip(angles) {
        let (dtype, mut dims) = (l.value(table).dtype, l.value(table).dims.clone());
        dims[1] = l.value(index).dims[1].clone();
        *to = l.scratch(dtype, &dims)?;
        rows::take(l, table, index, *to)?;
    }
    Ok(rows)
}

/// Operand `read` with its first `heads` turned: where it lies, or if others need it in memory of its own.
fn rotated(
    l: &mut Launcher<'_, '_, '_>,
    read: usize,
    heads: u32,
    head_dim: u32,
    packed: bool,
    angles: [ValueId; 2],
) -> Result<ValueId, String> {
    let x = l.read(read);
    if l.spare(read) {
        rotate(l, None, x, heads, head_dim, angles)?;
        return Ok(x);
    }
    let (dtype, dims) = (l.value(x).dtype, l.value(x).dims.clone());
    let y = l.scratch(dtype, &dims)?;
    if packed {
        // The values are not turned, but read there too.
        l.copy_all(x, y)?;
        rotate(l, None, y, heads, head_dim, angles)?;
    } else {
        rotate(l, Some(x), y, heads, head_dim, angles)?;
    }
    Ok(y)
}

/// Turns `heads` from the first column on: of `x` into `y`, or of `y` itself.
pub(crate) fn rotate(
    l: &mut Launcher<'_, '_, '_>,
    x: Option<ValueId>,
    y: ValueId,
    heads: u32,
    head_dim: u32,
    [cos, sin]: [ValueId; 2],
) -> Result<(), String> {
    let kernel = Rope { float: l.float(y)?, head_dim, in_place: x.is_none() };
    let mut buffers = vec![("cos", cos.into()), ("sin", sin.into()), ("y", y.into())];
    buffers.extend(x.map(|x| ("x", x.into())));
    let scalars = [("rows", l.rows(y)?), ("heads", count(heads)), ("stride", l.columns(y)?)];
    l.launch(kernels::Kernel::Rope(kernel), &buffers, &scalars)
}
