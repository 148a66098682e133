//! The signed-in person, as the browser keeps it: sealed, so that neither the
//! browser nor its owner can change it.
//!
//! A copy of the cookie must not outlive the session, so a session counts only while the
//! person's record comes from the login that the session noted, and while the last sign-out
//! is the one that it noted ([`crate::sign_outs`]).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::UserId;
use shared::consent::SessionKey;
use shared::record::GrantId;

use super::cookies::Cookies;

/// A session ends after this long, wherever it is used.
pub const SESSION_LIFETIME: Duration = Duration::from_hours(12);

const PURPOSE: &str = "session";
const NOTICE: &str = "notice";
const ACCOUNT: &str = "account";
/// How long a browser remembers whose account it was.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_hours(30 * 24);
/// The next page is asked for at once.
const NOTICE_LIFETIME: Duration = Duration::from_mins(1);
/// Cookies hold about 4 KiB.
const LONGEST: usize = 400;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) user: String,
    pub(super) name: String,
    pub(super) email: String,
    pub(super) picture: String,
    /// In every form of this session.
    pub(super) csrf: String,
    /// The login that the record came from.
    login: String,
    /// The last sign-out before it.
    signed_out_at: Option<Timestamp>,
    ends_at: Timestamp,
}

impl Session {
    pub(super) fn new(
        user: &UserId,
        profile: &Map<String, Value>,
        csrf: String,
        grant: &GrantId,
        signed_out_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let text = |name: &str| {
            let text = profile.get(name).and_then(Value::as_str).unwrap_or_default();
            if text.len() > LONGEST { String::new() } else { text.to_owned() }
        };
        let life = SignedDuration::try_from(SESSION_LIFETIME).unwrap_or(SignedDuration::ZERO);
        Self {
            user: user.as_str().to_owned(),
            name: text("name"),
            email: text("email"),
            picture: text("picture"),
            csrf,
            login: grant.login().to_owned(),
            signed_out_at,
            ends_at: now.saturating_add(life).unwrap_or(now),
        }
    }

    pub(super) fn seal(&self, key: &SessionKey) -> String {
        key.seal(PURPOSE, &serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn open(key: &SessionKey, sealed: &str, now: Timestamp) -> Option<Self> {
        let session: Self = serde_json::from_slice(&key.open(PURPOSE, sealed)?).ok()?;
        (now < session.ends_at).then_some(session)
    }

    /// Whether it is still the session of a person with this grant who signed out then.
    pub(super) fn stands(&self, grant: &GrantId, signed_out_at: Option<Timestamp>) -> bool {
        self.login == grant.login() && self.signed_out_at == signed_out_at
    }

    pub(super) fn user_id(&self) -> Option<UserId> {
        UserId::new(&self.user).ok()
    }
}

/// Whose account this browser signed in with last. It outlives the session, so that the next
/// login can ask for what was allowed before.
pub(super) fn remember(key: &SessionKey, user: &UserId) -> String {
    key.seal(ACCOUNT, user.as_str().as_bytes())
}

/// The account of a cookie that [`remember`] made.
pub(super) fn remembered(key: &SessionKey, sealed: &str) -> Option<UserId> {
    UserId::new(String::from_utf8(key.open(ACCOUNT, sealed)?).ok()?).ok()
}

/// What the next page tells once, after a redirect.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) bad: bool,
}

impl Notice {
    pub(super) fn good(text: impl Into<String>) -> Self {
        Self { text: text.into(), bad: false }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self { text: text.into(), bad: true }
    }

    /// A `Set-Cookie` value with as much of it as fits: a browser drops a cookie that is too
    /// long, and the person would be told nothing.
    pub(super) fn cookie(&self, cookies: Cookies, name: &str, key: &SessionKey) -> String {
        let mut told = self.clone();
        loop {
            let sealed = key.seal(NOTICE, &serde_json::to_vec(&told).unwrap_or_default());
            let length = told.text.chars().count();
            if length <= 1 || cookies.fits(name, &sealed) {
                return cookies.set(name, &sealed, NOTICE_LIFETIME.as_secs());
            }
            let kept = (length * 3 / 4).saturating_sub(1);
            told.text = told.text.chars().take(kept).chain(['…']).collect();
        }
    }

    pub(super) fn open(key: &SessionKey, sealed: &str) -> Option<Self> {
        serde_json::from_slice(&key.open(NOTICE, sealed)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_notice_is_cut_to_what_a_browser_keeps() {
        let (key, cookies) = (SessionKey::random(), Cookies { secure: true });
        let scopes = (0..52)
            .map(|n| format!("Use for you: https://example.com/auth/with-a-long-name-{n:02}"));
        let scopes = scopes.collect::<Vec<_>>().join("; ");
        for text in ["Short.".to_owned(), format!("Not allowed: {scopes}."), "ä".repeat(20_000)] {
            let set = Notice::bad(text.clone()).cookie(cookies, "notice", &key);
            let (name, rest) = set.split_once('=').unwrap();
            let sealed = rest.split(';').next().unwrap();
            assert!(name.len() + sealed.len() < 4096, "{}", sealed.len());
            let told = Notice::open(&key, sealed).unwrap();
            let beginning = told.text.strip_suffix('…').unwrap_or(&told.text);
            assert!(told.bad && text.starts_with(beginning), "{}", told.text);
            assert!(told.text == text || told.text.len() > 1000, "{}", told.text);
        }
    }
}
