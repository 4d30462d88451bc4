//! Binaries that were compiled before: by them a machine with no compiler builds what was built elsewhere.

use crate::Binary;
use dreamc_backend::toolchain::Search;
use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Where a toolchain folder keeps them.
const FOLDER: &str = "cuda/prebuilt";

/// A folder with the binaries of kernels, found by what they were compiled from.
///
/// There is none unless somebody makes it. It belongs to one version of NVRTC: who takes another empties it.
#[derive(Clone, Debug)]
pub struct Prebuilt {
    folder: PathBuf,
}

impl Prebuilt {
    /// `cuda/prebuilt` of the first toolchain folder that has it.
    pub fn find(search: &Search) -> Option<Prebuilt> {
        let mut folders = search.folders().iter().map(|it| it.join(FOLDER));
        folders.find(|folder| folder.is_dir()).map(|folder| Prebuilt { folder })
    }

    /// Makes it in a toolchain folder.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn make(toolchain: &Path) -> Result<Prebuilt, Error> {
        let folder = toolchain.join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        Ok(Prebuilt { folder })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether anything was compiled for an architecture.
    ///
    /// # Errors
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

    /// What `source` was compiled to for an architecture, if it was.
    ///
    /// # Errors
    /// Where a file is there and cannot be read.
    pub fn binary(&self, source: &str, arch: &str) -> Result<Option<Binary>, Error> {
        let [cubin, ptx] = self.paths(source, arch).map(|path| match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        });
        let (cubin, ptx) = (cubin?, ptx?);
        Ok(cubin.map(|cubin| Binary { cubin, ptx: ptx.unwrap_or_default() }))
    }

    /// Keeps what `source` was compiled to. PTX that runs nowhere but where the cubin does is left out.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn keep(&self, source: &str, arch: &str, binary: &Binary) -> Result<(), Error> {
        let [cubin, ptx] = self.paths(source, arch);
        if !arch.ends_with('a') {
            self.write(&ptx, &binary.ptx)?;
        }
        // Last, since a kernel without it is not there.
        self.write(&cubin, &binary.cubin)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    }

    fn paths(&self, source: &str, arch: &str) -> [PathBuf; 2] {
        let hash = blake3::hash(source.as_bytes());
        let mut name = format!("{arch}-");
        hash.as_bytes().iter().take(16).for_each(|byte| {
            // A text takes whatever is written.
            let _ = write!(name, "{byte:02x}");
        });
        ["cubin", "ptx"].map(|extension| self.folder.join(format!("{name}.{extension}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let search = Search::nowhere().and(folder.path());
        assert!(Prebuilt::find(&search).is_none());
        let kept = Prebuilt::make(folder.path()).unwrap();
        let binary = Binary { cubin: b"\x7fELF".to_vec(), ptx: b".version 8.0\0".to_vec() };
        kept.keep("source", "sm_80", &binary).unwrap();
        kept.keep("source", "sm_90a", &binary).unwrap();
        let found = Prebuilt::find(&search).unwrap();
        assert_eq!(found.binary("source", "sm_80").unwrap(), Some(binary.clone()));
        let exact = Binary { ptx: Vec::new(), ..binary };
        assert_eq!(found.binary("source", "sm_90a").unwrap(), Some(exact));
        assert_eq!(found.binary("another", "sm_80").unwrap(), None);
        assert_eq!(found.binary("source", "sm_86").unwrap(), None);
        assert!(found.has("sm_80").unwrap() && !found.has("sm_86").unwrap());
    }
}
