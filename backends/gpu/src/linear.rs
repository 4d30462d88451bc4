//! Matmuls: the norm before them is a launch of its own, and so is each weight, and each part of a weight.

use crate::attention;
use crate::fp8;
use crate::handed::Weighted;
use crate::launcher::{Bound, Launcher, count};
use crate::weighted;
use dreamc_artifact::plan::{Activation, Dim, Linear, Scalar, ValueId};
use dreamc_ir::Op;
use dreamc_kernels::{self as kernels, Engine, Norm, Residual, Statistic, Table, Tile, Turned, Weigh};
use dreamc_num::DType;
use dreamc_num::quant::Codes;

/// Kernels by the number of rows, each up to so many: the model's choice and candidates beside it.
type Kernels = Vec<(u32, Vec<kernels::Linear>)>;

/// Features of the result that are computed with one weight, or a part of one.
struct Features {
    weight: Bound,
    /// With SwiGLU.
    up: Option<Bound>,
    /// How many.
    n: u32,
    /// The first, as a column of the result.
    first: u32,
}

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
        let products = [linear.n, more[0], more[1], k, most];
        let [n, second, third, k, rows] = products.map(u64::from);
        let weights = 1 + u64::from(linear.swiglu);
        let products = (n + second + third) * weights * k;
        let others = l.others(products.saturating_mul(rows));
        Ok(linear.candidates(most, l.target(), others))
    };
    let mut plain_rows = None;
    let mut launch = |l: &mut Launcher<'_, '_, '_>, mut table: Kernels, parts_of: &[Features]| {
        let mut by_row = vec![("x", x), ("y", y)];
        let added = residual.filter(|read| !l.in_place(*read)).map(|read| ("residual", l.read(read)));
        by_row.extend(added);
        let first_kernel = table.first().and_then(|(_, kernels)| kernels.first()).copied();
        let Some(base) = first_kernel else { return Ok(()) };
        let turned = rope.filter(|_| base.rope.is_some());
        if let Some((_, [cos, sin])) = turned {
            by_row.extend([("cos", cos), ("sin", sin)]);
            l.handed.turned.insert(y);
        }
        let names = ["weight", "second", "third"].into_iter();
        let mut buffers: Vec<(&str, Bound)> =
            names.zip(parts_of).map(|(name, part)| (name, part.weight)).collect();
        buffers.extend(parts_of.iter().filter_map(|part| Some(("up", part.up?))));
        buffers.extend(bias.map(|bias| ("bias", bias.into())));
        let first = parts_of.first().map_or(0, |part| part.first);
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
        let shares = parts(l, &mut table, most)?;
        let on_matrix_units = |l: &mut Launcher<'_, '_, '_>, kernel: &kernels::Linear| {
            let shared = shares.filter(|_| kernel.splits() > 1);
            let shared = shared
                .into_iter()
                .flat_map(|[parts, counters]| [("parts", parts.into()), ("counters", counters.into())]);
            let buffers: Vec<(&str, Bound)> = buffers.iter().copied().chain(shared).collect();
            l.launch_rows(&kernels::Kernel::Linear(*kernel), &rows, &by_row, &buffers, &scalars)
        };
        // What each epilogue of matrix units does is a launch of its own.
        let by_units = |l: &mut Launcher<'_, '_, '_>| {
            let x = match scaled {
                Some((_, eps)) => {
                    let to = match plain_rows {
                        Some(to) => to,
                        None => *plain_rows.insert(normed_rows(l, weights[0])?),
                    };
                    norm(l, eps, to)?;
                    to
                }
                None => x,
            };
            let by_row: Vec<(&str, ValueId)> = [("x", x), ("y", y)].into_iter().chain(added).collect();
            for part in parts_of {
                let mut buffers = vec![("weight", part.weight)];
                buffers.extend(part.up.map(|up| ("up", up)));
                buffers.extend(bias.map(|bias| ("bias", bias.into())));
                let kernel = kernels::Kernel::Linear(base.portable(part.n));
                let scalars = [("stride", stride.clone()), ("first", count(part.first))];
                l.launch_rows(&kernel, &rows, &by_row, &buffers, &scalars)?;
            }
            if let Some((Turned { heads, head_dim }, angles)) = turned {
                attention::rotate(l, None, y, heads, head_dim, angles)?;
            }
            if let Some((gain, Weighted { rows: to, squares })) = weighted {
                let kernel = kernels::Kernel::Weigh(Weigh { y: l.float(y)? });
                let by_row = [("y", y), ("weighted", to), ("squares", squares)];
                let scalars = [("columns", stride.clone())];
                l.launch_rows(&kernel, &rows, &by_row, &[("gain", gain.into())], &scalars)?;
            }
            Ok(())
        };
        l.choose(&rows, &table, on_matrix_units, by_units)
    };
    if !linear.swiglu && (weights.len() > 1 || rope.is_some()) {
        let ns = weights.iter().map(|weight| l.constant_rows(*weight)).collect::<Result<Vec<u32>, _>>()?;
        let more = [1, 2].map(|i| ns.get(i).copied().unwrap_or(0));
        let stored = weights.iter().map(|weight| l.table(*weight)).collect::<Result<Vec<Table>, _>>()?;
        let alike = stored.iter().all(|other| *other == stored[0]);
        let mut first = 0;
        let part = |(weight, n): (&ValueId, &u32)| {
            let part = Features { weight: (*weight).into(), up: None, n: *n, first };
            first += n;
            part
        };
        let parts_of: Vec<Features> = weights.iter().zip(&ns).map(part).collect();
        // With its heads turned, and if that cannot be without.
        for turned in [rope.map(|(turned, _)| turned), None] {
            let table = kernel(stored[0], ns[0], (more, turned), l)?;
            if alike
                && table.iter().flat_map(|(_, kernels)| kernels).all(|kernel| kernel.takes_all())
                && (turned.is_some() || weights.len() > 1)
            {
                return launch(l, table, &parts_of);
            }
        }
    }
    let mut column = 0;
    let pairs = if linear.swiglu { 1 } else { weights.len() };
    for weight in &weights[..pairs] {
        let parts = l.parts(*weight)?;
        for part in &parts {
            let table = kernel(l.table(*weight)?, part.rows, ([0; 2], None), l)?;
            let up = linear.swiglu.then(|| l.bound(weights[1], *part));
            let bound = l.bound(*weight, *part);
            launch(l, table, &[Features { weight: bound, up, n: part.rows, first: column + part.first }])?;
        }
        column += parts.iter().map(|p| p.rows).sum::<u32>();
    }
    Ok(())
}

/// Room for the sums of workgroups that share K, and their counters, where a kernel of the table has such. Candidates for
/// which there are too few counters leave the table.
fn parts(
    l: &mut Launcher<'_, '_, '_>,
    table: &mut Kernels,
    rows_max: u32,
) -> Result<Option<[ValueId; 2]>, String> {
    let shared = |(up_to, kernels): &(u32, Vec<kernels::Linear>)| -> Vec<(u32, u32)> {
        kernels.iter().filter_map(|kernel| kernel.parts((*up_to).min(rows_max))).collect()
    };
    if table.iter().all(|row| shared(row).is_empty()) {
        return Ok(None);
    }
    let (counters, most) = l.counters();
    for (up_to, kernels) in table.iter_mut() {
        let mut chosen = true;
        kernels.retain(|kernel| {
            let tiles = kernel.parts((*up_to).min(rows_max)).map_or(0, |(tiles, _)| tiles);
            std::mem::take(&mut chosen) || tiles <= most
        });
    }
    let needs: Vec<(u32, u32)> = table.iter().flat_map(shared).collect();
    room(l, (counters, most), &needs).map(Some)
}

/// Room for the sums of so many tiles and elements, the largest of each, and the counters, of which there are `most`.
pub(crate) fn room(
    l: &mut Launcher<'_, '_, '_>,
    (counters, most): (ValueId, u32),
    needs: &[(u32, u32)],
) -> Result<[ValueId; 2], String> {
    let tiles = needs.iter().map(|(tiles, _)| *tiles).max().unwrap_or(0);
    let elements = needs.iter().map(|(_, elements)| *elements).max().unwrap_or(0);
    if tiles > most {
        return Err(format!("bug: {tiles} tiles share {most} counters; please report it"));
    }
    Ok([l.scratch(DType::F32, &[Dim::constant(elements)])?, counters])
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
    let y = normed_rows(l, weight)?;
    norm(l, eps, y)?;
    Ok(y)
}

/// Room for the rows of `x`, normed.
fn normed_rows(l: &mut Launcher<'_, '_, '_>, weight: ValueId) -> Result<ValueId, String> {
    let dtype = match l.table(weight)? {
        Table::Floats(_) => l.value(weight).dtype,
        Table::PackedBF16 | Table::PackedF16 => DType::F32,
    };
    let dims = l.value(l.read(0)).dims.clone();
    l.scratch(dtype, &dims)
}

/// The rows of `x` normed into `y`.
fn norm(l: &mut Launcher<'_, '_, '_>, eps: f32, y: ValueId) -> Result<(), String> {
    let x = l.read(0);
    let kernel = Norm { statistic: Statistic::RootMeanSquare, x: l.float(x)?, y: l.float(y)? };
    let buffers = [("x", x.into()), ("gain", l.read(1).into()), ("y", y.into())];
    let scalars = [("rows", l.rows(x)?), ("columns", l.columns(x)?), ("eps", Scalar::Float(eps))];
    l.launch(kernels::Kernel::Norm(kernel), &buffers, &scalars)
}
