//! PTX with the names of its registers put in order.
//!
//! NVRTC numbers virtual registers by what it did on its way, which is not the same every time: of one source come texts that differ
//! in these numbers alone. The machine code does not depend on them.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The same program; in each function the registers of a kind are numbered as they appear.
pub(crate) fn in_order(ptx: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    let mut rest = ptx;
    // A function's body is from a line that begins with a brace to the brace that closes it; names are its own.
    while let Some(start) = rest.find("\n{") {
        let end = start + closed(&rest[start..]);
        text.push_str(&rest[..start]);
        body(&rest[start..end], &mut text);
        rest = &rest[end..];
    }
    text.push_str(rest);
    text
}

/// Where the first brace of a text is closed.
fn closed(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// New numbers of a kind's registers, by the old ones.
type Numbers<'a> = BTreeMap<&'a str, usize>;

fn body(old: &str, text: &mut String) {
    let mut kinds: BTreeMap<&str, Numbers<'_>> = BTreeMap::new();
    for line in old.lines() {
        if let Some((kind, _)) = declared(line) {
            kinds.insert(kind, Numbers::new());
        }
    }
    // What is used first, then how much is declared.
    let mut new = String::with_capacity(old.len());
    for (i, line) in old.split('\n').enumerate() {
        if i > 0 {
            new.push('\n');
        }
        match declared(line) {
            Some(_) => new.push_str(line),
            None => renamed(line, &mut kinds, &mut new),
        }
    }
    for (i, line) in new.split('\n').enumerate() {
        if i > 0 {
            text.push('\n');
        }
        match declared(line) {
            // The numbers begin with 1, as NVRTC's do.
            Some((kind, before)) => {
                let _ = write!(text, "{before}<{}>;", kinds.get(kind).map_or(0, BTreeMap::len) + 1);
            }
            None => text.push_str(line),
        }
    }
}

/// The kind of registers that a line such as `.reg .b32 %r<12>;` declares, and what stands before its number.
fn declared(line: &str) -> Option<(&str, &str)> {
    let before = line.trim_end().strip_suffix(">;")?;
    let (before, number) = before.rsplit_once('<')?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let (_, kind) = before.trim_start().strip_prefix(".reg ")?.rsplit_once('%')?;
    is_number.then_some((kind, before))
}

fn renamed<'a>(line: &'a str, kinds: &mut BTreeMap<&str, Numbers<'a>>, new: &mut String) {
    let mut rest = line;
    while let Some(at) = rest.find('%') {
        let (before, name) = rest.split_at(at + 1);
        new.push_str(before);
        let length =
            name.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'$').count();
        let (name, behind) = name.split_at(length);
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (kind, number) = name.split_at(length - digits);
        match kinds.get_mut(kind).filter(|_| digits > 0) {
            Some(numbers) => {
                let next = numbers.len() + 1;
                let _ = write!(new, "{kind}{}", numbers.entry(number).or_insert(next));
            }
            None => new.push_str(name),
        }
        rest = behind;
    }
    new.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::in_order;

    const ONE: &str = ".version 8.8\n.visible .entry k(\n\t.param .u64 k_param_0\n)\n{\n\t.reg .pred \t%p<3>;\n\t.reg .b32 \t%r<9>;\n\t.reg .b64 \t%rd<4>;\n\
        \tmov.u32 \t%r7, %ctaid.x;\n\tld.param.u64 \t%rd2, [k_param_0];\n\tadd.s32 \t%r3, %r7, 1;\n\tsetp.gt.u32 \t%p2, %r3, 4;\n\
        \t@%p2 bra \t$L__BB0_2;\n\tst.global.u32 \t[%rd2], %r3;\n$L__BB0_2:\n\tret;\n\n}\n.visible .entry l()\n{\n\t.reg .b32 \t%r<2>;\n\tmov.u32 %r1, 0;\n}\n";

    #[test]
    fn numbers_alone_change() {
        let text = in_order(ONE);
        for line in [
            "\t.reg .b32 \t%r<3>;",
            "\t.reg .b64 \t%rd<2>;",
            "\tmov.u32 \t%r1, %ctaid.x;",
            "\tadd.s32 \t%r2, %r1, 1;",
            "\tst.global.u32 \t[%rd1], %r2;",
            "\t@%p1 bra \t$L__BB0_2;",
            "\tmov.u32 %r1, 0;",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        assert_eq!(in_order(&text), text);
        assert_eq!(text.lines().count(), ONE.lines().count());
    }

    #[test]
    fn other_numbers_of_the_same_program_are_the_same_text() {
        let other = ONE.replace("%r7", "%r5").replace("%r<9>", "%r<12>").replace("%rd2", "%rd3");
        assert_ne!(other, ONE);
        assert_eq!(in_order(&other), in_order(ONE));
    }
}
