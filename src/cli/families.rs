//! Names of the kernels that a plan asks for, which are the same on all targets: the types, the op, and what is fused into
//! it. `bf16w_f32_linear_norm_swiglu` multiplies normalised f32 rows with bf16 weights, `int8w_bf16_linear_int8` rows of bf16,
//! rounded to 8 bits, with weights in 8 bits.

use dreamc_artifact::WeightInfo;
use dreamc_artifact::layout::Layout;
use dreamc_artifact::plan::{Dispatch, Kernel, Program, ValueId};
use dreamc_num::DType;

/// Name of the op: `linear`, `rms_norm`, `gelu`.
pub(super) fn op(kernel: &Kernel) -> String {
    let debug = match kernel {
        Kernel::Activate(kind) => format!("{kind:?}"),
        other => format!("{other:?}"),
    };
    let mut name = String::new();
    for c in debug.chars().take_while(char::is_ascii_alphanumeric) {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// Type that a kernel goes by: that of the first operand, or of the result where ids, positions or conditions come first.
pub(super) fn dtype(program: &Program, dispatch: &Dispatch) -> DType {
    let first = |ids: &[ValueId]| Some(program.values.get(ids.first()?.0 as usize)?.dtype);
    let is_float = |dtype: &DType| matches!(dtype, DType::F32 | DType::BF16 | DType::F16);
    first(&dispatch.reads).filter(is_float).or_else(|| first(&dispatch.writes)).unwrap_or(DType::F32)
}

/// How a tensor is stored: `int8`, `int4g32z`, or the type of its elements.
pub(super) fn form(weight: &WeightInfo) -> String {
    match weight.layout {
        Layout::Quantized(quant) => quant.to_string(),
        Layout::RowMajor | Layout::Panels | Layout::PanelPairs => weight.dtype.to_string(),
    }
}

/// Name of the kernel of a dispatch; `weights` are those of the artifact.
pub(super) fn family(weights: &[WeightInfo], program: &Program, dispatch: &Dispatch) -> String {
    let own = dtype(program, dispatch);
    let mut name = format!("{own}_{}", op(&dispatch.kernel));
    let mut fused = |with: bool, what: &str| {
        if with {
            name.push_str(&format!("_{what}"));
        }
    };
    match &dispatch.kernel {
        Kernel::Linear(linear) => {
            fused(linear.norm_eps.is_some(), "norm");
            fused(linear.bias, "bias");
            fused(linear.swiglu, "swiglu");
            if let Some(activation) = linear.activation {
                fused(true, &op(&Kernel::Activate(activation)));
            }
            fused(linear.residual, "residual");
            if let Some(codes) = linear.codes {
                fused(true, &codes.to_string());
            }
            let weight = dispatch.reads.get(linear.weight_operands().start);
            let stored = weight.and_then(|id| program.values.get(id.0 as usize)?.place.weight());
            match stored.and_then(|index| weights.get(index as usize)).map(form) {
                Some(form) if form != own.to_string() => format!("{form}w_{name}"),
                Some(_) | None => name,
            }
        }
        Kernel::Attention(attention) => {
            fused(attention.packed, "packed");
            fused(attention.rope, "rope");
            fused(attention.rows, "rows");
            name
        }
        _ => name,
    }
}

/// What a dispatch computes, for people: the first of its paths, and how many more there are.
pub(super) fn origin(dispatch: &Dispatch) -> String {
    match dispatch.origin.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} and {} more", rest.len()),
    }
}
