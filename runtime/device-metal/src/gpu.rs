//! What can run MSL on this machine, and which of it is taken.

use crate::error::MetalError;
use std::fmt;

/// One device of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As the driver spells it.
    pub name: String,
    /// `integrated`, `discrete` or `external`.
    pub kind: &'static str,
    /// Whether its memory is the host's. If not, kernels read all that they need over the bus.
    pub unified: bool,
    /// Most bytes of a buffer: of the arena, and of a weight.
    pub buffer_bytes_max: u64,
    /// Most bytes of all buffers together that the driver recommends; 0 where it does not say.
    pub memory_bytes_max: u64,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = if self.unified { "unified memory" } else { "memory of its own" };
        write!(f, "{} ({}, {memory}", self.name, self.kind)?;
        if self.memory_bytes_max > 0 {
            write!(f, ", {:.1} GiB to use", self.memory_bytes_max as f64 / f64::from(1 << 30))?;
        }
        write!(f, ")")
    }
}

/// The first of `found` whose name contains `wanted`, whatever the case, or the first of all.
pub(crate) fn pick<T>(found: Vec<(Gpu, T)>, wanted: Option<&str>) -> Result<(Gpu, T), MetalError> {
    if found.is_empty() {
        return Err(MetalError::NoDevice);
    }
    let names: Vec<String> = found.iter().map(|(gpu, _)| format!("`{}`", gpu.name)).collect();
    let fits = |name: &str| wanted.is_none_or(|w| name.to_lowercase().contains(&w.to_lowercase()));
    found.into_iter().find(|(gpu, _)| fits(&gpu.name)).ok_or_else(|| MetalError::NoSuchDevice {
        wanted: wanted.unwrap_or_default().to_owned(),
        found: names.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str) -> (Gpu, u32) {
        let (kind, memory_bytes_max) = ("integrated", 3 << 29);
        (Gpu { name: name.to_owned(), kind, unified: true, buffer_bytes_max: 1 << 30, memory_bytes_max }, 7)
    }

    #[test]
    fn described() {
        let (mut gpu, _) = gpu("Apple M2");
        assert_eq!(gpu.to_string(), "Apple M2 (integrated, unified memory, 1.5 GiB to use)");
        (gpu.kind, gpu.unified, gpu.memory_bytes_max) = ("discrete", false, 0);
        assert_eq!(gpu.to_string(), "Apple M2 (discrete, memory of its own)");
    }

    #[test]
    fn picked_by_a_part_of_its_name() {
        let all = || vec![gpu("AMD Radeon Pro"), gpu("Intel Iris")];
        assert_eq!(pick(all(), None).unwrap().0.name, "AMD Radeon Pro");
        assert_eq!(pick(all(), Some("iris")).unwrap(), gpu("Intel Iris"));
        assert_eq!(
            pick(all(), Some("abacus")).unwrap_err().to_string(),
            "no Metal device is called `abacus`; there are: `AMD Radeon Pro`, `Intel Iris`"
        );
        assert_eq!(pick(Vec::<(Gpu, ())>::new(), Some("iris")), Err(MetalError::NoDevice));
    }
}
