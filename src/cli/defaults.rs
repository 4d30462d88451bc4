//! What `dreamc build` takes where it is not told: each default that is not the same for all checkpoints is printed.

use super::build::Args;
use super::error::Failure;
use super::golden::{Cases, read_bounded};
use super::output::note;
use dream::Tokenizer;
use dream::chat::{Message, render};
use dreamc::compile::{ActOptions, BuildOptions, Entry, Golden, has_tokenizer};
use dreamc_front::image::ImageProcessor;
use dreamc_frontend::clock::FlowClock;
use dreamc_frontend::sampler::Alg;
use dreamc_frontend::vla::Mode;
use dreamc_frontend::{HeadKind, HeadPart, ModelConfig, Variant, find_head_kind};

use std::path::Path;

/// `steps` of `spec/sampling.md`.
const STEPS: u32 = 512;
/// `alg` of `spec/sampling.md`.
const ALG: Alg = Alg::Origin;
/// The reference has none: it goes by the prompt's length.
const NEW_TOKENS: u32 = 128;
const MAX_PROMPT: u32 = 2048;
const MAX_BATCH: u32 = 8;
/// Chunk and views of `spec/actions.md` section 3 and of its first example.
const CHUNK: u32 = 8;
const VIEWS: u32 = 1;
/// Side of a robot's camera frames in pixels, where none is given.
const FRAME_SIDE: u32 = 224;
/// Tokens of a long task.
const TASK: u32 = 64;

/// Options from flags and checkpoint.
pub(super) fn options(args: &Args) -> Result<BuildOptions, Failure> {
    let quant = args.quant.quantization(&args.target)?;
    let config = ModelConfig::read(&args.dir)?;
    let mut entries = args.entries.clone();
    if entries.is_empty() {
        entries = match config.variant {
            Variant::Text | Variant::Vl => vec![Entry::Forward, Entry::Generate],
            Variant::Vla => vec![Entry::Act],
        };
    }
    entries.sort();
    entries.dedup();
    dreamc::compile::entries(&entries, config.variant).map_err(super::build::failure)?;
    let acts = entries.contains(&Entry::Act);
    if acts && entries.contains(&Entry::Generate) && (args.steps.is_none() || args.alg.is_none()) {
        return Err(Failure::usage(
            "`generate` and `act` share --steps and --alg, and their defaults are not the same",
            "give --steps and --alg, or build two files",
        ));
    }
    let act = if acts { act(args)? } else { refuse_act(args)? };
    let say = |flag: &str, value: &str, why: &str| note(&format!("{flag} {value} ({why}; give --{flag})"));

    let steps = args.steps.unwrap_or_else(|| {
        let steps = match (acts, act.mode) {
            (false, _) => STEPS,
            (true, Mode::Discrete | Mode::OneStep | Mode::L1) => 1,
            (true, Mode::Flow) => 4,
            (true, Mode::Ddim) => 50,
        };
        say("steps", &steps.to_string(), "documented default");
        steps
    });
    let alg = match &args.alg {
        Some(name) => Alg::from_name(name).unwrap_or(ALG),
        None => {
            let alg = if acts { Alg::MaskgitPlus } else { ALG };
            if !acts || act.mode == Mode::Discrete || entries.len() > 1 {
                say("alg", alg.name(), "documented default");
            }
            alg
        }
    };
    let only_act = entries == [Entry::Act];
    let new_tokens = args.new_tokens.unwrap_or_else(|| {
        if !only_act {
            say("new-tokens", &NEW_TOKENS.to_string(), "default");
        }
        // Of no effect where actions alone are made.
        if only_act { 1 } else { NEW_TOKENS }
    });
    let max_prompt = match args.max_prompt {
        Some(given) => given,
        None if only_act => act_prompt(args, act.views)?,
        None => max_prompt(&config, new_tokens),
    };
    Ok(BuildOptions {
        checkpoint: args.dir.clone(),
        output: args.output.clone(),
        targets: args.target.clone(),
        emit: args.emit.clone(),
        cache: args.cache.folder(),
        sources: false,
        dtype: args.dtype,
        quant,
        steps,
        eps: args.eps,
        alg,
        new_tokens,
        max_slots: args.max_slots,
        max_prompt,
        max_batch: args.max_batch.unwrap_or(if only_act { 1 } else { MAX_BATCH }),
        entries,
        warm: args.warm.clone(),
        image: args.image,
        act,
        lora: args.lora.clone(),
        allow_non_finite: args.allow_non_finite,
        candidates: args.candidates,
        verify_each: args.verify_each,
        without: args.without_pass.clone(),
        golden: args.golden.as_deref().map(cases).transpose()?,
    })
}

/// Recorded cases, as they are to be stored.
fn cases(path: &Path) -> Result<Golden, Failure> {
    let bytes = read_bounded(path)?;
    let Cases { source_hash, .. } = Cases::from_bytes(&bytes, &format!("`{}`", path.display()))?;
    Ok(Golden { bytes, source_hash })
}

/// Flags of `act` without `act` would be of no effect.
fn refuse_act(args: &Args) -> Result<ActOptions, Failure> {
    let given = [
        ("--mode", args.act.mode.is_some()),
        ("--views", args.act.views.is_some()),
        ("--chunk", args.act.chunk.is_some()),
        ("--proprio", args.act.proprio.is_some()),
        ("--stats", args.act.stats.is_some()),
        ("--unnorm-key", args.act.unnorm_key.is_some()),
        ("--heads", args.act.heads.is_some()),
        ("--flow-clock", args.act.flow_clock.is_some()),
        ("--only-action-ids", args.act.only_action_ids),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(
            format!("`{flag}` is about actions, but the artifact is to have no entry `act`"),
            "add `--entries act`, which checkpoints of Dream-VLA have, or leave the flag out",
        )),
        None => Ok(ActOptions::default()),
    }
}

fn act(args: &Args) -> Result<ActOptions, Failure> {
    let given = &args.act;
    let heads = given.heads.as_deref().unwrap_or(&args.dir);
    let mode = match &given.mode {
        Some(name) => Mode::from_name(name).unwrap_or(Mode::Discrete),
        None => {
            let mode = match find_head_kind(heads)? {
                None => Mode::Discrete,
                Some(HeadKind::L1) => Mode::L1,
                Some(HeadKind::Flow) => Mode::Flow,
                Some(HeadKind::Ddim) => Mode::Ddim,
            };
            let why = if mode == Mode::Discrete { "there is no action head" } else { "the head's own" };
            note(&format!("mode {} ({why}; give --mode)", mode.name()));
            mode
        }
    };
    let number = |flag: &str, given: Option<u32>, default: u32| {
        given.unwrap_or_else(|| {
            note(&format!("{flag} {default} (default; give --{flag})"));
            default
        })
    };
    Ok(ActOptions {
        mode,
        chunk: number("chunk", given.chunk, CHUNK),
        views: number("views", given.views, VIEWS),
        proprio: match given.proprio {
            Some(on) => on,
            None => {
                let on = HeadPart::ProprioProjector.is_in(heads)?;
                let why = if on { "there is a projector" } else { "there is no projector" };
                note(&format!("proprio {} ({why}; give --proprio)", if on { "on" } else { "off" }));
                on
            }
        },
        stats: given.stats.clone(),
        unnorm_key: given.unnorm_key.clone(),
        heads: given.heads.clone(),
        flow_clock: match &given.flow_clock {
            Some(_) if mode != Mode::Flow => {
                let message = format!("`--flow-clock` is of no effect in mode {}", mode.name());
                return Err(Failure::usage(message, "leave it out, or build with --mode flow"));
            }
            given => given.as_deref().and_then(FlowClock::from_name).unwrap_or(FlowClock::Reference),
        },
        only_action_ids: given.only_action_ids,
    })
}

/// Room for the images of an observation and a long task.
fn act_prompt(args: &Args, views: u32) -> Result<u32, Failure> {
    let [width, height] = args.image.unwrap_or([FRAME_SIDE; 2]);
    let tokens = match ImageProcessor::from_dir(&args.dir)? {
        Some(processor) => processor.grid(height, width, 1)?.tokens(),
        // The build says what is missing.
        None => 0,
    };
    let images = u32::try_from(tokens).unwrap_or(u32::MAX).saturating_mul(views);
    let words = words_around_task(&args.dir)?;
    let max_prompt = images.saturating_add(words).saturating_add(TASK);
    note(&format!(
        "max-prompt {max_prompt} ({views} images of {width}x{height} and a task of {TASK} tokens; give --max-prompt)"
    ));
    Ok(max_prompt)
}

/// Tokens of an action prompt besides images and task.
fn words_around_task(dir: &Path) -> Result<u32, Failure> {
    if !has_tokenizer(dir) {
        // The build says that there is none.
        return Ok(0);
    }
    let text = render(&[Message::action(0, "")], true);
    Ok(u32::try_from(Tokenizer::from_dir(dir)?.encode(&text)?.len()).unwrap_or(u32::MAX))
}

/// The default, or less where the model has no room for it.
fn max_prompt(config: &ModelConfig, new_tokens: u32) -> u32 {
    let longest = config.text.max_position_embeddings;
    let room = longest.saturating_sub(new_tokens.into()).max(1);
    let max_prompt = u32::try_from(room).map_or(MAX_PROMPT, |room| room.min(MAX_PROMPT));
    if max_prompt < MAX_PROMPT {
        note(&format!(
            "max-prompt {max_prompt} (default; max_position_embeddings {longest} less {new_tokens} new tokens)"
        ));
    }
    max_prompt
}
