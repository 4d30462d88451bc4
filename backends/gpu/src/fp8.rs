//! Matmuls of codes of fp8: rows are rounded once, whatever number of weights they are multiplied with.

use crate::launcher::{Bound, Launcher, count};
use crate::linear::{activation, normed};
use dreamc_artifact::layout::fp8_pitch;
use dreamc_artifact::plan::{Dim, Linear, Scalar, ValueId};
use dreamc_kernels::{self as kernels, LinearFp8, MatrixTile, Residual, RoundRows};
use dreamc_num::DType;

pub(crate) fn launches(l: &mut Launcher<'_, '_, '_>, linear: &Linear) -> Result<(), String> {
    let operands = linear.weight_operands();
    let behind = operands.end;
    let weights: Vec<ValueId> = operands.map(|i| l.read(i)).collect();
    let bias = linear.bias.then(|| l.read(behind));
    let residual = linear.residual.then(|| l.read_count() - 1);
    let x = match linear.norm_eps {
        Some(eps) => normed(l, eps, weights[0])?,
        None => l.read(0),
    };
    let k = l.constant_columns(x)?;
    let (codes, scales) = rounded(l, x, k)?;
    let y = l.write(0);
    let (rows, stride) = (l.row_count(y)?, l.columns(y)?);
    let pairs = if linear.swiglu { 1 } else { weights.len() };
    let mut first = 0;
    for weight in &weights[..pairs] {
        let n = l.constant_rows(*weight)?;
        let kernel = LinearFp8 {
            y: l.float(y)?,
            n,
            k,
            bias: bias.is_some(),
            swiglu: linear.swiglu,
            activation: linear.activation.map(activation),
            residual: match residual {
                None => Residual::None,
                Some(read) if l.in_place(read) => Residual::InPlace,
                Some(_) => Residual::Apart,
            },
            tile: MatrixTile::WIDE,
        };
        let table = kernel.fitted(l.most(&rows), l.target());
        let mut by_row = vec![("x", codes), ("x_scales", scales), ("y", y)];
        let [of_codes, of_scales] = l.fp8(*weight)?;
        let mut buffers: Vec<(&str, Bound)> = vec![("weight", of_codes), ("weight_scales", of_scales)];
        if linear.swiglu {
            let [of_codes, of_scales] = l.fp8(weights[1])?;
            buffers.extend([("up", of_codes), ("up_scales", of_scales)]);
        }
        buffers.extend(bias.map(|bias| ("bias", bias.into())));
        by_row.extend(residual.filter(|read| !l.in_place(*read)).map(|read| ("residual", l.read(read))));
        let scalars = [("stride", stride.clone()), ("first", count(first))];
        l.variants(&rows, &table, |l, kernel| {
            l.launch_rows(&kernels::Kernel::LinearFp8(*kernel), &rows, &by_row, &buffers, &scalars)
        })?;
        first += n;
    }
    Ok(())
}

/// Codes and scales of the rows of `x`.
fn rounded(l: &mut Launcher<'_, '_, '_>, x: ValueId, k: u32) -> Result<(ValueId, ValueId), String> {
    let mut dims = l.value(x).dims.clone();
    dims.pop();
    let scales = l.scratch(DType::F32, &dims)?;
    let pitch = fp8_pitch(k.into()).and_then(|bytes| u32::try_from(bytes / 4).ok());
    dims.push(Dim::constant(pitch.ok_or("its rows are too long")?));
    let codes = l.scratch(DType::U32, &dims)?;
    let kernel = RoundRows { x: l.float(x)? };
    let buffers = [("x", x.into()), ("codes", codes.into()), ("scales", scales.into())];
    let scalars: [(&str, Scalar); 2] = [("rows", l.rows(x)?), ("columns", l.columns(x)?)];
    l.launch(kernels::Kernel::RoundRows(kernel), &buffers, &scalars)?;
    Ok((codes, scales))
}
