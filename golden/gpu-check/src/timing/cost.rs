//! What a dispatch costs by its shapes: operations of its products, and bytes of its operands.

use dreamc_artifact::plan::{Dispatch, Kernel, Place};
use dreamc_num::quant::Codes;
use dreamc_runtime::Operand;

/// Arithmetic and memory traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Of matmuls and attention; the rest is bound by memory.
    pub(crate) flop: u64,
    /// Every operand and result once.
    pub(crate) bytes: u64,
}

/// The cost of a dispatch; `operands` is indexed by value id.
pub(crate) fn cost(dispatch: &Dispatch, operands: &[Operand]) -> Cost {
    let of = |id: &dreamc_artifact::plan::ValueId| &operands[id.0 as usize];
    let size = |o: &Operand| (o.shape.elements() * o.dtype.bytes()) as u64;
    let (reads, writes): (Vec<&Operand>, Vec<&Operand>) =
        (dispatch.reads.iter().map(of).collect(), dispatch.writes.iter().map(of).collect());
    let written: u64 = writes.iter().map(|o| size(o)).sum();
    let all = written + reads.iter().map(|o| size(o)).sum::<u64>();
    let Some(x) = reads.first() else { return Cost { flop: 0, bytes: written } };
    match &dispatch.kernel {
        Kernel::Linear(linear) => {
            let k = x.shape.columns();
            let is_matrix = |o: &&&Operand| {
                matches!(o.place, Place::Weight(_)) && o.shape.dims().len() == 2 && o.shape.columns() == k
            };
            let matrices = || reads.iter().skip(1).filter(is_matrix);
            let rows: usize = matrices().map(|o| o.shape.rows()).sum();
            let flop = 2 * (x.shape.rows() * k * rows) as u64;
            if linear.codes != Some(Codes::Fp8) {
                return Cost { flop, bytes: all };
            }
            // A byte an element and a scale a row.
            let in_fp8 = (rows * (k + 4)) as u64;
            Cost { flop, bytes: all - matrices().map(|o| size(o)).sum::<u64>() + in_fp8 }
        }
        Kernel::Attention(attention) => {
            let length = x.shape.dims().get(1).copied().unwrap_or(1) as usize;
            let width = (attention.heads * attention.head_dim) as usize;
            Cost { flop: 4 * (x.shape.rows() * length * width) as u64, bytes: all }
        }
        // Of a table, the rows that are looked up.
        Kernel::Embed => Cost { flop: 0, bytes: 2 * written + size(x) },
        _ => Cost { flop: 0, bytes: all },
    }
}
