//! What can be wrong with a LoRA adapter.

use std::path::PathBuf;

/// An error in an adapter, with the key or tensor it is about.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum AdapterError {
    /// adapter_config.json is not JSON of the expected form.
    #[error("malformed `{}`: {reason}", path.display())]
    #[diagnostic(code(lora::json), help("copy the adapter again"))]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key has a value of the wrong type or out of its range.
    #[error("`{key}` in adapter_config.json is {found}; expected {expected}")]
    #[diagnostic(code(lora::value), help("correct `{key}`, or copy the adapter again"))]
    Value {
        /// The key.
        key: &'static str,
        /// The value in the file.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// Another method than LoRA.
    #[error("peft_type in adapter_config.json is {found}; only \"LORA\" can be folded")]
    #[diagnostic(
        code(lora::peft_type),
        help("merge the adapter with peft (`merge_and_unload()`) and build the result")
    )]
    NotLora {
        /// The value in the file.
        found: String,
    },
    /// A setting that changes what the adapter means.
    #[error("`{key}` in adapter_config.json is {found}; only plain LoRA can be folded")]
    #[diagnostic(
        code(lora::plain),
        help("merge the adapter with peft (`merge_and_unload()`) and build the result")
    )]
    NotPlain {
        /// The key.
        key: String,
        /// Its value.
        found: String,
    },
    /// The adapter has no tensors.
    #[error("adapter_model.safetensors has no tensors")]
    #[diagnostic(code(lora::empty), help("copy the adapter again"))]
    Empty,
    /// A tensor that is neither A nor B of a target.
    #[error("adapter tensor `{tensor}` is not `base_model.model.<module>.lora_A.weight` or `.lora_B.weight`")]
    #[diagnostic(
        code(lora::tensor),
        help("merge the adapter with peft (`merge_and_unload()`) and build the result")
    )]
    UnknownTensor {
        /// The tensor.
        tensor: String,
    },
    /// One of the two matrices is absent.
    #[error("adapter tensor `{tensor}` has no `{absent}`")]
    #[diagnostic(code(lora::unpaired), help("the file is incomplete; copy the adapter again"))]
    Unpaired {
        /// The tensor.
        tensor: String,
        /// The one that belongs to it.
        absent: String,
    },
    /// A tensor for a module that the settings do not name.
    #[error(
        "adapter tensor `{tensor}` is for a module that `target_modules` in adapter_config.json does not name"
    )]
    #[diagnostic(code(lora::not_targeted), help("take both files of the adapter from the same save"))]
    NotTargeted {
        /// The tensor.
        tensor: String,
    },
    /// A target that the base model does not have.
    #[error("adapter tensor `{tensor}` changes `{weight}`, which the checkpoint does not have")]
    #[diagnostic(code(lora::target), help("give the base model that the adapter was trained on"))]
    UnknownTarget {
        /// The tensor.
        tensor: String,
        /// The weight.
        weight: String,
    },
    /// A target that is no matrix.
    #[error("adapter tensor `{tensor}` changes `{weight}`, which is not a matrix")]
    #[diagnostic(
        code(lora::matrix),
        help("merge the adapter with peft (`merge_and_unload()`) and build the result")
    )]
    NotMatrix {
        /// The tensor.
        tensor: String,
        /// The weight.
        weight: String,
    },
    /// A matrix that does not fit its target.
    #[error("adapter tensor `{tensor}` is {found:?}; `{weight}` and the rank imply {expected:?}")]
    #[diagnostic(
        code(lora::shape),
        help(
            "give the base model that the adapter was trained on, and both files of the adapter from the same save"
        )
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// The weight.
        weight: String,
        /// The stored shape.
        found: Vec<u64>,
        /// The implied shape.
        expected: Vec<u64>,
    },
}
