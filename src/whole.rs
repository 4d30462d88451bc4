//! Files that appear under their name only when they are complete.

use crate::output_path::{OutputError, folder_of};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::Error;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// How temporary names begin.
const PREFIX: &str = ".dreamc-";
/// How those end that are locked while somebody writes.
const PARTIAL: &str = ".partial";
/// How that of a parent ends, which is another file beside a locked one.
const PARENT: &str = ".parent";

/// Why a file was not written. Nothing of it is left behind, and a file of its name is as it was.
#[derive(Debug)]
pub enum WholeError<E> {
    /// Its path is not what it was when it was looked at.
    Output(OutputError),
    /// It could not be made, or not be given its name.
    File(Error),
    /// Its contents could not be written.
    Contents(E),
}

/// Writes a file under a temporary name beside `path`, which it loses only when it is complete. Gives its size in bytes.
pub(crate) fn write_whole<E>(
    path: &Path,
    permissions: Option<Permissions>,
    contents: impl FnOnce(&File) -> Result<(), E>,
) -> Result<u64, WholeError<E>> {
    // Removed when dropped, on every way out but the last.
    let Partial(partial) = Partial::beside(path).map_err(WholeError::File)?;
    contents(partial.as_file()).map_err(WholeError::Contents)?;
    if let Some(permissions) = permissions {
        // What others could not read before, they cannot now.
        partial.as_file().set_permissions(permissions).map_err(WholeError::File)?;
    }
    // A full disk may show only here.
    partial.as_file().sync_all().map_err(WholeError::File)?;
    let bytes = partial.as_file().metadata().map_err(WholeError::File)?.len();
    partial.persist(path).map_err(|error| WholeError::File(error.error))?;
    Ok(bytes)
}

/// A file of a temporary name, which goes when this does. It is locked, so that other runs see that somebody writes it;
/// what a killed one has left is not, and goes when the next is made in the same folder.
#[derive(Debug)]
pub(crate) struct Partial(NamedTempFile);

impl Partial {
    /// A new one in the folder of `path`.
    pub(crate) fn beside(path: &Path) -> Result<Partial, Error> {
        let folder = folder_of(path);
        remove_stale(folder);
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(PARTIAL);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file: the process's mask takes away what the user does not want.
            builder.permissions(Permissions::from_mode(0o666));
        }
        loop {
            let partial = builder.tempfile_in(folder)?;
            // Where files cannot be locked, those of killed runs stay.
            if partial.as_file().lock().is_err() || partial.path().exists() {
                return Ok(Partial(partial));
            }
            // Another run took it for left behind before it was locked.
        }
    }

    /// The name of another file, which others leave alone as long as this is there.
    pub(crate) fn parent(&self) -> PathBuf {
        self.0.path().with_extension(&PARENT[1..])
    }
}

/// Removes what killed runs have left in a folder. What cannot be removed is no reason not to go on.
fn remove_stale(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let (path, name) = (entry.path(), entry.file_name());
        if is_file && has_affixes(&name, PREFIX, PARTIAL) {
            // Locked until both are gone.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() {
                drop(std::fs::remove_file(path.with_extension(&PARENT[1..])));
                drop(std::fs::remove_file(&path));
            }
        } else if is_file
            && has_affixes(&name, PREFIX, PARENT)
            && !path.with_extension(&PARTIAL[1..]).exists()
        {
            drop(std::fs::remove_file(&path));
        }
    }
}

fn has_affixes(name: &OsStr, prefix: &str, suffix: &str) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
}
