//! The graph IR of dreamc.
//!
//! A [`Module`] holds [`Graph`]s: one per entry, and one per loop body. A graph is a list of nodes in
//! program order; every node applies an [`Op`] to values and defines new ones. Values are typed
//! tensors whose dimensions are polynomials of constants and bounded symbols.
//!
//! ```
//! let text = "symbol L <= 64\n\ngraph @mlp(%0: f32[L, 8], %1: f32[L, 8]) {\n  %2 = swiglu %0, %1 : f32[L, 8] loc \"mlp\"\n  return %2\n}\n";
//! let module = dreamc_ir::parse(text).unwrap();
//! dreamc_ir::verify(&module).unwrap();
//! assert_eq!(module.to_string(), text);
//! ```

mod dim;
mod graph;
mod infer;
mod op;
mod text;
mod types;
mod verify;

pub use dim::Dim;
pub use graph::{Graph, Module, Node, NodeData, Origin, Port, Value, ValueData};
pub use infer::infer;
pub use op::{
    Activation, Attention, Confidence, Linear, Literal, Op, RopeTable, SLOTS, SlotSchedule, Weight,
};
pub use text::{Attribute, ParseError, parse};
pub use types::Type;
pub use verify::{Verified, VerifyError, VerifyErrors, verify};
