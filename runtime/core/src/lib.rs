//! Loads a plan and steps through it on a device.
#![no_std]
extern crate alloc;

mod candidates;
pub mod canvas;
pub mod device;
mod launch;
pub mod launches;
pub mod observer;
mod run;
mod size;
mod slots;
pub mod stepper;

pub use candidates::{Chosen, Unfolded, chosen, unfolded};
pub use canvas::{Canvas, CanvasError};
pub use device::{Device, DeviceError, Memory, Operand, Shape, WeightView};
pub use launch::{Grid, operand};
pub use launches::{Active, Launches, UNSOUND};
pub use observer::{Done, Observer, Read, Shown};
pub use size::Size;
pub use stepper::{StepError, Stepper};
