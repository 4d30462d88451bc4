//! The processor's name, out of a struct whose layout changed between versions.
//!
//! Only the struct of properties has the name, and no function tells its size. It is written into a buffer that is
//! larger than any of its versions, and the name is looked for: a text like `gfx942:sramecc+:xnack-`.

use crate::api::Properties;
use std::ffi::c_int;

/// Words of the buffer: 16 KiB. The struct has 1472 bytes in ROCm 6 and 7, 792 in ROCm 5.
const WORDS: usize = 2048;

/// The processor without its settings: `gfx942`; empty if it is not found.
pub(crate) fn arch(properties: Option<Properties>, device: c_int) -> String {
    let Some(properties) = properties else { return String::new() };
    let mut words = [0_u64; WORDS];
    // SAFETY: it writes one struct, which fits and whose alignment is that of a pointer.
    let code = unsafe { properties(words.as_mut_ptr().cast(), device) };
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    if code == crate::api::SUCCESS { find(&bytes).unwrap_or_default() } else { String::new() }
}

/// The first text that begins as the name of a processor does, up to its settings.
fn find(bytes: &[u8]) -> Option<String> {
    bytes.split(|b| *b == 0).find_map(|text| {
        let digits = text.strip_prefix(b"gfx")?;
        let len = digits.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let ends = matches!(digits.get(len), None | Some(b':'));
        (ends && len >= 3).then(|| String::from_utf8_lossy(text.get(..3 + len).unwrap_or(text)).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_processor() {
        let find = |text: &[u8]| find(text);
        assert_eq!(find(b"AMD Instinct\0\0\x01\x02\0gfx942:sramecc+:xnack-\0\0").as_deref(), Some("gfx942"));
        assert_eq!(find(b"\0gfx90a\0").as_deref(), Some("gfx90a"));
        assert_eq!(find(b"gfx1100").as_deref(), Some("gfx1100"));
        for text in [b"" as &[u8], b"AMD\0gfx\0", b"gfxcard\0", b"the gfx942\0", b"gfx94z\0"] {
            assert_eq!(find(text), None);
        }
    }
}
