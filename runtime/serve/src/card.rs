//! What is served, as every protocol describes it.

use dream::Policy;

/// What is served.
#[derive(Clone, Debug)]
pub(crate) struct Card {
    /// The file's stem.
    pub(crate) name: String,
    pub(crate) steps: u32,
    pub(crate) device: String,
    /// Of all that the file holds.
    pub(crate) hash: String,
    pub(crate) policy: PolicyCard,
}

/// What a policy takes and gives.
#[derive(Clone, Debug)]
pub(crate) struct PolicyCard {
    pub(crate) chunk: u32,
    pub(crate) action_dim: u32,
    pub(crate) views: u32,
    pub(crate) proprio_dim: Option<u32>,
    pub(crate) unnorm_key: String,
    /// Width and height of all images, if the artifact was built for one size.
    pub(crate) image_size: Option<[u32; 2]>,
    /// Whether it starts from noise.
    pub(crate) noisy: bool,
    /// Whether a run can be stopped between steps.
    pub(crate) stops: bool,
}

impl Card {
    pub(crate) fn of(name: &str, policy: &Policy) -> Card {
        let (model, settings) = (policy.model(), policy.settings());
        Card {
            name: name.to_owned(),
            steps: policy.manifest().model.steps,
            device: model.device().unwrap_or_default().to_owned(),
            hash: hex(&model.artifact().root_hash()),
            policy: PolicyCard {
                chunk: settings.chunk,
                action_dim: settings.action_dim,
                views: settings.views,
                proprio_dim: settings.proprio_dim,
                unnorm_key: settings.statistics.key().to_owned(),
                image_size: model.settings().and_then(|settings| settings.images.size),
                noisy: settings.mode.is_continuous_loop(),
                stops: model.target() == Some("cpu"),
            },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
