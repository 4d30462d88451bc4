//! Files that appear under their name only when they are complete.

use std::fs::File;
use std::io::Error;
use std::path::Path;

/// Why a file was not written. Nothing of it is left behind, and a file of its name is as it was.
#[derive(Debug)]
pub enum WholeError<E> {
    /// It could not be made, or not be put in its place.
    File(Error),
    /// Its contents could not be written.
    Contents(E),
}

/// Writes a file under a temporary name beside `path`, which it loses only when it is complete. Gives its size in bytes.
///
/// # Errors
///
/// See [`WholeError`].
pub fn write_whole<E>(
    path: &Path,
    contents: impl FnOnce(&File) -> Result<(), E>,
) -> Result<u64, WholeError<E>> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".dreamc-").suffix(".partial");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the process's mask takes away what the user does not want.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    // Removed when dropped, on every way out but the last.
    let partial = builder.tempfile_in(folder).map_err(WholeError::File)?;
    contents(partial.as_file()).map_err(WholeError::Contents)?;
    // A full disk may show only here.
    partial.as_file().sync_all().map_err(WholeError::File)?;
    let bytes = partial.as_file().metadata().map_err(WholeError::File)?.len();
    partial.persist(path).map_err(|error| WholeError::File(error.error))?;
    Ok(bytes)
}
