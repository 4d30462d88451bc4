//! Page faults and resident memory of this process, where the system tells (Linux).

use serde::Serialize;
use std::fs::File;
use std::io::Read;

/// Page faults of all threads so far, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Faults {
    /// The page was in memory, and only had to be mapped or zeroed.
    pub(super) minor: u64,
    /// The page had to be read from a disk.
    pub(super) major: u64,
}

impl Faults {
    /// Until now; nothing where the system does not tell.
    pub(super) fn now() -> Option<Faults> {
        // On the stack: reading it is to cost none.
        let mut bytes = [0; 1024];
        let len = File::open("/proc/self/stat").ok()?.read(&mut bytes).ok()?;
        of_stat(std::str::from_utf8(bytes.get(..len)?).ok()?)
    }

    /// Those since `earlier`.
    pub(super) fn since(self, earlier: Faults) -> Faults {
        let Faults { minor, major } = earlier;
        Faults { minor: self.minor.saturating_sub(minor), major: self.major.saturating_sub(major) }
    }
}

/// The fields `minflt` and `majflt`, the same counts that `getrusage` gives.
fn of_stat(text: &str) -> Option<Faults> {
    // The second field is the name in parentheses, in which anything may stand.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    Some(Faults { minor, major: fields.nth(1)?.parse().ok()? })
}

/// Begins to count the peak anew; whether the system does that.
pub(super) fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Most bytes that were resident at a time; nothing where the system does not tell.
pub(super) fn peak_bytes() -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn of_status(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_system() {
        let stat = "42 (a) b (c)) R 1 42 42 0 -1 4194304 1234 99 7 88 1 2 3 4 20 0 1 0";
        assert_eq!(of_stat(stat), Some(Faults { minor: 1234, major: 7 }));
        assert_eq!(of_stat("42 (x) R 1"), None);
        assert_eq!(of_status("VmPeak:\t  10 kB\nVmHWM:\t    3 kB\n"), Some(3072));
        assert_eq!(of_status("VmHWM:\t some\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn new_pages_are_counted() {
        let before = Faults::now().unwrap();
        let pages = vec![1_u8; 64 * 4096];
        let after = Faults::now().unwrap();
        assert!(after.since(before).minor > 0 && peak_bytes().unwrap() > pages.len() as u64);
    }
}
