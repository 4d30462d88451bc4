//! Opens an artifact and runs it: the embedding interface of the runtime.
//!
//! ```no_run
//! use dream::{Generate, Model, OpenOptions};
//!
//! let mut model = Model::open("sudoku.dream".as_ref(), &OpenOptions::default())?;
//! let prompt = model.encode("3014010200002001\n")?;
//! let request = Generate { prompt: vec![prompt], ..Generate::default() };
//! let generated = model.generate(&request, &mut |_, _| true)?;
//! println!("{}", model.answers(&generated)?[0]);
//! # Ok::<(), dream::Error>(())
//! ```

mod contract;
mod device;
mod engine;
mod error;
mod finite;
mod fit;
mod forward;
mod generate;
mod map;
mod model;
mod policy;
mod status;
mod tune;
mod visual;
mod warm;

pub use device::{DeviceChoice, DeviceKind};
pub use dreamc_artifact::{Manifest, Timed, Tuned, TunedChoice};
pub use dreamc_device_cpu::Isa;
pub use dreamc_front::image::{Grid, Image, ImageError, Patches};
pub use dreamc_front::settings::{ActionSettings, ImageSettings, Mode};
pub use dreamc_front::{Settings, Tokenizer, action, camera, chat};
pub use dreamc_runtime::{Done, Observer, Operand, Read, Shape, Shown};
pub use error::Error;
pub use finite::NotFinite;
pub use forward::{Forward, Output};
pub use generate::{Generate, Generated, Sampling, Step};
pub use model::{Model, OpenOptions, verify};
pub use policy::{ActOptions, Actions, Observation, Policy};
pub use status::Status;
pub use tune::{Held, limit};
pub use visual::Visual;
pub use warm::WARM_COUNT_MAX;
