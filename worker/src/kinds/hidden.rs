//! A secret that an API's answer repeats, replaced by as many `*`.
//!
//! Some hosts echo the request, its `Authorization` header included. What an API answers is
//! published as a result or stored as an object, where the token must not be read. It may stand
//! there in any spelling that whoever reads the answer undoes, so the answer is compared as it
//! reads when it is decoded: percent-encoding, and the escapes of JSON's strings.
//!
//! An answer comes in pieces, and a secret may lie across two: the end of a piece is held back
//! while it could be the beginning of one.

use bytes::Bytes;
use memchr::memchr3_iter;

/// A shorter text is no secret that anybody could tell from other text.
const SHORTEST: usize = 8;

/// Replaces a secret in a stream of pieces.
#[derive(Default)]
pub(crate) struct Hidden {
    /// Empty where there is nothing to hide.
    secret: Vec<u8>,
    /// The end of what came, which may be the beginning of the secret.
    held: Vec<u8>,
}

/// How the secret stands at a place.
#[derive(Debug, Clone, Copy)]
enum Spelt {
    /// It takes so many bytes.
    Whole(usize),
    /// As far as the text goes.
    Begun,
}

impl Hidden {
    /// Hides `secret`, however each of its bytes is encoded.
    pub(crate) fn new(secret: &str) -> Self {
        let secret = if secret.len() < SHORTEST { "" } else { secret };
        Self { secret: secret.as_bytes().to_vec(), held: Vec::new() }
    }

    /// What can be handed on once this piece has come.
    pub(crate) fn clean(&mut self, piece: Bytes) -> Bytes {
        if self.held.is_empty() && self.find(&piece).is_none() {
            return piece;
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(&piece);
        let mut done = 0;
        while let Some((at, spelt)) = self.find(&text[done..]) {
            done += at;
            match spelt {
                Spelt::Whole(length) => {
                    text[done..done + length].fill(b'*');
                    done += length;
                }
                Spelt::Begun => {
                    self.held = text.split_off(done);
                    break;
                }
            }
        }
        text.into()
    }

    /// What was held back, after the last piece.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }

    /// The first place in `text` where the secret stands.
    fn find(&self, text: &[u8]) -> Option<(usize, Spelt)> {
        let first = *self.secret.first()?;
        memchr3_iter(first, b'%', b'\\', text)
            .find_map(|at| Some((at, spelt(&self.secret, &text[at..])?)))
    }
}

/// Whether `secret` stands at the beginning of `text`.
fn spelt(secret: &[u8], text: &[u8]) -> Option<Spelt> {
    // A secret may itself look encoded.
    if text.starts_with(secret) {
        return Some(Spelt::Whole(secret.len()));
    }
    if secret.starts_with(text) {
        return Some(Spelt::Begun);
    }
    let mut rest = text;
    for byte in secret {
        match decoded(rest) {
            None => return Some(Spelt::Begun),
            Some((decoded, length)) if decoded == *byte => rest = &rest[length..],
            Some(_) => return None,
        }
    }
    Some(Spelt::Whole(text.len() - rest.len()))
}

/// The byte that `text` begins with, and how many bytes spell it; `None` where that depends on
/// what follows.
fn decoded(text: &[u8]) -> Option<(u8, usize)> {
    let (encoded, length) = match text {
        [] | [b'%' | b'\\'] | [b'%', _] => return None,
        [b'\\', b'u', digits @ ..] if digits.len() < 4 => return None,
        [b'%', high, low, ..] => (hex(*high, *low), 3),
        [b'\\', b'u', b'0', b'0', high, low, ..] => (hex(*high, *low), 6),
        [b'\\', escaped @ (b'/' | b'"' | b'\\'), ..] => (Some(*escaped), 2),
        _ => (None, 1),
    };
    Some(encoded.map_or((text[0], 1), |byte| (byte, length)))
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clean(secret: &str, pieces: &[&[u8]]) -> String {
        let mut hidden = Hidden::new(secret);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&hidden.clean(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&hidden.rest());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn spellings() {
        let secret = "ya29.a/b+c=";
        for (text, shown) in [
            ("Bearer ya29.a/b+c=.", "Bearer ***********."),
            (r#"{"a":"ya29.a\/b+c="}"#, r#"{"a":"************"}"#),
            ("?t=ya29.a%2Fb%2Bc%3D&", "?t=*****************&"),
            ("ya29.a/b+c=ya29.a/b+c=", "**********************"),
            (r#"{"a":"ya29.a/b\u002Bc\u003d"}"#, r#"{"a":"*********************"}"#),
            ("?t=ya29%2ea%2fb%2bc%3D&", "?t=*******************&"),
            (r"\u0079%61\u00329.a\/b%2Bc=", "**************************"),
            ("%%ya29.a/b+c=", "%%***********"),
            (r"C:\\ya29.a/b+c=", r"C:\\***********"),
            ("ya29.a/b+c", "ya29.a/b+c"),
            ("ya29.a/b+c%3", "ya29.a/b+c%3"),
            ("ya29.a%2", "ya29.a%2"),
            (r"ya29.a\u00", r"ya29.a\u00"),
            (r"%7g \u00zz \n ya29%2g", r"%7g \u00zz \n ya29%2g"),
        ] {
            assert_eq!(clean(secret, &[text.as_bytes()]), shown);
        }
        assert_eq!(clean("short", &[b"short"]), "short");
        assert_eq!(clean("", &[b"x"]), "x");
        // Whatever it looks like, it stands there as it is.
        assert_eq!(clean("100%25%41\\u0041", &[b"a 100%25%41\\u0041"]), "a ***************");
    }

    /// A byte of the secret in one of its spellings.
    fn spelled(byte: u8, way: u8) -> String {
        match way {
            0 => format!("%{byte:02X}"),
            1 => format!("%{byte:02x}"),
            2 => format!("\\u{byte:04X}"),
            3 => format!("\\u{byte:04x}"),
            4 if byte == b'/' => "\\/".to_owned(),
            _ => char::from(byte).to_string(),
        }
    }

    proptest! {
        #[test]
        fn a_secret_is_found_however_it_is_spelled(
            before in "[ -~]{0,9}", after in "[ -~]{0,9}",
            ways in prop::collection::vec(0_u8..9, 11),
            size in 1_usize..80,
        ) {
            let secret = "ya29.a/b+c=";
            let quoted: String =
                secret.bytes().zip(&ways).map(|(byte, way)| spelled(byte, *way)).collect();
            let text = format!("{before}{quoted}{after}");
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let stars = "*".repeat(quoted.len());
            prop_assert_eq!(clean(secret, &pieces), format!("{before}{stars}{after}"));
        }

        #[test]
        fn a_secret_is_found_wherever_pieces_end(
            text in prop::collection::vec(
                prop::sample::select(vec!["aabaabab", "aab", "a", "b", "x", "aabaaba"]), 0..12,
            ),
            cuts in prop::collection::vec(1_usize..7, 1..40),
        ) {
            let text = text.concat();
            let mut pieces = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = later;
            }
            pieces.push(rest);
            let cleaned = clean("aabaabab", &pieces);
            prop_assert_eq!(cleaned.len(), text.len());
            prop_assert!(!cleaned.contains("aabaabab"));
            prop_assert_eq!(cleaned, text.replace("aabaabab", "********"));
        }
    }
}
