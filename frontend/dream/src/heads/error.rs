//! What can be wrong with the heads and projectors beside a checkpoint.

use crate::TensorProblems;
use std::io;
use std::path::PathBuf;

/// An error in the files beside a checkpoint, with the file it is about.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum HeadError {
    /// The folder cannot be listed.
    #[error("cannot list `{}`", dir.display())]
    #[diagnostic(code(heads::folder), help("give the folder that has the heads, with `--heads`"))]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A part is needed and not there.
    #[error("{why} needs `{part}--*.pt` or `{part}.safetensors`, which `{}` does not have", dir.display())]
    #[diagnostic(
        code(heads::absent),
        help("give the folder that has it with `--heads`, or build another `--mode`")
    )]
    Absent {
        /// The part.
        part: &'static str,
        /// What needs it.
        why: String,
        /// The folder.
        dir: PathBuf,
    },
    /// A head that starts from noise, without what takes the noise in.
    #[error("a {kind} head needs `noisy_action_projector--*.pt` or `noisy_action_projector.safetensors`, which `{}` does not have", dir.display())]
    #[diagnostic(
        code(heads::noise_projector),
        help(
            "training saves it beside the action head: copy it there, or give the folder that has both with `--heads`"
        )
    )]
    NoNoiseProjector {
        /// The head's kind.
        kind: &'static str,
        /// The folder.
        dir: PathBuf,
    },
    /// Two files for one part.
    #[error("`{}` has more than one `{part}`: {files}", dir.display())]
    #[diagnostic(
        code(heads::several),
        help("leave one of them, or give a folder that has only the right ones with `--heads`")
    )]
    Several {
        /// The part.
        part: &'static str,
        /// The folder.
        dir: PathBuf,
        /// The files.
        files: String,
    },
    /// The backbone of another model.
    #[error("`{}` belongs to a model whose vision tower is changed by the task (FiLM)", path.display())]
    #[diagnostic(
        code(heads::film),
        help(
            "Dream has no such tower: check that the folder belongs to a Dream-VLA fine-tune, and remove the file"
        )
    )]
    Film {
        /// The file.
        path: PathBuf,
    },
    /// A head whose names fit no kind.
    #[error("`{}` is no known action head: its first tensor is `{tensor}`", path.display())]
    #[diagnostic(
        code(heads::unknown_kind),
        help(
            "names begin with `model.` (l1), `flow_predictor.mlp_resnet.` (flow) or `noise_predictor.mlp_resnet.` (ddim)"
        )
    )]
    UnknownKind {
        /// The file.
        path: PathBuf,
        /// The first name in it.
        tensor: String,
    },
    /// Another kind of head than the mode needs.
    #[error("`{}` is a head of mode `{found}`, but mode `{expected}` was asked for", path.display())]
    #[diagnostic(
        code(heads::kind),
        help("build with `--mode {found}`, or give the right folder with `--heads`")
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its kind.
        found: &'static str,
        /// The kind asked for.
        expected: &'static str,
    },
    /// The projector takes a state of another length.
    #[error("`{}` takes {found} numbers, but the statistics have {expected} for the robot's state", path.display())]
    #[diagnostic(
        code(heads::proprio_dim),
        help("take projector and statistics (`--stats`, `--unnorm-key`) from the same fine-tune")
    )]
    ProprioDim {
        /// The file.
        path: PathBuf,
        /// Its input.
        found: u64,
        /// The length in the statistics.
        expected: u64,
    },
    /// The head makes actions of another length.
    #[error("`{}` makes actions of {found} numbers, but the statistics have {expected}", path.display())]
    #[diagnostic(
        code(heads::action_dim),
        help("take head and statistics (`--stats`, `--unnorm-key`) from the same fine-tune")
    )]
    ActionDim {
        /// The file.
        path: PathBuf,
        /// Rows of its last matrix.
        found: u64,
        /// The length in the statistics.
        expected: u64,
    },
    /// Actions of no numbers, or of more than can be.
    #[error("an action of {action_dim} numbers cannot be made from rows of {hidden_size}")]
    #[diagnostic(code(heads::action_size), help("check q01 and q99 of the statistics"))]
    ActionSize {
        /// Numbers of an action.
        action_dim: u64,
        /// hidden_size.
        hidden_size: u64,
    },
    /// Tensors are missing, superfluous or of the wrong shape.
    #[error("the tensors in `{}` do not fit config.json and the statistics: {problems}", path.display())]
    #[diagnostic(code(heads::tensors), help("take checkpoint, heads and statistics from the same fine-tune"))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: TensorProblems,
    },
}
