//! Graph passes, one file each, and the pipeline that lists them.
//!
//! A pass is a function `run(&mut Graph) -> Stats`, or `run(&mut Module) -> Stats` where it moves work between graphs. It takes a verified graph and leaves one that verifies and
//! computes the same; run again, it changes nothing. Where several nodes become one, the node that stays is
//! the last of them, so that the value it defines keeps its name for probes and messages.
//!
//! ```
//! let text = "graph @f(%0: f32[4, 8], %1: f32[4, 8]) {\n  %2 = silu %0 : f32[4, 8]\n  %3 = mul %2, %1 : f32[4, 8]\n  return %3\n}\n";
//! let mut module = dreamc_ir::parse(text).unwrap();
//! dreamc_passes::optimize(&mut module, &mut |_pass, _seen, _stats| ());
//! assert!(module.to_string().contains("swiglu %0, %1"));
//! ```

pub mod canonicalize;
pub mod cse;
pub mod dce;
pub mod drop_idle_steps;
pub mod fold;
pub mod fuse_epilogues;
pub mod fuse_norm;
pub mod fuse_residual;
pub mod fuse_rope;
pub mod hoist_invariants;
pub mod kept_tokens;
mod loops;
pub mod merge_gate_up;
pub mod merge_qkv;
pub mod needed_rows;
pub mod open_slots;
pub mod pack_qkv;
mod pipeline;
#[cfg(test)]
mod properties;
pub mod quantize;
mod rewrite;
pub mod step_tables;
#[cfg(test)]
mod testing;
pub mod unroll_steps;

pub use pipeline::{
    ALL, Observer, PIPELINE, Pass, Run, Seen, find, names, optimize, probe_pipeline, run_passes, without,
};

use std::ops::AddAssign;

/// What a pass did to a graph or a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times that the pass's pattern was found and rewritten.
    pub rewritten: u32,
    /// Nodes taken out.
    pub removed: u32,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.rewritten += other.rewritten;
        self.removed += other.removed;
    }
}
