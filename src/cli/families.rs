//! Names of the kernels that a plan asks for, which are the same on all targets: the types, the op, and what is fused into
//! it. `bf16w_f32_linear_norm_swiglu` multiplies normalised f32 rows with bf16 weights.

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
    let first = |ids: &[ValueId]| of(program, ids.first());
    let is_float = |dtype: &DType| matches!(dtype, DType::F32 | DType::BF16 | DType::F16);
    first(&dispatch.reads).filter(is_float).or_else(|| first(&dispatch.writes)).unwrap_or(DType::F32)
}

fn of(program: &Program, id: Option<&ValueId>) -> Option<DType> {
    Some(program.values.get(id?.0 as usize)?.dtype)
}

/// Name of the kernel of a dispatch.
pub(super) fn family(program: &Program, dispatch: &Dispatch) -> String {
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
            let weight = dispatch.reads.get(1 + usize::from(linear.norm_eps.is_some()));
            match of(program, weight).filter(|weight| *weight != own) {
                Some(weight) => format!("{weight}w_{name}"),
                None => name,
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
