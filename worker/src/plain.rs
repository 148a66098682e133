//! Names that strangers chose, in lines for people.

/// A name or reason that strangers chose, as one line for people: what could move a
/// terminal's cursor, turn its direction or forge another line is written as Rust writes it
/// in a string.
pub(crate) fn plain(text: &str) -> String {
    text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_names_are_one_plain_line() {
        for (name, shown) in [
            ("109876543210987654321", "109876543210987654321"),
            ("ann \"the\" o'neill@example.com", "ann \"the\" o'neill@example.com"),
            ("Ünïcode 漢字 😀", "Ünïcode 漢字 😀"),
            ("a\nuser-2", "a\\nuser-2"),
            ("\u{1b}[2J\u{9b}31m\u{7}", "\\u{1b}[2J\\u{9b}31m\\u{7}"),
            ("\u{202e}evil\u{2066}\u{200f}", "\\u{202e}evil\\u{2066}\\u{200f}"),
            ("a\u{2028}b\u{200b}c\u{feff}", "a\\u{2028}b\\u{200b}c\\u{feff}"),
            ("\\n", "\\\\n"),
        ] {
            assert_eq!(plain(name), shown, "{name:?}");
        }
    }
}
