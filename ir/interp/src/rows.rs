//! Ops that move rows and columns, and compute nothing.

use crate::run::RunError;
use crate::tensor::{Data, Tensor};
use dreamc_ir::Op;

/// Picks elements by their old index.
fn pick(x: &Tensor, dims: Vec<usize>, indices: impl Iterator<Item = usize>) -> Tensor {
    let data = match &x.data {
        Data::F32(v) => Data::F32(indices.map(|i| v[i]).collect()),
        Data::I32(v) => Data::I32(indices.map(|i| v[i]).collect()),
        Data::U32(v) => Data::U32(indices.map(|i| v[i]).collect()),
        Data::Bool(v) => Data::Bool(indices.map(|i| v[i]).collect()),
    };
    Tensor { dims, data }
}

/// The rows of these numbers, counted over all leading axes.
fn pick_rows(x: &Tensor, dims: Vec<usize>, rows: impl Iterator<Item = usize>) -> Tensor {
    let n = x.columns();
    pick(x, dims, rows.flat_map(|r| (0..n).map(move |c| r * n + c)))
}

pub(crate) fn slice(x: &Tensor, start: usize, len: usize) -> Tensor {
    let n = x.columns();
    let rows: usize = x.dims[..x.dims.len() - 1].iter().product();
    let mut dims = x.dims.clone();
    *dims.last_mut().expect("a slice has columns") = len;
    pick(x, dims, (0..rows).flat_map(|r| (start..start + len).map(move |c| r * n + c)))
}

pub(crate) fn shift(x: &Tensor) -> Tensor {
    let s = x.dims[1];
    pick_rows(x, x.dims.clone(), (0..x.dims[0] * s).map(|r| if r % s == 0 { r } else { r - 1 }))
}

pub(crate) fn drop(x: &Tensor, count: usize) -> Tensor {
    let (b, s) = (x.dims[0], x.dims[1]);
    let dims = vec![b, s - count, x.dims[2]];
    pick_rows(x, dims, (0..b).flat_map(|b| (b * s + count)..(b + 1) * s))
}

/// The same elements under one more axis.
pub(crate) fn stack(x: &Tensor) -> Tensor {
    Tensor { dims: [&[1], x.dims.as_slice()].concat(), data: x.data.clone() }
}

pub(crate) fn take(x: &Tensor, index: &Tensor) -> Result<Tensor, RunError> {
    // A lone number is an index of one row of one.
    let (s, r) = (x.dims[1], index.dims.get(1).copied().unwrap_or(1));
    let row = |(at, i): (usize, &i32)| {
        let i = usize::try_from(*i).ok().filter(|i| *i < s).ok_or(RunError::Row(*i))?;
        Ok(at / r * s + i)
    };
    let rows = index.ints().iter().enumerate().map(row).collect::<Result<Vec<_>, RunError>>()?;
    Ok(pick_rows(x, vec![x.dims[0], r, x.dims[2]], rows.into_iter()))
}

pub(crate) fn splice(x: &Tensor, index: &Tensor, rows: &Tensor) -> Result<Tensor, RunError> {
    let n = x.columns();
    let mut out = x.floats().to_vec();
    for (to, i) in out.chunks_mut(n).zip(index.ints()) {
        if let Ok(i) = usize::try_from(*i) {
            let row = rows.floats().chunks(n).nth(i).ok_or(RunError::Row(i as i32))?;
            to.copy_from_slice(row);
        }
    }
    Ok(Tensor::f32(&x.dims, out))
}

/// The same elements in other dimensions: rows merged or split.
pub(crate) fn regroup(op: &Op, x: &Tensor) -> Tensor {
    let mut dims = x.dims.clone();
    let [.., rows, columns] = dims.as_mut_slice() else { unreachable!("verified: rows and columns") };
    match op {
        Op::MergeRows { count } => (*rows, *columns) = (*rows / *count as usize, *columns * *count as usize),
        Op::SplitRows { count } => (*rows, *columns) = (*rows * *count as usize, *columns / *count as usize),
        _ => unreachable!("no other op regroups rows"),
    }
    Tensor { dims, data: x.data.clone() }
}

pub(crate) fn concat(parts: &[&Tensor], axis: usize) -> Tensor {
    let outer: usize = parts[0].dims[..axis].iter().product();
    let mut dims = parts[0].dims.clone();
    dims[axis] = parts.iter().map(|p| p.dims[axis]).sum();
    let elements = |part: &Tensor| part.dims.iter().product::<usize>();
    let block = |part: &Tensor| elements(part) / outer.max(1);
    // Where each result element comes from: as if the parts lay one after another.
    let mut starts = vec![0];
    parts.iter().for_each(|p| starts.push(starts.last().copied().unwrap_or(0) + elements(p)));
    let order: Vec<usize> = (0..outer)
        .flat_map(|o| {
            parts
                .iter()
                .zip(&starts)
                .flat_map(move |(p, start)| (0..block(p)).map(move |i| start + o * block(p) + i))
        })
        .collect();
    let mut joined = parts[0].clone();
    for part in &parts[1..] {
        match (&mut joined.data, &part.data) {
            (Data::F32(a), Data::F32(b)) => a.extend(b),
            (Data::I32(a), Data::I32(b)) => a.extend(b),
            (Data::U32(a), Data::U32(b)) => a.extend(b),
            (Data::Bool(a), Data::Bool(b)) => a.extend(b),
            (Data::F32(_) | Data::I32(_) | Data::U32(_) | Data::Bool(_), _) => {
                unreachable!("verified: one dtype")
            }
        }
    }
    pick(&joined, dims, order.into_iter())
}
