//! Secrets that an API's answer repeats, replaced by as many `*`.
//!
//! Some hosts echo the request, its `Authorization` header included. What an API answers is
//! published as a result or stored as an object, where the token must not be read. An answer
//! comes in pieces, and a secret may lie across two: the end of a piece is held back while it
//! could be the beginning of one.

use bytes::Bytes;
use memchr::memchr_iter;

/// A shorter text is no secret that anybody could tell from other text.
const SHORTEST: usize = 8;

/// Replaces secrets in a stream of pieces.
#[derive(Default)]
pub(crate) struct Hidden {
    secrets: Vec<Vec<u8>>,
    /// The end of what came, which may be the beginning of a secret.
    held: Vec<u8>,
}

impl Hidden {
    /// Hides `secret`, as it is, as JSON with `\/`, and percent-encoded.
    pub(crate) fn new(secret: &str) -> Self {
        let mut spellings = Vec::new();
        if secret.len() >= SHORTEST {
            let encoded = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            spellings = vec![secret.to_owned(), secret.replace('/', "\\/"), encoded];
            spellings.dedup();
        }
        Self { secrets: spellings.into_iter().map(String::into_bytes).collect(), held: Vec::new() }
    }

    /// What can be handed on once this piece has come.
    pub(crate) fn clean(&mut self, piece: Bytes) -> Bytes {
        let is_clean = |secret: &Vec<u8>| place(&piece, secret).is_none();
        if self.held.is_empty() && self.secrets.iter().all(is_clean) {
            return piece;
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(&piece);
        for secret in &self.secrets {
            let mut from = 0;
            while let Some(at) = place(&text[from..], secret)
                && let Some(found) = text[from + at..].get_mut(..secret.len())
            {
                found.fill(b'*');
                from += at + secret.len();
            }
        }
        let held = self.secrets.iter().map(|secret| begun(&text, secret)).max();
        self.held = text.split_off(text.len() - held.unwrap_or(0));
        text.into()
    }

    /// What was held back, after the last piece.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).into()
    }
}

/// Where `secret` begins in `text`, be it cut off by the end of the text.
fn place(text: &[u8], secret: &[u8]) -> Option<usize> {
    let begins = |at: &usize| {
        let rest = &text[*at..];
        let length = rest.len().min(secret.len());
        rest[..length] == secret[..length]
    };
    memchr_iter(*secret.first()?, text).find(begins)
}

/// How many bytes at the end of `text` are the beginning of `secret`.
fn begun(text: &[u8], secret: &[u8]) -> usize {
    let end = &text[text.len().saturating_sub(secret.len() - 1)..];
    place(end, secret).map_or(0, |at| end.len() - at)
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
            ("ya29.a/b+c", "ya29.a/b+c"),
        ] {
            assert_eq!(clean(secret, &[text.as_bytes()]), shown);
        }
        assert_eq!(clean("short", &[b"short"]), "short");
        assert_eq!(clean("", &[b"x"]), "x");
    }

    proptest! {
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
