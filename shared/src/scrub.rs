//! Removes secrets from text that somebody else wrote.
//!
//! A server that was just sent a secret may quote it in its answer, encoded in any of
//! the ways in which requests are. [`scrub`] finds a secret by decoding the text, each
//! decoded byte with the place that it came from, so that every spelling of an encoding
//! (`%2f` and `%2F`, `\/` and `\u002f`) is found by the same rule.

use std::collections::HashSet;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::secret::Secret;

/// Stands where a secret was.
const MARK: &str = "[redacted]";
/// A piece of a secret of this many bytes is removed too: servers shorten what they
/// quote. A shorter secret is removed where it stands whole.
const PIECE: usize = 12;
/// A base64 text with fewer certain digits could be anything.
const LEAST_DIGITS: usize = 6;

/// `text` without `secrets` (as they are, form- or percent-encoded, JSON-escaped,
/// base64, or one in another), and without active characters ([`is_active`]), which become
/// spaces.
///
/// Pieces of a secret of 12 bytes or more are removed as well. Takes time in proportion
/// to the length of the text: callers that need little of it shorten the result.
pub fn scrub(text: &str, secrets: &[&Secret]) -> String {
    let mut found: Vec<Range<usize>> = Vec::new();
    let views = views(text);
    let behind_escapes = views_behind_escapes(text);
    for secret in secrets.iter().map(|secret| secret.expose().as_bytes()) {
        let whole = secret.len().min(PIECE);
        if whole == 0 {
            continue;
        }
        let pieces: HashSet<&[u8]> = secret.windows(whole).collect();
        let digits = base64_of(secret);
        for view in &behind_escapes {
            found.extend(view.find(whole, |bytes| pieces.contains(bytes)));
        }
        for view in &views {
            found.extend(view.find(whole, |bytes| pieces.contains(bytes)));
            for digits in &digits {
                let encoded = view.find(digits.len(), |bytes| bytes == digits);
                found.extend(encoded.map(|range| widened(text, range)));
            }
        }
    }
    found.sort_by_key(|range| range.start);
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    for range in found {
        if range.start >= done {
            clean.extend(text[done..range.start].chars().map(harmless));
            clean.push_str(MARK);
        }
        done = done.max(range.end);
    }
    clean.extend(text[done..].chars().map(harmless));
    clean
}

/// The character itself, or a space for one that is active.
fn harmless(character: char) -> char {
    if is_active(character) { ' ' } else { character }
}

/// Whether a character could do more than appear: control characters (escape
/// sequences, line breaks, in both their ranges), line separators, and the
/// invisible ones that reorder, hide or smuggle text.
pub fn is_active(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A text after some decoding: bytes, each with the place in the text that it stands for.
#[derive(Clone)]
struct View {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

/// How much of a text a piece of a secret takes at most in one encoding.
const REACH: usize = PIECE * "\\u0041".len();

/// The text behind each escape's first character, as far as a piece of a secret reaches. What
/// stands before a secret may look like the beginning of an escape: `%` before `a0…`.
fn views_behind_escapes(text: &str) -> Vec<View> {
    let bytes = text.as_bytes();
    let escapes = (0..bytes.len()).filter(|at| {
        let rest = &bytes[*at..];
        percent(rest).or_else(|| json(rest)).is_some()
    });
    let behind = escapes.map(|at| {
        let end = text.floor_char_boundary(at + 1 + REACH);
        View::of(&text[at + 1..end]).moved_by(at + 1)
    });
    behind.flat_map(|view| [form, json].map(|rule| view.decoded(rule))).collect()
}

/// The text under every decoding in which a secret is looked for.
fn views(text: &str) -> Vec<View> {
    let plain = View::of(text);
    let percent = plain.decoded(percent);
    let form = plain.decoded(form);
    let json = plain.decoded(json);
    let twice = percent.decoded(self::percent);
    let percent_in_json = json.decoded(self::percent);
    let form_in_json = json.decoded(self::form);
    let json_in_percent = percent.decoded(self::json);
    let mut views =
        vec![plain, percent, form, json, twice, percent_in_json, form_in_json, json_in_percent];
    let mut seen = HashSet::new();
    views.retain(|view| seen.insert(view.bytes.clone()));
    views
}

impl View {
    fn of(text: &str) -> Self {
        // A place is a whole character, so that what is cut out leaves a text.
        let mut places = Vec::with_capacity(text.len());
        for (start, character) in text.char_indices() {
            let end = start + character.len_utf8();
            places.extend(std::iter::repeat_n(start..end, character.len_utf8()));
        }
        Self { bytes: text.as_bytes().to_vec(), places }
    }

    /// The view of what stands so much further on in a text.
    fn moved_by(mut self, bytes: usize) -> Self {
        for place in &mut self.places {
            *place = place.start + bytes..place.end + bytes;
        }
        self
    }

    /// Decodes by `rule`, which takes bytes and gives what the first of them decode to and
    /// how many they are; `None` where nothing is encoded.
    fn decoded(&self, rule: fn(&[u8]) -> Option<(Decoded, usize)>) -> Self {
        let mut view = Self { bytes: Vec::new(), places: Vec::new() };
        let mut at = 0;
        while at < self.bytes.len() {
            let (decoded, length) =
                rule(&self.bytes[at..]).unwrap_or_else(|| (Decoded::Byte(self.bytes[at]), 1));
            let place = self.places[at].start..self.places[at + length - 1].end;
            let mut buffer = [0; 4];
            let bytes = match decoded {
                Decoded::Byte(byte) => {
                    buffer[0] = byte;
                    &buffer[..1]
                }
                Decoded::Character(character) => character.encode_utf8(&mut buffer).as_bytes(),
            };
            view.bytes.extend_from_slice(bytes);
            view.places.extend(std::iter::repeat_n(place, bytes.len()));
            at += length;
        }
        view
    }

    /// Where in the text those `length` bytes of this view stand that are `wanted`.
    fn find(
        &self,
        length: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> impl Iterator<Item = Range<usize>> {
        let starts = self.bytes.windows(length).enumerate();
        starts
            .filter(move |(_, bytes)| wanted(bytes))
            .map(move |(at, _)| self.places[at].start..self.places[at + length - 1].end)
    }
}

enum Decoded {
    Byte(u8),
    Character(char),
}

fn percent(bytes: &[u8]) -> Option<(Decoded, usize)> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(*high)? * 16 + digit(*low)?;
    Some((Decoded::Byte(u8::try_from(value).ok()?), 3))
}

fn form(bytes: &[u8]) -> Option<(Decoded, usize)> {
    if bytes.first() == Some(&b'+') {
        return Some((Decoded::Byte(b' '), 1));
    }
    percent(bytes)
}

fn json(bytes: &[u8]) -> Option<(Decoded, usize)> {
    let [b'\\', escaped, rest @ ..] = bytes else { return None };
    let byte = match escaped {
        b'"' | b'\\' | b'/' => *escaped,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let unit = hex4(rest)?;
            if let Some(character) = char::from_u32(unit) {
                return Some((Decoded::Character(character), 6));
            }
            // A surrogate pair is one character.
            let low = rest.get(4..6).filter(|next| *next == b"\\u").and(rest.get(6..))?;
            let pair = [u16::try_from(unit).ok()?, u16::try_from(hex4(low)?).ok()?];
            let character = char::decode_utf16(pair).next()?.ok()?;
            return Some((Decoded::Character(character), 12));
        }
        _ => return None,
    };
    Some((Decoded::Byte(byte), 2))
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4)?;
    digits.iter().try_fold(0, |value, byte| Some(value * 16 + char::from(*byte).to_digit(16)?))
}

/// The base64 digits that must occur wherever `secret` is part of an encoded text: one
/// text for each place that it may have in a group of three bytes, in both alphabets.
fn base64_of(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret);
        let digits = STANDARD_NO_PAD.encode(&bytes).into_bytes();
        // The first digits depend on what stands before, the last on what comes after.
        let first = (before * 8).div_ceil(6);
        let last = bytes.len() * 8 / 6;
        let Some(certain) = digits.get(first..last).filter(|d| d.len() >= LEAST_DIGITS) else {
            continue;
        };
        let url_safe: Vec<u8> = certain
            .iter()
            .map(|digit| match digit {
                b'+' => b'-',
                b'/' => b'_',
                other => *other,
            })
            .collect();
        if url_safe != certain {
            all.push(url_safe);
        }
        all.push(certain.to_vec());
    }
    all
}

/// The range with the base64 digits around it, which tell the secret's first and last bits.
fn widened(text: &str, range: Range<usize>) -> Range<usize> {
    let digit = |c: &char| c.is_ascii_alphanumeric() || "+/-_=%".contains(*c);
    let before = text[..range.start].chars().rev().take_while(digit).count();
    let after = text[range.end..].chars().take_while(digit).count();
    range.start - before..range.end + after
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use url::form_urlencoded;

    const TOKEN: &str = "1//fake-+refresh/\"token\\ é=&%41";

    fn scrubbed(text: &str) -> String {
        scrub(text, &[&Secret::new(TOKEN)])
    }

    fn percent_encoded(secret: &str, upper: bool) -> String {
        secret
            .bytes()
            .map(|byte| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") })
            .collect()
    }

    #[test]
    fn a_secret_is_found_in_every_encoding() {
        let form: String = form_urlencoded::byte_serialize(TOKEN.as_bytes()).collect();
        let json = serde_json::to_string(TOKEN).unwrap();
        let json = json.trim_matches('"').to_owned();
        let units: Vec<String> =
            TOKEN.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let escaped = units.concat();
        for quoted in [
            TOKEN.to_owned(),
            form.clone(),
            form.to_lowercase(),
            percent_encoded(TOKEN, true),
            percent_encoded(TOKEN, false),
            percent_encoded(&form, true),
            json.clone(),
            json.replace('/', "\\/"),
            escaped,
            percent_encoded(&json, true),
            serde_json::to_string(&form).unwrap(),
        ] {
            let clean = scrubbed(&format!("the request was refresh_token={quoted}&x=1"));
            assert!(clean.contains(MARK), "{quoted}: {clean}");
            assert!(!clean.contains("refresh/") && !clean.contains("refresh%2"), "{clean}");
            assert!(clean.starts_with("the request was refresh_token="), "{clean}");
        }
    }

    #[test]
    fn a_secret_is_found_behind_what_looks_like_an_escape() {
        for secret in ["a0!aA00!aA00bb", "41bc!\"defghijkl", "u0041!bcdefghij", "n!bcdefghijkl"] {
            let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let json = serde_json::to_string(secret).unwrap().trim_matches('"').to_owned();
            let known = Secret::new(secret);
            for (before, quoted) in ["%", "\\", "%4", "\\u", "%%", "\\\\"]
                .iter()
                .flat_map(|before| [secret, &form, &json].map(|quoted| (before, quoted)))
            {
                let clean = scrub(&format!("a {before}{quoted}é z"), &[&known]);
                assert!(!clean.contains(&quoted[3..]), "{before}{quoted}: {clean}");
                assert!(clean.starts_with("a ") && clean.ends_with("é z"), "{clean}");
            }
        }
    }

    #[test]
    fn a_secret_is_found_inside_base64_wherever_it_begins() {
        let secret = Secret::new("GOCSPX-fake-client?>secret~~");
        for before in ["", "a", "ab", "client-id:"] {
            let joined = format!("{before}{}{}", secret.expose(), "xyz");
            for encoded in [
                base64::engine::general_purpose::STANDARD.encode(&joined),
                base64::engine::general_purpose::URL_SAFE.encode(&joined),
                STANDARD_NO_PAD.encode(&joined),
                percent_encoded(&STANDARD_NO_PAD.encode(&joined), true),
            ] {
                let clean = scrub(&format!("Authorization: Basic {encoded} was wrong"), &[&secret]);
                assert_eq!(clean, "Authorization: Basic [redacted] was wrong", "{before}");
            }
        }
    }

    #[test]
    fn a_shortened_secret_is_removed_too() {
        let secret = Secret::new("1//fake-a-refresh-token-of-some-length");
        let clean = scrub("token 1//fake-a-refresh… is unknown", &[&secret]);
        assert_eq!(clean, "token [redacted]… is unknown");
        let clean = scrub("token …ken-of-some-length is unknown", &[&secret]);
        assert_eq!(clean, "token …[redacted] is unknown");
        let short = Secret::new("fake");
        assert_eq!(scrub("a fake, two fakes", &[&short]), "a [redacted], two [redacted]s");
        assert_eq!(scrub("nothing", &[&Secret::new("")]), "nothing");
    }

    #[test]
    fn what_could_forge_a_line_becomes_a_space() {
        let clean = scrub("a\r\nb\u{1b}[31mc\u{202e}d\u{2066}e\u{2028}f\u{85}g\u{200b}h", &[]);
        assert_eq!(clean, "a  b [31mc d e f g h");
        assert_eq!(scrub("a\u{e0041}b", &[]), "a b", "tags say what nobody sees");
        assert_eq!(scrub("Grüße, 世界", &[]), "Grüße, 世界");
        let all: String = ('\0'..=char::MAX).collect();
        assert!(!scrub(&all, &[]).contains(is_active));
    }

    #[test]
    fn characters_of_unicodes_bidi_control_are_active() {
        for c in ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}']
        {
            assert!(is_active(c), "{c:?}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives(
            before in "[ -~é]{0,20}", secret in "[!-~]{12,40}", after in "[ -~é\n]{0,20}",
        ) {
            let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let known = Secret::new(secret.clone());
            for quoted in [secret.clone(), form] {
                let clean = scrub(&format!("{before}{quoted}{after}"), &[&known]);
                prop_assert!(!clean.contains(&quoted), "{}", clean);
            }
        }
    }
}
