//! `dreamc serve`: an artifact behind the protocols that robots and chat clients already speak.

use super::act;
use super::device::{DeviceArgs, failure};
use super::error::Failure;
use super::output::note;
use dream_serve::{Camera, Gripper, Keys, Options, ServeError, Server};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Artifact that `dreamc build` wrote to act or to generate
    file: PathBuf,
    /// Address and port to listen on; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// File with the token that requests must bring; needed where other machines can ask
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Requests that may wait; beyond, they are refused with 429
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    queue: u16,
    /// Longest time from a request to its answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Answers that take longer count as late in the metrics, in milliseconds [default: none does]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=86_400_000))]
    late_after: Option<u32>,
    /// What is done to the images first: libero does what OpenVLA-OFT's server does, JPEG and a resize where they are not
    /// 224x224, and a crop
    #[arg(long, value_enum, default_value_t)]
    camera: act::Camera,
    /// What the last number of an action means: libero makes it -1 (open) or 1 (close)
    #[arg(long, value_enum, default_value_t)]
    gripper: act::GripperArg,
    /// Fields of openpi's requests: `view0=KEY,view1=KEY,state=KEY,task=KEY,ignore=KEY`
    #[arg(long, value_name = "NAME=KEY,..", value_parser = Keys::parse)]
    keys: Option<Keys>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let options = Options {
        listen: args.listen,
        token_file: args.token_file.clone(),
        queue: args.queue.into(),
        timeout: Duration::from_secs(args.timeout.into()),
        late_after: args.late_after.map(|ms| Duration::from_millis(ms.into())),
        camera: match args.camera {
            act::Camera::None => Camera::None,
            act::Camera::Libero => Camera::Libero,
        },
        gripper: match args.gripper {
            act::GripperArg::None => Gripper::None,
            act::GripperArg::Libero => Gripper::Libero,
        },
        keys: args.keys.clone().unwrap_or_default(),
        open: args.device.options(),
    };
    let server = Server::open(&args.file, options).map_err(|error| match error {
        ServeError::Open(error) => failure(error),
        error @ ServeError::Unprotected(_) => Failure::of(&error).into_usage(),
        error => Failure::of(&error),
    })?;
    let stop = server.stop();
    if let Err(error) = ctrlc::set_handler(move || stop.stop()) {
        note(&format!("warning: an interrupt will end the server at once: {error}"));
    }
    note(&format!("serving {} on http://{} ({})", args.file.display(), server.address(), server.device()));
    server.run();
    note("stopped");
    Ok(())
}
