//! RMS norms between two matmuls, without a launch: the one before leaves its result times the gain and the sums of its
//! squares, the one behind divides its sums by the root of the mean square (`Linear::weighted` and `Linear::scaled` of the
//! kernels).

use crate::handed::Weighted;
use crate::launcher::Launcher;
use dreamc_artifact::plan::{Dim, ValueId};
use dreamc_backend::{Operand, User};
use dreamc_ir::Op;
use dreamc_kernels::{Engine, Float, Linear, Table, Tile};
use dreamc_num::DType;

/// The rows of the first operand as they were left for this norm, if matrix units multiply them with all weights.
pub(crate) fn rows(
    l: &mut Launcher<'_, '_, '_>,
    swiglu: bool,
    weights: &[ValueId],
    most: u32,
) -> Result<Option<Weighted>, String> {
    let handed = l.handed.weighted.get(&(l.read(0), l.read(1))).copied();
    let Some(Weighted { rows, squares }) = handed else { return Ok(None) };
    for weight in weights {
        let plain = plain(l, *weight)?;
        let all = |plain| Linear { scaled: true, swiglu, ..plain }.fitted(most, l.target());
        if !plain.is_some_and(|plain| all(plain).iter().all(|(_, kernel)| kernel.is_matrix())) {
            return Ok(None);
        }
    }
    Ok(handed.filter(|_| l.keep(rows) && l.keep(squares)))
}

/// Where the first to look at the result is a matmul behind a norm, and both are of matrix units: the gain of the norm, and
/// room for the rows that are left for it.
pub(crate) fn behind(
    l: &mut Launcher<'_, '_, '_>,
    x: ValueId,
    weights: &[ValueId],
    most: u32,
) -> Result<Option<(ValueId, Weighted)>, String> {
    let Some(User { node, operand: 0, reads }) = l.users().nodes.first() else { return Ok(None) };
    let Op::Linear(behind) = &node.op else { return Ok(None) };
    let in_bf16 = |operand: &Option<Operand>, dtype| matches!(operand, Some(Operand::Constant(_, ty)) if ty.dtype == dtype);
    let plainly = behind.norm_eps.is_some() && behind.codes.is_none() && !behind.smooth;
    let weights_behind = reads.get(behind.weight_operands()).unwrap_or_default();
    if !plainly || !weights_behind.iter().all(|weight| in_bf16(weight, DType::BF16)) {
        return Ok(None);
    }
    let Some(Some(gain @ Operand::Constant(_, ty))) = reads.get(1) else { return Ok(None) };
    let ([weight], true) = (weights, ty.dtype == DType::F32) else { return Ok(None) };
    let gain = gain.clone();
    let Some(plain) = plain(l, *weight)?.filter(|_| l.value(x).dtype == DType::BF16) else { return Ok(None) };
    let table = Linear { weighted: true, ..plain }.fitted(most, l.target());
    if !table.iter().all(|(_, kernel)| kernel.is_matrix()) || l.parts(*weight)?.len() > 1 {
        return Ok(None);
    }
    let mut dims = l.value(l.write(0)).dims.clone();
    let rows = l.scratch(DType::BF16, &dims)?;
    if let Some(columns) = dims.last_mut() {
        *columns = Dim::constant(Linear::squares(plain.n));
    }
    let squares = l.scratch(DType::F32, &dims)?;
    Ok(Some((l.operand(&gain)?, Weighted { rows, squares })))
}

/// A matmul of rows in bf16 with a weight, if it is in bf16 too.
fn plain(l: &Launcher<'_, '_, '_>, weight: ValueId) -> Result<Option<Linear>, String> {
    let (n, k) = (l.constant_rows(weight)?, l.constant_columns(weight)?);
    let in_bf16 = l.table(weight)? == Table::Floats(Float::BF16);
    Ok(in_bf16.then(|| Linear::plain(Float::BF16, n, k, Engine::Units(Tile::WIDE))))
}
