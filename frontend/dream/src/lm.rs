//! The decoder that all models share (`spec/text-model.md` section 3), in the reference's own order of operations.

use crate::builder::Builder;
use crate::config::TextConfig;
use crate::layout::{EMBEDDING, Layout};
use dreamc_ir::{Activation, Attention, Linear, Op, RopeTable, Value};
use dreamc_num::DType;

/// The decoder of one checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Decoder<'a> {
    pub(crate) config: &'a TextConfig,
    pub(crate) layout: &'a Layout,
    /// Frequencies of each axis of the positions; one axis unless positions are 3-D.
    pub(crate) sections: &'a [u64],
}

impl Decoder<'_> {
    /// Rows of the token embedding: `ids i32[B, S]` to `f32[B, S, H]`.
    pub(crate) fn embed(&self, b: &mut Builder, ids: Value) -> Value {
        let TextConfig { hidden_size: h, vocab_size: v, .. } = *self.config;
        let table = b.weight(EMBEDDING.to_owned(), b.dtype, &[v, h]);
        b.op_as(Op::Embed, &[ids, table], DType::F32, "model.embed_tokens")
    }

    /// All layers: the residual stream `f32[B, S, H]` before the final norm.
    pub(crate) fn layers(&self, b: &mut Builder, mut hidden: Value, mask: Value, positions: Value) -> Value {
        let theta = self.config.rope_theta as f32;
        let table = RopeTable { theta, sections: self.sections.to_vec(), axial: false };
        let tables = b.ops_as(Op::RopeTable(table), &[positions], DType::F32, "model.rotary_emb");
        for layer in 0..self.config.num_hidden_layers {
            let path = format!("model.layers.{layer}");
            hidden = self.layer(b, &path, hidden, mask, [tables[0], tables[1]]);
        }
        hidden
    }

    /// The final norm.
    pub(crate) fn norm(&self, b: &mut Builder, hidden: Value) -> Value {
        self.rms_norm(b, hidden, "model.norm")
    }

    /// The head: normed rows to logits `f32[B, S, V]`, not shifted.
    pub(crate) fn logits(&self, b: &mut Builder, normed: Value) -> Value {
        let TextConfig { hidden_size: h, vocab_size: v, .. } = *self.config;
        let weight = b.weight(self.layout.lm_head.to_owned(), b.dtype, &[v, h]);
        let linear = Op::Linear(Linear { weights: 1, ..Linear::default() });
        b.op_as(linear, &[normed, weight], DType::F32, "lm_head")
    }

    fn rms_norm(&self, b: &mut Builder, x: Value, path: &str) -> Value {
        b.rms_norm(x, path, self.config.hidden_size, self.config.rms_norm_eps as f32)
    }

    fn layer(
        &self,
        b: &mut Builder,
        path: &str,
        hidden: Value,
        mask: Value,
        [cos, sin]: [Value; 2],
    ) -> Value {
        let TextConfig { hidden_size: h, intermediate_size: i, .. } = *self.config;
        let (heads, kv_heads, head_dim) =
            (self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim());
        let (t, kv) = (b.dtype, kv_heads * head_dim);

        let x = self.rms_norm(b, hidden, &format!("{path}.input_layernorm"));
        let attn = format!("{path}.self_attn");
        let q = b.linear(x, &format!("{attn}.q_proj"), [h, h], true, t);
        let k = b.linear(x, &format!("{attn}.k_proj"), [kv, h], true, t);
        let v = b.linear(x, &format!("{attn}.v_proj"), [kv, h], true, t);
        let q = b.op(Op::Rope { head_dim }, &[q, cos, sin], &format!("{attn}.q_rope"));
        let k = b.op(Op::Rope { head_dim }, &[k, cos, sin], &format!("{attn}.k_rope"));
        let op =
            Op::Attention(Attention { heads, kv_heads, head_dim, packed: false, rope: false, rows: false });
        let a = b.op(op, &[q, k, v, mask], &format!("{attn}.attention_out"));
        let o = b.linear(a, &format!("{attn}.o_proj"), [h, h], false, DType::F32);
        let hidden = b.op(Op::Add, &[hidden, o], &attn);

        let x = self.rms_norm(b, hidden, &format!("{path}.post_attention_layernorm"));
        let mlp = format!("{path}.mlp");
        let gate = b.linear(x, &format!("{mlp}.gate_proj"), [i, h], false, t);
        let up = b.linear(x, &format!("{mlp}.up_proj"), [i, h], false, t);
        let silu = b.op(Op::Activate(Activation::Silu), &[gate], &format!("{mlp}.act_fn"));
        let product = b.op(Op::Mul, &[silu, up], &format!("{mlp}.product"));
        let down = b.linear(product, &format!("{mlp}.down_proj"), [h, i], false, DType::F32);
        b.op(Op::Add, &[hidden, down], path)
    }
}
