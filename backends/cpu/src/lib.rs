//! Lowers verified graphs for the CPU device.
//!
//! What this target cannot do: weights and activations of f16 (bf16 and f32 only), matmuls whose weights are computed or
//! have several types, and moving columns or rows of anything but floats. No model of the family needs these.

use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Kernel, Program};
use dreamc_backend::{Constants, EmitError, Target, in_place, is_matrix, kernel, lower};
use dreamc_ir::{Graph, NodeData, Op, Type, Verified};
use dreamc_num::{DType, Quant};

/// The program of graph `entry`, named `name`. What it stores is added to `constants`.
///
/// # Errors
///
/// Names the op that the CPU cannot run, or the symbol or tensor that memory cannot be planned for.
pub fn emit(
    verified: Verified<'_>,
    entry: &str,
    name: &str,
    constants: &mut Constants,
) -> Result<Program, EmitError> {
    lower(verified, entry, name, &mut Cpu, constants)
}

struct Cpu;

impl Target for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn kernel(&self, graph: &Graph, node: &NodeData) -> Result<Kernel, String> {
        let types = node.inputs.iter().chain(&node.outputs).map(|v| graph.ty(*v).dtype);
        if types.into_iter().any(|dtype| dtype == DType::F16) {
            return Err("it has no f16; build with --dtype bf16 or f32".to_owned());
        }
        let types = || node.inputs.iter().map(|v| graph.ty(*v).dtype);
        let uniform = |linear: &dreamc_ir::Linear| {
            let mut weights = types().skip(linear.weight_operands().start).take(linear.weights as usize);
            weights.next().is_none_or(|first| weights.all(|dtype| dtype == first))
        };
        match &node.op {
            Op::Linear(linear) if !uniform(linear) => {
                Err("its weights must all have the same type".to_owned())
            }
            Op::Slice { .. } | Op::ShiftRows | Op::DropRows { .. } | Op::TakeRows
                if !graph.ty(node.outputs[0]).dtype.is_float() =>
            {
                Err("it moves floats only".to_owned())
            }
            op => kernel(op),
        }
    }

    fn in_place(&self, node: &NodeData) -> Vec<usize> {
        in_place(node)
    }

    fn quantized(&self, quant: Quant, matrix: bool) -> Result<(), String> {
        match quant {
            Quant::Fp8 => Err("it multiplies no fp8; build it with --quant w8a8".to_owned()),
            Quant::Int8 | Quant::Int4 { .. } if !matrix => {
                Err("only matmuls take weights in few bits".to_owned())
            }
            Quant::Int8 | Quant::Int4 { .. } => Ok(()),
        }
    }

    fn layout(&self, node: &NodeData, operand: usize, ty: &Type) -> Option<Layout> {
        if is_matrix(&node.op, operand) { Layout::of_matmul(ty.dtype) } else { Some(Layout::RowMajor) }
    }
}
