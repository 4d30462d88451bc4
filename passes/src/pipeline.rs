//! The passes in the order they run, each with the reason for its place.

use crate::{
    Stats, canonicalize, cse, dce, drop_idle_steps, fold, fuse_epilogues, fuse_norm, fuse_residual,
    fuse_rope, kept_tokens, merge_gate_up, merge_qkv, needed_rows, open_slots, pack_qkv,
};
use dreamc_ir::{Graph, Module};

/// A pass as the command line knows it.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name for `--passes` and `--print-after`.
    pub name: &'static str,
    /// Runs it on one graph.
    pub run: fn(&mut Graph) -> Stats,
    /// Why it stands where it does in [`PIPELINE`].
    pub why: &'static str,
}

/// What [`optimize`] runs, in order.
pub const PIPELINE: &[Pass] = &[
    Pass { name: "dce", run: dce::run, why: "a dead user would make a value look shared" },
    Pass { name: "fold", run: fold::run, why: "constants first: later passes then see fewer ops" },
    Pass { name: "cse", run: cse::run, why: "before fusing: fused nodes hide what they have in common" },
    Pass {
        name: "open-slots",
        run: open_slots::run,
        why: "after cse, which leaves one is_token; before canonicalize, which hides the shift of the logits",
    },
    Pass {
        name: "drop-idle-steps",
        run: drop_idle_steps::run,
        why: "anywhere after dce: a dead user would make a stream look used",
    },
    Pass {
        name: "canonicalize",
        run: canonicalize::run,
        why: "after cse, which decides what is shared; gives the fusions one form to look for",
    },
    Pass {
        name: "kept-tokens",
        run: kept_tokens::run,
        why: "after dce, which drops confidences that nobody reads; before fusions give the head more operands",
    },
    Pass {
        name: "fuse-rope",
        run: fuse_rope::run,
        why: "before merge-qkv: rotations between projections and attention would hide them",
    },
    Pass {
        name: "needed-rows",
        run: needed_rows::run,
        why: "after fuse-rope, which has attention rotate queries at their rows; before the merges, which join queries with keys",
    },
    Pass {
        name: "merge-qkv",
        run: merge_qkv::run,
        why: "before fuse-norm: leaves one user of the norm instead of three",
    },
    Pass {
        name: "pack-qkv",
        run: pack_qkv::run,
        why: "after fuse-rope, which leaves the slices as the attention's own operands",
    },
    Pass {
        name: "merge-gate-up",
        run: merge_gate_up::run,
        why: "after canonicalize, which makes swiglu; before fuse-norm, as merge-qkv",
    },
    Pass {
        name: "fuse-epilogues",
        run: fuse_epilogues::run,
        why: "after canonicalize, which wants the silu of a gate itself; before fuse-residual, which adds last",
    },
    Pass {
        name: "fuse-residual",
        run: fuse_residual::run,
        why: "after the merges, which take projections without a residual only",
    },
    Pass {
        name: "fuse-norm",
        run: fuse_norm::run,
        why: "after the merges, which take projections without a norm only",
    },
    Pass { name: "dce", run: dce::run, why: "drops what the rewrites left unused" },
];

/// What to run where every value of the model must stay visible to probes: nothing is fused.
///
/// Equal values keep the name of the first of them.
pub fn probe_pipeline() -> Vec<Pass> {
    ["fold", "cse", "dce"].into_iter().filter_map(find).collect()
}

/// The pass of this name.
pub fn find(name: &str) -> Option<Pass> {
    PIPELINE.iter().find(|p| p.name == name).copied()
}

/// Runs [`PIPELINE`] on every graph of the module, loop bodies too. `observer` sees each graph after each
/// pass.
pub fn optimize(module: &mut Module, observer: &mut dyn FnMut(&Pass, &Graph, &Stats)) {
    run_passes(PIPELINE, module, observer);
}

/// Runs these passes in this order; a prefix of [`PIPELINE`] finds the pass that breaks a model.
pub fn run_passes(passes: &[Pass], module: &mut Module, observer: &mut dyn FnMut(&Pass, &Graph, &Stats)) {
    for pass in passes {
        for graph in &mut module.graphs {
            let stats = (pass.run)(graph);
            observer(pass, graph, &stats);
        }
    }
}
