//! What is served, as every protocol describes it.

use crate::opened::Opened;
use crate::refusal::Refusal;
use dream::Policy;
use serde::Serialize;
use std::collections::BTreeMap;

/// What is served. As JSON it is what `GET /card` answers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Card {
    /// The file's stem.
    pub(crate) name: String,
    /// Of the server.
    pub(crate) version: &'static str,
    /// When the file was last changed, in seconds since 1970.
    pub(crate) created: u64,
    /// Of all that the file holds.
    #[serde(rename = "artifact_blake3")]
    pub(crate) hash: String,
    /// What runs it, in words.
    pub(crate) device: String,
    /// Which of the artifact's targets that is.
    pub(crate) target: String,
    pub(crate) variant: String,
    /// What it can be asked for.
    pub(crate) entries: Vec<String>,
    pub(crate) steps: u32,
    /// How it was built.
    pub(crate) options: BTreeMap<String, String>,
    /// Whether a run can be stopped between steps.
    pub(crate) stops: bool,
    policy: Option<PolicyCard>,
    chat: Option<ChatCard>,
}

/// What a policy takes and gives.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PolicyCard {
    pub(crate) mode: String,
    pub(crate) chunk: u32,
    pub(crate) action_dim: u32,
    pub(crate) views: u32,
    pub(crate) proprio_dim: Option<u32>,
    pub(crate) unnorm_key: String,
    /// Width and height of all images, if the artifact was built for one size.
    pub(crate) image_size: Option<[u32; 2]>,
    /// Whether it starts from noise.
    pub(crate) noisy: bool,
}

/// What a model that generates takes and gives.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ChatCard {
    pub(crate) new_tokens: u32,
    pub(crate) max_prompt: u32,
    /// Whether it takes images.
    pub(crate) sees: bool,
    pub(crate) alg: String,
    pub(crate) eps: f32,
}

impl Card {
    pub(crate) fn of(name: String, created: u64, opened: &Opened) -> Card {
        let model = opened.model();
        let manifest = model.manifest();
        let built = &manifest.model;
        let target = model.target().unwrap_or_default();
        Card {
            name,
            version: env!("CARGO_PKG_VERSION"),
            created,
            hash: hex(&model.artifact().root_hash()),
            device: model.device().unwrap_or_default().to_owned(),
            target: target.to_owned(),
            variant: built.variant.clone(),
            entries: manifest.entries.clone(),
            steps: built.steps,
            options: manifest.options.clone(),
            stops: target == "cpu",
            policy: match opened {
                Opened::Policy(policy) => Some(PolicyCard::of(policy)),
                Opened::Model(_) => None,
            },
            chat: manifest.entries.iter().any(|entry| entry == "generate").then(|| ChatCard {
                new_tokens: built.new_tokens,
                max_prompt: built.max_prompt,
                sees: model.settings().is_some(),
                alg: built.alg.clone(),
                eps: built.eps,
            }),
        }
    }

    /// # Errors
    ///
    /// Where the artifact does not act.
    pub(crate) fn policy(&self) -> Result<&PolicyCard, Refusal> {
        self.policy.as_ref().ok_or_else(|| Refusal::no_entry("act", &self.entries))
    }

    /// # Errors
    ///
    /// Where the artifact generates nothing.
    pub(crate) fn chat(&self) -> Result<&ChatCard, Refusal> {
        self.chat.as_ref().ok_or_else(|| Refusal::no_entry("generate", &self.entries))
    }

    #[cfg(test)]
    pub(crate) fn of_policy(policy: PolicyCard) -> Card {
        Card { name: "policy".into(), steps: 4, policy: Some(policy), ..Card::default() }
    }

    #[cfg(test)]
    pub(crate) fn of_chat(chat: ChatCard) -> Card {
        Card { name: "text".into(), steps: 4, chat: Some(chat), ..Card::default() }
    }
}

impl PolicyCard {
    fn of(policy: &Policy) -> PolicyCard {
        let settings = policy.settings();
        PolicyCard {
            mode: settings.mode.name().to_owned(),
            chunk: settings.chunk,
            action_dim: settings.action_dim,
            views: settings.views,
            proprio_dim: settings.proprio_dim,
            unnorm_key: settings.statistics.key().to_owned(),
            image_size: policy.model().settings().and_then(|settings| settings.images.size),
            noisy: settings.mode.is_continuous_loop(),
        }
    }

    /// `[chunk, action_dim]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.chunk as usize, self.action_dim as usize]
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
