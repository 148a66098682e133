//! Programs that are no jobs, and ask the broker with a key.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use sha2::{Digest as _, Sha256};
use shared::{Secret, UserId};

/// A shorter key could be guessed.
const SHORTEST_KEY: usize = 32;
/// While keys are changed, both count.
const MOST_KEYS: usize = 2;

/// Who may ask, and for whom.
pub struct Clients {
    keys: RwLock<Vec<[u8; 32]>>,
    users: Users,
}

/// Whose tokens may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// Everybody's.
    All,
    /// Those whose ID begins so.
    Prefix(String),
    /// These.
    Listed(BTreeSet<String>),
}

impl Clients {
    /// Those who have one of these keys may ask for tokens of `users`.
    pub fn new(keys: &[Secret], users: Users) -> Self {
        let keys = RwLock::new(keys.iter().map(digest).collect());
        Self { keys, users }
    }

    /// From now on these keys count, and no others.
    pub fn change_keys(&self, keys: &[Secret]) {
        let keys = keys.iter().map(digest).collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Whether this is one of the keys. How long that takes tells nothing of them: their
    /// digests are compared.
    pub(super) fn knows(&self, key: &Secret) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).contains(&digest(key))
    }

    /// Whose token is asked for, if it may be.
    pub(super) fn user(&self, id: &str) -> Option<UserId> {
        let allowed = match &self.users {
            Users::All => true,
            Users::Prefix(prefix) => id.starts_with(prefix.as_str()),
            Users::Listed(users) => users.contains(id),
        };
        UserId::new(id).ok().filter(|_| allowed)
    }
}

fn digest(key: &Secret) -> [u8; 32] {
    Sha256::digest(key.expose().as_bytes()).into()
}

/// Reads a file of keys: one in a line, at most two, the first of which is the newer.
///
/// # Errors
/// A text that says what is wrong and quotes nothing.
pub fn read_keys(text: &str) -> Result<Vec<Secret>, String> {
    let keys: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if keys.is_empty() {
        return Err("has no key; make one with `openssl rand -hex 32`".to_owned());
    }
    if keys.len() > MOST_KEYS {
        return Err(format!("has {} keys; at most {MOST_KEYS} count, in a line each", keys.len()));
    }
    if keys.iter().any(|key| key.len() < SHORTEST_KEY) {
        return Err(format!("has a key of less than {SHORTEST_KEY} characters"));
    }
    // Libraries disagree about encoding others in an `Authorization` header.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if !keys.iter().all(|key| key.chars().all(is_plain)) {
        let plain = "letters, digits and -._~; make one with `openssl rand -hex 32`";
        return Err(format!("has a key with other characters than {plain}"));
    }
    Ok(keys.into_iter().map(Secret::from).collect())
}

/// No key.
impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("keys", &self.keys.read().unwrap_or_else(PoisonError::into_inner).len())
            .field("users", &self.users)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let (new, old) = ("n".repeat(32), "o".repeat(44));
        let keys = read_keys(&format!("{new}\r\n\n  {old}\n")).unwrap();
        assert_eq!(keys, [Secret::from(new.as_str()), Secret::from(old.as_str())]);
        let clients = Clients::new(&keys, Users::All);
        assert!(clients.knows(&keys[0]) && clients.knows(&keys[1]));
        assert!(!clients.knows(&Secret::new("")) && !clients.knows(&Secret::new("n".repeat(31))));
        assert!(!format!("{clients:?}").contains("nnn"));
        clients.change_keys(&keys[..1]);
        assert!(clients.knows(&keys[0]) && !clients.knows(&keys[1]));
        for (text, says) in [
            (String::new(), "no key"),
            (" \n".to_owned(), "no key"),
            ("short".to_owned(), "less than 32"),
            (format!("{new}\n{old}\n{new}"), "3 keys"),
            (format!("{new}+/="), "other characters"),
        ] {
            let why = read_keys(&text).unwrap_err();
            assert!(why.contains(says) && !why.contains("short"), "{why}");
        }
    }

    #[test]
    fn users_that_may_be_asked_for() {
        let of = |users| Clients::new(&[], users);
        let may = |clients: &Clients, id: &str| clients.user(id).is_some();
        let all = of(Users::All);
        assert!(may(&all, "ann") && !may(&all, ""), "an empty ID is nobody's");
        let team = of(Users::Prefix("team-".to_owned()));
        assert!(may(&team, "team-1") && !may(&team, "ann"));
        let listed = of(Users::Listed(BTreeSet::from(["ann".to_owned()])));
        assert!(may(&listed, "ann") && !may(&listed, "anna"));
    }
}
