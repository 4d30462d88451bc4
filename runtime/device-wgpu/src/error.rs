//! Why there is no device.

/// What installs an adapter where there is none.
pub const INSTALL: &str = "install the vendor's Vulkan driver, or for a software device on Debian and Ubuntu \
     `apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1`";

/// Why a device could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WgpuError {
    /// Nothing here runs WGSL.
    #[error("no WebGPU adapter on this machine; {INSTALL}")]
    NoAdapter,
    /// None of the adapters has the name asked for.
    #[error("no WebGPU adapter is called `{wanted}`; there are: {found}")]
    NoSuchAdapter {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The adapter has no 16 bit floats.
    #[error(
        "kernel `{kernel}` computes in f16, which `{adapter}` cannot; build with --dtype bf16 or f32, or choose another adapter"
    )]
    NoF16 {
        /// Name of the adapter.
        adapter: String,
        /// The first kernel that needs it.
        kernel: String,
    },
    /// The adapter's limits are too low.
    #[error(
        "kernel `{kernel}` needs {needed} {what}, `{adapter}` has {max}; choose another adapter or another target"
    )]
    Limit {
        /// Name of the adapter.
        adapter: String,
        /// The first kernel that needs more.
        kernel: String,
        /// Of what.
        what: &'static str,
        /// What it needs.
        needed: u64,
        /// What the adapter has.
        max: u64,
    },
    /// Code that is not WGSL.
    #[error("kernel `{kernel}` is not WGSL; build with --target wgpu")]
    Form {
        /// Name of the kernel.
        kernel: String,
    },
    /// The driver gave no device.
    #[error(
        "`{adapter}` gives no device: {error}; free its memory, update its driver or choose another adapter"
    )]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// What the driver said.
        error: String,
    },
}
