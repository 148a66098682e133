//! Handles: what an attempt asks for its user's tokens with.
//!
//! A handle is 256 random bits. It belongs to one attempt of one job, opens the access tokens
//! of that job's user, and is worth nothing as soon as the attempt is over: its answer was
//! read, its connection was lost, its time or the drain has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::ports::Randomness;
use shared::{ConsentReason, Credentials, Secret, UserId};

use crate::audit::HandedOn;

/// The handles of all attempts under way.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<HashMap<Secret, Arc<Attempt>>>);

/// An attempt under way, as the token endpoint sees it.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) user: UserId,
    handed_on: HandedOn,
    noted: Mutex<Noted>,
}

/// What an attempt asked, and what it was told.
#[derive(Debug, Clone, Default)]
pub(super) struct Noted {
    /// The last answer was that the user must consent, because of this.
    pub(super) consent: Option<ConsentReason>,
    /// What was handed out last.
    pub(super) credentials: Option<Credentials>,
    /// How often in a row that was one and the same grant.
    pub(super) asks_of_grant: u32,
    /// Every token that was handed out.
    pub(super) tokens: Vec<Secret>,
}

/// The handle of one attempt. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) secret: Secret,
    attempt: Arc<Attempt>,
    handles: Arc<Handles>,
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, HashMap<Secret, Arc<Attempt>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle of an attempt that acts as `user`. Tokens are noted in `handed_on` when they are
    /// handed out: an attempt that is cut has no other end.
    pub(super) fn issue(
        self: &Arc<Self>,
        user: &UserId,
        handed_on: HandedOn,
        random: &Randomness,
    ) -> Handle {
        let secret = random.secret();
        let attempt = Attempt { user: user.clone(), handed_on, noted: Mutex::default() };
        let attempt = Arc::new(attempt);
        self.lock().insert(secret.clone(), Arc::clone(&attempt));
        Handle { secret, attempt, handles: Arc::clone(self) }
    }

    /// The attempt that a handle belongs to, while it lives.
    pub(super) fn attempt(&self, secret: &Secret) -> Option<Arc<Attempt>> {
        self.lock().get(secret).cloned()
    }
}

impl Attempt {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a token was handed out.
    pub(super) fn granted(&self, credentials: &Credentials) {
        let mut noted = self.noted();
        let before = noted.credentials.as_ref().map(Credentials::grant_id);
        if before == Some(credentials.grant_id()) {
            noted.asks_of_grant += 1;
        } else {
            noted.asks_of_grant = 1;
            noted.tokens.push(credentials.access_token().clone());
            self.handed_on.note(&self.user);
        }
        noted.credentials = Some(credentials.clone());
        noted.consent = None;
    }

    /// Notes that none was handed out, because of `consent` if the user can change that.
    pub(super) fn refused(&self, consent: Option<ConsentReason>) {
        self.noted().consent = consent;
    }
}

impl Handle {
    /// Ends it; what its attempt asked.
    pub(super) fn end(self) -> Noted {
        std::mem::take(&mut *self.attempt.noted())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.handles.lock().remove(&self.secret);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::stand::carrier;

    fn handed_on() -> HandedOn {
        HandedOn::to_handler(&Arc::default(), &"greet".into())
    }

    #[tokio::test]
    async fn a_handle_lives_for_one_attempt_and_is_not_shown() {
        let (handles, random) = (Arc::new(Handles::default()), Randomness::seeded(1));
        let user = UserId::new("ann").unwrap();
        let handle = handles.issue(&user, handed_on(), &random);
        let other = handles.issue(&user, handed_on(), &random);
        let (secret, second) = (handle.secret.clone(), other.secret.clone());
        assert!(secret != second && secret.expose().len() == 43, "256 bits as base64url");
        assert!(!format!("{handle:?}{handles:?}").contains(secret.expose()));
        assert_eq!(handles.attempt(&secret).unwrap().user, user);
        assert!(handles.attempt(&Secret::new("")).is_none());
        handle.end();
        assert!(handles.attempt(&secret).is_none() && handles.attempt(&second).is_some());
        drop(other);
        assert!(handles.attempt(&second).is_none());
    }

    #[tokio::test]
    async fn the_last_answer_of_an_attempt_counts() {
        let (_, credentials) = carrier("http://127.0.0.1:1").await;
        let handles = Arc::new(Handles::default());
        let random = Randomness::seeded(1);
        let handle = handles.issue(credentials.user(), handed_on(), &random);
        let attempt = handles.attempt(&handle.secret).unwrap();
        attempt.refused(Some(ConsentReason::Unknown));
        attempt.granted(&credentials);
        attempt.granted(&credentials);
        let noted = attempt.noted().clone();
        assert_eq!((noted.consent, noted.asks_of_grant, noted.tokens.len()), (None, 2, 1));
        attempt.refused(Some(ConsentReason::Unknown));
        let noted = handle.end();
        assert_eq!(noted.consent, Some(ConsentReason::Unknown));
        assert_eq!(noted.asks_of_grant, 2);
        assert_eq!(noted.credentials.unwrap().user().as_str(), "ann");
    }
}
