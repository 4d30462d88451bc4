//! `dreamc export`: an artifact as a framework of robots opens it.

use super::act::GripperArg;
use super::build::size;
use super::device::open_to_read;
use super::error::Failure;
use super::output::{note, print};
use clap::Subcommand;
use dream::ActionSettings;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Size that LeRobot is told where an artifact takes images of any.
const SIDE: u32 = 224;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    to: To,
}

#[derive(Debug, Subcommand)]
enum To {
    /// A folder for LeRobot's `--policy.path`, read by the plugin `lerobot_policy_dream`
    Lerobot(LerobotArgs),
}

#[derive(Debug, clap::Args)]
struct LerobotArgs {
    /// Artifact that `dreamc build` wrote to act
    file: PathBuf,
    /// The folder, which must not exist or be empty
    dir: PathBuf,
    /// Cameras, in the policy's order: LeRobot has them as `observation.images.NAME` [default: image, image2, ..]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = view)]
    view: Vec<String>,
    /// What the robot is to do where LeRobot's environment does not say it
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// What the last number of an action means: libero makes it -1 (open) or 1 (close)
    #[arg(long, value_enum, default_value_t)]
    gripper: GripperArg,
    /// Actions of a chunk that are done before the policy is asked again [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n_action_steps: Option<u32>,
    /// Size of the images, where the artifact was not built for one [default: 224x224]
    #[arg(long, value_name = "WxH", value_parser = size)]
    image: Option<[u32; 2]>,
}

fn view(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !text.is_empty() && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("a name is of letters, digits, `_` and `-`".to_owned()),
    }
}

/// `config.json`, in the order in which it is written.
#[derive(Serialize)]
struct Config<'a> {
    r#type: &'static str,
    n_obs_steps: u32,
    input_features: Features,
    output_features: Features,
    /// Where LeRobot's tensors are.
    device: &'static str,
    use_amp: bool,
    push_to_hub: bool,
    artifact: &'a str,
    url: Option<&'static str>,
    token_file: Option<&'static str>,
    task: Option<&'a str>,
    chunk_size: u32,
    n_action_steps: u32,
    gripper: &'static str,
    seed: u64,
    threads: u32,
    runtime_device: &'static str,
}

/// Features in the order of the policy's inputs.
struct Features(Vec<(String, Feature)>);

#[derive(Serialize)]
struct Feature {
    r#type: &'static str,
    shape: Vec<u32>,
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, feature)| (name, feature)))
    }
}

/// The pipelines before and behind the policy. LeRobot's commands set the steps by name, so that these must be there.
#[derive(Serialize)]
struct Pipeline {
    name: &'static str,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    registry_name: &'static str,
    config: Value,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let To::Lerobot(args) = &args.to;
    let model = open_to_read(&args.file)?;
    let settings = model.settings().and_then(|settings| Some((settings, settings.actions.as_ref()?)));
    let Some((settings, actions)) = settings else {
        let entries = model.manifest().entries.join(", ");
        let message = format!("{} has no entry `act`, only {entries}", args.file.display());
        return Err(Failure::failed(message, "build a checkpoint of Dream-VLA with --entries act"));
    };
    let size = match (settings.images.size, args.image) {
        (Some(size), Some(given)) if size != given => {
            let message = format!(
                "--image is {}x{}, and the artifact was built for {}x{}",
                given[0], given[1], size[0], size[1]
            );
            return Err(Failure::usage(message, "leave --image out"));
        }
        (Some(size), _) | (None, Some(size)) => size,
        (None, None) => [SIDE, SIDE],
    };
    let steps = args.n_action_steps.unwrap_or(actions.chunk);
    if steps > actions.chunk {
        let message = format!("--n-action-steps is {steps}, and a chunk has {}", actions.chunk);
        return Err(Failure::usage(message, format!("give 1 to {}", actions.chunk)));
    }
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let config = Config {
        r#type: "dream",
        n_obs_steps: 1,
        input_features: inputs(&views(args, actions)?, size, actions),
        output_features: Features(vec![feature("action", "ACTION", &[actions.action_dim])]),
        device: "cpu",
        use_amp: false,
        push_to_hub: false,
        artifact: &name,
        url: None,
        token_file: None,
        task: args.task.as_deref(),
        chunk_size: actions.chunk,
        n_action_steps: steps,
        gripper: match args.gripper {
            GripperArg::None => "none",
            GripperArg::Libero => "libero",
        },
        seed: 0,
        threads: 0,
        runtime_device: "auto",
    };
    let dir = &args.dir;
    // Moved when it is whole, so that an interrupted run leaves none.
    let new = folder_for(dir)?;
    let copy = new.path().join(&name);
    fs::copy(&args.file, &copy).map_err(|error| Failure::io("copy the artifact to", &copy, &error))?;
    write(new.path(), "policy_preprocessor.json", &before())?;
    write(new.path(), "policy_postprocessor.json", &behind())?;
    write(new.path(), "config.json", &config)?;
    fs::rename(new.path(), dir).map_err(|error| Failure::io("move the folder to", dir, &error))?;
    // Nothing is left to remove.
    let _ = new.keep();
    note(&format!(
        "lerobot-eval --policy.path={} needs the plugin lerobot_policy_dream installed",
        dir.display()
    ));
    print(&format!("wrote {}\n", dir.display()))
}

fn views(args: &LerobotArgs, actions: &ActionSettings) -> Result<Vec<String>, Failure> {
    let number = |i: u32| if i == 0 { "image".to_owned() } else { format!("image{}", i + 1) };
    if args.view.is_empty() {
        return Ok((0..actions.views).map(number).collect());
    }
    if args.view.len() != actions.views as usize {
        let message =
            format!("--view names {} cameras, and the policy has {} views", args.view.len(), actions.views);
        return Err(Failure::usage(message, "name each once, third-person first"));
    }
    if let Some(twice) = args.view.iter().enumerate().find(|(i, name)| args.view[..*i].contains(name)) {
        return Err(Failure::usage(
            format!("--view names `{}` twice", twice.1),
            "name each once, third-person first",
        ));
    }
    Ok(args.view.clone())
}

fn feature(name: &str, kind: &'static str, shape: &[u32]) -> (String, Feature) {
    (name.to_owned(), Feature { r#type: kind, shape: shape.to_vec() })
}

fn inputs(views: &[String], [width, height]: [u32; 2], actions: &ActionSettings) -> Features {
    let image = |view: &String| feature(&format!("observation.images.{view}"), "VISUAL", &[3, height, width]);
    let state = actions.proprio_dim.map(|n| feature("observation.state", "STATE", &[n]));
    Features(views.iter().map(image).chain(state).collect())
}

fn to_device() -> Step {
    Step { registry_name: "device_processor", config: json!({"device": "cpu", "float_dtype": null}) }
}

fn before() -> Pipeline {
    let rename = Step { registry_name: "rename_observations_processor", config: json!({"rename_map": {}}) };
    let batch = Step { registry_name: "to_batch_processor", config: json!({}) };
    Pipeline { name: "policy_preprocessor", steps: vec![rename, batch, to_device()] }
}

fn behind() -> Pipeline {
    Pipeline { name: "policy_postprocessor", steps: vec![to_device()] }
}

/// A folder beside `dir`, which must not exist or be empty.
fn folder_for(dir: &Path) -> Result<TempDir, Failure> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => return Err(Failure::io("read", dir, &error)),
    };
    if !is_empty {
        let message = format!("{} is not empty", dir.display());
        return Err(Failure::failed(message, "name a folder that does not exist"));
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new();
    new.prefix(".dreamc-export-");
    // As other folders are; temporary ones are private.
    #[cfg(unix)]
    new.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755));
    new.tempdir_in(parent).map_err(|error| Failure::io("create a folder in", parent, &error))
}

fn write(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), Failure> {
    let path = dir.join(name);
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::of(&error))? + "\n";
    fs::write(&path, text).map_err(|error| Failure::io("write", &path, &error))
}
