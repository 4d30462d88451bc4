//! Result types of ops: the one place that knows which operands fit.

use crate::dim::Dim;
use crate::op::{Attention, Linear, Literal, Op, RopeTable};
use crate::types::Type;
use dreamc_num::DType;

mod sampler;

/// Most axes of positions.
const AXES_MAX: u64 = 4;

/// Types of the results of `op` on operands of these types, or which rule is broken.
///
/// Ops whose result may have any float type (`U` in [`Op`]) take `dtype`; others ignore it. `Op::Weight`, `Op::Const` and
/// `Op::Denoise` say nothing about all of their results: the verifier has rules of its own for them, and this
/// function is not to be asked.
pub fn infer(op: &Op, inputs: &[Type], dtype: DType) -> Result<Vec<Type>, String> {
    let one = |ty: Type| Ok(vec![ty]);
    match (op, inputs) {
        (Op::Weight(_) | Op::Const(_) | Op::Denoise { .. }, _) => {
            Err(format!("`{}` states its own types", op.name()))
        }
        (Op::Embed, [ids, table]) => {
            require(ids.dtype == DType::I32 && ids.dims.len() == 2, "the ids must be i32[B, S]")?;
            require(table.dtype.is_float() && table.dims.len() == 2, "the table must be a float matrix")?;
            require(dtype.is_float(), "the result must be float")?;
            one(Type::new(dtype, [ids.dims[0].clone(), ids.dims[1].clone(), table.dims[1].clone()]))
        }
        (Op::RopeTable(RopeTable { sections, .. }), [positions]) => {
            let axes = sections.len() as u64;
            let planes = match axes {
                1 => 0,
                _ => usize::from(positions.dims.first().and_then(Dim::as_constant) == Some(axes)),
            };
            require(
                positions.dtype == DType::I32
                    && positions.dims.len() == 2 + planes
                    && (1..=AXES_MAX).contains(&axes)
                    && (axes == 1 || planes == 1),
                "the positions must be i32[B, S], or i32[axes, B, S] for 2 to 4 axes",
            )?;
            let n = sections.iter().try_fold(0_u64, |n, s| n.checked_add(*s));
            require(sections.iter().all(|s| *s > 0), "every axis must have a frequency")?;
            let n = n.ok_or("the sections are too long")?;
            let ty = Type::new(DType::F32, positions.dims[planes..].iter().cloned().chain([n.into()]));
            Ok(vec![ty.clone(), ty])
        }
        (Op::RmsNorm { .. }, [x, gain]) => {
            require(x.dtype.is_float() && !x.dims.is_empty(), "`x` must be float and have columns")?;
            require(*gain == vector(DType::F32, x.dims.last()), "the gain must be f32 and as wide as `x`")?;
            require(dtype.is_float(), "the result must be float")?;
            one(x.with_dtype(dtype))
        }
        (Op::LayerNorm { .. }, [x, gain, bias]) => {
            require(x.dtype.is_float() && !x.dims.is_empty(), "`x` must be float and have columns")?;
            let wanted = vector(DType::F32, x.dims.last());
            require(*gain == wanted && *bias == wanted, "gain and bias must be f32 and as wide as `x`")?;
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
        (Op::Activate(_), [x]) => {
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
        (Op::Concat { axis }, [first, rest @ ..]) => {
            let at = usize::try_from(*axis).ok().filter(|at| *at < first.dims.len());
            let at = at.ok_or("the parts must have this axis")?;
            let mut ty = first.clone();
            for part in rest {
                let same = part.dtype == first.dtype
                    && part.dims.len() == first.dims.len()
                    && part.dims.iter().zip(&first.dims).enumerate().all(|(i, (a, b))| i == at || a == b);
                require(same, "the parts may differ in the one axis only")?;
                ty.dims[at] = ty.dims[at].plus(&part.dims[at]);
            }
            one(ty)
        }
        (Op::MergeRows { count }, [x]) => {
            let [outer @ .., rows, columns] = x.dims.as_slice() else {
                return Err("`x` must have rows and columns".to_owned());
            };
            let rows = rows.over(*count).ok_or("the rows must be a multiple of `count`")?;
            one(Type::new(x.dtype, outer.iter().cloned().chain([rows, columns.times(&(*count).into())])))
        }
        (Op::SplitRows { count }, [x]) => {
            let [outer @ .., rows, columns] = x.dims.as_slice() else {
                return Err("`x` must have rows and columns".to_owned());
            };
            let columns = columns.over(*count).ok_or("the columns must be a multiple of `count`")?;
            one(Type::new(x.dtype, outer.iter().cloned().chain([rows.times(&(*count).into()), columns])))
        }
        (Op::DropRows { count }, [x]) => {
            let [b, s, n] = x.dims.as_slice() else { return Err("`x` must be [B, S, N]".to_owned()) };
            let s = s.minus(*count).ok_or("`x` must have `count` rows in any case")?;
            one(Type::new(x.dtype, [b.clone(), s, n.clone()]))
        }
        (Op::TakeRows, [x, index]) if index.dims.is_empty() => {
            let [rows, _, n] = x.dims.as_slice() else {
                return Err("`x` must be [1, S, N] for an index i32[]".to_owned());
            };
            let fits = index.dtype == DType::I32 && rows.as_constant() == Some(1);
            require(fits, "`x` must be [1, S, N] for an index i32[]")?;
            one(Type::new(x.dtype, [1.into(), 1.into(), n.clone()]))
        }
        (Op::TakeRows, [x, index]) => {
            let ([b, _, n], [bi, r]) = (x.dims.as_slice(), index.dims.as_slice()) else {
                return Err("`x` must be [B, S, N] and the index i32[B, R]".to_owned());
            };
            require(index.dtype == DType::I32 && b == bi, "the index must be i32[B, R]")?;
            one(Type::new(x.dtype, [b.clone(), r.clone(), n.clone()]))
        }
        (Op::Splice, [x, index, rows]) => {
            require(x.dims.len() == 3, "`x` must be [B, S, N]")?;
            let wanted = Type::new(DType::I32, x.dims[..2].iter().cloned());
            require(*index == wanted, "the index must be i32[B, S]")?;
            let fits = rows.dtype == x.dtype && rows.dims.len() >= 2 && rows.dims.last() == x.dims.last();
            require(fits, "the rows must be as wide as those of `x`, of its type")?;
            one(x.clone())
        }
        (Op::Stack, [x]) => one(Type::new(x.dtype, [1.into()].into_iter().chain(x.dims.iter().cloned()))),
        (Op::ShiftRows, [x]) => {
            require(x.dims.len() == 3, "`x` must be [B, S, N]")?;
            one(x.clone())
        }
        (Op::OpenSlots { token }, [canvas]) => sampler::open_slots(*token, canvas),
        (
            Op::IsToken { .. }
            | Op::EosPenalty { .. }
            | Op::KeepTokens { .. }
            | Op::SamplingProbs
            | Op::RandomBits { .. }
            | Op::DrawToken { .. }
            | Op::Confidence(_)
            | Op::TransferCount { .. }
            | Op::SelectSlots
            | Op::OriginSlots { .. }
            | Op::Commit
            | Op::AdvanceStream
            | Op::ReadRows { .. }
            | Op::SlotBits { .. }
            | Op::TakeSlots
            | Op::CommitSlots
            | Op::TimestepEmbed { .. }
            | Op::EulerStep { .. }
            | Op::DdimStep { .. },
            _,
        ) => one(sampler::infer(op, inputs)?),
        (
            Op::Embed
            | Op::RopeTable(_)
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Rope { .. }
            | Op::Add
            | Op::Mul
            | Op::Activate(_)
            | Op::SwiGlu
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::MergeRows { .. }
            | Op::SplitRows { .. }
            | Op::DropRows { .. }
            | Op::TakeRows
            | Op::Splice
            | Op::Stack
            | Op::ShiftRows
            | Op::OpenSlots { .. },
            _,
        ) => Err(operand_count(op, inputs)),
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
    require(!(linear.swiglu && linear.activation.is_some()), "swiglu takes no activation")?;
    let extras = [linear.norm_eps.is_some(), linear.smooth, linear.bias, linear.residual]
        .into_iter()
        .filter(|on| *on)
        .count();
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
    if linear.smooth {
        let smooth = next()?;
        require(
            *smooth == vector(DType::F32, x.dims.last()),
            "the factors of the columns must be f32 and as many as `x` has columns",
        )?;
    }
    let mut columns = 0;
    for i in 0..linear.weights {
        let weight = next()?;
        require(weight.dtype.is_float() && weight.dims.len() == 2, "a weight must be a float matrix")?;
        require(weight.dims[1].as_constant() == Some(k), "a weight must be as wide as `x`")?;
        let mut n = weight.dims[0].as_constant().ok_or("a weight's rows must be a constant")?;
        if let Some((first, len)) = linear.rows {
            require(linear.weights == 1, "rows of a weight are those of one weight")?;
            let fits = len > 0 && first.checked_add(len).is_some_and(|end| end <= n);
            require(fits, "the rows must be inside the weight")?;
            n = len;
        }
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
    let Attention { heads, kv_heads, head_dim, packed, rope, rows } = *attention;
    require(kv_heads > 0 && heads > 0 && heads % kv_heads == 0, "kv_heads must divide heads")?;
    require(head_dim > 0 && head_dim % 2 == 0, "head_dim must be even")?;
    require(heads.checked_mul(head_dim).is_some_and(|n| n < 1 << 31), "the heads are too wide")?;
    require(!rows || !packed, "queries at some rows are not packed with keys")?;
    let widths = if packed {
        vec![(heads + 2 * kv_heads) * head_dim]
    } else {
        [heads, kv_heads, kv_heads].map(|h| h * head_dim).to_vec()
    };
    let wanted = widths.len() + 1 + if rope { 2 } else { 0 } + usize::from(rows);
    if inputs.len() != wanted {
        return Err(format!("this `attention` takes {wanted} operands, not {}", inputs.len()));
    }
    let (q, x) = (&inputs[0], &inputs[usize::from(rows)]);
    require(q.dtype.is_float() && q.dims.len() == 3, "queries must be float [B, S, columns]")?;
    require(x.dims.len() == 3, "keys must be float [B, S, columns]")?;
    if rows {
        let index = Type::new(DType::I32, q.dims[..2].iter().cloned());
        require(inputs[wanted - 1] == index && q.dims[0] == x.dims[0], "the index must be i32[B, R]")?;
    }
    for (i, (operand, width)) in inputs.iter().zip(&widths).enumerate() {
        let outer = if i == 0 { &q.dims[..2] } else { &x.dims[..2] };
        let fits = operand.dtype == q.dtype && operand.dims.len() == 3 && operand.dims[..2] == *outer;
        require(
            fits && operand.columns() == Some(*width),
            "queries, keys and values must be whole heads of the same rows and dtype",
        )?;
    }
    let mask = &inputs[widths.len()];
    require(*mask == Type::new(DType::I32, x.dims[..2].iter().cloned()), "the mask must be i32[B, S]")?;
    if rope {
        let (cos, sin) = (&inputs[widths.len() + 1], &inputs[widths.len() + 2]);
        require(
            is_rope_table(cos, x, head_dim) && cos == sin,
            "cos and sin must be f32[B, S, head_dim / 2]",
        )?;
    }
    Ok(with_columns(&Type::new(q.dtype, q.dims[..2].iter().cloned()), heads * head_dim))
}

fn operand_count(op: &Op, inputs: &[Type]) -> String {
    format!("`{}` does not take {} operands", op.name(), inputs.len())
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
