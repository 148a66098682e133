//! Everything that requests change, behind one lock.

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::{AUTHORIZATION, USER_AGENT};
use tokio::sync::watch;
use tokio::time::Instant;

use super::apis::Data;
use super::clock::Clock;
use super::consent::Consents;
use super::exchange::{AccessError, Caller, Refused};
use super::faults::Operation;
use super::identity::Identity;
use super::ledger::{Ledger, Stats, StatsQuery};
use crate::data::Journal;
use crate::date::ServerDate;
use crate::faults::Faults;

/// What the lock holds.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) identity: Identity,
    pub(super) consents: Consents,
    pub(super) ledger: Ledger,
    /// What users have behind the APIs.
    pub(super) data: Data,
}

/// The core, its time, and who waits for its numbers.
#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core>,
    /// Where what changes is kept, if it is.
    pub(super) journal: Option<Arc<Journal>>,
    clock: Clock,
    stats: watch::Sender<Stats>,
    pub(super) faults: Faults<Operation>,
    /// What answers are dated with.
    pub(super) date: ServerDate,
    /// Where everything is reached.
    pub(super) origin: String,
}

impl Shared {
    pub(super) fn new(
        identity: Identity,
        journal: Option<Arc<Journal>>,
        clock: Clock,
        origin: String,
    ) -> Self {
        let core = Core {
            identity,
            consents: Consents::default(),
            ledger: Ledger::default(),
            data: Data::default(),
        };
        Self {
            core: Mutex::new(core),
            journal,
            clock,
            stats: watch::Sender::new(Stats::default()),
            faults: Faults::default(),
            date: ServerDate::default(),
            origin,
        }
    }

    /// One atomic step. The time is read under the lock, so that it does not go back
    /// from one step to the next.
    pub(super) fn step<T>(&self, step: impl FnOnce(&mut Core, Instant) -> T) -> T {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let result = step(&mut core, now);
        if let Some(journal) = &self.journal {
            journal.append(core.identity.take_changes());
        }
        let stats = core.ledger.stats(&StatsQuery::default());
        self.stats.send_if_modified(|published| {
            let changed = *published != stats;
            *published = stats;
            changed
        });
        result
    }

    pub(super) fn watch(&self) -> watch::Receiver<Stats> {
        self.stats.subscribe()
    }

    /// Checks the bearer token of an API request.
    pub(super) fn authorize(
        &self,
        headers: &HeaderMap,
        scopes: &[&'static str],
    ) -> Result<Caller, AccessError> {
        self.step(|core, now| core.authorize(now, headers, scopes))
    }
}

impl Core {
    /// Checks the bearer token of an API request, as part of a larger step.
    pub(super) fn authorize(
        &mut self,
        now: Instant,
        headers: &HeaderMap,
        scopes: &[&'static str],
    ) -> Result<Caller, AccessError> {
        let answer = self.identity.authorize(now, bearer(headers), scopes);
        let (sub, refusal) = match &answer {
            Ok(caller) => (Some(&caller.sub), None),
            Err(Refused { sub, error }) => (sub.as_ref(), Some(error)),
        };
        self.ledger.count(sub.map(String::as_str), |stats| {
            stats.api_calls += 1;
            match refusal {
                None => {}
                Some(AccessError::MissingToken | AccessError::InvalidToken) => {
                    stats.unauthorized += 1;
                }
                Some(AccessError::MissingScope(_)) => stats.forbidden += 1,
                Some(AccessError::Limited(_)) => stats.throttled += 1,
            }
        });
        answer.map_err(|refused| refused.error)
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, AUTHORIZATION.as_str())?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A header's value, where it is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn user_agent(headers: &HeaderMap) -> Option<String> {
    text(headers, USER_AGENT.as_str()).map(ToOwned::to_owned)
}
