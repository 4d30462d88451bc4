//! Why there is no device.

/// Why a device could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetalError {
    /// Not an Apple system.
    #[error(
        "Metal exists on Apple systems only; run on one, or build for another target, such as --target wgpu or cpu"
    )]
    NotApple,
    /// An Apple system without a GPU.
    #[error("no Metal device on this machine; build with --target cpu")]
    NoDevice,
    /// None of the devices has the name asked for.
    #[error("no Metal device is called `{wanted}`; there are: {found}")]
    NoSuchDevice {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The device's limits are too low.
    #[error(
        "kernel `{kernel}` needs {needed} {what}, `{device}` has {max}; choose another device or another target"
    )]
    Limit {
        /// Name of the device.
        device: String,
        /// The first kernel that needs more.
        kernel: String,
        /// Of what.
        what: &'static str,
        /// What it needs.
        needed: u64,
        /// What the device has.
        max: u64,
    },
    /// Code that is not MSL.
    #[error("kernel `{kernel}` is not MSL; build with --target metal")]
    Form {
        /// Name of the kernel.
        kernel: String,
    },
    /// The driver gave no queue.
    #[error("`{device}` gives no queue for commands; close programs that use it and try again")]
    Open {
        /// Name of the device.
        device: String,
    },
}
