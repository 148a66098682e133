//! User IDs and the object names derived from them.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The longest encoded form, in bytes: with its prefix and suffix it stays far
/// below Cloud Storage's limit of 1,024 bytes for an object name.
pub const MAX_ENCODED_LEN: usize = 512;

/// The person on whose behalf a job acts: any non-empty UTF-8 string whose
/// encoded form has at most [`MAX_ENCODED_LEN`] bytes.
///
/// In object names every byte outside `A–Z a–z 0–9 - _ ~` is written `%XX` in
/// upper case, so any ID (`..`, slashes and emoji included) is one path
/// segment, and two different IDs never share an object.
///
/// ```
/// use shared::UserId;
/// let user = UserId::new("../ann@example.com").unwrap();
/// assert_eq!(user.encoded(), "%2E%2E%2Fann%40example%2Ecom");
/// assert_eq!(user.token_object(), "tokens/%2E%2E%2Fann%40example%2Ecom.json");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// Why a string is not a [`UserId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserId {
    /// The ID has no characters.
    #[error("the user ID is empty")]
    Empty,
    /// The ID does not fit into an object name.
    #[error("the user ID takes {encoded} bytes when encoded; the limit is {MAX_ENCODED_LEN}")]
    TooLong {
        /// Length of the encoded form in bytes.
        encoded: usize,
    },
    /// Not the encoded form of any ID.
    #[error("{0:?} is not an encoded user ID")]
    NotEncoded(String),
}

impl UserId {
    /// Checks `raw` and makes it a user ID.
    ///
    /// # Errors
    /// [`InvalidUserId`] when `raw` is empty or too long.
    pub fn new(raw: impl AsRef<str>) -> Result<Self, InvalidUserId> {
        let raw = raw.as_ref();
        if raw.is_empty() {
            return Err(InvalidUserId::Empty);
        }
        // Most are so short that no byte need be looked at.
        if raw.len() > MAX_ENCODED_LEN / 3 {
            let encoded = raw.bytes().map(|b| if is_plain(b) { 1 } else { 3 }).sum();
            if encoded > MAX_ENCODED_LEN {
                return Err(InvalidUserId::TooLong { encoded });
            }
        }
        Ok(Self(raw.into()))
    }

    /// The ID whose encoded form is `encoded`, as found in an object name.
    ///
    /// # Errors
    /// [`InvalidUserId`] when no ID encodes to exactly this.
    pub fn from_encoded(encoded: &str) -> Result<Self, InvalidUserId> {
        let wrong = || InvalidUserId::NotEncoded(encoded.to_owned());
        let raw = decode_segment(encoded).ok_or_else(wrong)?;
        let id = Self::new(&raw)?;
        if id.encoded() == encoded { Ok(id) } else { Err(wrong()) }
    }

    /// The ID as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID as one path segment of an object name.
    pub fn encoded(&self) -> String {
        encode_segment(&self.0)
    }

    /// Name of the object that holds this user's token record.
    pub fn token_object(&self) -> String {
        format!("tokens/{}.json", self.encoded())
    }

    /// Name of the object that says who may write the token record.
    pub fn lease_object(&self) -> String {
        format!("leases/{}.json", self.encoded())
    }

    /// The user whose token record has this object name, if it is one.
    pub fn of_token_object(name: &str) -> Option<Self> {
        let encoded = name.strip_prefix("tokens/")?.strip_suffix(".json")?;
        Self::from_encoded(encoded).ok()
    }

    /// A short, stable digest that stands for the user in logs: 16 hex digits.
    pub fn digest(&self) -> UserDigest {
        let hash = Sha256::digest(self.0.as_bytes());
        UserDigest(hash[..8].iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }
}

/// What stands for a user in logs; see [`UserId::digest`]. Working it out costs as much as
/// the rest of a log line, and it may be kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UserDigest(u64);

impl UserDigest {
    /// Its place among so many, for what is to be spread over users; 0 among none.
    pub fn place_in(self, places: u64) -> u64 {
        self.0.checked_rem(places).unwrap_or_default()
    }

    /// Its hex digits, in ASCII.
    pub fn hex(self) -> [u8; 16] {
        let mut rest = self.0;
        let mut digits = [0; 16];
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        digits
    }
}

impl fmt::Display for UserDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for UserDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Encodes any string as one path segment: bytes outside
/// `A–Z a–z 0–9 - _ ~` become `%XX`.
pub fn encode_segment(raw: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(raw.len());
    for byte in raw.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~')
}

fn decode_segment(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Shows the digest, so that a stray `{:?}` in a log does not name a person.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId(#{})", self.digest())
    }
}

impl std::str::FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Self::new(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_empty_and_too_long() {
        assert_eq!(UserId::new(""), Err(InvalidUserId::Empty));
        let long = "x".repeat(2048);
        assert_eq!(UserId::new(&long), Err(InvalidUserId::TooLong { encoded: 2048 }));
        assert!(UserId::new("x".repeat(512)).is_ok());
        assert!(UserId::new("é".repeat(86)).is_err(), "6 encoded bytes each");
    }

    #[test]
    fn hostile_ids_are_one_segment() {
        for (raw, object) in [
            ("..", "tokens/%2E%2E.json"),
            ("a/b", "tokens/a%2Fb.json"),
            ("😀", "tokens/%F0%9F%98%80.json"),
            ("a%2Fb", "tokens/a%252Fb.json"),
            ("a\0b\n", "tokens/a%00b%0A.json"),
            ("1097-_~", "tokens/1097-_~.json"),
        ] {
            let user = UserId::new(raw).unwrap();
            assert_eq!(user.token_object(), object);
            assert_eq!(UserId::of_token_object(object), Some(user));
        }
    }

    #[test]
    fn names_that_no_id_encodes_to_are_refused() {
        for name in ["%2e", "%4", "%zz", "a.b", "%FF", "%41", ""] {
            assert!(UserId::from_encoded(name).is_err(), "{name}");
        }
        assert_eq!(UserId::of_token_object("leases/a.json"), None);
        assert_eq!(UserId::of_token_object("tokens/a"), None);
    }

    #[test]
    fn debug_does_not_name_the_person() {
        let user = UserId::new("ann@example.com").unwrap();
        assert!(!format!("{user:?}").contains("ann"));
        let digest = user.digest();
        assert_eq!(digest.to_string().as_bytes(), digest.hex());
        assert_eq!(digest.to_string(), "71d4f55f72fa128d", "the beginning of its SHA-256");
    }

    proptest! {
        #[test]
        fn encoding_round_trips(raw in "\\PC{1,60}") {
            if let Ok(user) = UserId::new(&raw) {
                prop_assert_eq!(UserId::from_encoded(&user.encoded()).unwrap(), user.clone());
                prop_assert!(!user.encoded().contains(['/', '.']));
            }
        }
    }
}
