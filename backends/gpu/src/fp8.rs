//! Matmuls of codes of fp8: rows are rounded once, whatever number of weights they are multiplied with.

use crate::launcher::{Bound, Launcher, count};
use crate::linear::{activation, normed, room};
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
    let ns = weights.iter().map(|weight| l.constant_rows(*weight)).collect::<Result<Vec<u32>, _>>()?;
    let most = l.most(&rows);
    let kernel = |n: u32, more: [u32; 2], l: &Launcher<'_, '_, '_>| -> Result<_, String> {
        let kernel = LinearFp8 {
            y: l.float(y)?,
            n,
            more,
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
        Ok(kernel.fitted(most, l.target()))
    };
    // Of `of`, the first of whose features is `first`.
    let launch = |l: &mut Launcher<'_, '_, '_>, table: &[(u32, LinearFp8)], of: &[ValueId], first: u32| {
        let names: &[[&str; 2]] = match linear.swiglu {
            true => &[["weight", "weight_scales"], ["up", "up_scales"]],
            false => &[["weight", "weight_scales"], ["second", "second_scales"], ["third", "third_scales"]],
        };
        let mut by_row = vec![("x", codes), ("x_scales", scales), ("y", y)];
        by_row.extend(residual.filter(|read| !l.in_place(*read)).map(|read| ("residual", l.read(read))));
        let mut buffers: Vec<(&str, Bound)> = Vec::new();
        for ([of_codes, of_scales], weight) in names.iter().zip(of) {
            let [codes, scales] = l.fp8(*weight)?;
            buffers.extend([(*of_codes, codes), (*of_scales, scales)]);
        }
        buffers.extend(bias.map(|bias| ("bias", bias.into())));
        let needs = |(up_to, kernel): &(u32, LinearFp8)| kernel.parts((*up_to).min(most));
        let needs: Vec<(u32, u32)> = table.iter().filter_map(needs).collect();
        let shared = match needs.is_empty() {
            true => None,
            false => {
                let counters = l.counters();
                Some(room(l, counters, &needs)?)
            }
        };
        let scalars = [("stride", stride.clone()), ("first", count(first))];
        l.variants(&rows, table, |l, kernel| {
            let shared = shared.filter(|_| kernel.splits() > 1);
            let shared = shared
                .into_iter()
                .flat_map(|[parts, counters]| [("parts", parts.into()), ("counters", counters.into())]);
            let buffers: Vec<(&str, Bound)> = buffers.iter().copied().chain(shared).collect();
            l.launch_rows(&kernels::Kernel::LinearFp8(*kernel), &rows, &by_row, &buffers, &scalars)
        })
    };
    if linear.swiglu {
        let table = kernel(ns[0], [0; 2], l)?;
        return launch(l, &table, &weights, 0);
    }
    if weights.len() > 1 {
        let table = kernel(ns[0], [1, 2].map(|i| ns.get(i).copied().unwrap_or(0)), l)?;
        if LinearFp8::will_do(&table, l.target()) {
            return launch(l, &table, &weights, 0);
        }
    }
    let mut first = 0;
    for (weight, n) in weights.iter().zip(&ns) {
        let table = kernel(*n, [0; 2], l)?;
        launch(l, &table, std::slice::from_ref(weight), first)?;
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
