//! What the driver found wrong. Nobody waits for its answers: the first fault is kept until somebody asks.

use std::sync::{Arc, Mutex, PoisonError};

/// A fault of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Memory could not be had.
    OutOfMemory,
    /// Anything else, in its words.
    Other(String),
}

/// The first fault since it was last asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<Option<Fault>>>);

impl Faults {
    /// Listens to `device`. Without a listener wgpu would panic.
    pub(crate) fn of(device: &wgpu::Device) -> Faults {
        let faults = Faults::default();
        let errors = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| match error {
            wgpu::Error::OutOfMemory { .. } => errors.put(Fault::OutOfMemory),
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                errors.put(Fault::Other(description));
            }
        }));
        let lost = faults.clone();
        device.set_device_lost_callback(move |reason, text| {
            // Dropping the device ends it as well.
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost.put(Fault::Other(format!("the device is lost: {text}")));
            }
        });
        faults
    }

    /// Keeps a fault, unless there is one.
    pub(crate) fn put(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    /// The fault, which is forgotten.
    pub(crate) fn take(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Faults};

    #[test]
    fn the_first_fault_counts() {
        let faults = Faults::default();
        faults.put(Fault::OutOfMemory);
        faults.put(Fault::Other("what follows from it".to_owned()));
        assert_eq!(faults.take(), Some(Fault::OutOfMemory));
        assert_eq!(faults.take(), None);
    }
}
