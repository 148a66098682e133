//! Holding instead of burning delivery attempts: while the bucket or the token
//! endpoint is down a replica keeps what it has and takes nothing new.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use shared::{Error, UserId};
use tokio::sync::watch;
use tracing::{error, info};

use crate::logged_user::log_user;
use crate::metrics;

/// With this many users held at once it is no longer one user's trouble.
const MANY_USERS: usize = 3;

/// Which users' jobs are held for want of a credential.
#[derive(Debug)]
pub(crate) struct Outage {
    held: Mutex<HashMap<UserId, usize>>,
    paused: watch::Sender<bool>,
}

impl Default for Outage {
    fn default() -> Self {
        Self { held: Mutex::default(), paused: watch::Sender::new(false) }
    }
}

impl Outage {
    /// Notes that a job of `user` is held because of `why`. Ends when the
    /// returned guard is dropped.
    pub(crate) fn hold<'a>(&'a self, user: &UserId, why: &Error) -> Held<'a> {
        let users = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            *held.entry(user.clone()).or_default() += 1;
            held.len()
        };
        // A client that is not accepted is everybody's trouble at once.
        let everybody = matches!(why, Error::Misconfigured(_));
        if (everybody || users >= MANY_USERS) && !self.paused.send_replace(true) {
            metrics::set(metrics::PAUSED, 1.0);
            error!("intake paused, {users} user(s) held: {why}");
        } else if !*self.paused.borrow() {
            error!(user = %log_user(user), "job held: {why}");
        }
        Held { outage: self, user: user.clone() }
    }

    /// Whether it is everybody's trouble.
    pub(crate) fn is_on(&self) -> bool {
        *self.paused.borrow()
    }

    /// Whether new messages are not taken, and changes of it.
    pub(crate) fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }
}

/// One held job.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    outage: &'a Outage,
    user: UserId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.outage.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.user);
            }
        }
        // The first user that is served again shows that the outage is over;
        // should it not be, the next one held pauses the intake again.
        if held.len() < MANY_USERS && self.outage.paused.send_replace(false) {
            metrics::set(metrics::PAUSED, 0.0);
            info!("intake resumed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_does_not_stop_the_replica_and_many_do() {
        let outage = Outage::default();
        let why = Error::Unavailable("down".into());
        let user = |i: usize| UserId::new(format!("u{i}")).unwrap();
        let mut guards: Vec<_> = (0..MANY_USERS - 1).map(|i| outage.hold(&user(i), &why)).collect();
        guards.push(outage.hold(&user(0), &why));
        assert!(!*outage.paused().borrow());
        guards.push(outage.hold(&user(9), &why));
        assert!(*outage.paused().borrow());
        guards.pop();
        assert!(!*outage.paused().borrow());
    }

    #[test]
    fn a_refused_client_stops_it_at_once() {
        let outage = Outage::default();
        let guard = outage.hold(&UserId::new("u").unwrap(), &Error::Misconfigured("x".into()));
        assert!(*outage.paused().borrow());
        drop(guard);
        assert!(!*outage.paused().borrow());
    }
}
