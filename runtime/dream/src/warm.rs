//! Runs that are recorded when a model is opened: the lengths that a user names, and what a program has of them.
//!
//! A length is that of a prompt in tokens, with those of its images: what `--max-prompt` bounds, `dreamc tokenize` counts
//! and [`Policy::prompt_tokens`](crate::Policy::prompt_tokens) tells. What a request has beside it follows from the
//! artifact: one row, all slots open, and the images that the artifact was built for.

use crate::engine::SLOTS;
use crate::generate::ENTRY as GENERATE;
use crate::policy::ENTRY as ACT;
use crate::{Error, Manifest};
use dreamc_artifact::plan::Program;
use dreamc_front::Settings;
use dreamc_front::settings::{ActionSettings, ImageSettings, Mode};

/// Most lengths that can be named: as many recordings as a device keeps.
pub const WARM_COUNT_MAX: usize = dreamc_device_cuda::GRAPH_COUNT_MAX;

/// Side of a robot's camera frames in pixels, where the artifact takes any.
const FRAME_SIDE: u32 = 224;

/// Refuses lengths that no prompt of the artifact has.
pub(crate) fn check(warm: &[u32], manifest: &Manifest) -> Result<(), Error> {
    let max = manifest.model.max_prompt;
    if warm.len() > WARM_COUNT_MAX {
        return Err(Error::WarmCount { found: warm.len(), max: WARM_COUNT_MAX });
    }
    match warm.iter().find(|length| !(1..=max).contains(*length)) {
        Some(found) => Err(Error::Warm { found: *found, max }),
        None => Ok(()),
    }
}

/// The entry whose runs are recorded when the artifact is opened.
pub(crate) fn entry(manifest: &Manifest) -> Option<&'static str> {
    [ACT, GENERATE].into_iter().find(|entry| manifest.entries.iter().any(|e| e == entry))
}

/// The lengths of a request of a prompt that long, by symbol; nothing for programs that are not recorded ahead.
pub(crate) fn lengths(
    manifest: &Manifest,
    settings: Option<&Settings>,
    program: &Program,
    prompt: u32,
) -> Option<[(&'static str, u32); 4]> {
    let images = settings.map(|settings| &settings.images);
    let (behind, slots, image_tokens) = match program.name.as_str() {
        GENERATE => {
            let new = manifest.model.new_tokens;
            // Without a size nobody knows how many tokens an image has, and a request may have none.
            let sized = images.filter(|images| images.size.is_some());
            (new, new, sized.map_or(1, |images| tokens(images, 1)))
        }
        ACT => {
            let actions = settings?.actions.as_ref()?;
            let behind = actions.chunk.checked_mul(actions.action_dim)?.checked_add(suffix(actions))?;
            let slots = if actions.mode == Mode::Discrete { behind } else { 1 };
            (behind, slots, images.map_or(1, |images| tokens(images, actions.views)))
        }
        _ => return None,
    };
    let most = program.symbols.iter().find(|symbol| symbol.name == SLOTS).map_or(slots, |symbol| symbol.max);
    Some([("B", 1), ("S", prompt.checked_add(behind)?), ("M", image_tokens), (SLOTS, slots.min(most))])
}

fn suffix(actions: &ActionSettings) -> u32 {
    actions.suffix.len() as u32
}

/// Tokens of so many images, all of the artifact's size, or of a robot's camera.
fn tokens(images: &ImageSettings, count: u32) -> u32 {
    let [width, height] = images.size.unwrap_or([FRAME_SIDE; 2]);
    let one = images.processor.grid(height, width, 1).map_or(1, |grid| grid.tokens());
    let all = u32::try_from(one).unwrap_or(u32::MAX).saturating_mul(count);
    all.clamp(1, images.tokens_max.max(1))
}
