//! Kernels that were compiled before, found again by what they were compiled from.

use crate::toolchain::Search;
use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Where a toolchain folder keeps them.
const FOLDER: &str = "compiled";

/// Bytes of a hash.
const HASH_BYTES: usize = 32;

/// A folder of compiled kernels. Any number of processes may read and write it at once, and any file of it may be removed.
///
/// A file begins with the hash of what follows, so that one that was damaged is as good as none.
#[derive(Clone, Debug)]
pub struct Compiled {
    folder: PathBuf,
    compiler: String,
}

impl Compiled {
    /// What `compiler` made, which is said by a text that changes with all that its output depends on beside a kernel's
    /// source and architecture. The folder is made if it is not there.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn open(folder: &Path, compiler: &str) -> Result<Compiled, Error> {
        std::fs::create_dir_all(folder)?;
        Ok(Compiled { folder: folder.to_owned(), compiler: compiler.to_owned() })
    }

    /// What goes with a toolchain folder, in the first that has it: by them a machine without a compiler builds what was
    /// built elsewhere. No text of a compiler is needed to find them.
    pub fn find(search: &Search) -> Option<Compiled> {
        let mut folders = search.folders().iter().map(|folder| folder.join(FOLDER));
        folders.find(|folder| folder.is_dir()).map(|folder| Compiled { folder, compiler: String::new() })
    }

    /// Makes that in a toolchain folder. It belongs to one version of a compiler: who takes another empties it.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be made.
    pub fn make(toolchain: &Path) -> Result<Compiled, Error> {
        Compiled::open(&toolchain.join(FOLDER), "")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether anything was compiled for an architecture.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn has(&self, arch: &str) -> Result<bool, Error> {
        let of = format!("{arch}-");
        for entry in std::fs::read_dir(&self.folder)? {
            if entry?.file_name().to_string_lossy().starts_with(&of) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What `source` was compiled to for an architecture, in the form of this file extension, if it was.
    ///
    /// # Errors
    ///
    /// Where a file is there and cannot be read.
    pub fn get(&self, source: &str, arch: &str, extension: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = match std::fs::read(self.path(source, arch, extension)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let whole = bytes
            .split_at_checked(HASH_BYTES)
            .is_some_and(|(hash, code)| hash == blake3::hash(code).as_bytes());
        Ok(whole.then(|| bytes.split_off(HASH_BYTES)))
    }

    /// Keeps what `source` was compiled to.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be written.
    pub fn put(&self, source: &str, arch: &str, extension: &str, code: &[u8]) -> Result<(), Error> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(blake3::hash(code).as_bytes())?;
        file.write_all(code)?;
        file.persist(self.path(source, arch, extension))?;
        Ok(())
    }

    fn path(&self, source: &str, arch: &str, extension: &str) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        // The length tells the one text from the other.
        hasher.update(&(self.compiler.len() as u64).to_le_bytes());
        hasher.update(self.compiler.as_bytes()).update(source.as_bytes());
        let mut name = format!("{arch}-");
        hasher.finalize().as_bytes().iter().take(16).for_each(|byte| {
            // A text takes whatever is written.
            let _ = write!(name, "{byte:02x}");
        });
        self.folder.join(format!("{name}.{extension}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let search = Search::nowhere().and(folder.path());
        assert!(Compiled::find(&search).is_none());
        let kept = Compiled::make(folder.path()).unwrap();
        kept.put("source", "sm_80", "cubin", b"\x7fELF").unwrap();
        let found = Compiled::find(&search).unwrap();
        assert_eq!(found.get("source", "sm_80", "cubin").unwrap(), Some(b"\x7fELF".to_vec()));
        assert_eq!(found.get("source", "sm_80", "ptx").unwrap(), None);
        assert_eq!(found.get("another", "sm_80", "cubin").unwrap(), None);
        assert_eq!(found.get("source", "sm_86", "cubin").unwrap(), None);
        assert!(found.has("sm_80").unwrap() && !found.has("sm_86").unwrap());
        let of_another = Compiled::open(found.folder(), "12.9").unwrap();
        assert_eq!(of_another.get("source", "sm_80", "cubin").unwrap(), None);
    }

    #[test]
    fn what_was_damaged_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Compiled::open(&folder.path().join("new"), "12.9").unwrap();
        kept.put("source", "sm_80", "cubin", b"binary").unwrap();
        let path = kept.path("source", "sm_80", "cubin");
        let whole = std::fs::read(&path).unwrap();
        for damaged in
            [&[] as &[u8], &whole[..20], &whole[..whole.len() - 1], &[&whole[..32], b"binarY"].concat()]
        {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(kept.get("source", "sm_80", "cubin").unwrap(), None);
        }
        kept.put("source", "sm_80", "cubin", b"binary").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}
