//! What a launch is at the lengths of one request: grid and block of scalars.

use crate::device::{DeviceError, Operand, RANK_MAX, Shape};
use alloc::string::ToString;
use alloc::vec::Vec;
use dreamc_artifact::code::{Extent, Module, Word};
use dreamc_artifact::plan::{Launch, Scalar, Value};

/// Numbers of workgroups along x, y, z.
pub type Grid = [u32; 3];

/// `value` with `symbols[i]` for symbol `i`; `None` where the loader has not validated it.
pub fn operand(value: &Value, symbols: &[u32]) -> Option<Operand> {
    let mut dims = [0; RANK_MAX];
    for (n, dim) in dims.iter_mut().zip(&value.dims) {
        *n = dim.at(symbols)?;
    }
    let shape = Shape::new(dims.get(..value.dims.len())?)?;
    Some(Operand { dtype: value.dtype, shape, place: value.place })
}

/// The grid of a launch of `module` with `symbols[i]` for symbol `i`; `None` where there is nothing to do. The words of
/// its block of scalars are added to `words`. `groups_max`: most workgroups along each axis.
///
/// # Errors
///
/// Where the device cannot take the grid, or the launch is not one that the loader validated.
pub(crate) fn resolve(
    launch: &Launch,
    module: &Module,
    operands: &[Operand],
    symbols: &[u32],
    groups_max: Grid,
    words: &mut Vec<u32>,
) -> Result<Option<Grid>, DeviceError> {
    let unsound = || DeviceError::Unsupported { kernel: "a launch" };
    let scalar = |i: u32| match launch.scalars.get(i as usize) {
        Some(Scalar::Count(dim)) => dim.at(symbols),
        Some(Scalar::Part { of, first, most }) => Some(of.at(symbols)?.saturating_sub(*first).min(*most)),
        Some(Scalar::Float(x)) => Some(x.to_bits()),
        None => None,
    };
    for word in &module.info {
        let word = match word {
            Word::Scalar(i) => scalar(*i),
            Word::Length(i) => length(launch, module, operands, *i as usize),
            Word::Zero => Some(0),
        };
        words.push(word.ok_or_else(unsound)?);
    }
    let mut grid = [1; 3];
    for ((groups, extent), max) in grid.iter_mut().zip(&module.grid).zip(groups_max) {
        *groups = match extent {
            Extent::Constant(n) => *n,
            Extent::Ceil { of, per, any } => {
                let wanted = scalar(*of).ok_or_else(unsound)?.div_ceil((*per).max(1));
                if *any { wanted.min(max) } else { wanted }
            }
        };
        if *groups > max {
            return Err(DeviceError::Groups { kernel: module.name.to_string(), groups: *groups, max });
        }
    }
    Ok(grid.iter().all(|n| *n > 0).then_some(grid))
}

/// Elements of buffer `i`, as the module counts them.
fn length(launch: &Launch, module: &Module, operands: &[Operand], i: usize) -> Option<u32> {
    let (binding, buffer) = (launch.buffers.get(i)?, module.buffers.get(i)?);
    let operand = operands.get(binding.value.0 as usize)?;
    let whole = operand.shape.elements() as u64 * operand.dtype.bytes() as u64;
    let bytes = binding.part.map_or(whole, |(_, bytes)| bytes);
    u32::try_from(bytes.div_ceil(u64::from(buffer.element_bytes))).ok()
}
