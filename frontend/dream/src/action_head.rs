//! Heads and projectors of the action models (`spec/actions.md` section 6).

use crate::builder::Builder;
use crate::vla::relu;
use dreamc_ir::{Activation, Op, Value};
use dreamc_num::DType;

/// Of the head's layer norms.
const EPS: f32 = 1e-5;
/// Residual blocks of the head.
const BLOCKS: usize = 2;

/// `fc2(gelu(fc1(x)))`, `T[.., K]` to `f32[.., N]`; the weights stand under `path`.
pub(crate) fn projector(b: &mut Builder, path: &str, x: Value, [n, k]: [u64; 2]) -> Value {
    let x = b.linear(x, &format!("{path}.fc1"), [n, k], true, b.dtype);
    let x = b.op(Op::Activate(Activation::Gelu), &[x], &format!("{path}.act"));
    b.linear(x, &format!("{path}.fc2"), [n, n], true, DType::F32)
}

/// The residual MLP: final-normed rows `T[1, C * D, H]` to `f32[1, C, D]`.
pub(crate) fn action_head(b: &mut Builder, rows: Value, hidden_size: u64, action_dim: u64) -> Value {
    let (h, width) = (hidden_size, hidden_size * action_dim);
    let x = b.op(Op::MergeRows { count: action_dim }, &[rows], "action_head.actions");
    let x = b.layer_norm(x, "action_head.layer_norm1", width, EPS);
    let x = b.linear(x, "action_head.fc1", [h, width], true, DType::F32);
    let mut x = relu(b, x, "action_head.act");
    for block in 0..BLOCKS {
        let path = format!("action_head.mlp_resnet_blocks.{block}");
        let y = b.layer_norm(x, &format!("{path}.ffn.0"), h, EPS);
        let y = b.linear(y, &format!("{path}.ffn.1"), [h, h], true, DType::F32);
        let y = relu(b, y, &format!("{path}.ffn.2"));
        x = b.op(Op::Add, &[x, y], &path);
    }
    let x = b.layer_norm(x, "action_head.layer_norm2", h, EPS);
    b.linear(x, "action_head.fc2", [action_dim, h], true, DType::F32)
}
