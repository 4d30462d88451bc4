//! `dreamc act`: an observation to a chunk of actions.

use super::device::{DeviceArgs, failure};
use super::error::Failure;
use super::output::{Format, note, print, print_json};
use super::run::{SamplingArgs, images};
use clap::ValueEnum;
use dream::action::Gripper;
use dream::{ActOptions, Actions, Image, Observation, Policy, camera};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote from a checkpoint of Dream-VLA
    file: PathBuf,
    /// What the robot is to do, as it is to be asked: `pick up the red block`
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    task: String,
    /// Its views, third-person first: PNG or JPEG
    #[arg(long, value_name = "IMAGE", required = true)]
    image: Vec<PathBuf>,
    /// Its state in its own units
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', allow_hyphen_values = true)]
    proprio: Option<Vec<f64>>,
    /// Noise that flow and DDIM start from, a tensor `noise` [1, chunk, action_dim] [default: drawn from the seed]
    #[arg(long, value_name = "FILE.safetensors")]
    noise: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// What is done to the images first: libero rotates, compresses, resizes and crops as the LIBERO evaluation does
    #[arg(long, value_enum, default_value_t)]
    camera: Camera,
    /// What the last number of an action means: libero makes it -1 (open) or 1 (close)
    #[arg(long, value_enum, default_value_t)]
    gripper: GripperArg,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Camera {
    #[default]
    None,
    Libero,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GripperArg {
    #[default]
    None,
    Libero,
}

/// What `--format json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    actions: &'a [Vec<f64>],
    normalized_actions: &'a [Vec<f64>],
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<&'a [i32]>,
    forwards: u32,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let noise = args.noise.as_deref().map(read_noise).transpose()?;
    let mut images = images(&args.image)?;
    if args.camera == Camera::Libero {
        // The evaluation of the released training crops; a model trained without is none of them.
        images.iter_mut().for_each(|image| *image = camera::libero(image, true));
    }
    let mut policy = Policy::of(args.device.open(&args.file)?).map_err(failure)?;
    let noise = noise.map(|given| of_shape(given, &policy)).transpose()?;
    let mut chunk = act(args, &mut policy, &images, noise)?;
    if args.gripper == GripperArg::Libero {
        let dim = policy.settings().action_dim as usize;
        chunk.actions.iter_mut().for_each(|action| Gripper::Libero.apply(action, dim));
    }
    if chunk.outside > 0 {
        let ids = chunk.token_ids.as_ref().map_or(0, Vec::len);
        note(&format!(
            "warning: {} of {ids} tokens are no action tokens and were read as the nearest; build with --only-action-ids to rule that out",
            chunk.outside
        ));
    }
    match args.format {
        Format::Json => print_json(&Answer {
            actions: &chunk.actions,
            normalized_actions: &chunk.normalized,
            token_ids: chunk.token_ids.as_deref(),
            forwards: chunk.forwards,
        }),
        Format::Text => {
            let row =
                |action: &Vec<f64>| action.iter().map(|a| format!("{a:.6}")).collect::<Vec<_>>().join(" ");
            print(&chunk.actions.iter().map(|action| row(action) + "\n").collect::<String>())
        }
    }
}

fn act(
    args: &Args,
    policy: &mut Policy,
    images: &[Image],
    noise: Option<Vec<f32>>,
) -> Result<Actions, Failure> {
    let observation = Observation { images, task: &args.task, proprio: args.proprio.as_deref() };
    let options = ActOptions { sampling: args.sampling.sampling(), noise };
    if let Ok(tokens) = policy.prompt_tokens(&observation) {
        tracing::info!("the prompt has {tokens} tokens, as --max-prompt and --warm count them");
    }
    policy.act(&observation, &options).map_err(failure)
}

/// Noise of the policy's shape. A policy that starts from none says so itself.
fn of_shape((shape, noise): (Vec<usize>, Vec<f32>), policy: &Policy) -> Result<Vec<f32>, Failure> {
    let settings = policy.settings();
    let wanted = [1, settings.chunk as usize, settings.action_dim as usize];
    if shape == wanted {
        return Ok(noise);
    }
    let help = format!("write a float32 tensor `noise` {wanted:?}");
    Err(Failure::failed(format!("the noise is {shape:?}, and the policy's is {wanted:?}"), help))
}

/// The tensor `noise` of a file, with its shape.
fn read_noise(path: &Path) -> Result<(Vec<usize>, Vec<f32>), Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    let help = "write a float32 tensor `noise` [1, chunk, action_dim] with the safetensors library";
    let wrong = |what: String| Failure::failed(format!("`{}` {what}", path.display()), help);
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| wrong("is no safetensors file".to_owned()).because(error))?;
    let noise = file.tensor("noise").map_err(|_| wrong("has no tensor `noise`".to_owned()))?;
    if noise.dtype() != Dtype::F32 {
        return Err(wrong(format!("holds `noise` as {:?}", noise.dtype())));
    }
    let data = noise.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Ok((noise.shape().to_vec(), data))
}
