//! Matmuls: the norm before them is a launch of its own, and so is each weight, and each part of a weight.

use crate::fp8;
use crate::handed::Weighted;
use crate::launcher::{Bound, Launcher, Part, count};
use crate::weighted;
use dreamc_artifact::plan::{Activation, Dim, Linear, Scalar, ValueId};
use dreamc_ir::Op;
use dreamc_kernels::{self as kernels, Engine, Norm, Residual, Statistic, Table, Tile, Turned};
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
    let y = l.write(0);
    let (rows, stride) = (l.row_count(y)?, l.columns(y)?);
    let most = l.most(&rows);
    let (x, scaled) = match linear.norm_eps {
        Some(eps) => match weighted::rows(l, linear.swiglu, &weights, most)? {
            Some(Weighted { rows, squares }) => (rows, Some((squares, eps))),
            None => (normed(l, eps, weights[0])?, None),
        },
        None => (l.read(0), None),
    };
    let weighted = if linear.swiglu { None } else { weighted::behind(l, x, &weights, most)? };
    let k = l.constant_columns(x)?;
    let rope = rope(l);
    let kernel = |table: Table,
                  n: u32,
                  (more, rope): ([u32; 2], Option<Turned>),
                  l: &Launcher<'_, '_, '_>|
     -> Result<_, String> {
        let linear = kernels::Linear {
            x: l.float(x)?,
            weights: table,
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
            rope,
            scaled: scaled.is_some(),
            weighted: weighted.is_some(),
            engine: Engine::Units(Tile::WIDE),
        };
        Ok(linear.fitted(most, l.target()))
    };
    let launch =
        |l: &mut Launcher<'_, '_, '_>, table: &[(u32, kernels::Linear)], of: &[(&str, Bound)], first| {
            let mut by_row = vec![("x", x), ("y", y)];
            by_row.extend(residual.filter(|read| !l.in_place(*read)).map(|read| ("residual", l.read(read))));
            let turns = table.iter().any(|(_, kernel)| kernel.rope.is_some());
            if let Some((_, [cos, sin])) = rope.filter(|_| turns) {
                by_row.extend([("cos", cos), ("sin", sin)]);
                l.handed.turned.insert(y);
            }
            let mut buffers: Vec<(&str, Bound)> =
                of.iter().copied().chain(bias.map(|bias| ("bias", bias.into()))).collect();
            let mut scalars = vec![("stride", stride.clone()), ("first", count(first))];
            if let Some((squares, eps)) = scaled {
                by_row.push(("squares", squares));
                scalars.push(("eps", Scalar::Float(eps)));
            }
            if let Some((gain, Weighted { rows, squares })) = weighted {
                by_row.extend([("weighted", rows), ("squares", squares)]);
                buffers.push(("gain", gain.into()));
                l.handed.weighted.insert((y, gain), Weighted { rows, squares });
            }
            let parts = parts(l, table, most)?;
            l.variants(&rows, table, |l, kernel| {
                let shared = parts.filter(|_| kernel.splits() > 1);
                let shared = shared
                    .into_iter()
                    .flat_map(|[parts, counters]| [("parts", parts.into()), ("counters", counters.into())]);
                let buffers: Vec<(&str, Bound)> = buffers.iter().copied().chain(shared).collect();
                l.launch_rows(&kernels::Kernel::Linear(*kernel), &rows, &by_row, &buffers, &scalars)
            })
        };
    if !linear.swiglu && (weights.len() > 1 || rope.is_some()) {
        let ns = weights.iter().map(|weight| l.constant_rows(*weight)).collect::<Result<Vec<u32>, _>>()?;
        let more = [1, 2].map(|i| ns.get(i).copied().unwrap_or(0));
        let stored = weights.iter().map(|weight| l.table(*weight)).collect::<Result<Vec<Table>, _>>()?;
        let alike = stored.iter().all(|other| *other == stored[0]);
        let names = ["weight", "second", "third"].into_iter();
        let buffers: Vec<(&str, Bound)> = names.zip(weights.iter().map(|w| (*w).into())).collect();
        // With its heads turned, and if that cannot be without.
        for turned in [rope.map(|(turned, _)| turned), None] {
            let table = kernel(stored[0], ns[0], (more, turned), l)?;
            if alike
                && table.iter().all(|(_, kernel)| kernel.takes_all())
                && (turned.is_some() || weights.len() > 1)
            {
                return launch(l, &table, &buffers, 0);
            }
        }
    }
    let mut column = 0;
    let pairs = if linear.swiglu { 1 } else { weights.len() };
    for weight in &weights[..pairs] {
        let parts = l.parts(*weight)?;
        for part in &parts {
            let table = kernel(l.table(*weight)?, part.rows, ([0; 2], None), l)?;
            let mut buffers: Vec<(&str, Bound)> = vec![("weight", l.bound(*weight, *part))];
            if linear.swiglu {
                buffers.push(("up", l.bound(weights[1], *part)));
            }
            launch(l, &table, &buffers, column + part.first)?;
        }
        column += parts.iter().map(|p: &Part| p.rows).sum::<u32>();
    }
    Ok(())
}

/// Room for the sums of workgroups that share K, and their counters, where a kernel of the table has such.
fn parts(
    l: &mut Launcher<'_, '_, '_>,
    table: &[(u32, kernels::Linear)],
    most: u32,
) -> Result<Option<[ValueId; 2]>, String> {
    let needs = |(up_to, kernel): &(u32, kernels::Linear)| kernel.parts((*up_to).min(most));
    let needs: Vec<(u32, u32)> = table.iter().filter_map(needs).collect();
    let Some(tiles) = needs.iter().map(|(tiles, _)| *tiles).max() else { return Ok(None) };
    let elements = needs.iter().map(|(_, elements)| *elements).max().unwrap_or(0);
    let (counters, most) = l.counters();
    if tiles > most {
        return Err(format!("bug: {tiles} tiles share {most} counters; please report it"));
    }
    Ok(Some([l.scratch(DType::F32, &[Dim::constant(elements)])?, counters]))
}

/// The heads that an attention behind the matmul wants turned, and the values of their angles.
fn rope(l: &Launcher<'_, '_, '_>) -> Option<(Turned, [ValueId; 2])> {
    let only = l.users().only()?;
    let (Op::Attention(attention), [_, _, cos, sin]) = (&only.node.op, only.reads.as_slice()) else {
        return None;
    };
    let [cos, sin] = [cos, sin].map(|angles| angles.as_ref()?.value());
    let heads = u32::try_from(attention.heads + attention.kv_heads).ok()?;
    let turned = Turned { heads, head_dim: u32::try_from(attention.head_dim).ok()? };
    (attention.packed && attention.rope).then_some((turned, [cos?, sin?]))
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
