//! Matmuls: the norm before them is a launch of its own, and so is each weight, and each part of a weight.

use crate::fp8;
use crate::launcher::{Bound, Launcher, Part, count};
use dreamc_artifact::plan::{Activation, Linear, Scalar, ValueId};
use dreamc_kernels::{self as kernels, Engine, Norm, Residual, Statistic, Table, Tile};
use dreamc_num::DType;
use dreamc_num::quant::Codes;

pub(crate) fn launches(l: &mut Launcher<'_, '_, '_>, linear: &Linear) -> Result<(), String> {
    if linear.smooth {
        return Err(
            "it multiplies no columns of rows by factors; build this target without --calib".to_owned()
        );
    }
    match linear.codes {
        None => {}
        Some(Codes::Fp8) => return fp8::launches(l, linear),
        Some(Codes::Int8) => {
            return Err("it multiplies no 8-bit integers; build this target with --quant none".to_owned());
        }
    }
    let operands = linear.weight_operands();
    let behind = operands.end;
    let weights: Vec<ValueId> = operands.map(|i| l.read(i)).collect();
    let bias = linear.bias.then(|| l.read(behind));
    let residual = linear.residual.then(|| l.read_count() - 1);
    let x = match linear.norm_eps {
        Some(eps) => normed(l, eps, weights[0])?,
        None => l.read(0),
    };
    let y = l.write(0);
    let (rows, stride) = (l.row_count(y)?, l.columns(y)?);
    let most = l.most(&rows);
    let kernel = |table: Table, n: u32, k: u32, l: &Launcher<'_, '_, '_>| -> Result<_, String> {
        let linear = kernels::Linear {
            x: l.float(x)?,
            weights: table,
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
            engine: Engine::Units(Tile::WIDE),
        };
        Ok(linear.fitted(most, l.target()))
    };
    let k = l.constant_columns(x)?;
    let mut column = 0;
    let pairs = if linear.swiglu { 1 } else { weights.len() };
    for weight in &weights[..pairs] {
        let parts = l.parts(*weight)?;
        for part in &parts {
            let kernel = kernel(l.table(*weight)?, part.rows, k, l)?;
            let mut by_row = vec![("x", x), ("y", y)];
            let mut buffers: Vec<(&str, Bound)> = vec![("weight", l.bound(*weight, *part))];
            if linear.swiglu {
                buffers.push(("up", l.bound(weights[1], *part)));
            }
            buffers.extend(bias.map(|bias| ("bias", bias.into())));
            if let (Residual::Apart, Some(read)) = (kernel.residual, residual) {
                by_row.push(("residual", l.read(read)));
            }
            let scalars = [("stride", stride.clone()), ("first", count(column + part.first))];
            l.launch_rows(&kernels::Kernel::Linear(kernel), &rows, &by_row, &buffers, &scalars)?;
        }
        column += parts.iter().map(|p: &Part| p.rows).sum::<u32>();
    }
    Ok(())
}

pub(crate) const fn activation(kind: Activation) -> kernels::Activation {
    match kind {
        Activation::Silu => kernels::Activation::Silu,
        Activation::Gelu => kernels::Activation::Gelu,
        Activation::QuickGelu => kernels::Activation::QuickGelu,
        Activation::Relu => kernels::Activation::Relu,
    }
}

/// The rows of `x` normed, in the weights' type where the target computes with it.
pub(crate) fn normed(l: &mut Launcher<'_, '_, '_>, eps: f32, weight: ValueId) -> Result<ValueId, String> {
    let x = l.read(0);
    let dtype = match l.table(weight)? {
        Table::Floats(_) => l.value(weight).dtype,
        Table::PackedBF16 | Table::PackedF16 => DType::F32,
    };
    let dims = l.value(x).dims.clone();
    let y = l.scratch(dtype, &dims)?;
    let kernel = Norm { statistic: Statistic::RootMeanSquare, x: l.float(x)?, y: l.float(y)? };
    let buffers = [("x", x.into()), ("gain", l.read(1).into()), ("y", y.into())];
    let scalars = [("rows", l.rows(x)?), ("columns", l.columns(x)?), ("eps", Scalar::Float(eps))];
    l.launch(kernels::Kernel::Norm(kernel), &buffers, &scalars)?;
    Ok(y)
}
