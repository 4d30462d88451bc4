//! Result types of ops: the one place that knows which operands fit.

use crate::dim::Dim;
use crate::op::{Attention, Linear, Literal, Op};
use crate::types::Type;
use dreamc_num::DType;

/// Types of the results of `op` on operands of these types, or which rule is broken.
///
/// Ops whose result may have any float type (`U` in [`Op`]) take `dtype`; others ignore it. `Op::Weight`, `Op::Const` and
/// `Op::Denoise` say nothing about all of their results: the verifier has rules of its own for them, and this
/// function is not to be asked.
pub fn infer(op: &Op, inputs: &[Type], dtype: DType) -> Result<Vec<Type>, String> {
    let one = |ty: Type| Ok(vec![ty]);
    match (op, inputs) {
        (Op::Weight { .. } | Op::Const(_) | Op::Denoise { .. }, _) => {
            Err(format!("`{}` states its own types", op.name()))
        }
        (Op::Embed, [ids, table]) => {
            require(ids.dtype == DType::I32 && ids.dims.len() == 2, "the ids must be i32[B, S]")?;
            require(table.dtype.is_float() && table.dims.len() == 2, "the table must be a float matrix")?;
            require(dtype.is_float(), "the result must be float")?;
            one(Type::new(dtype, [ids.dims[0].clone(), ids.dims[1].clone(), table.dims[1].clone()]))
        }
        (Op::RopeTable { head_dim, .. }, [positions]) => {
            require(
                positions.dtype == DType::I32 && positions.dims.len() == 2,
                "the positions must be i32[B, S]",
            )?;
            require(*head_dim > 0 && head_dim % 2 == 0, "head_dim must be even")?;
            let ty = with_columns(&positions.with_dtype(DType::F32), head_dim / 2);
            Ok(vec![ty.clone(), ty])
        }
        (Op::RmsNorm { .. }, [x, gain]) => {
            require(x.dtype.is_float() && !x.dims.is_empty(), "`x` must be float and have columns")?;
            require(*gain == vector(DType::F32, x.dims.last()), "the gain must be f32 and as wide as `x`")?;
            require(dtype.is_float(), "the result must be float")?;
            one(x.with_dtype(dtype))
        }
        (Op::Linear(linear), _) => one(infer_linear(linear, inputs, dtype)?),
        (Op::Rope { head_dim }, [x, cos, sin]) => {
            require(x.dtype.is_float() && x.dims.len() == 3, "`x` must be float [B, S, heads * head_dim]")?;
            require(*head_dim > 0 && head_dim % 2 == 0, "head_dim must be even")?;
            require(x.columns().is_some_and(|n| n % head_dim == 0), "the columns must be whole heads")?;
            require(
                is_rope_table(cos, x, *head_dim) && cos == sin,
                "cos and sin must be f32[B, S, head_dim / 2]",
            )?;
            one(x.clone())
        }
        (Op::Attention(attention), _) => one(infer_attention(attention, inputs)?),
        (Op::Add | Op::Mul | Op::SwiGlu, [a, b]) => {
            require(a == b && a.dtype.is_float(), "both operands must have the same float type")?;
            one(a.clone())
        }
        (Op::Silu, [x]) => {
            require(x.dtype.is_float(), "`x` must be float")?;
            one(x.clone())
        }
        (Op::Slice { start, len }, [x]) => {
            let end = start.checked_add(*len);
            let fits = x.columns().zip(end).is_some_and(|(n, end)| end <= n);
            require(fits && *len > 0, "the columns must lie inside a constant last dimension")?;
            let mut ty = x.clone();
            ty.dims.pop();
            one(Type::new(ty.dtype, ty.dims.into_iter().chain([Dim::from(*len)])))
        }
        (Op::Concat, [first, rest @ ..]) => {
            require(!first.dims.is_empty(), "the parts must have a first axis")?;
            let same = |t: &Type| {
                t.dtype == first.dtype && t.dims.len() == first.dims.len() && t.dims[1..] == first.dims[1..]
            };
            require(rest.iter().all(same), "the parts may differ in the first axis only")?;
            let mut ty = first.clone();
            for part in rest {
                ty.dims[0] = ty.dims[0].plus(&part.dims[0]);
            }
            one(ty)
        }
        (Op::ShiftRows, [x]) => {
            require(x.dims.len() == 3, "`x` must be [B, S, N]")?;
            one(x.clone())
        }
        (Op::IsToken { token }, [canvas]) => {
            canvas_type(canvas)?;
            require(i32::try_from(*token).is_ok(), "the token must fit i32")?;
            one(canvas.with_dtype(DType::Bool))
        }
        (Op::EosPenalty { token, steps, .. }, [logits, penalty, step]) => {
            logits_type(logits)?;
            scalar(penalty, DType::F32, "penalty")?;
            scalar(step, DType::I32, "step")?;
            require(logits.columns().is_some_and(|v| *token < v), "the token must be inside the vocabulary")?;
            require(*steps > 0, "steps must be at least 1")?;
            one(logits.clone())
        }
        (Op::SamplingProbs, [logits, active, temperature, top_p, top_k]) => {
            logits_type(logits)?;
            rows(logits, active, DType::Bool, "active")?;
            scalar(temperature, DType::F32, "temperature")?;
            scalar(top_p, DType::F32, "top_p")?;
            scalar(top_k, DType::I32, "top_k")?;
            one(logits.clone())
        }
        (Op::RandomBits { .. }, [canvas, stream]) => {
            canvas_type(canvas)?;
            stream_type(stream)?;
            one(canvas.with_dtype(DType::U32))
        }
        (Op::DrawToken, [probs, active, temperature, bits]) => {
            logits_type(probs)?;
            rows(probs, active, DType::Bool, "active")?;
            scalar(temperature, DType::F32, "temperature")?;
            rows(probs, bits, DType::U32, "bits")?;
            one(active.with_dtype(DType::I32))
        }
        (Op::Confidence(_), [probs, active, token]) => {
            logits_type(probs)?;
            rows(probs, active, DType::Bool, "active")?;
            rows(probs, token, DType::I32, "token")?;
            one(active.with_dtype(DType::F32))
        }
        (Op::TransferCount { steps, .. }, [active, step]) => {
            require(active.dtype == DType::Bool && active.dims.len() == 2, "active must be bool[B, S]")?;
            scalar(step, DType::I32, "step")?;
            require(*steps > 0, "steps must be at least 1")?;
            one(Type::new(DType::I32, [active.dims[0].clone()]))
        }
        (Op::SelectSlots, [confidence, active, count, alg_temp, bits]) => {
            require(active.dtype == DType::Bool && active.dims.len() == 2, "active must be bool[B, S]")?;
            require(*confidence == active.with_dtype(DType::F32), "the confidence must be f32[B, S]")?;
            require(*count == vector(DType::I32, active.dims.first()), "the count must be i32[B]")?;
            scalar(alg_temp, DType::F32, "alg_temp")?;
            require(*bits == active.with_dtype(DType::U32), "the bits must be u32[B, S]")?;
            one(active.clone())
        }
        (Op::OriginSlots { steps, .. }, [active, step, bits]) => {
            require(active.dtype == DType::Bool && active.dims.len() == 2, "active must be bool[B, S]")?;
            scalar(step, DType::I32, "step")?;
            require(*bits == active.with_dtype(DType::U32), "the bits must be u32[B, S]")?;
            require(*steps > 0, "steps must be at least 1")?;
            one(active.clone())
        }
        (Op::Commit, [select, token, canvas]) => {
            canvas_type(canvas)?;
            require(*select == canvas.with_dtype(DType::Bool), "the selection must be bool[B, S]")?;
            require(token == canvas, "tokens and canvas must have the same type")?;
            one(canvas.clone())
        }
        (Op::AdvanceStream, [stream]) => {
            stream_type(stream)?;
            one(stream.clone())
        }
        (
            Op::Embed
            | Op::RopeTable { .. }
            | Op::RmsNorm { .. }
            | Op::Rope { .. }
            | Op::Add
            | Op::Mul
            | Op::Silu
            | Op::SwiGlu
            | Op::Slice { .. }
            | Op::Concat
            | Op::ShiftRows
            | Op::IsToken { .. }
            | Op::EosPenalty { .. }
            | Op::SamplingProbs
            | Op::RandomBits { .. }
            | Op::DrawToken
            | Op::Confidence(_)
            | Op::TransferCount { .. }
            | Op::SelectSlots
            | Op::OriginSlots { .. }
            | Op::Commit
            | Op::AdvanceStream,
            _,
        ) => Err(format!("`{}` does not take {} operands", op.name(), inputs.len())),
    }
}

impl Literal {
    /// Whether these elements fill a tensor of this type and are values of it.
    pub fn fits(&self, ty: &Type) -> bool {
        let (len, in_range) = match (self, ty.dtype) {
            (Literal::Floats(v), DType::F32 | DType::BF16 | DType::F16) => (v.len(), true),
            (Literal::Ints(v), DType::I32) => (v.len(), v.iter().all(|n| i32::try_from(*n).is_ok())),
            (Literal::Ints(v), DType::U32) => (v.len(), v.iter().all(|n| u32::try_from(*n).is_ok())),
            (Literal::Ints(v), DType::Bool) => (v.len(), v.iter().all(|n| *n == 0 || *n == 1)),
            (Literal::Floats(_) | Literal::Ints(_), _) => return false,
        };
        in_range && ty.elements().as_constant() == Some(len as u64)
    }
}

fn infer_linear(linear: &Linear, inputs: &[Type], dtype: DType) -> Result<Type, String> {
    require((1..=3).contains(&linear.weights), "there must be 1 to 3 weights")?;
    require(!linear.swiglu || linear.weights == 2, "swiglu takes two weights, gate and up")?;
    require(!(linear.swiglu && linear.bias), "swiglu takes no bias")?;
    let extras =
        [linear.norm_eps.is_some(), linear.bias, linear.residual].into_iter().filter(|on| *on).count();
    let wanted = 1 + linear.weights as usize + extras;
    if inputs.len() != wanted {
        return Err(format!("this `linear` takes {wanted} operands, not {}", inputs.len()));
    }
    let mut operands = inputs.iter();
    let mut next = || operands.next().ok_or("too few operands");
    let x = next()?;
    require(x.dtype.is_float(), "`x` must be float")?;
    require(dtype.is_float(), "the result must be float")?;
    let k = x.columns().ok_or("the last dimension of `x` must be a constant")?;
    if linear.norm_eps.is_some() {
        require(*next()? == vector(DType::F32, x.dims.last()), "the gain must be f32 and as wide as `x`")?;
    }
    let mut columns = 0;
    for i in 0..linear.weights {
        let weight = next()?;
        require(weight.dtype.is_float() && weight.dims.len() == 2, "a weight must be a float matrix")?;
        require(weight.dims[1].as_constant() == Some(k), "a weight must be as wide as `x`")?;
        let n = weight.dims[0].as_constant().ok_or("a weight's rows must be a constant")?;
        require(!linear.swiglu || i == 0 || n == columns, "gate and up must have the same rows")?;
        let sum = columns.checked_add(n).ok_or("the weights have too many rows")?;
        columns = if linear.swiglu { n } else { sum };
    }
    let ty = Type::new(dtype, x.dims[..x.dims.len() - 1].iter().cloned().chain([Dim::from(columns)]));
    if linear.bias {
        require(
            *next()? == Type::new(DType::F32, [Dim::from(columns)]),
            "the bias must be f32 and as wide as the result",
        )?;
    }
    if linear.residual {
        require(*next()? == ty.with_dtype(DType::F32), "the residual must be f32 and shaped as the result")?;
    }
    Ok(ty)
}

fn infer_attention(attention: &Attention, inputs: &[Type]) -> Result<Type, String> {
    let Attention { heads, kv_heads, head_dim, packed, rope } = *attention;
    require(kv_heads > 0 && heads > 0 && heads % kv_heads == 0, "kv_heads must divide heads")?;
    require(head_dim > 0 && head_dim % 2 == 0, "head_dim must be even")?;
    require(heads.checked_mul(head_dim).is_some_and(|n| n < 1 << 31), "the heads are too wide")?;
    let widths = if packed {
        vec![(heads + 2 * kv_heads) * head_dim]
    } else {
        [heads, kv_heads, kv_heads].map(|h| h * head_dim).to_vec()
    };
    let wanted = widths.len() + 1 + if rope { 2 } else { 0 };
    if inputs.len() != wanted {
        return Err(format!("this `attention` takes {wanted} operands, not {}", inputs.len()));
    }
    let x = &inputs[0];
    require(x.dtype.is_float() && x.dims.len() == 3, "queries must be float [B, S, columns]")?;
    for (operand, width) in inputs.iter().zip(&widths) {
        let fits = operand.dtype == x.dtype && operand.dims.len() == 3 && operand.dims[..2] == x.dims[..2];
        require(
            fits && operand.columns() == Some(*width),
            "queries, keys and values must be whole heads of the same rows and dtype",
        )?;
    }
    let mask = &inputs[widths.len()];
    require(*mask == Type::new(DType::I32, x.dims[..2].iter().cloned()), "the mask must be i32[B, S]")?;
    if rope {
        let (cos, sin) = (&inputs[wanted - 2], &inputs[wanted - 1]);
        require(
            is_rope_table(cos, x, head_dim) && cos == sin,
            "cos and sin must be f32[B, S, head_dim / 2]",
        )?;
    }
    Ok(with_columns(&Type::new(x.dtype, x.dims[..2].iter().cloned()), heads * head_dim))
}

fn require(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn vector(dtype: DType, dim: Option<&Dim>) -> Type {
    Type::new(dtype, dim.cloned())
}

fn with_columns(ty: &Type, columns: u64) -> Type {
    Type::new(ty.dtype, ty.dims.iter().cloned().chain([Dim::from(columns)]))
}

fn is_rope_table(table: &Type, x: &Type, head_dim: u64) -> bool {
    *table == with_columns(&Type::new(DType::F32, x.dims[..2].iter().cloned()), head_dim / 2)
}

fn canvas_type(canvas: &Type) -> Result<(), String> {
    require(canvas.dtype == DType::I32 && canvas.dims.len() == 2, "the canvas must be i32[B, S]")
}

fn stream_type(stream: &Type) -> Result<(), String> {
    require(*stream == Type::new(DType::U32, [Dim::from(4)]), "the stream must be u32[4]")
}

fn logits_type(logits: &Type) -> Result<(), String> {
    require(
        logits.dtype == DType::F32 && logits.dims.len() == 3 && logits.columns().is_some(),
        "logits must be f32[B, S, V]",
    )
}

fn rows(logits: &Type, operand: &Type, dtype: DType, name: &str) -> Result<(), String> {
    let wanted = Type::new(dtype, logits.dims[..2].iter().cloned());
    require(*operand == wanted, &format!("`{name}` must be {wanted}"))
}

fn scalar(ty: &Type, dtype: DType, name: &str) -> Result<(), String> {
    require(*ty == Type::scalar(dtype), &format!("`{name}` must be {dtype}[]"))
}
