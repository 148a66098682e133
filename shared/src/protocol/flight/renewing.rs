//! The upkeep of a lease. A holder that is alive renews its lease while it waits for the
//! endpoint's answer or for a write, so that others take over only from one that is not.
//!
//! ```text
//! due (half a ttl after the last write) ──▶ PutLease ──ok──▶ due again
//!          ▲ a second later                   │ 412
//!          ├──── no answer ◀──────────────────┤
//!          └──── not applied ◀── ReadLease ◀──┘──▶ mine: due again, otherwise lost
//! ```
//!
//! It runs beside the flight's actions: the driver asks for it whenever it waits.

use std::time::Duration;

use crate::ports::{Generation, Monotonic};

use super::super::lease::{Lease, Observation, SeenLease};
use super::messages::{Event, Memory, PutFault};
use super::{Errand, Flight, Hold, State};

/// One name takes about one write per second.
const BETWEEN_WRITES: Duration = Duration::from_secs(1);

/// What the lease of a flight needs besides the flight's own action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upkeep {
    /// Nothing before this time.
    Wait(Monotonic),
    /// Write the lease object if it is at this generation, and wait for at most
    /// [`Policy::renewal_limit`](crate::Policy::renewal_limit).
    Put(Lease, Generation),
    /// Read the lease object, within the same limit.
    Read,
}

/// How far a renewal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Renewal {
    /// Something is to be done at this time. A PUT that was sent at `unknown` may have
    /// been applied, or may still be.
    Due { at: Monotonic, unknown: Option<Monotonic>, read: bool },
    /// A PUT is under way.
    Putting { unknown: Option<Monotonic>, sent: Monotonic },
    /// A PUT was refused: whose lease is it?
    Reading { unknown: Option<Monotonic> },
    /// Another replica's.
    Lost,
}

impl Renewal {
    pub(super) fn due(at: Monotonic) -> Self {
        Self::Due { at, unknown: None, read: false }
    }
}

impl Flight {
    /// What the lease needs now; `None` when there is none to keep, or when the last answer
    /// of this function has not been answered by [`Flight::on_upkeep`].
    pub fn upkeep(&mut self, now: Monotonic) -> Option<Upkeep> {
        // A re-seal is sent within the ttl or not at all.
        if self.errand == Errand::Reseal || self.state == State::Over {
            return None;
        }
        let hold = self.hold.as_mut()?;
        let Renewal::Due { at, unknown, read } = hold.renewal else {
            return None;
        };
        if now < at {
            return Some(Upkeep::Wait(at));
        }
        if read {
            hold.renewal = Renewal::Reading { unknown };
            return Some(Upkeep::Read);
        }
        hold.renewal = Renewal::Putting { unknown, sent: now };
        Some(Upkeep::Put(hold.lease.clone(), hold.generation))
    }

    /// Whether an answer of [`Flight::upkeep`] is still to be reported. If not, the lease
    /// that it was for is no longer this flight's concern.
    pub fn upkeep_is_awaited(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| {
            matches!(hold.renewal, Renewal::Putting { .. } | Renewal::Reading { .. })
        })
    }

    /// Takes what came of [`Flight::upkeep`]: [`Event::LeasePut`] or [`Event::LeaseRead`].
    ///
    /// # Panics
    /// When nothing of the kind was asked for: a fault of the driver.
    pub fn on_upkeep(&mut self, event: Event, now: Monotonic, memory: &mut Memory) {
        let interval = self.policy.renewal_interval();
        let Some(hold) = self.hold.as_mut() else {
            return;
        };
        let later = now.plus(BETWEEN_WRITES);
        match (hold.renewal, event) {
            (Renewal::Putting { sent, .. }, Event::LeasePut(Ok(generation))) => {
                self.notes.renewals += 1;
                hold.renewed_to(generation, sent, interval, now, memory);
            }
            (Renewal::Putting { unknown, sent }, Event::LeasePut(Err(fault))) => {
                let unknown = Some(unknown.unwrap_or(sent));
                // A conflict: another replica's write, or this one's with a lost reply.
                let read = fault == PutFault::Conflict;
                let at = if read { now } else { later };
                hold.renewal = Renewal::Due { at, unknown, read };
            }
            (Renewal::Reading { unknown }, Event::LeaseRead(Err(_))) => {
                hold.renewal = Renewal::Due { at: later, unknown, read: true };
            }
            (Renewal::Reading { unknown }, Event::LeaseRead(Ok(Some(seen))))
                if seen.is_attempt(&hold.lease.attempt) =>
            {
                if seen.generation == hold.generation {
                    hold.renewal = Renewal::Due { at: later, unknown, read: false };
                } else {
                    // One of my own PUTs, whichever: the ttl counts from the first.
                    self.notes.renewals += 1;
                    let sent = unknown.unwrap_or(hold.renewed);
                    hold.renewed_to(seen.generation, sent, interval, now, memory);
                }
            }
            (Renewal::Reading { .. }, Event::LeaseRead(Ok(seen))) => {
                if let Some(seen) = seen {
                    Observation::note(&mut memory.observation, &seen, now);
                }
                hold.renewal = Renewal::Lost;
            }
            (renewal, event) => panic!("{event:?} does not answer {renewal:?}"),
        }
    }
}

impl Hold {
    fn renewed_to(
        &mut self,
        generation: Generation,
        sent: Monotonic,
        interval: Duration,
        now: Monotonic,
        memory: &mut Memory,
    ) {
        self.generation = generation;
        self.renewed = sent;
        self.renewal = Renewal::due(sent.plus(interval).max(now.plus(BETWEEN_WRITES)));
        let seen = SeenLease { body: Some(self.lease.clone()), generation };
        Observation::note(&mut memory.observation, &seen, now);
    }

    /// Another replica has the lease: nothing is sent to the endpoint any more.
    pub(super) fn is_lost(&self) -> bool {
        self.renewal == Renewal::Lost
    }
}
