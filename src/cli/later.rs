//! Values of the command's contract that this version does not have: each is refused by name, with what works instead,
//! rather than taken for a slip of the keyboard.

/// The value of a flag if this version has it. `known` are values that the contract has and this version has not.
pub(crate) fn only(text: &str, works: &[&str], known: &[&str]) -> Result<String, String> {
    let kind = text.split(':').next().unwrap_or_default();
    let works_text = works.join(", ");
    if works.contains(&text) {
        Ok(text.to_owned())
    } else if known.contains(&kind) {
        Err(format!("not supported by this version, which has: {works_text}"))
    } else {
        Err(format!("unknown; this version has: {works_text}"))
    }
}
