//! Refreshes grants that nobody uses, before the provider drops them for that.
//!
//! Providers end a refresh token that was not used for months, some after days. A replica lists
//! the records about once a day, by turns, and reads none: their hints say which users are
//! active and when they were refreshed last. The store refreshes users who are due as it does
//! for a job, a few per second, and there the record decides.
//!
//! Each user has a day of their own in every half of the period, by a hash, so that users who
//! were stored together are not due together. They are due on the last of their days before the
//! period is over: nobody goes without a refresh for longer, nobody is refreshed within half of
//! it, and a user without jobs is refreshed once per period.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::ports::{Bucket, BucketError, Clock, Generation, Randomness};
use shared::record::{HintedState, RecordHints};
use shared::{Error, TokenStore, UserId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::events::Events;
use crate::events::state::Occasion;
use crate::metrics;
use crate::turns;

/// The object that a replica writes when it begins a turn.
const MARKER: &str = "sweeps/keep-alive.json";
const VERSION: u32 = 1;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The first turn comes within this share of a day, so that replicas that start together do
/// not all list.
const START_SHARE: u32 = 20;
/// Refreshes begin no faster than this, and so many are under way at most.
const BETWEEN: Duration = Duration::from_millis(100);
const AT_ONCE: usize = 16;

/// Keeps grants alive that nobody uses.
pub struct KeepAlive {
    /// The bucket of `store`.
    pub bucket: Arc<dyn Bucket>,
    /// Refreshes.
    pub store: TokenStore,
    /// Publishes that a grant has ended, where an events topic is set.
    pub events: Option<Arc<Events>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<Randomness>,
    /// How long a grant may go without a refresh.
    pub period: Period,
}

/// A number of whole days, at least two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(i64);

impl Period {
    /// As many whole days as `time` has; `None` for less than two.
    pub fn new(time: Duration) -> Option<Self> {
        let days = i64::try_from(time.as_secs() / DAY.as_secs()).ok()?;
        (days >= 2).then_some(Self(days))
    }

    /// Whether the grant of `user` is due, by what a listing says of the record, if it says
    /// anything.
    pub fn is_due(self, user: &UserId, hints: Option<RecordHints>, now: Timestamp) -> bool {
        let today = day(now);
        let half = self.0 / 2;
        let place = i64::try_from(user.digest().place_in(half.unsigned_abs())).unwrap_or_default();
        let own_day = today - (today - place).rem_euclid(half);
        let Some(RecordHints { state, refreshed, .. }) = hints else {
            // Written by an earlier version: the record tells more.
            return own_day == today;
        };
        let refreshed = day(refreshed);
        let next_is_too_late = own_day.saturating_add(half).saturating_sub(refreshed) > self.0;
        state == HintedState::Active && refreshed < own_day && next_is_too_late
    }
}

/// Days since the epoch.
fn day(time: Timestamp) -> i64 {
    time.as_second().div_euclid(24 * 60 * 60)
}

/// The marker's content, for people.
#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
    holder: String,
    /// Makes each write another one.
    turn: String,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Records that were listed.
    pub listed: u64,
    /// Of those, grants that were due.
    pub due: u64,
    /// Of those, grants whose token is fresh now.
    pub alive: u64,
}

impl KeepAlive {
    /// Keeps grants alive until `stop`. It ends after the refreshes that are under way, which
    /// the store finishes in any case.
    pub async fn run(self, stop: CancellationToken) {
        let looking = turns::look(&*self.bucket, MARKER);
        let Some(looked) = stop.run_until_cancelled(looking).await else { return };
        let mut seen = looked.ok();
        let mut pause = DAY.mul_f64(self.random.unit()) / START_SHARE;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
            match self.turn(&mut seen, &stop).await {
                Ok(None) => {}
                Ok(Some(Kept { listed, due, alive })) => {
                    info!(listed, due, alive, "grants that nobody used are kept alive");
                }
                Err(error) => {
                    warn!("grants that nobody uses wait for the next turn: {error}");
                }
            }
            // A listing a day, and none of a fleet's replicas at the same time.
            pause = DAY.mul_f64(0.9 + self.random.unit() / 5.0);
        }
    }

    /// One turn; `None` when another replica has taken it since `seen`, the marker's generation
    /// at the last look.
    ///
    /// # Errors
    /// When the bucket does not answer.
    pub async fn turn(
        &self,
        seen: &mut Option<Generation>,
        stop: &CancellationToken,
    ) -> Result<Option<Kept>, BucketError> {
        if turns::take(&*self.bucket, MARKER, seen, self.marker()).await? {
            self.keep(stop).await.map(Some)
        } else {
            Ok(None)
        }
    }

    fn marker(&self) -> Bytes {
        let (holder, turn) = (self.store.holder().to_owned(), self.random.id());
        let marker = Marker { version: VERSION, holder, turn };
        serde_json::to_vec(&marker).expect("strings and numbers are JSON").into()
    }

    /// Lists all records once and refreshes who is due.
    async fn keep(&self, stop: &CancellationToken) -> Result<Kept, BucketError> {
        let (mut kept, mut page) = (Kept::default(), None);
        let mut under_way = JoinSet::new();
        loop {
            let listing = self.bucket.list("tokens/", page).await?;
            for (name, _) in &listing.objects {
                let Some(user) = UserId::of_token_object(name) else { continue };
                kept.listed += 1;
                let hints = listing.hints.get(name).and_then(RecordHints::read);
                if !self.period.is_due(&user, hints, self.clock.wall()) {
                    continue;
                }
                kept.due += 1;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(kept),
                    () = self.clock.sleep(BETWEEN) => {}
                }
                if under_way.len() >= AT_ONCE {
                    kept.alive += u64::from(matches!(under_way.join_next().await, Some(Ok(true))));
                }
                let (store, events) = (self.store.clone(), self.events.clone());
                under_way.spawn(async move { refresh(&store, events.as_deref(), &user).await });
            }
            page = listing.next_page;
            if page.is_none() {
                break;
            }
        }
        while let Some(ended) = under_way.join_next().await {
            kept.alive += u64::from(matches!(ended, Ok(true)));
        }
        Ok(kept)
    }
}

/// Refreshes a user's grant if its record says so too; whether it lives.
async fn refresh(store: &TokenStore, events: Option<&Events>, user: &UserId) -> bool {
    let outcome = match store.get_credentials(user).await {
        Ok(_) => "alive",
        Err(Error::NeedsConsent(why)) => {
            debug!(user = %user.digest(), "a grant that nobody used has ended: {why}");
            if let Some(events) = events
                && let Err(why) = events.tell(user, &Occasion::Changed, None).await
            {
                warn!(user = %user.digest(), "the end of a consent is not told yet: {why}");
            }
            "needs_consent"
        }
        Err(error) => {
            debug!(user = %user.digest(), "a grant that nobody used waits for its next day: {error}");
            "failed"
        }
    };
    metrics::kept_alive(outcome);
    outcome == "alive"
}

impl fmt::Debug for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").field("period", &self.period).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use jiff::SignedDuration;

    fn period(days: u64) -> Period {
        Period::new(days.try_into().map(|days: u32| DAY * days).unwrap()).unwrap()
    }

    fn user(number: usize) -> UserId {
        UserId::new(format!("u{number}")).unwrap()
    }

    fn at(day: i64, hour: i64) -> Timestamp {
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        epoch + SignedDuration::from_hours(24 * day + hour)
    }

    fn hints(state: HintedState, refreshed: Timestamp) -> RecordHints {
        RecordHints { state, next: None, refreshed }
    }

    /// The days of `days` on which a user is due who is refreshed whenever they are, and at
    /// first on day 0.
    fn due_days(
        period: Period,
        user: &UserId,
        days: i64,
        missed: impl Fn(i64) -> bool,
    ) -> Vec<i64> {
        let mut refreshed = at(0, 12);
        let mut due = Vec::new();
        // Some turns come early in the day and some late.
        for day in (1..days).filter(|day| !missed(*day)) {
            let now = at(day, day * 7 % 24);
            if period.is_due(user, Some(hints(HintedState::Active, refreshed)), now) {
                due.push(day);
                refreshed = now;
            }
        }
        due
    }

    /// Users who were stored together are due on different days, and each of them then once
    /// per period.
    #[test]
    fn each_user_has_a_day_of_their_own() {
        for days in [2, 3, 10, 30, 31] {
            let mut per_day = vec![0; usize::try_from(days).unwrap() + 1];
            for number in 0..300 {
                let due = due_days(period(days), &user(number), 130, |_| false);
                let longest = i64::try_from(days).unwrap();
                per_day[usize::try_from(due[0]).unwrap()] += 1;
                assert!(due[0] > longest / 2 && due[0] <= longest, "{days}: {due:?}");
                let half = longest / 2;
                let apart = (1..9).map(|n| n * half).find(|apart| apart + half > longest).unwrap();
                assert!(due.windows(2).all(|days| days[1] - days[0] == apart), "{days}: {due:?}");
            }
            let half = usize::try_from(days).unwrap() / 2;
            let busiest = per_day.iter().max().unwrap();
            assert!(*busiest <= 300 / half * 2, "{days}: {per_day:?}");
        }
    }

    /// A day without a turn puts nobody off for a period.
    #[test]
    fn a_turn_that_was_missed_is_made_up_for() {
        for number in 0..200 {
            let due = due_days(period(30), &user(number), 200, |day| day % 3 == 1);
            assert!(due.windows(2).all(|days| days[1] - days[0] <= 31), "{due:?}");
            assert!(due[0] <= 31, "{due:?}");
        }
    }

    #[test]
    fn only_active_grants_that_were_not_used_are_due() {
        let month = period(30);
        for number in 0..100 {
            let user = user(number);
            let due = |state, ago: i64| {
                (0..60).any(|day| {
                    month.is_due(&user, Some(hints(state, at(day - ago, 0))), at(day, 1))
                })
            };
            assert!(due(HintedState::Active, 30));
            assert!(!due(HintedState::Active, 14), "used two weeks ago");
            assert!(!due(HintedState::Revoked, 300));
            assert!(!due(HintedState::Blocked, 300));
            // A clock that was wrong, or a hint that somebody has planted.
            assert!(!due(HintedState::Active, -10_000));
            let unknown = (0..60).filter(|day| month.is_due(&user, None, at(*day, 1))).count();
            assert_eq!(unknown, 4, "records without hints are read twice per period");
        }
        assert_eq!(Period::new(DAY), None);
        assert!(Period::new(Duration::MAX).is_none_or(|period| period.0 > 0));
    }
}
