//! What `act` needs beside the model: statistics, heads, action tokens.

use super::{BuildError, BuildOptions};
use dream::Tokenizer;
use dreamc_front::action::{ActionTokens, BoundsKind, Statistics};
use dreamc_front::action::{STATISTICS_FILE, StatisticsFile};
use dreamc_front::settings::ActionSettings;
use dreamc_frontend::clock::{ddim, flow_times};
use dreamc_frontend::vla::{Act, Integrator, Mode};
use dreamc_frontend::{ACTION_TOKENS, HeadKind, HeadRequest, HeadSet, ModelConfig};

/// What ends a training sequence, as text.
const SUFFIX: &str = "<|im_end|>\n";

/// What was found for `act`.
pub(super) struct Acting {
    pub(super) graph: Act,
    pub(super) settings: ActionSettings,
    pub(super) heads: HeadSet,
}

impl Acting {
    /// Tokens that follow the prompt: the slots and the suffix.
    pub(super) fn new_tokens(&self) -> u64 {
        self.graph.chunk * self.graph.action_dim + self.settings.suffix.len() as u64
    }
}

/// Finds and checks all that `act` needs.
pub(super) fn acting(
    options: &BuildOptions,
    config: &ModelConfig,
    tokenizer: Option<&Tokenizer>,
) -> Result<Acting, BuildError> {
    let act = &options.act;
    let tokenizer = tokenizer.ok_or(BuildError::ActWithoutTokenizer)?;
    let statistics = statistics(options, config)?;
    let action_dim = statistics.action().width();
    let proprio_dim = match (act.proprio, statistics.proprio()) {
        (false, _) => None,
        (true, Some(bounds)) => Some(bounds.width() as u64),
        (true, None) => return Err(BuildError::NoProprioStatistics { key: statistics.key().to_owned() }),
    };
    let request = HeadRequest {
        kind: match act.mode {
            Mode::Discrete | Mode::OneStep => None,
            Mode::L1 => Some(HeadKind::L1),
            Mode::Flow => Some(HeadKind::Flow),
            Mode::Ddim => Some(HeadKind::Ddim),
        },
        action_dim: action_dim as u64,
        proprio_dim,
        l1_as_ddim: false,
    };
    let heads = HeadSet::open(heads_dir(options), config.text.hidden_size, &request)?;
    let tokens = ActionTokens::from_tokenizer(tokenizer)?;
    let suffix: Vec<i32> = tokenizer.encode(SUFFIX)?.into_iter().map(|id| id as i32).collect();
    let suffix = suffix.try_into().map_err(|ids: Vec<i32>| BuildError::Suffix { found: ids.len() })?;
    let integrator = match act.mode {
        Mode::Discrete | Mode::OneStep | Mode::L1 => None,
        Mode::Flow => {
            let times = flow_times(options.steps, act.flow_clock).ok_or_else(|| BuildError::Option {
                option: "--steps",
                found: options.steps.to_string(),
                expected: "fewer with the reference's clock, which cannot take such short steps; or give --flow-clock exact".to_owned(),
            })?;
            Some(Integrator::Euler { times, dt: 1.0 / options.steps as f32 })
        }
        Mode::Ddim => {
            let (times, alphas) = ddim(options.steps);
            Some(Integrator::Ddim { times, alphas })
        }
    };
    let graph = Act {
        mode: act.mode,
        chunk: act.chunk.into(),
        action_dim: action_dim as u64,
        proprio_dim,
        kept: act.only_action_ids.then(|| (tokens.first() as u64, ACTION_TOKENS)),
        integrator,
    };
    let settings = ActionSettings {
        mode: act.mode,
        chunk: act.chunk,
        action_dim: action_dim as u32,
        views: act.views,
        proprio_dim: proprio_dim.map(|n| n as u32),
        tokens,
        suffix,
        statistics,
    };
    Ok(Acting { graph, settings, heads })
}

/// Where heads are looked for.
pub(super) fn heads_dir(options: &BuildOptions) -> &std::path::Path {
    options.act.heads.as_deref().unwrap_or(&options.checkpoint)
}

/// The statistics that are given, those beside the checkpoint, or those in its config, in this order.
fn statistics(options: &BuildOptions, config: &ModelConfig) -> Result<Statistics, BuildError> {
    let beside = options.checkpoint.join(STATISTICS_FILE);
    let file = match &options.act.stats {
        Some(path) => {
            let missing = || BuildError::NoStatistics { place: path.clone() };
            StatisticsFile::read(path)?.ok_or_else(missing)?
        }
        None => {
            let stored = config.action.as_ref().and_then(|a| a.norm_stats.clone());
            match (StatisticsFile::read(&beside)?, stored) {
                (Some(file), _) => file,
                (None, Some(map)) => StatisticsFile::from_map(map, "norm_stats of config.json")?,
                (None, None) => return Err(BuildError::NoStatistics { place: beside }),
            }
        }
    };
    Ok(file.choose(options.act.unnorm_key.as_deref(), BoundsKind::Quantiles, None, None)?)
}
