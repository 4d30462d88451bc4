//! An observation as every protocol of actions gives it, and the chunk that answers it.

use crate::card::PolicyCard;
use crate::refusal::Refusal;
use crate::server::Served;
use crate::worker::Gone;
use dream::{ActOptions, Actions, Image, Observation, Observer, camera};
use std::time::{Duration, Instant};

/// What is done to images before the model sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Camera {
    /// Nothing.
    #[default]
    None,
    /// What OpenVLA-OFT's server does to images that its client has turned: JPEG and a resize where they are not 224x224, and
    /// a crop.
    Libero,
}

impl Camera {
    fn prepared(self, image: Image) -> Image {
        const SIDE: u32 = camera::LIBERO_SIDE;
        match self {
            Camera::None => image,
            Camera::Libero if (image.width(), image.height()) == (SIDE, SIDE) => camera::center_crop(&image),
            Camera::Libero => {
                let stored = camera::jpeg_round_trip(&image);
                camera::center_crop(&camera::resize_lanczos3(&stored, SIDE, SIDE))
            }
        }
    }
}

/// What a robot sees and is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) images: Vec<Image>,
    pub(crate) task: String,
    pub(crate) state: Option<Vec<f64>>,
    pub(crate) seed: u64,
    pub(crate) noise: Option<Vec<f32>>,
}

/// A chunk, and how long the model took for it.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) chunk: Actions,
    pub(crate) took: Duration,
}

/// Asks the policy.
///
/// # Errors
///
/// Where the observation is not what it takes, or the model cannot be asked.
pub(crate) async fn act(served: &Served, asked: Asked) -> Result<Answered, Refusal> {
    let policy = served.card.policy()?;
    if asked.images.len() != policy.views as usize {
        let found = format!("{} images were found", asked.images.len());
        return Err(Refusal::field("images", found, &format!("{} views, third-person first", policy.views)));
    }
    let (camera, gripper, stops) = (served.camera, served.gripper, served.card.stops);
    let columns = policy.action_dim as usize;
    served
        .queue
        .ask(move |opened, gone| {
            let start = Instant::now();
            let policy = opened.policy()?;
            let images: Vec<Image> = asked.images.into_iter().map(|image| camera.prepared(image)).collect();
            let observation =
                Observation { images: &images, task: &asked.task, proprio: asked.state.as_deref() };
            let mut options = ActOptions { noise: asked.noise, ..ActOptions::default() };
            options.sampling.seed = asked.seed;
            let mut watch = StopWatch { gone: gone.clone(), stops };
            let mut chunk = policy.act_with(&observation, &options, &mut watch)?;
            chunk.actions.iter_mut().for_each(|action| gripper.apply(action, columns));
            Ok(Answered { chunk, took: start.elapsed() })
        })
        .await
}

/// Stops a run between two steps where nobody waits for it. Devices that replay what they recorded are not watched.
pub(crate) struct StopWatch {
    pub(crate) gone: Gone,
    pub(crate) stops: bool,
}

impl Observer for StopWatch {
    fn watches(&self) -> bool {
        self.stops
    }

    fn step(&mut self, _: u32, _: u32) -> bool {
        !self.gone.is()
    }
}

/// The state that a policy takes, which came as `name`: it must be given where it does, and is passed over where it does not.
///
/// # Errors
///
/// Names the field.
pub(crate) fn state_of(
    policy: &PolicyCard,
    name: &str,
    given: Option<Vec<f64>>,
) -> Result<Option<Vec<f64>>, Refusal> {
    match (given, policy.proprio_dim) {
        (_, None) => Ok(None),
        (None, Some(n)) => Err(Refusal::missing(name, &format!("{n} numbers, in the robot's own units"))),
        (Some(state), Some(n)) if state.len() != n as usize => {
            let found = format!("it has {} numbers", state.len());
            Err(Refusal::field(name, found, &format!("{n} numbers, in the robot's own units")))
        }
        (state, Some(_)) => Ok(state),
    }
}
