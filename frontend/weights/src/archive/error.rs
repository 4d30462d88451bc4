//! What can be wrong with a PyTorch archive.

use std::path::PathBuf;

/// An error in a `.pt` file. None of its contents has been executed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Not a zip archive: the form before PyTorch 1.6, or another file.
    #[error("`{}` is not a zip archive", path.display())]
    #[diagnostic(
        code(archive::not_zip),
        help(
            "save it again with PyTorch 1.6 or later (`torch.save(state_dict, file)`), or convert it to safetensors"
        )
    )]
    NotZip {
        /// The file.
        path: PathBuf,
    },
    /// The archive's own structure is wrong.
    #[error("malformed archive `{}`: {reason}", path.display())]
    #[diagnostic(code(archive::malformed), help("the file is damaged or is no PyTorch file; copy it again"))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry is compressed or encrypted, which PyTorch never does.
    #[error("entry `{entry}` of `{}` is compressed or encrypted", path.display())]
    #[diagnostic(
        code(archive::compressed),
        help(
            "PyTorch stores entries as they are: save the file again with `torch.save`, or convert it to safetensors"
        )
    )]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
    },
    /// An entry is not what was written.
    #[error("entry `{entry}` of `{}` does not fit its checksum", path.display())]
    #[diagnostic(code(archive::checksum), help("the file is damaged; copy it again"))]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
    },
    /// Written on a big-endian machine.
    #[error("the tensors in `{}` are not little-endian", path.display())]
    #[diagnostic(code(archive::byte_order), help("load and save it on a little-endian machine"))]
    ByteOrder {
        /// The file.
        path: PathBuf,
    },
    /// The pickle has an instruction that no file of tensors needs.
    #[error("`{}` has the pickle instruction `{opcode}`, which is not allowed", path.display())]
    #[diagnostic(
        code(archive::opcode),
        help(
            "only tensors in a dictionary are read: save the plain `state_dict()`, or convert it to safetensors"
        )
    )]
    Opcode {
        /// The file.
        path: PathBuf,
        /// Its name, or its number where it has none.
        opcode: String,
    },
    /// The pickle names a function or class that no file of tensors needs.
    #[error("`{}` asks for `{global}`, which is not allowed and was not called", path.display())]
    #[diagnostic(
        code(archive::global),
        help(
            "only tensors in a dictionary are read: save the plain `state_dict()`; if you do not know why the file asks for this, do not load it with PyTorch either"
        )
    )]
    Global {
        /// The file.
        path: PathBuf,
        /// The module and the name.
        global: String,
    },
    /// The pickle is damaged, or its result is not a dictionary of tensors.
    #[error("malformed pickle in `{}`: {reason}", path.display())]
    #[diagnostic(
        code(archive::pickle),
        help("save the plain `state_dict()` with `torch.save`, or copy the file again if it is damaged")
    )]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor's description does not fit the data.
    #[error("tensor `{tensor}` in `{}` {reason}", path.display())]
    #[diagnostic(
        code(archive::tensor),
        help("save it again with every tensor `.contiguous()`, or copy the file again if it is damaged")
    )]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
}
