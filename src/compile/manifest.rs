//! What an artifact says about itself.

use super::{BuildOptions, Entry, quantize};
use dreamc_artifact::{Manifest, Model, Work};
use dreamc_frontend::{ModelConfig, Variant};
use std::collections::BTreeMap;

/// `new_tokens` is what `generate` appends, or what `act` does where that is the only entry.
pub(super) fn manifest(
    options: &BuildOptions,
    config: &ModelConfig,
    new_tokens: u32,
    reference: BTreeMap<String, Work>,
) -> Manifest {
    // Checked to be small: shapes of a 7B model and its like.
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let text = &config.text;
    Manifest {
        compiler_version: env!("CARGO_PKG_VERSION").to_owned(),
        targets: options.targets.iter().map(|t| t.spelling().to_owned()).collect(),
        source_hash: String::new(),
        options: settings(options, config),
        model: Model {
            variant: config.variant.name().to_owned(),
            dtype: options.dtype.to_string(),
            vocab_size: small(text.vocab_size),
            hidden_size: small(text.hidden_size),
            layers: small(text.num_hidden_layers),
            mask_token_id: text.mask_token_id,
            pad_token_id: text.pad_token_id,
            eos_token_id: text.eos_token_id,
            max_prompt: options.max_prompt,
            new_tokens,
            max_batch: options.max_batch,
            steps: options.steps,
            alg: options.alg.name().to_owned(),
            eps: options.eps,
        },
        entries: options.entries.iter().map(|e| e.name().to_owned()).collect(),
        aliases: aliases(config),
        reference,
        warm: options.warm.clone(),
        tuned: Vec::new(),
    }
}

/// Names that the fixtures of the reference give to values.
fn aliases(config: &ModelConfig) -> Vec<(String, String)> {
    let layers = config.text.num_hidden_layers;
    let embedded = if config.variant == Variant::Text { "model.embed_tokens" } else { "model.inputs_embeds" };
    let mut aliases =
        vec![("hidden.0".to_owned(), embedded.to_owned()), ("inputs_embeds".to_owned(), embedded.to_owned())];
    aliases.extend((1..layers).map(|i| (format!("hidden.{i}"), format!("model.layers.{}", i - 1))));
    aliases.push((format!("hidden.{layers}"), "model.norm".to_owned()));
    aliases
}

/// The options, named as on the command line.
fn settings(options: &BuildOptions, config: &ModelConfig) -> BTreeMap<String, String> {
    let mut settings = vec![
        ("alg", options.alg.name().to_owned()),
        ("dtype", options.dtype.to_string()),
        ("eps", options.eps.to_string()),
        ("max-batch", options.max_batch.to_string()),
        ("max-prompt", options.max_prompt.to_string()),
        ("steps", options.steps.to_string()),
    ];
    if options.entries != [Entry::Act] {
        settings.push(("new-tokens", options.new_tokens.to_string()));
    }
    settings.extend(options.max_slots.map(|slots| ("max-slots", slots.to_string())));
    if !options.warm.is_empty() {
        let lengths: Vec<String> = options.warm.iter().map(u32::to_string).collect();
        settings.push(("warm", lengths.join(",")));
    }
    settings.extend(options.candidates.map(|n| ("candidates", n.to_string())));
    settings.extend(options.image.map(|[width, height]| ("image", format!("{width}x{height}"))));
    if options.entries.contains(&Entry::Act) && config.variant == Variant::Vla {
        let act = &options.act;
        settings.extend([
            ("chunk", act.chunk.to_string()),
            ("flow-clock", act.flow_clock.name().to_owned()),
            ("mode", act.mode.name().to_owned()),
            ("only-action-ids", act.only_action_ids.to_string()),
            ("proprio", if act.proprio { "on" } else { "off" }.to_owned()),
            ("views", act.views.to_string()),
        ]);
    }
    settings.extend(options.quant.iter().flat_map(quantize::settings));
    if options.lora.is_some() {
        settings.push(("lora", "folded".to_owned()));
    }
    if !options.without.is_empty() {
        settings.push(("without-pass", options.without.join(",")));
    }
    if options.allow_non_finite {
        settings.push(("allow-non-finite", "true".to_owned()));
    }
    settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
