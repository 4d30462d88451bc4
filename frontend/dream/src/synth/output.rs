//! Files that appear together or not at all.

use crate::ImportError;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files under temporary names. Unless committed, they are removed again.
pub(super) struct Output<'a> {
    dir: &'a Path,
    files: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Output<'a> {
    /// Refuses a directory that has a checkpoint, or one of these files.
    pub(super) fn new(dir: &'a Path, files: &[&str]) -> Result<Output<'a>, ImportError> {
        let names = [crate::config::CONFIG_FILE, dreamc_weights::SINGLE_FILE, dreamc_weights::INDEX_FILE];
        match names.iter().chain(files).map(|name| dir.join(name)).find(|path| is_there(path)) {
            Some(path) => Err(ImportError::OutputExists { path }),
            None => Ok(Output { dir, files: Vec::new() }),
        }
    }

    /// Writes a file under a temporary name.
    pub(super) fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), ImportError> {
        let temporary = self.dir.join(format!("{name}.partial"));
        if let Some(path) = [self.dir.join(name), temporary.clone()].into_iter().find(|path| is_there(path)) {
            return Err(ImportError::OutputExists { path });
        }
        let file = File::create_new(&temporary);
        if file.is_ok() {
            self.files.push((temporary.clone(), self.dir.join(name)));
        }
        file.and_then(|mut file| write(&mut file)).map_err(|source| io_error(&temporary, source))
    }

    /// Writes a file of JSON.
    pub(super) fn write_json(&mut self, name: &str, value: &Value) -> Result<(), ImportError> {
        self.write(name, |out| out.write_all(format!("{value:#}\n").as_bytes()))
    }

    /// Gives all files their names.
    pub(super) fn commit(mut self) -> Result<(), ImportError> {
        if let Some((_, path)) = self.files.iter().find(|(_, path)| is_there(path)) {
            return Err(ImportError::OutputExists { path: path.clone() });
        }
        for (temporary, path) in &self.files {
            std::fs::rename(temporary, path).map_err(|source| io_error(path, source))?;
        }
        self.files.clear();
        Ok(())
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        for (temporary, _) in &self.files {
            // The error that led here matters more than one in tidying up.
            drop(std::fs::remove_file(temporary));
        }
    }
}

/// Whether anything has this name, be it a link that leads nowhere.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Refuses what does not fit on the disk.
pub(super) fn check_free(dir: &Path, needed_bytes: u64) -> Result<(), ImportError> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(dir).map_err(|e| io_error(dir, e.into()))?;
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free_bytes < needed_bytes {
            return Err(ImportError::DiskFull { path: dir.to_owned(), free_bytes, needed_bytes });
        }
    }
    // Elsewhere a full disk shows when writing.
    #[cfg(not(unix))]
    let _ = (dir, needed_bytes);
    Ok(())
}

/// The error of an operation on a file.
pub(super) fn io_error(path: &Path, source: io::Error) -> ImportError {
    ImportError::Io { path: path.to_owned(), source }
}
