//! The module of a checkpoint: one graph per entry, one per loop.

use crate::config::{ModelConfig, TextConfig, Variant, VisionConfig};
use crate::entries;
use crate::layout::Layout;
use crate::lm::Decoder;
use crate::sampler::Sampler;
use crate::vl::Vision;
use crate::vla::{self, Act};
use dreamc_ir::{Module, SLOTS};
use dreamc_num::DType;

/// Name of the regression entry: ids to logits.
pub const FORWARD: &str = "forward";
/// Name of the entry from patches to image rows.
pub const ENCODE_IMAGE: &str = "encode_image";
/// Name of the sampling entry: canvas to canvas.
pub const GENERATE: &str = "generate";
/// Name of the entry from observation to actions.
pub const ACT: &str = "act";

/// What the graphs are made of.
#[derive(Clone, Copy, Debug)]
pub struct Architecture<'a> {
    /// The decoder.
    pub text: &'a TextConfig,
    /// The tower, for models that see.
    pub vision: Option<&'a VisionConfig>,
    /// Frequencies of each axis of 3-D positions; none where positions are 1-D.
    pub mrope_section: Option<&'a [u64]>,
    /// What is known about the stored tensors.
    pub layout: &'a Layout,
}

impl<'a> Architecture<'a> {
    /// Of a checkpoint whose tensors were checked. Positions of action models are 1-D (`spec/text-model.md` section 4).
    pub fn new(config: &'a ModelConfig, layout: &'a Layout) -> Architecture<'a> {
        let vision = config.vision.as_ref();
        let axes = vision.filter(|_| config.variant == Variant::Vl).map(|v| v.mrope_section.as_slice());
        Architecture { text: &config.text, vision, mrope_section: axes, layout }
    }
}

/// What a build decides about the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Type of weights and activations; the residual stream and the logits are f32.
    pub dtype: DType,
    /// Most rows computed at a time.
    pub max_batch: u64,
    /// Longest canvas: prompt and new tokens.
    pub max_length: u64,
    /// Most image tokens of all rows together.
    pub max_image_tokens: u64,
    /// Most open slots of a row.
    pub max_slots: u64,
    /// How slots are filled.
    pub sampler: Sampler,
    /// How actions are made; none for models that do not act.
    pub act: Option<Act>,
}

/// The graphs of a checkpoint.
///
/// - `forward(input_ids, attention_mask: i32[B, S], position_ids, ..) -> logits f32[B, S, V]`, not shifted.
/// - `generate(canvas i32[B, S], stream u32[4], attention_mask i32[B, S], position_ids, temperature, top_p f32[], top_k i32[],
///   alg_temp, eos_penalty f32[], joint i32[], ..) -> canvas i32[B, S], history i32[steps, B, S]`.
/// - `encode_image(..) -> image_features f32[1, M, H]`.
/// - `act`: see [`vla`].
///
/// `position_ids` is i32[B, S], or i32[3, B, S] with `mrope_section`. Models that see take at the `..` `image_index`
/// i32[B, S], the number of the image row that stands at each position or -1, and the patches: `pixel_values`
/// f32[1, 4 M, 1176], `patch_segments` i32[1, 4 M], `patch_positions` i32[2, 1, 4 M].
pub fn module(of: &Architecture<'_>, options: &Options) -> Module {
    let half_head = [of.text.head_dim() / 2];
    let decoder =
        Decoder { config: of.text, layout: of.layout, sections: of.mrope_section.unwrap_or(&half_head) };
    let vision = of.vision.map(|config| Vision { config, hidden_size: of.text.hidden_size });
    let mut symbols = vec![("B", options.max_batch), ("S", options.max_length), (SLOTS, options.max_slots)];
    let mut graphs = vec![entries::forward(decoder, vision, options.dtype)];
    graphs.extend(entries::generate(decoder, vision, options));
    if let Some(vision) = vision {
        symbols.push(("M", options.max_image_tokens));
        graphs.push(entries::encode_image(vision, options.dtype));
        graphs.extend(options.act.iter().flat_map(|act| vla::act(decoder, vision, options, act)));
    }
    let symbols = symbols.into_iter().map(|(name, max)| (name.to_owned(), max)).collect();
    Module { symbols, graphs }
}
