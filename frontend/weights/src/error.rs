//! What can be wrong with the weight files of a checkpoint.

use crate::{AdapterError, ArchiveError};
use std::io;
use std::path::PathBuf;

/// An error in the weight files, with the file or tensor it is about.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum WeightsError {
    /// The directory is absent or is not a directory.
    #[error("`{}` is not a directory", path.display())]
    #[diagnostic(
        code(weights::no_directory),
        help("give the directory that has config.json and the weights")
    )]
    NoDirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The directory has no weights in a known form.
    #[error("no weights in `{}`: neither model.safetensors nor model.safetensors.index.json", path.display())]
    #[diagnostic(
        code(weights::no_weights),
        help(
            "download the *.safetensors files; convert pytorch_model*.bin with `save_pretrained(..., safe_serialization=True)`"
        )
    )]
    NoWeights {
        /// The checkpoint directory.
        path: PathBuf,
    },
    /// The directory has a LoRA adapter and no weights.
    #[error("`{}` holds only a LoRA adapter", path.display())]
    #[diagnostic(
        code(weights::adapter_only),
        help("give the folder of the base model as the checkpoint, and this folder with `--lora`")
    )]
    AdapterOnly {
        /// The checkpoint directory.
        path: PathBuf,
    },
    /// The operating system refused to open, read or map a file.
    #[error("cannot read `{}`", path.display())]
    #[diagnostic(code(weights::io), help("check that the file exists, is readable and is complete"))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A text file is longer than any real one.
    #[error("`{}` has {found_bytes} bytes; the limit is {limit_bytes}", path.display())]
    #[diagnostic(
        code(weights::too_large),
        help("it does not belong to a checkpoint or is damaged; download it again")
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// The longest accepted.
        limit_bytes: u64,
    },
    /// The index is not JSON of the expected form.
    #[error("malformed index `{}`: {reason}", path.display())]
    #[diagnostic(code(weights::index_malformed), help("download model.safetensors.index.json again"))]
    IndexMalformed {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names a shard by something other than a plain file name.
    #[error("the index maps tensor `{tensor}` to `{file}`, which is not a plain file name")]
    #[diagnostic(code(weights::shard_name), help("shards must lie beside the index; correct its weight_map"))]
    ShardName {
        /// The tensor.
        tensor: String,
        /// What weight_map says.
        file: String,
    },
    /// The index names a shard that is not there.
    #[error("shard `{file}` is named by the index (for tensor `{tensor}`) but is absent from `{}`", dir.display())]
    #[diagnostic(code(weights::shard_absent), help("download the missing shard"))]
    ShardAbsent {
        /// The shard.
        file: String,
        /// The first tensor mapped to it.
        tensor: String,
        /// The checkpoint directory.
        dir: PathBuf,
    },
    /// A shard has a tensor that the index does not list.
    #[error("tensor `{tensor}` is in shard `{file}` but missing from the index")]
    #[diagnostic(
        code(weights::not_in_index),
        help("index and shards come from different saves; download all of them again")
    )]
    NotInIndex {
        /// The tensor.
        tensor: String,
        /// The shard.
        file: String,
    },
    /// The index maps a tensor to a shard that does not have it.
    #[error("the index maps tensor `{tensor}` to shard `{file}`, which does not have it")]
    #[diagnostic(
        code(weights::not_in_shard),
        help("index and shards come from different saves; download all of them again")
    )]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The shard.
        file: String,
    },
    /// Two shards have a tensor of the same name.
    #[error("tensor `{tensor}` is in two shards, `{first}` and `{second}`")]
    #[diagnostic(
        code(weights::duplicate),
        help("save or download the checkpoint again; a tensor must have one value")
    )]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// The shard in which it was found first.
        first: String,
        /// The other shard.
        second: String,
    },
    /// A tensor's element type cannot be imported.
    #[error("tensor `{tensor}` in `{file}` has dtype {found}")]
    #[diagnostic(code(weights::dtype), help("convert the weights to BF16, F16 or F32"))]
    UnsupportedDType {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: String,
        /// The dtype as the header spells it.
        found: String,
    },
    /// A tensor name that belongs to a quantised format.
    #[error("tensor `{tensor}` belongs to a quantised format (bitsandbytes, GPTQ, AWQ or similar)")]
    #[diagnostic(
        code(weights::quantised),
        help("import the original bf16 checkpoint; quantisation is done by this compiler")
    )]
    Quantised {
        /// The tensor.
        tensor: String,
    },
    /// A tensor name that belongs to an unmerged LoRA adapter.
    #[error("tensor `{tensor}` is LoRA-wrapped")]
    #[diagnostic(
        code(weights::lora),
        help(
            "merge the adapter first (peft: `merge_and_unload()`), or give the base model as the checkpoint and the adapter with `--lora`"
        )
    )]
    LoraWrapped {
        /// The tensor.
        tensor: String,
    },
    /// A tensor name of the training code, which the released models do not use.
    #[error("tensor `{tensor}` has a training-time (LLaVA) name")]
    #[diagnostic(
        code(weights::training_names),
        help(
            "export the checkpoint first: `model.vision_tower.vision_tower.*` becomes `visual.*`, `model.mm_projector.0` and `.2` become `projector.linear_1` and `projector.linear_2`"
        )
    )]
    TrainingNames {
        /// The tensor.
        tensor: String,
    },
    /// The file's length is not what its header asks for.
    #[error("`{}` is {found_bytes} bytes long but its header asks for {expected}", path.display())]
    #[diagnostic(
        code(weights::truncated),
        help("the download is incomplete or damaged; download the file again")
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        found_bytes: u64,
        /// What the header asks for, in words.
        expected: String,
    },
    /// The header claims to be longer than any real header.
    #[error("the header of `{}` claims {found_bytes} bytes; the limit is {limit_bytes}", path.display())]
    #[diagnostic(
        code(weights::header_too_long),
        help("the file is damaged or is not safetensors; download it again")
    )]
    HeaderTooLong {
        /// The file.
        path: PathBuf,
        /// The claimed length.
        found_bytes: u64,
        /// The longest accepted.
        limit_bytes: u64,
    },
    /// A header's entry for a tensor cannot be parsed, disagrees with itself, overlaps another or leaves a hole.
    #[error("malformed safetensors header in `{}`: tensor `{tensor}` {reason}", path.display())]
    #[diagnostic(
        code(weights::header_tensor),
        help("the file is damaged or is not safetensors; download it again")
    )]
    HeaderTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with its entry.
        reason: String,
    },
    /// The header cannot be parsed.
    #[error("malformed safetensors header in `{}`: {reason}", path.display())]
    #[diagnostic(code(weights::header), help("the file is damaged or is not safetensors; download it again"))]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A PyTorch archive is damaged or holds what is not read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Archive(#[from] ArchiveError),
    /// A LoRA adapter is damaged or does not fit the model.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Adapter(#[from] AdapterError),
    /// A tensor was asked for that the checkpoint does not have.
    #[error("no tensor `{tensor}` in the checkpoint")]
    #[diagnostic(
        code(weights::absent),
        help("check that config.json and the weights come from the same checkpoint")
    )]
    Absent {
        /// The tensor.
        tensor: String,
    },
}
