//! Tokens: how they are made, kept and spoken about.

use std::borrow::Borrow;
use std::fmt;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// A token or client secret; `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(secret: String) -> Self {
        Self(secret)
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Secret {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Stands for a token in logs and reports: the first 64 bits of its SHA-256, in
/// hexadecimal. Equal tokens have equal fingerprints; the token cannot be told from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of `token`.
    pub fn of(token: &str) -> Self {
        let digest = Sha256::digest(token.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(format!("{:016x}", u64::from_be_bytes(first)))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes random strings that look like Google's and are obviously not.
pub(super) struct Minter {
    random: SmallRng,
}

impl fmt::Debug for Minter {
    /// Hides the state, from which every token could be told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Minter")
    }
}

impl Minter {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed) }
    }

    pub(super) fn access_token(&mut self) -> Secret {
        Secret(format!("ya29.fake-{}", self.letters(64)))
    }

    pub(super) fn refresh_token(&mut self) -> Secret {
        Secret(format!("1//fake-{}", self.letters(48)))
    }

    pub(super) fn code(&mut self) -> Secret {
        Secret(format!("4/fake-{}", self.letters(48)))
    }

    pub(super) fn client_id(&mut self) -> String {
        format!("000000000000-fake{}.apps.googleusercontent.com", self.letters(12).to_lowercase())
    }

    pub(super) fn client_secret(&mut self) -> Secret {
        Secret(format!("GOCSPX-fake-{}", self.letters(24)))
    }

    fn letters(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        (0..length)
            .map(|_| char::from(ALPHABET[self.random.random_range(0..ALPHABET.len())]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_tokens_again() {
        let mint = |seed| {
            let mut minter = Minter::new(seed);
            (minter.access_token(), minter.refresh_token(), minter.client_id())
        };
        assert_eq!(mint(1), mint(1));
        assert_ne!(mint(1), mint(2));
    }

    #[test]
    fn nothing_shows_a_token() {
        let secret = Minter::new(1).access_token();
        assert!(secret.expose().starts_with("ya29.fake-"));
        assert_eq!(format!("{secret:?}"), "[redacted]");
        let fingerprint = Fingerprint::of(secret.expose());
        assert_eq!(fingerprint.to_string().len(), 16);
        assert!(!secret.expose().contains(&fingerprint.to_string()));
    }
}
