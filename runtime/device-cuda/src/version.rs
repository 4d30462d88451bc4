//! Versions of CUDA: what a driver is of, and what it must be of to run code.

use std::fmt;

/// A version of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

/// For each version of CUDA the version of PTX that its drivers compile, and the first of these drivers (NVIDIA's release
/// notes of CUDA, and of PTX).
const RELEASES: [(Version, (u32, u32), u32); 11] = [
    (Version::new(12, 0), (8, 0), 525),
    (Version::new(12, 1), (8, 1), 530),
    (Version::new(12, 2), (8, 2), 535),
    (Version::new(12, 3), (8, 3), 545),
    (Version::new(12, 4), (8, 4), 550),
    (Version::new(12, 5), (8, 5), 555),
    (Version::new(12, 7), (8, 6), 565),
    (Version::new(12, 8), (8, 7), 570),
    (Version::new(12, 9), (8, 8), 575),
    (Version::new(13, 0), (9, 0), 580),
    (Version::new(13, 1), (9, 1), 590),
];

impl Version {
    /// Drivers of this version and later run binaries of every compiler of CUDA 12.
    pub(crate) const OF_BINARIES: Version = Version::new(12, 0);

    const fn new(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    /// From `cuDriverGetVersion`: 12090 is 12.9.
    pub(crate) fn of_driver(number: i32) -> Version {
        let number = u32::try_from(number).unwrap_or(0);
        Version { major: number / 1000, minor: number % 1000 / 10 }
    }

    /// What compiles this PTX, if it says its version and that is a known one.
    pub(crate) fn of_ptx(ptx: &[u8]) -> Option<Version> {
        let is_version = |line: &&[u8]| line.starts_with(b".version ");
        let line = std::str::from_utf8(ptx.split(|byte| *byte == b'\n').find(is_version)?).ok()?;
        let (major, minor) = line.strip_prefix(".version ")?.trim().split_once('.')?;
        let wanted = (major.parse().ok()?, minor.parse().ok()?);
        let release = RELEASES.iter().find(|(_, ptx, _)| *ptx >= wanted)?;
        Some(release.0)
    }

    /// The first driver of this version.
    pub(crate) fn driver(self) -> u32 {
        let release = RELEASES.iter().find(|(version, ..)| *version >= self);
        release.map_or(RELEASES[RELEASES.len() - 1].2, |(_, _, driver)| *driver)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(Version::of_driver(12090), Version::new(12, 9));
        assert_eq!(Version::of_driver(13000), Version::new(13, 0));
        assert_eq!(Version::of_driver(-1), Version::new(0, 0));
        let ptx = b"//\n// Generated\n//\n\n.version 8.8\n.target sm_80\n";
        assert_eq!(Version::of_ptx(ptx), Some(Version::new(12, 9)));
        assert_eq!(Version::of_ptx(ptx).map(Version::driver), Some(575));
        // Older than all that is listed.
        assert_eq!(Version::of_ptx(b".version 7.8\n"), Some(Version::new(12, 0)));
        for other in [b"text" as &[u8], b".version 99.0", b".version 8", b".version a.b", b"\xff"] {
            assert_eq!(Version::of_ptx(other), None);
        }
        assert!(RELEASES.is_sorted());
    }
}
