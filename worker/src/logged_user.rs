//! How users appear in logs: as digests, unless the operator asked for IDs.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::UserId;

/// One switch for the process: what is logged goes to one place.
static SHOW_IDS: AtomicBool = AtomicBool::new(false);

/// Whether [`log_user`] shows IDs from now on (`--log-user-ids`).
pub fn log_user_ids(show: bool) {
    SHOW_IDS.store(show, Ordering::Relaxed);
}

/// A user as logs may name them: a digest of the ID that stays the same
/// everywhere, or the ID itself if the operator asked for it.
pub fn log_user(user: &UserId) -> LoggedUser<'_> {
    LoggedUser::new(user, SHOW_IDS.load(Ordering::Relaxed))
}

/// See [`log_user`]. Its text is whatever the publisher wrote: let the logger
/// escape it.
#[derive(Clone, Copy)]
pub struct LoggedUser<'a>(Shown<'a>);

#[derive(Clone, Copy)]
enum Shown<'a> {
    Id(&'a UserId),
    /// In hex.
    Digest([u8; 16]),
}

impl<'a> LoggedUser<'a> {
    fn new(user: &'a UserId, show_id: bool) -> Self {
        Self(if show_id { Shown::Id(user) } else { Shown::Digest(user.digest().hex()) })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Shown::Id(user) => user.as_str(),
            // Hex digits are ASCII.
            Shown::Digest(hex) => str::from_utf8(hex).unwrap_or_default(),
        }
    }
}

impl fmt::Display for LoggedUser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As [`Display`](fmt::Display), so that `?` in a log line shows no more.
impl fmt::Debug for LoggedUser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_id_only_when_asked_to() {
        let user = UserId::new("ann@example.com").unwrap();
        let digest = user.digest().to_string();
        let hashed = LoggedUser::new(&user, false);
        assert_eq!((hashed.to_string(), format!("{hashed:?}")), (digest.clone(), digest.clone()));
        assert_eq!(LoggedUser::new(&user, true).to_string(), "ann@example.com");
        assert_eq!(log_user(&user).to_string(), digest, "by default");
    }
}
