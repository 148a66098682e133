//! What a browser keeps for us: encrypted, authenticated, and for one purpose.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

const NONCE: usize = 12;
/// Shorter secrets could be guessed.
const MIN_SECRET: usize = 32;
const SALT: &[u8] = b"fleet web session key v1";

/// Seals small texts that travel through browsers: pending logins, sessions.
///
/// All replicas behind one address must have the same key. It may hold several
/// secrets: the first seals, all open, so that it can be changed without
/// signing anybody out.
pub struct SessionKey(Vec<RandomizedNonceKey>);

/// Why a text is not a session key. Nothing of it is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSessionKey {
    /// No secret in it.
    #[error("it is empty; make one: openssl rand -base64 32")]
    Empty,
    /// A line that is not base64 of at least 32 bytes.
    #[error(
        "line {0} is not base64 of at least 32 random bytes; make one: openssl rand -base64 32"
    )]
    Line(usize),
}

impl SessionKey {
    /// Reads a key file: one secret of at least 32 bytes in base64 per line, the
    /// one that seals first.
    ///
    /// # Errors
    /// [`BadSessionKey`].
    pub fn parse(text: &str) -> Result<Self, BadSessionKey> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = BadSessionKey::Line(number + 1);
            let secret =
                STANDARD.decode(line).or_else(|_| URL_SAFE_NO_PAD.decode(line)).map_err(|_| bad)?;
            keys.push(Self::derive(&secret).ok_or(bad)?);
        }
        if keys.is_empty() { Err(BadSessionKey::Empty) } else { Ok(Self(keys)) }
    }

    /// A key that lives as long as this process.
    #[expect(clippy::missing_panics_doc, reason = "the system's randomness works or nothing does")]
    pub fn random() -> Self {
        let mut secret = [0; MIN_SECRET];
        aws_lc_rs::rand::fill(&mut secret).expect("the system gives random bytes");
        Self(vec![Self::derive(&secret).expect("32 bytes are long enough")])
    }

    fn derive(secret: &[u8]) -> Option<RandomizedNonceKey> {
        if secret.len() < MIN_SECRET {
            return None;
        }
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret);
        let mut key = [0; 32];
        extracted.expand(&[b"aes-256-gcm"], hkdf::HKDF_SHA256).ok()?.fill(&mut key).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, &key).ok()
    }

    /// Seals `content` for `purpose`; safe in a cookie, a form or a URL.
    #[expect(clippy::missing_panics_doc, reason = "sealing fails for gigabytes only")]
    pub fn seal(&self, purpose: &str, content: &[u8]) -> String {
        let mut sealed = content.to_vec();
        let nonce = self.0[0]
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut sealed)
            .expect("cookies are small");
        let mut whole = nonce.as_ref().to_vec();
        whole.extend_from_slice(&sealed);
        URL_SAFE_NO_PAD.encode(whole)
    }

    /// What was sealed for `purpose` with one of the secrets, if it was.
    pub fn open(&self, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
        let whole = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, content) = whole.split_at_checked(NONCE)?;
        self.0.iter().find_map(|key| {
            let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut content = content.to_vec();
            let aad = Aad::from(purpose.as_bytes());
            key.open_in_place(nonce, aad, &mut content).ok().map(|plain| plain.to_vec())
        })
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({} secrets)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_for_the_same_purpose_only() {
        let key = SessionKey::random();
        let sealed = key.seal("login", b"text");
        assert_eq!(key.open("login", &sealed).as_deref(), Some(b"text".as_slice()));
        assert_eq!(key.open("session", &sealed), None);
        assert_eq!(SessionKey::random().open("login", &sealed), None);
        let mut other = sealed.into_bytes();
        other[20] ^= 1;
        assert_eq!(key.open("login", &String::from_utf8(other).unwrap()), None);
        for nonsense in ["", "x", "%%%", "AAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(key.open("login", nonsense), None);
        }
    }

    #[test]
    fn a_new_secret_leaves_old_sessions_open() {
        let (old, new) = (STANDARD.encode([1; 32]), STANDARD.encode([2; 32]));
        let sealed = SessionKey::parse(&old).unwrap().seal("s", b"x");
        let both = SessionKey::parse(&format!("# keys\n{new}\n{old}\n")).unwrap();
        assert!(both.open("s", &sealed).is_some());
        assert_eq!(SessionKey::parse(&new).unwrap().open("s", &sealed), None);
    }

    #[test]
    fn refuses_short_secrets() {
        assert_eq!(SessionKey::parse("\n").unwrap_err(), BadSessionKey::Empty);
        assert_eq!(SessionKey::parse("AAAA").unwrap_err(), BadSessionKey::Line(1));
        assert_eq!(SessionKey::parse("not base64!").unwrap_err(), BadSessionKey::Line(1));
    }
}
