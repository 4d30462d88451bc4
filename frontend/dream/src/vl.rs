//! Images: vision tower, merger, projector and splice (`spec/vision.md` sections 2 to 4).
//!
//! All images of a request go through the tower as one sequence of patches, four to an image token. The segments tell
//! them apart: a patch attends to those of its own segment, which is one image, or one pair of frames of a video.

use crate::builder::Builder;
use crate::config::VisionConfig;
use dreamc_ir::{Activation, Attention, Dim, Op, RopeTable, Value};
use dreamc_num::DType;

/// Base of the tower's rotary frequencies.
const THETA: f32 = 10_000.0;
/// Of the tower's layer norms.
const EPS: f32 = 1e-6;
/// Patches that make an image token.
pub(crate) const PATCHES_PER_TOKEN: u64 = 4;

/// Name of the parameter that tells which image a patch belongs to.
pub const PATCH_SEGMENTS: &str = "patch_segments";

/// The vision half of a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Vision<'a> {
    pub(crate) config: &'a VisionConfig,
    /// Width of the decoder.
    pub(crate) hidden_size: u64,
}

/// Patches of all images of a request.
#[derive(Clone, Copy)]
pub(crate) struct Patches {
    /// f32 [1, 4 M, values of a patch].
    pixels: Value,
    /// i32 [1, 4 M]: the image that a patch belongs to, from 1; 0 for none.
    segments: Value,
    /// i32 [2, 1, 4 M]: rows and columns.
    positions: Value,
}

/// Number of image tokens of a request.
fn image_tokens() -> Dim {
    Dim::symbol("M")
}

impl Patches {
    /// Appends the patches to the parameters.
    pub(crate) fn params(b: &mut Builder, config: &VisionConfig) -> Patches {
        let n = image_tokens().times(&PATCHES_PER_TOKEN.into());
        let values = config.patch_elements();
        Patches {
            pixels: b.param("pixel_values", DType::F32, &[1.into(), n.clone(), values.into()]),
            segments: b.param(PATCH_SEGMENTS, DType::I32, &[1.into(), n.clone()]),
            positions: b.param("patch_positions", DType::I32, &[2.into(), 1.into(), n]),
        }
    }
}

/// Type of the features that a loop captures: f32 [1, M, H].
pub(crate) fn feature_param(b: &mut Builder, hidden_size: u64) -> Value {
    b.param("image_features", DType::F32, &[1.into(), image_tokens(), hidden_size.into()])
}

/// Puts the rows of the images into the sequence: row `index` where it is not negative.
pub(crate) fn splice(b: &mut Builder, embeddings: Value, index: Value, features: Value) -> Value {
    b.op(Op::Splice, &[embeddings, index, features], "model.inputs_embeds")
}

impl Vision<'_> {
    /// A row of the decoder's width for every image token: f32 [1, M, H].
    pub(crate) fn features(&self, b: &mut Builder, patches: &Patches) -> Value {
        let VisionConfig { embed_dim: e, .. } = *self.config;
        let (t, h, values) = (b.dtype, self.hidden_size, self.config.patch_elements());
        let mut hidden = b.linear(patches.pixels, "visual.patch_embed.proj", [e, values], false, DType::F32);
        let quarter = self.config.head_dim() / 4;
        let table = RopeTable { theta: THETA, sections: vec![quarter; 2], axial: true };
        let tables =
            b.ops_as(Op::RopeTable(table), &[patches.positions], DType::F32, "visual.rotary_pos_emb");
        for block in 0..self.config.depth {
            let path = format!("visual.blocks.{block}");
            hidden = self.block(b, &path, hidden, patches.segments, [tables[0], tables[1]]);
        }
        let merged = self.config.merged_size();
        let x = b.layer_norm(hidden, "visual.merger.ln_q", e, EPS);
        let x = b.op(Op::MergeRows { count: PATCHES_PER_TOKEN }, &[x], "visual.merger.cells");
        let x = b.linear(x, "visual.merger.mlp.0", [merged, merged], true, t);
        let x = b.op(Op::Activate(Activation::Gelu), &[x], "visual.merger.mlp.1");
        let x = b.linear(x, "visual.merger.mlp.2", [self.config.hidden_size, merged], true, t);
        let x = b.linear(x, "projector.linear_1", [h, self.config.hidden_size], true, t);
        let x = b.op(Op::Activate(Activation::Gelu), &[x], "projector.act");
        b.linear(x, "projector.linear_2", [h, h], true, DType::F32)
    }

    fn block(
        &self,
        b: &mut Builder,
        path: &str,
        hidden: Value,
        segments: Value,
        [cos, sin]: [Value; 2],
    ) -> Value {
        let (t, e, mlp) = (b.dtype, self.config.embed_dim, self.config.mlp_size);
        let (heads, head_dim) = (self.config.num_heads, self.config.head_dim());

        let x = b.layer_norm(hidden, &format!("{path}.norm1"), e, EPS);
        let attn = format!("{path}.attn");
        let qkv = b.linear(x, &format!("{attn}.qkv"), [3 * e, e], true, t);
        let [q, k, v] = [(0, "q"), (1, "k"), (2, "v")]
            .map(|(i, name)| b.op(Op::Slice { start: i * e, len: e }, &[qkv], &format!("{attn}.{name}")));
        let q = b.op(Op::Rope { head_dim }, &[q, cos, sin], &format!("{attn}.q_rope"));
        let k = b.op(Op::Rope { head_dim }, &[k, cos, sin], &format!("{attn}.k_rope"));
        let op = Op::Attention(Attention {
            heads,
            kv_heads: heads,
            head_dim,
            packed: false,
            rope: false,
            rows: false,
        });
        let a = b.op(op, &[q, k, v, segments], &format!("{attn}.attention_out"));
        let o = b.linear(a, &format!("{attn}.proj"), [e, e], true, DType::F32);
        let hidden = b.op(Op::Add, &[hidden, o], &attn);

        let x = b.layer_norm(hidden, &format!("{path}.norm2"), e, EPS);
        let x = b.linear(x, &format!("{path}.mlp.fc1"), [mlp, e], true, t);
        let x = b.op(Op::Activate(Activation::QuickGelu), &[x], &format!("{path}.mlp.act"));
        let x = b.linear(x, &format!("{path}.mlp.fc2"), [e, mlp], true, DType::F32);
        b.op(Op::Add, &[hidden, x], path)
    }
}
