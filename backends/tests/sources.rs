//! Sources of the kernels, as the snapshots of `kernels` have them: what the tests of the compilers compile.
#![allow(clippy::unwrap_used, reason = "part of tests")]

use std::path::{Path, PathBuf};

/// Name and source of every kernel that there is a snapshot of for `target`.
pub(crate) fn sources(target: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/tests/snapshots").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| (name_of(file), source_of(&std::fs::read_to_string(file).unwrap()))).collect()
}

fn name_of(file: &Path) -> String {
    file.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// What stands behind the snapshot's header and the description of the launch.
fn source_of(snapshot: &str) -> String {
    let (_, text) = snapshot.split_once("\n---\n").unwrap();
    let (_, source) = text.split_once("\n\n").unwrap();
    source.to_owned()
}

/// Does `each` for every source, on all cores.
#[allow(dead_code, reason = "not every test compiles all sources")]
pub(crate) fn in_parallel(sources: &[(String, String)], each: impl Fn(&str, &str) + Sync) {
    assert!(!sources.is_empty());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, source)) =
                    sources.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    each(name, source);
                }
            });
        }
    });
}
