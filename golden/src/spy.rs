//! Looking at values while a case is computed, whoever computes it.

use crate::runners::{bytes_of, tensor_of};
use dreamc_artifact::plan::{Dispatch, Kernel};
use dreamc_interp::{Data, Event, Tensor};
use dreamc_runtime::Shown;

/// Sees values by the path of the module that computes them, and may replace them.
pub trait Spy {
    /// Whether to show what this module computes.
    fn wants(&self, path: &str) -> bool;

    /// The first result of a module in step `step` of a loop, 0 outside of one.
    fn value(&mut self, path: &str, step: u32, value: &mut Tensor);
}

/// Sees nothing.
impl Spy for () {
    fn wants(&self, _: &str) -> bool {
        false
    }

    fn value(&mut self, _: &str, _: u32, _: &mut Tensor) {}
}

/// A [`Spy`] as the interpreter and the runtime take one. What was fused is known by its last part.
pub struct Spying<'a>(pub &'a mut dyn Spy);

impl dreamc_interp::Observer for Spying<'_> {
    fn after(&mut self, event: &Event<'_>, value: &mut Tensor) {
        if let Some(path) = event.node.origin.0.last()
            && event.result == 0
            && self.0.wants(path)
        {
            self.0.value(path, event.step, value);
        }
    }
}

/// Whether its result is true or false for each position.
fn is_condition(kernel: &Kernel) -> bool {
    matches!(kernel, Kernel::IsToken { .. } | Kernel::SelectSlots | Kernel::OriginSlots { .. })
}

impl dreamc_runtime::Observer for Spying<'_> {
    fn wants(&self, dispatch: &Dispatch) -> bool {
        dispatch.origin.last().is_some_and(|path| self.0.wants(path))
    }

    fn after(&mut self, shown: Shown<'_>) {
        let (Some(path), 0) = (shown.dispatch.origin.last(), shown.result) else { return };
        let dims: Vec<usize> = shown.shape.dims().iter().map(|n| *n as usize).collect();
        let mut value = tensor_of(shown.dtype, &dims, shown.bytes);
        if is_condition(&shown.dispatch.kernel) {
            let bytes = shown.bytes.iter().step_by(shown.dtype.bytes());
            value.data = Data::Bool(bytes.map(|low| *low != 0).collect());
        }
        self.0.value(path, shown.step, &mut value);
        let bytes = bytes_of(&value);
        // A condition is a byte on some devices and a word on others.
        let wide = |byte: &u8| std::iter::once(*byte).chain(std::iter::repeat_n(0, shown.dtype.bytes() - 1));
        *shown.bytes =
            if is_condition(&shown.dispatch.kernel) { bytes.iter().flat_map(wide).collect() } else { bytes };
    }
}
