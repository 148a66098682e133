//! A search for secrets in whatever was written, however they were spelled.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A piece of a secret. What has two of them, wherever they begin, has one at a step of so many
/// bytes, so that a secret is found where only a part of it is quoted, too.
const PIECE: usize = 12;

/// The pieces of all secrets, as they are and in base64.
#[derive(Debug)]
pub(crate) struct Pieces(HashSet<[u8; PIECE]>);

impl Pieces {
    pub(crate) fn of(secrets: &[String]) -> Self {
        let mut pieces = HashSet::new();
        let mut add = |text: &[u8]| pieces.extend(text.as_chunks().0);
        for secret in secrets {
            add(secret.as_bytes());
            // Its place in a group of three bytes decides the digits.
            for before in 0..3 {
                let padded = [&b"\0\0"[..before], secret.as_bytes()].concat();
                for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                    let digits = engine.encode(&padded);
                    // The first depend on what stands before, the last on what comes after.
                    add(&digits.as_bytes()[(before * 8).div_ceil(6)..padded.len() * 8 / 6]);
                }
            }
        }
        Self(pieces)
    }

    /// What stands around the first piece of a secret in a text that may be percent-encoded or
    /// JSON; the text need not be UTF-8.
    pub(crate) fn found_in(&self, text: &[u8]) -> Option<String> {
        self.first(text).or_else(|| self.first(&unescaped(text)))
    }

    fn first(&self, text: &[u8]) -> Option<String> {
        let is_piece = |bytes: &[u8]| {
            <[u8; PIECE]>::try_from(bytes).is_ok_and(|bytes| self.0.contains(&bytes))
        };
        let at = text.windows(PIECE).position(is_piece)?;
        let around = &text[at.saturating_sub(120)..text.len().min(at + 40)];
        Some(String::from_utf8_lossy(around).into_owned())
    }
}

/// The text with the bytes that `%2F`, `\u002f` and `\/` stand for.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let hex = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        u8::from_str_radix(digits, 16).ok()
    };
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, more @ ..] = rest {
        let (byte, left) = match rest {
            [b'%', a, b, left @ ..] | [b'\\', b'u', b'0', b'0', a, b, left @ ..] => {
                (hex(&[*a, *b]), left)
            }
            [b'\\', b'/', left @ ..] => (Some(b'/'), left),
            _ => (None, more),
        };
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { left } else { more };
    }
    plain
}

#[test]
fn a_secret_is_found_however_it_is_spelled() {
    let secret = "ya29.fake-abcdefghijklmnopqrstuvwxyz_-0123456789";
    let pieces = Pieces::of(&[secret.to_owned()]);
    let spelled = |spell: fn(u8) -> String| secret.bytes().map(spell).collect::<Vec<_>>().concat();
    let percent = spelled(|byte| format!("%{byte:02X}"));
    let units = spelled(|byte| format!("\\u{byte:04x}"));
    for quoted in [
        secret.to_owned(),
        secret.replace('-', "%2d"),
        percent,
        units,
        secret[9..].to_owned(),
        secret[..30].to_owned(),
        STANDARD_NO_PAD.encode(format!("user:{secret}")),
        URL_SAFE_NO_PAD.encode(format!("id-1:{secret}x")),
        STANDARD_NO_PAD.encode(format!("a{secret}")),
    ] {
        let found = pieces.found_in(format!("level=\"warn\" said {quoted}, then").as_bytes());
        assert!(found.is_some(), "{quoted}");
    }
    for harmless in ["", "ya29.fake-", "the token is ****", "abcdefghijk", "%zz \\u00zz \\"] {
        assert_eq!(pieces.found_in(harmless.as_bytes()), None, "{harmless}");
    }
}
