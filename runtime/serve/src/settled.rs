//! The answer's text as far as it is settled: slots are filled in any order, and a client that reads along gets the left part
//! that has no open slot, in whole characters.

/// What there is to say of a text, of which more may come unless it is whole: up to the first of `stops`, and whether there was
/// one. While more may come, what may still become another character or a stop is held back.
pub(crate) fn settled<'t>(text: &'t str, stops: &[String], whole: bool) -> (&'t str, bool) {
    // The one that ends first, which stays so while the text grows.
    let ends = |stop: &String| text.find(stop.as_str()).map(|at| (at + stop.len(), at));
    if let Some((_, at)) = stops.iter().filter_map(ends).min() {
        return (&text[..at], true);
    }
    if whole {
        return (text, false);
    }
    // The last bytes of a character that is cut are read as this.
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let begun = |stop: &String| {
        let cuts = stop.char_indices().map(|(at, _)| at).skip(1);
        cuts.filter(|cut| text.ends_with(&stop[..*cut])).max()
    };
    let held = stops.iter().filter_map(begun).max().unwrap_or(0);
    (&text[..text.len() - held], false)
}

#[cfg(test)]
mod tests {
    use super::settled;

    #[test]
    fn texts_that_are_settled() {
        let stops = ["END".to_owned(), "\n\n".to_owned()];
        let cases = [
            ("abc", false, ("abc", false)),
            ("ab\u{fffd}", false, ("ab", false)),
            ("ab\u{fffd}", true, ("ab\u{fffd}", false)),
            ("abEN", false, ("ab", false)),
            ("abEN", true, ("abEN", false)),
            ("abENDc", false, ("ab", true)),
            ("a\n\nbEND", true, ("a", true)),
            ("a\n", false, ("a", false)),
            ("", false, ("", false)),
        ];
        for (text, whole, wanted) in cases {
            assert_eq!(settled(text, &stops, whole), wanted, "{text:?} {whole}");
        }
        // What was said of a part stays said.
        let stops = ["abcdef".to_owned(), "cd".to_owned()];
        for text in ["abcd", "abcde", "abcdef"] {
            assert_eq!(settled(text, &stops, false), ("ab", true), "{text}");
        }
    }
}
