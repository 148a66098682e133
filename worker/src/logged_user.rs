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
    LoggedUser { user, show: SHOW_IDS.load(Ordering::Relaxed) }
}

/// See [`log_user`]. Its text is whatever the publisher wrote: let the logger
/// escape it.
#[derive(Clone, Copy)]
pub struct LoggedUser<'a> {
    user: &'a UserId,
    show: bool,
}

impl fmt::Display for LoggedUser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.show { f.write_str(self.user.as_str()) } else { f.write_str(&self.user.digest()) }
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
        let hashed = LoggedUser { user: &user, show: false };
        assert_eq!((hashed.to_string(), format!("{hashed:?}")), (user.digest(), user.digest()));
        assert_eq!(LoggedUser { user: &user, show: true }.to_string(), "ann@example.com");
        assert_eq!(log_user(&user).to_string(), user.digest(), "by default");
    }
}
