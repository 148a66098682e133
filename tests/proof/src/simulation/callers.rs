//! Callers of one replica: patient, impatient, panicking ones, and ones whose
//! API rejects the token.

use std::sync::Arc;
use std::time::Duration;

use shared::ports::Clock as _;
use shared::{Credentials, Error, TokenStore, UserId};
use tokio::time::Instant;

use super::dice::Dice;
use super::process::{Process, ProcessClock};
use super::world::SharedWorld;

/// Every actor acts in milliseconds of its own. The runtime wakes tasks that
/// wait for one flight in an order of its own, so no two actors may go on from
/// there at the same moment, or a seed would not stand for one run.
pub(super) const SLOTS: u64 = 128;

/// Waits at least this long, and until the actor's own millisecond.
pub(super) async fn slot(world: &SharedWorld, index: u64, at_least: Duration) {
    let earliest = world.now() + u64::try_from(at_least.as_millis()).unwrap_or(u64::MAX) + 1;
    let at = (earliest.div_ceil(SLOTS)) * SLOTS + index % SLOTS;
    tokio::time::sleep_until(world.start + Duration::from_millis(at)).await;
}

#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) world: SharedWorld,
    pub(super) process: Arc<Process>,
    pub(super) store: TokenStore,
    pub(super) users: Vec<UserId>,
    pub(super) slot: u64,
}

impl Caller {
    pub(super) async fn run(self) {
        let scenario = &self.world.scenario;
        let mut dice =
            Dice::new(scenario.seed, &format!("caller {} {}", self.process.name, self.slot));
        let pace = (scenario.lifetime * 1000 / 40).max(500);
        let end = scenario.length * 1000;
        loop {
            slot(&self.world, self.slot, Duration::from_millis(dice.between(0, 2 * pace))).await;
            self.process.runs().await;
            if self.world.now() > end {
                return;
            }
            let user =
                self.users[usize::try_from(dice.next() % scenario.users).unwrap_or(0)].clone();
            // At the bound of a token's life a burst of calls matters most.
            match dice.between(0, 19) {
                0..=1 if !scenario.is_calm() => {
                    let patience = Duration::from_millis(dice.between(1, 2000));
                    self.impatient(&user, patience).await;
                }
                2 if !scenario.is_calm() => self.panicking(&user).await,
                3 if !scenario.is_calm() => self.rejected(&user).await,
                _ => {
                    drop(self.call(&user).await);
                }
            }
        }
    }

    /// One call, held against I5 and I6.
    pub(super) async fn call(&self, user: &UserId) -> Result<Credentials, Error> {
        let began = Instant::now();
        let frozen = self.process.frozen_for();
        let outcome = self.store.get_credentials(user).await;
        let waited = began.elapsed();
        let frozen = self.process.frozen_for().saturating_sub(frozen);
        let limit = self.store.policy().wait_limit + frozen;
        if waited > limit {
            let text = format!(
                "{} waited {waited:?} for {user:?}, its limit is {limit:?}",
                self.process.name
            );
            self.world.with(|s| s.ledger.violate("I6 progress", &text));
        }
        if let Ok(credentials) = &outcome {
            self.check_fresh(credentials, waited, limit);
        }
        let text = match &outcome {
            Ok(credentials) => credentials.access_token().expose().to_owned(),
            Err(error) => error.to_string(),
        };
        // Noted in the caller's own millisecond.
        slot(&self.world, self.slot, Duration::ZERO).await;
        let user = user.as_str();
        self.world.note(&format!("{}.{} {user} {waited:?}: {text}", self.process.name, self.slot));
        self.world.with(|s| {
            if outcome.is_ok() {
                s.totals.credentials += 1;
            } else {
                s.totals.errors += 1;
            }
        });
        outcome
    }

    /// I5: usable, or obtained or adopted by this very call, and never one that
    /// was reported as rejected.
    fn check_fresh(&self, credentials: &Credentials, waited: Duration, limit: Duration) {
        let policy = self.store.policy();
        let clock = ProcessClock(Arc::clone(&self.process));
        let token = credentials.access_token().expose();
        let life = Duration::from_secs(self.world.scenario.lifetime);
        let now = self.world.now();
        let left = credentials.expires_at().map(|at| at.duration_since(clock.wall()));
        let by_wall = left
            .and_then(|left| Duration::try_from(left).ok())
            .is_some_and(|left| left >= policy.min_ttl_for(Some(life)));
        let index = self.process.index;
        let fault = self.world.with(|s| {
            if s.ledger.is_rejected(index, &credentials.grant_id().0) {
                return Some("was reported as rejected");
            }
            let own = s.ledger.obtained_by(index, token);
            let young = own.is_some_and(|at| u128::from(now - at) <= life.as_millis() / 2);
            if by_wall || young {
                return None;
            }
            // The flight that this call joined began at most a limit earlier.
            let patience = u64::try_from((waited + limit).as_millis()).unwrap_or(u64::MAX);
            let since = now.saturating_sub(patience);
            let stored = own.or_else(|| s.ledger.committed_at(token));
            let by_this_call = !waited.is_zero() && stored.is_some_and(|at| at >= since);
            (!by_this_call).then_some("is not usable, nor was it had by this call")
        });
        if let Some(fault) = fault {
            let text =
                format!("{} was given {token}, which {fault} ({left:?} left)", self.process.name);
            self.world.with(|s| s.ledger.violate("I5 freshness", &text));
        }
    }

    async fn impatient(&self, user: &UserId, patience: Duration) {
        let gone = tokio::spawn({
            let caller = self.clone();
            let user = user.clone();
            async move { drop(caller.store.get_credentials(&user).await) }
        });
        slot(&self.world, self.slot, patience).await;
        gone.abort();
    }

    async fn panicking(&self, user: &UserId) {
        let caller = self.clone();
        let user = user.clone();
        let panicking = tokio::spawn(async move {
            drop(caller.store.get_credentials(&user).await);
            // Without the hook, which would print thousands of messages.
            std::panic::resume_unwind(Box::new("a caller's own fault"));
        });
        drop(panicking.await);
        slot(&self.world, self.slot, Duration::ZERO).await;
    }

    async fn rejected(&self, user: &UserId) {
        let Ok(used) = self.call(user).await else {
            return;
        };
        let renewed = self.store.renew(&used).await;
        if let Ok(renewed) = &renewed {
            let index = self.process.index;
            self.world.with(|s| {
                if renewed.grant_id() == used.grant_id() {
                    s.ledger.violate("I5 freshness", "a renewal returned the rejected grant");
                }
                s.ledger.rejected(index, &used.grant_id().0);
            });
        }
        slot(&self.world, self.slot, Duration::ZERO).await;
        let name = &self.process.name;
        self.world.note(&format!("{name}.{} renewed: {}", self.slot, renewed.is_ok()));
    }
}
