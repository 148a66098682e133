//! Makes text of unknown origin safe to print: job IDs come from publishers, and
//! a terminal obeys what it reads.

use std::fmt::{self, Write as _};
use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use shared::is_active;

/// Shows a text with what is active as JSON would escape it: `\n`, `\u001b`.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_active(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(f, "\\u{unit:04x}")?;
                    }
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A value as JSON on one line with nothing active in it.
pub(super) fn json(value: &impl Serialize) -> String {
    let mut json = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut json, EscapedJson));
    written.expect("texts, numbers and their maps can be written to memory");
    String::from_utf8(json).expect("JSON is UTF-8")
}

/// Compact JSON that escapes what is active too: JSON itself asks for less.
struct EscapedJson;

impl Formatter for EscapedJson {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.contains(is_active) {
            write!(writer, "{}", Escaped(fragment))
        } else {
            writer.write_all(fragment.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_active_is_left() {
        let escaped = |text| Escaped(text).to_string();
        assert_eq!(escaped("a\nb\r\t\u{1b}[31mred\u{7}"), "a\\nb\\r\\t\\u001b[31mred\\u0007");
        assert_eq!(
            escaped("\u{9b}2J \u{2028} \u{202e}evil \u{7f}"),
            "\\u009b2J \\u2028 \\u202eevil \\u007f"
        );
        assert_eq!(escaped("Grüße, 😀 — ok"), "Grüße, 😀 — ok");
        let all: String = ('\0'..=char::MAX).collect();
        assert!(!escaped(&all).contains(is_active));
    }

    #[test]
    fn json_reads_back_as_it_was_written() {
        for c in '\0'..=char::MAX {
            let text = format!("a{c}\"\\b");
            let line = json(&[&text]);
            assert!(!line.contains(is_active), "{line:?}");
            assert_eq!(serde_json::from_str::<[String; 1]>(&line).unwrap(), [text]);
        }
    }
}
