//! The passes in the order they run, each with the reason for its place.

use crate::{
    Stats, canonicalize, cse, dce, drop_idle_steps, fold, fuse_epilogues, fuse_norm, fuse_residual,
    fuse_rope, hoist_invariants, kept_tokens, merge_gate_up, merge_qkv, needed_rows, open_slots, pack_qkv,
    step_tables, unroll_steps,
};
use dreamc_ir::{Graph, Module};
use std::fmt;

/// What a pass works on.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// Each graph by itself.
    Graph(fn(&mut Graph) -> Stats),
    /// All graphs together: work that moves from one to another.
    Module(fn(&mut Module) -> Stats),
}

/// What a pass has just left; displays as IR text.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// By a pass over graphs: one of them.
    Graph(&'a Graph),
    /// By a pass over modules.
    Module(&'a Module),
}

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Graph(graph) => graph.fmt(f),
            Seen::Module(module) => module.fmt(f),
        }
    }
}

/// Sees what each pass leaves and what it did.
pub type Observer<'a> = &'a mut dyn FnMut(&Pass, Seen<'_>, &Stats);

/// A pass as the command line knows it.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name for `--passes` and `--print-after`.
    pub name: &'static str,
    /// Runs it.
    pub run: Run,
    /// Why it stands where it does in [`PIPELINE`].
    pub why: &'static str,
}

/// Stands for every pass where passes are named.
pub const ALL: &str = "all";

/// What [`optimize`] runs, in order.
pub const PIPELINE: &[Pass] = &[
    Pass { name: "dce", run: Run::Graph(dce::run), why: "a dead user would make a value look shared" },
    Pass {
        name: "open-slots",
        run: Run::Graph(open_slots::run),
        why: "while the sampler stands as it was imported: before unroll-steps, which takes the loop away, and canonicalize, which hides the shift of the logits",
    },
    Pass {
        name: "drop-idle-steps",
        run: Run::Graph(drop_idle_steps::run),
        why: "after dce: a dead user would make a stream look used; before unroll-steps",
    },
    Pass {
        name: "unroll-steps",
        run: Run::Module(unroll_steps::run),
        why: "after the passes that look for a loop; before all others: what runs once is optimised with what surrounds it",
    },
    Pass {
        name: "fold",
        run: Run::Graph(fold::run),
        why: "constants first: later passes then see fewer ops",
    },
    Pass {
        name: "cse",
        run: Run::Graph(cse::run),
        why: "before fusing: fused nodes hide what they have in common",
    },
    Pass {
        name: "hoist-invariants",
        run: Run::Module(hoist_invariants::run),
        why: "after cse, so that nothing is hoisted twice; before fusing, which joins what changes with what does not",
    },
    Pass {
        name: "step-tables",
        run: Run::Module(step_tables::run),
        why: "after hoist-invariants, which leaves what changes; before fusing, for the same reason",
    },
    Pass {
        name: "canonicalize",
        run: Run::Graph(canonicalize::run),
        why: "after cse, which decides what is shared; gives the fusions one form to look for",
    },
    Pass {
        name: "kept-tokens",
        run: Run::Graph(kept_tokens::run),
        why: "after dce, which drops confidences that nobody reads; before fusions give the head more operands",
    },
    Pass {
        name: "fuse-rope",
        run: Run::Graph(fuse_rope::run),
        why: "before merge-qkv: rotations between projections and attention would hide them",
    },
    Pass {
        name: "needed-rows",
        run: Run::Graph(needed_rows::run),
        why: "after fuse-rope, which has attention rotate queries at their rows; before the merges, which join queries with keys",
    },
    Pass {
        name: "merge-qkv",
        run: Run::Graph(merge_qkv::run),
        why: "before fuse-norm: leaves one user of the norm instead of three",
    },
    Pass {
        name: "pack-qkv",
        run: Run::Graph(pack_qkv::run),
        why: "after fuse-rope, which leaves the slices as the attention's own operands",
    },
    Pass {
        name: "merge-gate-up",
        run: Run::Graph(merge_gate_up::run),
        why: "after canonicalize, which makes swiglu; before fuse-norm, as merge-qkv",
    },
    Pass {
        name: "fuse-epilogues",
        run: Run::Graph(fuse_epilogues::run),
        why: "after canonicalize, which wants the silu of a gate itself; before fuse-residual, which adds last",
    },
    Pass {
        name: "fuse-residual",
        run: Run::Graph(fuse_residual::run),
        why: "after the merges, which take projections without a residual only",
    },
    Pass {
        name: "fuse-norm",
        run: Run::Graph(fuse_norm::run),
        why: "after the merges, which take projections without a norm only",
    },
    Pass { name: "dce", run: Run::Graph(dce::run), why: "drops what the rewrites left unused" },
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

/// The names of all passes, in the order of the pipeline, each once.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for pass in PIPELINE {
        if !names.contains(&pass.name) {
            names.push(pass.name);
        }
    }
    names
}

/// These passes but for those of some names; [`ALL`] names every pass.
pub fn without(passes: &[Pass], names: &[String]) -> Vec<Pass> {
    let off = |pass: &&Pass| names.iter().any(|name| name == ALL || name == pass.name);
    passes.iter().filter(|pass| !off(pass)).copied().collect()
}

/// Runs [`PIPELINE`] on the module. `observer` sees each graph after each pass over graphs, and the module after the
/// others.
pub fn optimize(module: &mut Module, observer: Observer<'_>) {
    run_passes(PIPELINE, module, observer);
}

/// Runs these passes in this order; a prefix of [`PIPELINE`] finds the pass that breaks a model.
pub fn run_passes(passes: &[Pass], module: &mut Module, observer: Observer<'_>) {
    for pass in passes {
        match pass.run {
            Run::Graph(run) => {
                for graph in &mut module.graphs {
                    let stats = run(graph);
                    observer(pass, Seen::Graph(graph), &stats);
                }
            }
            Run::Module(run) => {
                let stats = run(module);
                observer(pass, Seen::Module(module), &stats);
            }
        }
    }
}
