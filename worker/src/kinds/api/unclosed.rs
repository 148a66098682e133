//! Whether a JSON that goes into an object was cut off.
//!
//! An object is not held, and what is in it is for whoever reads it. But an API that fails in
//! the middle of an answer may still give half of it a length, and to see that, it is enough to
//! count brackets.

/// The brackets and quotation marks that are open.
#[derive(Debug, Default)]
pub(super) struct Brackets {
    open: u64,
    in_string: bool,
    escaped: bool,
}

impl Brackets {
    /// More of the text.
    pub(super) fn read(&mut self, piece: &[u8]) {
        for byte in piece {
            if self.in_string {
                self.in_string = self.escaped || *byte != b'"';
                self.escaped = !self.escaped && *byte == b'\\';
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.open += 1,
                b'}' | b']' => self.open = self.open.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// Whether the text cannot end here.
    pub(super) fn are_open(&self) -> bool {
        self.open > 0 || self.in_string
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn are_open(text: &str) -> bool {
        let mut brackets = Brackets::default();
        for piece in text.as_bytes().chunks(3) {
            brackets.read(piece);
        }
        brackets.are_open()
    }

    #[test]
    fn half_a_json_is_seen() {
        let whole = r#"{"a]}": ["\\", "\"[", {"b": -1.5e7}], "ü": "{"}"#;
        for end in (1..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            assert!(are_open(&whole[..end]), "{}", &whole[..end]);
        }
        for text in [whole, "", "7", "null", "[]\n", "\"x\"", "\u{feff}{}", ")]}'\n{}"] {
            assert!(!are_open(text), "{text}");
        }
    }
}
