//! Metal's attributes, which clang does not know: checked by name, and taken out of its way.

/// What marks a kernel for clang, where `[[kernel]]` does for Metal.
pub(crate) const KERNEL: &str = "__kernel  ";

/// Attributes of kernels and their arguments, without their operands.
const KNOWN: [&str; 15] = [
    "buffer",
    "dispatch_threads_per_threadgroup",
    "grid_size",
    "max_total_threads_per_threadgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "thread_index_in_simdgroup",
    "thread_index_in_threadgroup",
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup",
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "threads_per_simdgroup",
    "threads_per_threadgroup",
];

/// `[[kernel]]` becomes [`KERNEL`], the other attributes white space: every place in the source stays where it is.
/// An unknown attribute is the error.
pub(crate) fn translate(msl: &str) -> Result<String, String> {
    let mut text = String::with_capacity(msl.len());
    let mut rest = msl;
    while let Some((before, behind)) = rest.split_once("[[") {
        let (attribute, after) = behind.split_once("]]").ok_or_else(|| first_line(behind))?;
        let name = attribute.split_once('(').map_or(attribute, |(name, _)| name).trim();
        text.push_str(before);
        if name == "kernel" {
            text.push_str(KERNEL);
        } else if KNOWN.contains(&name) {
            text.extend(std::iter::repeat_n(' ', attribute.len() + "[[]]".len()));
        } else {
            return Err(first_line(attribute));
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay() {
        let msl = "[[kernel]] void f(device int *v [[buffer(0)]], uint3 i [[thread_position_in_grid]]);";
        let translated = translate(msl).unwrap();
        assert_eq!(translated.len(), msl.len());
        assert!(translated.starts_with("__kernel   void f(device int *v "), "{translated}");
        assert!(!translated.contains('['));
    }

    #[test]
    fn unknown_attributes_are_named() {
        assert_eq!(translate("int v [[bufer(0)]];"), Err("bufer(0)".to_owned()));
        assert_eq!(translate("int v [[buffer(0);"), Err("buffer(0);".to_owned()));
    }
}
