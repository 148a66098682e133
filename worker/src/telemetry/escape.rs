//! Makes text of unknown origin safe to print: job IDs come from publishers, and
//! a terminal obeys what it reads.

use std::fmt::{self, Write};

/// Whether a character could do more than appear: control characters (escape
/// sequences, line breaks, in both their ranges), line separators, and the
/// invisible ones that reorder or hide text (Unicode's bidirectional controls).
pub(super) fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Writes a text with what is active as JSON would escape it: `\n`, `\u001b`.
pub(super) fn write_escaped(out: &mut impl Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if is_active(c) => {
                // All of them lie below U+10000.
                write!(out, "\\u{:04x}", u32::from(c))?;
            }
            c => out.write_char(c)?,
        }
    }
    Ok(())
}

/// A text of at most `limit` bytes, cut where a character begins.
pub(super) fn clip(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        write_escaped(&mut out, text).unwrap();
        out
    }

    #[test]
    fn nothing_active_is_left() {
        assert_eq!(escaped("a\nb\r\t\u{1b}[31mred\u{7}"), "a\\nb\\r\\t\\u001b[31mred\\u0007");
        assert_eq!(
            escaped("\u{9b}2J \u{2028} \u{202e}evil \u{7f}"),
            "\\u009b2J \\u2028 \\u202eevil \\u007f"
        );
        assert_eq!(escaped("Grüße, 😀 — ok"), "Grüße, 😀 — ok");
        let all: String = (0..=0x0010_ffff).filter_map(char::from_u32).collect();
        assert!(!escaped(&all).contains(is_active));
    }

    #[test]
    fn clips_between_characters() {
        assert_eq!(clip("aé", 2), "a");
        assert_eq!(clip("aé", 3), "aé");
    }
}
