//! What can be wrong with a file. Plain values: no text is allocated, and the first fault found is reported.

use crate::{FORMAT_VERSION, Kind, SECTION_COUNT_MAX, Version, WEIGHT_COUNT_MAX};
use core::fmt;

/// Why a file cannot be opened, or does not hold what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The first bytes are others.
    #[error("this is not an artifact: give a file that `dreamc build` wrote")]
    NotAnArtifact,
    /// Written by another version.
    #[error(
        "the artifact has format version {found}, this program reads {FORMAT_VERSION}: build the file again"
    )]
    Version {
        /// As in the file.
        found: Version,
    },
    /// A newer minor version wrote what this one has no word for.
    #[error(
        "the artifact has format version {found} and holds what this program, which reads {FORMAT_VERSION}, does not know: take a newer program, or build the file with this one"
    )]
    Newer {
        /// As in the file.
        found: Version,
    },
    /// The file ends early.
    #[error("the artifact is cut short: download or build the file again")]
    Truncated,
    /// The file goes on behind the last section.
    #[error("bytes follow the end of the artifact: download or build the file again")]
    TrailingBytes,
    /// More sections than any artifact has.
    #[error(
        "the artifact claims {found} sections, the limit is {SECTION_COUNT_MAX}: download or build the file again"
    )]
    SectionCount {
        /// As in the file.
        found: u32,
    },
    /// The header or the section table was changed.
    #[error("the artifact's header is damaged: download or build the file again")]
    HeaderHash,
    /// A reserved field is not 0.
    #[error("the artifact uses a field that this version does not know: build the file again")]
    Reserved,
    /// A section that this version does not know.
    #[error("the artifact has a section of unknown kind {code}: build the file again")]
    UnknownSection {
        /// As in the file.
        code: u32,
    },
    /// A section longer than its kind allows.
    #[error("the {} section has {len} bytes, the limit is {}: build the file again", kind.name(), kind.bytes_max())]
    SectionTooLong {
        /// Which section.
        kind: Kind,
        /// As in the file.
        len: u64,
    },
    /// A section lies outside the file, over another one, or is not aligned.
    #[error("the {} section does not lie where it should: download or build the file again", kind.name())]
    SectionPlace {
        /// Which section.
        kind: Kind,
    },
    /// A section is missing, or there are too many of it.
    #[error("the artifact has the wrong number of {} sections: build the file again", kind.name())]
    SectionMissing {
        /// Which section.
        kind: Kind,
    },
    /// The section's bytes were changed.
    #[error("the {} section is damaged: download or build the file again", kind.name())]
    SectionHash {
        /// Which section.
        kind: Kind,
    },
    /// The manifest does not read.
    #[error("the manifest does not read: build the file again with this version")]
    Manifest,
    /// A plan does not read.
    #[error("a plan does not read: build the file again with this version")]
    PlanBytes,
    /// A target's code does not read.
    #[error("the code of a target does not read: build the file again with this version")]
    CodeBytes,
    /// A plan breaks a rule.
    #[error(
        "the plan of target {target} is not valid: {error}; build the file again, and report this if it stays"
    )]
    Plan {
        /// Index into the manifest's targets.
        target: u32,
        /// What is wrong with it.
        error: PlanError,
    },
    /// The weight table does not read.
    #[error("the weight table does not read: build the file again with this version")]
    WeightTable,
    /// More tensors than any artifact has.
    #[error("the artifact claims {found} tensors, the limit is {WEIGHT_COUNT_MAX}: build the file again")]
    WeightCount {
        /// As in the file.
        found: u64,
    },
    /// A tensor's length does not follow from its dimensions and layout.
    #[error("the stored length of tensor {index} does not fit its shape: build the file again")]
    WeightBytes {
        /// Index into the weight table.
        index: u32,
    },
    /// A tensor lies outside the section, over another one, or is not aligned.
    #[error("tensor {index} does not lie where it should: build the file again")]
    WeightPlace {
        /// Index into the weight table.
        index: u32,
    },
    /// Two tensors have one name.
    #[error("two tensors have the same name: build the file again")]
    WeightNames,
    /// The weights section is longer or shorter than its tensors.
    #[error("the weights section does not end with its last tensor: build the file again")]
    WeightsLength,
    /// A tensor's bytes were changed.
    #[error("tensor {index} is damaged: download or build the file again")]
    WeightHash {
        /// Index into the weight table.
        index: u32,
    },
    /// There is no such tensor.
    #[error("the artifact has no tensor {index}: this is a bug in the caller")]
    NoWeight {
        /// Index into the weight table.
        index: u32,
    },
    /// A gap holds bytes other than 0.
    #[error("bytes between sections or tensors are not zero: download or build the file again")]
    Padding,
}

/// Which rule of [`crate::validate()`] a plan breaks, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("program {program}, {at}: {rule}")]
pub struct PlanError {
    /// Index of the program.
    pub program: u32,
    /// What in the program.
    pub at: At,
    /// The rule.
    pub rule: Rule,
}

/// A place in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The program itself.
    Program,
    /// Index of the symbol.
    Symbol(u32),
    /// Index of the value.
    Value(u32),
    /// Index of the input.
    Input(u32),
    /// Index of the output.
    Output(u32),
    /// Index of the step, counting a loop and the steps in its body each as one.
    Step(u32),
    /// Index of the module in the target's code; the program's index says nothing.
    Module(u32),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Program => f.write_str("as a whole"),
            At::Symbol(i) => write!(f, "symbol {i}"),
            At::Value(i) => write!(f, "value {i}"),
            At::Input(i) => write!(f, "input {i}"),
            At::Output(i) => write!(f, "output {i}"),
            At::Step(i) => write!(f, "step {i}"),
            At::Module(i) => write!(f, "module {i}"),
        }
    }
}

/// A rule of [`crate::validate()`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// A count or a size is above its limit.
    #[error("a named limit is exceeded")]
    Limit,
    /// Names are not in order, or one stands twice.
    #[error("names are not sorted and unique")]
    Names,
    /// A symbol's maximum is 0.
    #[error("the maximum is 0")]
    SymbolMax,
    /// An index points at nothing.
    #[error("an index is out of range")]
    Index,
    /// A dimension is 0 or overflows.
    #[error("a dimension is 0 or too large")]
    Dim,
    /// The offset is no multiple of [`crate::plan::ARENA_ALIGN`].
    #[error("the place in the arena is not aligned")]
    Align,
    /// The value reaches over the arena's end.
    #[error("the value does not fit in the arena")]
    ArenaEnd,
    /// The value and the stored tensor differ.
    #[error("type or shape differ from the stored tensor's")]
    WeightShape,
    /// The stored tensor's layout is not what the kernel streams.
    #[error("the stored tensor has the wrong layout")]
    WeightLayout,
    /// Something that is written does not lie in the arena.
    #[error("what is written does not lie in the arena")]
    Place,
    /// A kernel has too many or too few operands or results.
    #[error("the kernel takes another number of operands")]
    OperandCount,
    /// An operand's element type is wrong.
    #[error("an operand has the wrong element type")]
    DType,
    /// An operand's shape is wrong.
    #[error("an operand has the wrong shape")]
    Shape,
    /// A setting of the kernel makes no sense.
    #[error("a setting of the kernel is out of range")]
    Setting,
    /// A result lies over an operand that it must not lie over, or not exactly over it.
    #[error("a result overlaps an operand")]
    Overlap,
    /// A loop stands in a loop.
    #[error("a loop stands in a loop")]
    Nesting,
    /// A launch does not fit its module, or there is none where one is needed.
    #[error("a launch does not fit its module")]
    Launch,
    /// Variants of a launch leave out a length, or have it twice.
    #[error("the variants of a launch do not serve every length once")]
    Variant,
    /// A choice has too few or too many candidates, or they are not for the same lengths and results.
    #[error("the candidates of a choice do not compute the same")]
    Candidates,
    /// A value has as many elements as slots are open where another number of them may be.
    #[error("a value depends on the open slots where their number is another")]
    Slots,
}
