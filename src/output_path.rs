//! Where a command writes to: looked at before the work starts, so that nothing is destroyed and no work is lost.

use crate::whole::{self, WholeError};
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// Folders below an input folder are looked through to this depth for the output.
const DEPTH_MAX: usize = 4;
/// Endings of the files of a checkpoint, an adapter or heads that are read.
const READ: [&str; 5] = ["safetensors", "json", "txt", "pt", "jinja"];

/// Why nothing may be written to a path.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum OutputError {
    /// It is an input of the same command, by whatever name.
    #[error("{flag} is `{}`, which this command reads as `{}`", path.display(), input.display())]
    #[diagnostic(help("name another file"))]
    Input {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// The input.
        input: PathBuf,
    },
    /// A folder where a file is to be.
    #[error("{flag} is `{}`, which is a folder", path.display())]
    #[diagnostic(help("name a file in it"))]
    Folder {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A file where a folder is to be.
    #[error("{flag} is `{}`, and `{}` is no folder", path.display(), found.display())]
    #[diagnostic(help("name a folder, or one that is to be made"))]
    NoFolderAt {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// It, or what is above it.
        found: PathBuf,
    },
    /// A device, a pipe or a socket.
    #[error("{flag} is `{}`, which is {what} and no regular file", path.display())]
    #[diagnostic(help("name a regular file, or a new one"))]
    Special {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A link whose target is missing.
    #[error("{flag} is `{}`, a link that leads nowhere", path.display())]
    #[diagnostic(help("remove the link, or name the file that it should lead to"))]
    Link {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A file, or a folder for a new one, that may not be written to.
    #[error("{flag} is `{}`, and `{}` may not be written to", path.display(), what.display())]
    #[diagnostic(help("allow it (`chmod u+w`), or name another place"))]
    ReadOnly {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// It, or its folder.
        what: PathBuf,
    },
    /// The folder is missing.
    #[error("{flag} is `{}`, and there is no folder `{}`", path.display(), folder.display())]
    #[diagnostic(help("make the folder, or name another"))]
    NoFolder {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// The system does not say what is there.
    #[error("{flag} is `{}`, which cannot be looked at", path.display())]
    #[diagnostic(help("check that the path is right and its permissions allow access"))]
    Unknown {
        /// The flag or argument that names it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: Error,
    },
}

/// A regular file that may be written to, or a new name in a folder that may. Links to such files are followed.
#[derive(Clone, Debug)]
pub struct OutputPath {
    flag: &'static str,
    path: PathBuf,
}

impl OutputPath {
    /// Looks at what `flag` names as the output of a command that reads `inputs`: files, and folders with the files of a
    /// checkpoint that are in them. Inputs that are not there are no concern of this.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn new<P: AsRef<Path>>(
        flag: &'static str,
        path: &Path,
        inputs: &[P],
    ) -> Result<OutputPath, OutputError> {
        let output = OutputPath { flag, path: path.to_owned() };
        if let (_, Some(found)) = output.examine()? {
            let input = inputs.iter().find_map(|input| find(input.as_ref(), &found, DEPTH_MAX));
            if let Some(input) = input {
                return Err(OutputError::Input { flag, path: path.to_owned(), input });
            }
        }
        Ok(output)
    }

    /// As it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file under a temporary name beside it, which it loses only when it is complete. Gives its size in bytes.
    ///
    /// # Errors
    ///
    /// See [`WholeError`].
    pub fn write<E>(&self, contents: impl FnOnce(&File) -> Result<(), E>) -> Result<u64, WholeError<E>> {
        // Again: it may have become something else since.
        let (target, found) = self.examine().map_err(WholeError::Output)?;
        whole::write_whole(&target, found.map(|found| found.permissions()), contents)
    }

    /// The file behind all links.
    pub(crate) fn target(&self) -> Result<PathBuf, OutputError> {
        Ok(self.examine()?.0)
    }

    /// The file behind all links, and what is there now.
    fn examine(&self) -> Result<(PathBuf, Option<Metadata>), OutputError> {
        let OutputPath { flag, path } = self;
        let (flag, named) = (*flag, || path.clone());
        let unknown = |source| OutputError::Unknown { flag, path: named(), source };
        let link = match std::fs::symlink_metadata(path) {
            Ok(found) => found.is_symlink(),
            Err(error) if error.kind() == ErrorKind::NotFound => return self.new_name(),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                let folder = if ends_in_slash(path) { path } else { folder_of(path) };
                return Err(OutputError::NoFolder { flag, path: named(), folder: folder.to_owned() });
            }
            Err(error) => return Err(unknown(error)),
        };
        let target = match path.canonicalize() {
            Ok(target) if link => target,
            Ok(_) => named(),
            Err(error) if link && error.kind() == ErrorKind::NotFound => {
                return Err(OutputError::Link { flag, path: named() });
            }
            Err(error) => return Err(unknown(error)),
        };
        let found = std::fs::metadata(&target).map_err(unknown)?;
        if found.is_dir() {
            return Err(OutputError::Folder { flag, path: named() });
        }
        if !found.is_file() {
            return Err(OutputError::Special { flag, path: named(), what: special(&found) });
        }
        for what in [&target, folder_of(&target)] {
            if !writable(what) || *what == target && found.permissions().readonly() {
                return Err(OutputError::ReadOnly { flag, path: named(), what: what.to_owned() });
            }
        }
        Ok((target, Some(found)))
    }

    fn new_name(&self) -> Result<(PathBuf, Option<Metadata>), OutputError> {
        let OutputPath { flag, path } = self;
        let (flag, named, folder) = (*flag, || path.clone(), folder_of(path));
        if path.file_name().is_none() || ends_in_slash(path) {
            return Err(OutputError::Folder { flag, path: named() });
        }
        if !folder.is_dir() {
            return Err(OutputError::NoFolder { flag, path: named(), folder: folder.to_owned() });
        }
        if !writable(folder) {
            return Err(OutputError::ReadOnly { flag, path: named(), what: folder.to_owned() });
        }
        Ok((named(), None))
    }
}

/// Looks at a folder that files are to be written into: it is one, or it can be made.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check_folder(flag: &'static str, path: &Path) -> Result<(), OutputError> {
    let named = || path.to_owned();
    // A link that leads nowhere is there, and no folder can take its place.
    let is_there = |path: &&Path| std::fs::symlink_metadata(path).is_ok();
    let above = path.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let found = above.into_iter().find(is_there).unwrap_or(Path::new("."));
    if !found.is_dir() {
        return Err(OutputError::NoFolderAt { flag, path: named(), found: found.to_owned() });
    }
    if !writable(found) {
        return Err(OutputError::ReadOnly { flag, path: named(), what: found.to_owned() });
    }
    Ok(())
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a path is written as a folder's.
fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().last().is_some_and(|byte| std::path::is_separator(char::from(*byte)))
}

/// The file among `input`, or all that is in it, that `output` is.
fn find(input: &Path, output: &Metadata, depth: usize) -> Option<PathBuf> {
    let found = std::fs::metadata(input).ok()?;
    if !found.is_dir() {
        return same(&found, output).then(|| input.to_owned());
    }
    let depth = depth.checked_sub(1)?;
    std::fs::read_dir(input).ok()?.flatten().find_map(|entry| {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        // Links to folders may lead anywhere, also back.
        let is_read = path.extension().is_some_and(|ending| READ.iter().any(|read| ending == *read));
        if kind.is_dir() || is_read {
            find(&path, output, if kind.is_dir() { depth } else { 0 })
        } else {
            None
        }
    })
}

/// Whether two names are of one file.
#[cfg(unix)]
fn same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// What can be told where files have no numbers: two of other times or sizes are not the same.
#[cfg(not(unix))]
fn same(a: &Metadata, b: &Metadata) -> bool {
    let of = |m: &Metadata| Some((m.len(), m.created().ok()?, m.modified().ok()?));
    of(a).is_some_and(|a| Some(a) == of(b))
}

#[cfg(unix)]
fn special(found: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = found.file_type();
    match () {
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(not(unix))]
fn special(_: &Metadata) -> &'static str {
    "a device"
}

#[cfg(unix)]
fn writable(path: &Path) -> bool {
    // What the system does not know is found out when it is written.
    !matches!(
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::ROFS | rustix::io::Errno::PERM)
    )
}

#[cfg(not(unix))]
fn writable(_: &Path) -> bool {
    true
}
