//! Waiting for a credential, and whose trouble it is when none can be had.
//!
//! A job is held while its credential cannot be had: an outage must not burn delivery
//! attempts. Whether the trouble is one user's or everybody's decides what else is held.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::ports::{Bucket, Clock, Monotonic, Randomness};
use shared::{ConsentReason, Credentials, Error, Schedule, TokenStore, UserId};
use tracing::{Instrument as _, debug, error, warn};

use crate::effect::Knowledge;
use crate::gate::{Gate, Trouble};
use crate::job::Job;
use crate::logged_user::log_user;
use crate::metrics::Had;
use crate::settlement::{Event, Ran};
use crate::spans;

use super::course::Course;
use super::report::Report;

/// Pauses between two looks while a job is held.
pub(super) const HOLD_MIN: Duration = Duration::from_secs(1);
pub(super) const HOLD_MAX: Duration = Duration::from_secs(30);
/// When no credential of so many users is available at once, it is no longer one user's trouble.
const MANY_USERS: usize = 3;
/// A job whose record, or whose remembered end, cannot be used is held so long, then rejected.
pub(super) const UNUSABLE: Duration = Duration::from_secs(60 * 60);
/// How often the bucket is asked whether any record can be used.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// How many records are read for an answer.
const RECORDS: usize = 5;

impl Course<'_> {
    /// A fresh credential of the job's user. Until one can be had the job is held.
    pub(super) async fn credential(&mut self, job: &Job) -> Result<Credentials, Event> {
        let span = spans::token();
        let asked = self.shared.now();
        let in_memory = self.shared.carrier.store.credentials_in_memory(&job.user);
        let (got, had) = if let Some(credentials) = in_memory {
            (Ok(credentials), Had::Hit)
        } else {
            let got = self.wait_for_credential(job).instrument(span.clone()).await;
            let had = if got.is_ok() { Had::Wait } else { Had::Error };
            (got, had)
        };
        let waited = self.shared.now().since(asked);
        self.token = got.is_ok().then_some(waited);
        spans::token_had(&span, had);
        self.shared.meters.credential(had, waited);
        got
    }

    async fn wait_for_credential(&mut self, job: &Job) -> Result<Credentials, Event> {
        let shared = self.shared;
        let received = &self.message.received;
        if shared.parking.is_known_absent(&job.user, received, shared.clock.wall()) {
            return Err(self.needs_consent(ConsentReason::Unknown, Knowledge::NOTHING));
        }
        let mut pauses = Schedule::new(HOLD_MIN, HOLD_MAX);
        let mut troubled = None;
        let mut unusable_since = None;
        loop {
            let asked_at = shared.clock.wall();
            let got = tokio::select! {
                biased;
                got = shared.carrier.store.get_credentials(&job.user) => got,
                () = self.too_late() => return Err(Event::GoBack),
            };
            let error = match got {
                Ok(credentials) => {
                    shared.gate.open(&Trouble::Records);
                    return Ok(credentials);
                }
                Err(Error::NeedsConsent(why)) => {
                    if why == ConsentReason::Unknown {
                        shared.parking.note_absent(&job.user, asked_at);
                    }
                    return Err(self.needs_consent(why, Knowledge::NOTHING));
                }
                Err(error) => error,
            };
            if matches!(error, Error::Corrupt { .. } | Error::WrongClient { .. }) {
                let now = shared.now();
                let since = *unusable_since.get_or_insert(now);
                let everybodys = shared.ask_records(&error).await;
                if !everybodys && now.since(since) >= UNUSABLE {
                    self.report = Report::failed(error.to_string(), None);
                    return Err(Event::Ran(Ran::Rejected, Knowledge::NOTHING));
                }
            }
            match &troubled {
                None => troubled = Some(shared.troubled.enter(&shared.gate, &job.user, &error)),
                Some(troubled) => troubled.meets(&error),
            }
            self.report = Report::failed(error.to_string(), None);
            let asked = match error {
                Error::Later { retry_after, .. } => retry_after,
                _ => Duration::ZERO,
            };
            match self.hold(pauses.next(shared.random.unit()).max(asked)).await {
                Event::Waited => {}
                event => return Err(event),
            }
        }
    }
}

impl super::Deliveries {
    /// Whether no stored record can be used, now that one user's cannot.
    async fn ask_records(&self, why: &Error) -> bool {
        let carrier = &self.carrier;
        let Some(everybodys) = self.records.ask(&carrier.store, &*self.clock, &self.random).await
        else {
            return self.gate.has(&Trouble::Records);
        };
        if everybodys {
            self.gate.close(Trouble::Records, why);
        } else {
            self.gate.open(&Trouble::Records);
        }
        everybodys
    }

    /// Asks anew, for as long as no record can be used.
    pub(crate) async fn ask_records_again(&self) {
        if !self.gate.has(&Trouble::Records) {
            return;
        }
        let carrier = &self.carrier;
        let answer = self.records.ask(&carrier.store, &*self.clock, &self.random).await;
        if answer == Some(false) {
            self.gate.open(&Trouble::Records);
        }
    }

    /// Asks at the start, when no job has met a record yet.
    pub(crate) async fn ask_records_at_start(&self) {
        let carrier = &self.carrier;
        if self.records.ask(&carrier.store, &*self.clock, &self.random).await == Some(true)
            && let Some(why) = self.records.why()
        {
            self.gate.close(Trouble::Records, &why);
        }
    }
}

/// Asks the bucket whether any stored record can be used.
#[derive(Debug)]
pub(crate) struct Records {
    bucket: std::sync::Arc<dyn Bucket>,
    asked: tokio::sync::Mutex<Option<Monotonic>>,
    why: Mutex<Option<Error>>,
}

impl Records {
    pub(crate) fn new(bucket: std::sync::Arc<dyn Bucket>) -> Self {
        Self { bucket, asked: tokio::sync::Mutex::default(), why: Mutex::default() }
    }

    /// Why the last record that was read cannot be used.
    fn why(&self) -> Option<Error> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether none of the records that were read can be used, and at least one was read;
    /// `None` when the bucket was asked a moment ago, or does not answer.
    async fn ask(
        &self,
        store: &TokenStore,
        clock: &dyn Clock,
        random: &Randomness,
    ) -> Option<bool> {
        let mut asked = self.asked.lock().await;
        let now = clock.monotonic();
        if asked.is_some_and(|at| now.since(at) < ASK_EVERY) {
            return None;
        }
        *asked = Some(now);
        let mut users = Vec::new();
        for prefix in [random_prefix(random), "tokens/".to_owned()] {
            let listing = self.bucket.list(&prefix, None).await.ok()?;
            let names = listing.objects.iter();
            users.extend(names.filter_map(|(name, _)| UserId::of_token_object(name)));
            if users.len() >= RECORDS {
                break;
            }
        }
        let mut unusable = None;
        for user in users.iter().take(RECORDS) {
            match store.check_record(user).await {
                Err(error @ (Error::Corrupt { .. } | Error::WrongClient { .. })) => {
                    unusable = Some(error);
                }
                Ok(()) => return Some(false),
                Err(_) => return None,
            }
        }
        let everybodys = unusable.is_some();
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = unusable;
        Some(everybodys)
    }
}

/// Names under `tokens/` that begin with a random character.
fn random_prefix(random: &Randomness) -> String {
    const FIRST: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let at = usize::try_from(random.seed() % FIRST.len() as u64).unwrap_or_default();
    format!("tokens/{}", char::from(FIRST[at]))
}

/// The users whose jobs are held for want of a credential.
#[derive(Debug)]
pub(crate) struct Troubled {
    users: Mutex<HashMap<UserId, UserInTrouble>>,
    /// With so many jobs held nothing new is received.
    most: usize,
}

#[derive(Debug, Default)]
struct UserInTrouble {
    /// How many jobs are held.
    jobs: usize,
    /// The last error was that of an outage, which can be everybody's.
    unavailable: bool,
}

fn unavailable(users: &HashMap<UserId, UserInTrouble>) -> usize {
    users.values().filter(|user| user.unavailable).count()
}

fn jobs(users: &HashMap<UserId, UserInTrouble>) -> usize {
    users.values().map(|user| user.jobs).sum()
}

impl Troubled {
    /// At most `most` jobs are held while others are received.
    pub(crate) fn new(most: usize) -> Self {
        Self { users: Mutex::default(), most: most.max(1) }
    }

    fn users(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, UserInTrouble>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job of `user` is held because of `why`, until the guard is dropped.
    fn enter<'a>(&'a self, gate: &'a Gate, user: &UserId, why: &Error) -> InTrouble<'a> {
        let mut users = self.users();
        let of_user = users.entry(user.clone()).or_default();
        of_user.jobs += 1;
        let first = of_user.jobs == 1;
        of_user.unavailable = matches!(why, Error::Unavailable(_));
        let outage = of_user.unavailable;
        if outage && unavailable(&users) >= MANY_USERS {
            gate.close(Trouble::Credentials, why);
        } else if first {
            let user = log_user(user);
            match why {
                // The client's trouble is told once, whoever meets it first.
                Error::Misconfigured(_) if users.len() > 1 => debug!(%user, "job held: {why}"),
                Error::Misconfigured(_) => error!(%user, "job held: {why}"),
                _ => warn!(%user, "job held: {why}"),
            }
        }
        if jobs(&users) >= self.most {
            gate.close(Trouble::Held, why);
        }
        InTrouble { troubled: self, gate, user: user.clone() }
    }
}

/// One held job.
#[derive(Debug)]
struct InTrouble<'a> {
    troubled: &'a Troubled,
    gate: &'a Gate,
    user: UserId,
}

impl InTrouble<'_> {
    /// The job is still held, now because of `why`.
    fn meets(&self, why: &Error) {
        let mut users = self.troubled.users();
        if let Some(user) = users.get_mut(&self.user) {
            user.unavailable = matches!(why, Error::Unavailable(_));
        }
        match unavailable(&users) {
            0..MANY_USERS => self.gate.open(&Trouble::Credentials),
            _ => self.gate.close(Trouble::Credentials, why),
        }
    }
}

impl Drop for InTrouble<'_> {
    fn drop(&mut self) {
        let mut users = self.troubled.users();
        if let Some(user) = users.get_mut(&self.user) {
            user.jobs -= 1;
            if user.jobs == 0 {
                users.remove(&self.user);
            }
        }
        // The first user who is served again shows that the outage is over; should it not
        // be, the next one held closes the gate again.
        if unavailable(&users) < MANY_USERS {
            self.gate.open(&Trouble::Credentials);
        }
        if jobs(&users) < self.troubled.most {
            self.gate.open(&Trouble::Held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_does_not_stop_the_replica_and_many_do() {
        let (gate, troubled) = (Gate::default(), Troubled::new(10));
        let why = Error::Unavailable("down".into());
        let user = |i: usize| UserId::new(format!("u{i}")).unwrap();
        let enter = |i| troubled.enter(&gate, &user(i), &why);
        let mut guards: Vec<_> = (0..MANY_USERS - 1).map(enter).collect();
        guards.push(enter(0));
        assert!(gate.is_open());
        guards.push(enter(9));
        assert!(!gate.is_open());
        guards.pop();
        assert!(gate.is_open());
    }

    #[test]
    fn only_users_without_an_answer_count_as_an_outage() {
        let (gate, troubled) = (Gate::default(), Troubled::new(10));
        let user = |i: usize| UserId::new(format!("u{i}")).unwrap();
        let (down, own) = (
            Error::Unavailable("down".into()),
            Error::Later { why: "x".into(), retry_after: Duration::ZERO },
        );
        let held: Vec<_> = (0..3).map(|i| troubled.enter(&gate, &user(i), &own)).collect();
        let hiccup = troubled.enter(&gate, &user(3), &down);
        assert!(gate.is_open(), "one user's hiccup beside three users' own troubles");
        drop(hiccup);
        assert!(gate.is_open());
        // Their own troubles turn into an outage, which ends before they are served.
        for held in &held {
            held.meets(&down);
        }
        assert!(!gate.is_open());
        held[0].meets(&own);
        assert!(gate.is_open());
    }

    #[test]
    fn a_client_that_is_not_accepted_stops_it_when_too_much_is_held() {
        let (gate, troubled) = (Gate::default(), Troubled::new(4));
        let why = Error::Misconfigured("x".into());
        let user = |i: usize| UserId::new(format!("u{i}")).unwrap();
        let mut guards: Vec<_> = (0..3).map(|i| troubled.enter(&gate, &user(i), &why)).collect();
        assert!(gate.is_open(), "jobs with a usable token go on");
        guards.push(troubled.enter(&gate, &user(0), &why));
        assert!(!gate.is_open());
        guards.pop();
        assert!(gate.is_open());
    }
}
