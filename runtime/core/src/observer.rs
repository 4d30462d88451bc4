//! Who looks at a run: progress, probes, replay.

use crate::device::Shape;
use alloc::vec::Vec;
use dreamc_artifact::plan::Dispatch;
use dreamc_num::DType;

/// One result of a dispatch, shown to an [`Observer`].
#[derive(Debug)]
pub struct Shown<'a> {
    /// What was computed.
    pub dispatch: &'a Dispatch,
    /// Which of its results.
    pub result: usize,
    /// Denoising step, 0 outside of a loop.
    pub step: u32,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// The elements, little-endian; changes are written back.
    pub bytes: &'a mut Vec<u8>,
}

/// Watches a run: progress, probes, and replay of recorded random draws.
pub trait Observer {
    /// Whether it has a use for being called at all; if not, a device may do a whole run by itself.
    fn watches(&self) -> bool {
        true
    }

    /// Whether to show the results of this dispatch.
    fn wants(&self, _dispatch: &Dispatch) -> bool {
        false
    }

    /// Called with each result that is wanted.
    fn after(&mut self, _shown: Shown<'_>) {}

    /// Called after each pass, which is a denoising step or the whole of a program without a loop; `false` stops the run.
    fn step(&mut self, _done: u32, _steps: u32) -> bool {
        true
    }
}

impl Observer for () {
    fn watches(&self) -> bool {
        false
    }
}
