//! `dream.h` is what the sources say.

use std::path::Path;

/// Set to write the header instead of comparing it.
const BLESS: &str = "DREAM_BLESS";
/// Left out in C: about Rust's `unsafe`, and lines that only rustdoc needs.
const SAFETY: &str = "\n//\n// # Safety\n//\n// The rules of the header.\n";

#[test]
fn header_is_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/types.rs"))
        .with_src(root.join("src/calls.rs"))
        .generate()
        .unwrap();
    let mut made = std::fs::read(root.join("src/header.txt")).unwrap();
    made.push(b'\n');
    bindings.write(&mut made);
    let made = String::from_utf8(made).unwrap().replace(SAFETY, "\n");
    let path = root.join("dream.h");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        found == made,
        "dream.h is not what src/types.rs, src/calls.rs and src/header.txt say, from line {} on; write it with \
         `{BLESS}=1 cargo test -p dream-capi --test header`, look at the difference and commit it",
        differs.unwrap_or_else(|| found.lines().count().min(made.lines().count())) + 1,
    );
}
