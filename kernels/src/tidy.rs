//! Makes generated source depend on the kernel alone.
//!
//! The generator walks hash tables: the order of Metal's built-in arguments, and with it the numbers of all values,
//! differs from run to run, and its entries end in a hash that differs from build to build. Vectors are aligned to their
//! size, which is no alignment where it is no power of 2. Nothing here changes what the source means.

use std::collections::BTreeMap;

/// `source` with `entry` renamed to `name`, built-in arguments in alphabetical order, and values numbered as they appear.
pub(crate) fn tidy(source: &str, entry: &str, name: &str) -> String {
    let lines: Vec<String> = source.lines().map(sort_builtins).map(|line| align(&line)).collect();
    let mut text = renumber(&lines.join("\n")).replace(entry, name);
    text.push('\n');
    text
}

/// Vectors that no load takes at once need no alignment but their elements'.
fn align(line: &str) -> String {
    const START: &str = "struct alignas(";
    let size = line.strip_prefix(START).and_then(|rest| rest.split_once(')'));
    match size.and_then(|(size, rest)| Some((size.parse::<u32>().ok()?, rest))) {
        Some((17.., rest)) => format!("{START}16){rest}"),
        _ => line.to_owned(),
    }
}

/// The line of a Metal entry, its built-in arguments sorted; any other as it is.
fn sort_builtins(line: &str) -> String {
    let unchanged = || line.to_owned();
    let Some((head, tail)) = line.split_once("[[kernel]]") else { return unchanged() };
    let Some((prefix, list)) = tail.split_once('(') else { return unchanged() };
    let Some(list) = list.strip_suffix(") {") else { return unchanged() };
    let (mut builtins, mut arguments) = (Vec::new(), Vec::new());
    for argument in list.split(", ") {
        match argument.split_once("[[") {
            Some((_, attribute)) if !attribute.starts_with("buffer") => builtins.push((attribute, argument)),
            _ => arguments.push(argument),
        }
    }
    builtins.sort_unstable();
    arguments.extend(builtins.iter().map(|(_, argument)| argument));
    format!("{head}[[kernel]]{prefix}({}) {{", arguments.join(", "))
}

/// Renames `v17`, `v17_store`, `info_v17` by the order in which the numbers appear.
fn renumber(text: &str) -> String {
    let (mut numbers, mut out) = (BTreeMap::new(), String::with_capacity(text.len()));
    let (mut rest, mut before) = (text, ' ');
    while let Some(c) = rest.chars().next() {
        let digits = rest[c.len_utf8()..].bytes().take_while(u8::is_ascii_digit).count();
        let after = rest.as_bytes()[c.len_utf8()..].get(digits);
        let whole = after.is_none_or(|b| !b.is_ascii_alphabetic());
        // `ld.global.v4` is an instruction.
        if c == 'v' && !before.is_ascii_alphanumeric() && before != '.' && digits > 0 && whole {
            let next = numbers.len();
            let number = *numbers.entry(&rest[1..=digits]).or_insert(next);
            out += &format!("v{number}");
            before = '0';
            rest = &rest[1 + digits..];
        } else {
            out.push(c);
            before = c;
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtins_in_order() {
        let line = "[[kernel]] void k_1f(device float* const v9 [[buffer(0)]], constant i* const v2, uint3 v7 [[b]], uint3 v5 [[a]]) {";
        let wanted = "[[kernel]] void k(device float* const v0 [[buffer(0)]], constant i* const v1, uint3 v2 [[a]], uint3 v3 [[b]]) {\n";
        assert_eq!(tidy(line, "k_1f", "k"), wanted);
    }

    #[test]
    fn vectors_are_aligned() {
        assert_eq!(align("struct alignas(304) float_76 { .. };"), "struct alignas(16) float_76 { .. };");
        assert_eq!(align("struct alignas(8) float_2 { .. };"), "struct alignas(8) float_2 { .. };");
    }

    #[test]
    fn values_by_appearance() {
        let text = "let v17 = v3; v17_store; info_v3; kv2d; v4d; vec3; ld.v4";
        assert_eq!(renumber(text), "let v0 = v1; v0_store; info_v1; kv2d; v4d; vec3; ld.v4");
    }
}
