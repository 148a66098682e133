//! The text of a configuration or credential file, whatever editor or shell wrote it.

use std::borrow::Cow;

/// The text of a file in UTF-8 or UTF-16, as far as it says by a byte-order mark or by its
/// first character, which is of ASCII in every file that is read here. `None` when it is
/// neither.
pub fn file_text(content: &[u8]) -> Option<Cow<'_, str>> {
    match content {
        [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok().map(Cow::Borrowed),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [1..=u8::MAX, 0, ..] => utf16(content, u16::from_le_bytes),
        [0, 1..=u8::MAX, ..] => utf16(content, u16::from_be_bytes),
        _ => std::str::from_utf8(content).ok().map(Cow::Borrowed),
    }
}

fn utf16(content: &[u8], unit: fn([u8; 2]) -> u16) -> Option<Cow<'_, str>> {
    let (units, rest) = content.as_chunks::<2>();
    let units: Vec<u16> = units.iter().copied().map(unit).collect();
    rest.is_empty().then(|| String::from_utf16(&units).ok().map(Cow::Owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_encoding_of_unicode_that_programs_write() {
        let text = "{\"a\": \"ä\"}\r\n";
        let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for content in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [b"\xff\xfe", &le[..]].concat(),
            [b"\xfe\xff", &be[..]].concat(),
            le.clone(),
            be.clone(),
        ] {
            assert_eq!(file_text(&content).as_deref(), Some(text));
        }
        for other in [&b"\x80\x04"[..], &le[..le.len() - 1], b"\xff\xfe\x00\xd8"] {
            assert_eq!(file_text(other), None);
        }
        assert_eq!(file_text(b"").as_deref(), Some(""));
    }
}
