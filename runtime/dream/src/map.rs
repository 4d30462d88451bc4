//! The memory that an artifact lies in.

use crate::Error;
use memmap2::{Mmap, MmapMut};
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// A mapped file, or a copy in memory of its own: either way it begins at a page.
pub(crate) struct Map {
    map: Mmap,
    /// Whether pages that are let go come again from the file.
    from_file: bool,
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Map {
    /// Maps a file.
    pub(crate) fn file(path: &Path) -> Result<Map, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        #[allow(unsafe_code, reason = "weights are used where they lie in the file")]
        // SAFETY: the map is only read. Another process that shortens the file meanwhile can end this one with a bus
        // error; that is the known price of mapping, and changed bytes are found by the hashes at first use.
        let map = unsafe { Mmap::map(&file) };
        Ok(Map { map: map.map_err(read)?, from_file: true })
    }

    /// Copies bytes.
    pub(crate) fn copy(bytes: &[u8]) -> Result<Map, Error> {
        let copy = || {
            let mut map = MmapMut::map_anon(bytes.len())?;
            map.copy_from_slice(bytes);
            map.make_read_only()
        };
        let map = copy().map_err(|source| Error::Copy { bytes: bytes.len(), source })?;
        Ok(Map { map, from_file: false })
    }

    /// Keeps all of it in memory.
    pub(crate) fn lock(&mut self, path: &Path) -> Result<(), Error> {
        let bytes = self.map.len();
        self.map.lock().map_err(|source| Error::Lock { path: path.to_owned(), bytes, source })?;
        self.from_file = false;
        Ok(())
    }

    /// Lets the pages of a part go, which are read again where they are needed. Only a file's, and only of this map.
    pub(crate) fn let_go(&self, part: &[u8]) {
        let offset = part.as_ptr().addr().checked_sub(self.map.as_ptr().addr());
        let inside = offset.filter(|at| at.checked_add(part.len()).is_some_and(|end| end <= self.map.len()));
        if let (true, Some(offset)) = (self.from_file, inside) {
            #[cfg(unix)]
            #[allow(
                unsafe_code,
                reason = "half of a model in few bits may be a table of which a request reads some rows"
            )]
            // SAFETY: the map is shared with the file and only read, so the same bytes come again at the next touch.
            // It is a hint: where the system does not take it the pages stay.
            let _ = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len())
            };
            #[cfg(not(unix))]
            let _ = offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_comes_again() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7 / 3) as u8).collect();
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(file.path(), &bytes).expect("it can be written");
        let mut locked = Map::file(file.path()).expect("it can be mapped");
        // Whether so much may be locked or not, nothing may be lost.
        let _ = locked.lock(file.path());
        let of_file = Map::file(file.path()).expect("it can be mapped");
        for map in [of_file, Map::copy(&bytes).expect("there is memory"), locked] {
            for part in [0..bytes.len(), 5000..500_001, 7..7] {
                map.let_go(&map[part]);
                assert!(*map == *bytes);
            }
            map.let_go(&bytes);
        }
    }

    /// Megabytes of files that are mapped into this process.
    #[cfg(target_os = "linux")]
    fn mapped() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("it has this line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_let_go_does_not_count() {
        const MEGABYTES: u64 = 64;
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(file.path(), vec![1; (MEGABYTES << 20) as usize]).expect("it can be written");
        let map = Map::file(file.path()).expect("it can be mapped");
        assert!(map.iter().all(|byte| *byte == 1));
        let all = mapped();
        map.let_go(&map);
        assert!(mapped() + MEGABYTES / 2 < all, "{all} MB, then {}", mapped());
    }
}
