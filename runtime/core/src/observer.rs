//! Who looks at a run: progress, probes, replay.

use crate::device::{Operand, Shape};
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

/// The first operand of a dispatch that is about to run, shown to an [`Observer`].
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// What is to be computed.
    pub dispatch: &'a Dispatch,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// The elements, little-endian.
    pub bytes: &'a [u8],
    /// All values of the program at this request's lengths, by id.
    pub operands: &'a [Operand],
}

/// A dispatch that is done, told to an [`Observer`] that times.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    /// What was computed.
    pub dispatch: &'a Dispatch,
    /// Counts the program's dispatches as they stand, those of a loop's body once.
    pub number: u32,
    /// Denoising step, 0 outside of a loop.
    pub step: u32,
    /// All values of the program at this request's lengths, by id.
    pub operands: &'a [Operand],
}

/// Watches a run: progress, probes, and replay of recorded random draws.
pub trait Observer {
    /// Whether it has a use for being called at all; if not, a device may do a whole run by itself.
    fn watches(&self) -> bool {
        true
    }

    /// Whether to show what this dispatch reads first.
    fn reads(&self, _dispatch: &Dispatch) -> bool {
        false
    }

    /// Called before each dispatch that it reads.
    fn read(&mut self, _read: Read<'_>) {}

    /// Whether to show the results of this dispatch.
    fn wants(&self, _dispatch: &Dispatch) -> bool {
        false
    }

    /// Called with each result that is wanted.
    fn after(&mut self, _shown: Shown<'_>) {}

    /// Whether to be told when each dispatch begins and when it is done. The device then finishes each before the next, so
    /// where it works ahead of the host, what is seen includes the way there and back.
    fn times(&self) -> bool {
        false
    }

    /// Called right before each dispatch if it times.
    fn before(&mut self, _dispatch: &Dispatch) {}

    /// Called right after each dispatch if it times.
    fn done(&mut self, _done: Done<'_>) {}

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
