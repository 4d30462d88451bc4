//! Weights of bf16 packed for an archive: all lower bytes, then all upper ones, of which there are few different ones. A
//! seventh is saved.

use std::fs;
use std::io::Error;
use std::path::{Path, PathBuf};

/// The file that is worth it: a checkpoint's, of more bytes than this.
const NAME: &str = "model.safetensors";
const BYTES_MIN: u64 = 1 << 20;
/// Is put behind the name.
const ENDING: &str = "halves";

/// Puts the bytes of every such file of a folder apart, in its place.
pub(crate) fn part(folder: &Path) -> Result<(), Error> {
    for path in files(folder)? {
        if path.ends_with(NAME) && path.metadata()?.len() > BYTES_MIN {
            let bytes = fs::read(&path)?;
            let halves = bytes.iter().step_by(2).chain(bytes.iter().skip(1).step_by(2));
            fs::write(path.with_added_extension(ENDING), halves.copied().collect::<Vec<u8>>())?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Puts them together again.
pub(crate) fn join(folder: &Path) -> Result<(), Error> {
    for path in files(folder)? {
        if path.extension().is_some_and(|ending| ending == ENDING) {
            let halves = fs::read(&path)?;
            let (lower, upper) = halves.split_at(halves.len().div_ceil(2));
            let mut bytes = Vec::with_capacity(halves.len());
            for (i, byte) in lower.iter().enumerate() {
                bytes.push(*byte);
                bytes.extend(upper.get(i));
            }
            fs::write(path.with_extension(""), bytes)?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut list = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { list.extend(files(&path)?) } else { list.push(path) }
    }
    Ok(list)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join(NAME);
        fs::create_dir(folder.path().join("a")).unwrap();
        for more in [1, 2] {
            let bytes: Vec<u8> = (0..BYTES_MIN + more).map(|i| (i * 7 % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            part(folder.path()).unwrap();
            assert!(!path.exists());
            join(folder.path()).unwrap();
            assert!(fs::read(&path).unwrap() == bytes);
            assert_eq!(files(folder.path()).unwrap().len(), 1);
        }
    }
}
