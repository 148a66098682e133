//! Step 2: the lease.

use crate::error::Error;
use crate::ports::Generation;
use crate::reason::ConsentReason;

use super::super::lease::{Lease, Observation, SeenLease, Verdict, judge};
use super::messages::{Action, Finish, PutFault, ReadFault, Stored};
use super::renewing::Renewal;
use super::{Around, Errand, Flight, Hold, State, Taking};

impl Flight {
    pub(super) fn seek_lease(&mut self, base: Box<Stored>, around: &mut Around<'_>) -> Action {
        if let Some(hint) = base.record.lease_generation
            && around.memory.hint_used != Some(hint)
        {
            around.memory.hint_used = Some(hint);
            return self.take_lease(base, None, hint, false, around);
        }
        self.enter(State::ReadingLease { base, doubt: None })
    }

    pub(super) fn take_lease(
        &mut self,
        base: Box<Stored>,
        doubt: Option<Box<Taking>>,
        expected: Generation,
        takeover: bool,
        around: &Around<'_>,
    ) -> Action {
        // With too little of its ttl left it is given up: what it might bring could not
        // be used, and would stand in everybody's way for a ttl.
        let needed = self.policy.connect_limit() + self.policy.commit_reserve();
        let ends = around.now.monotonic.plus(needed);
        let doubt = doubt.filter(|taking| ends <= taking.first_sent.plus(self.policy.lease_ttl));
        let taking = match doubt {
            // The same acquisition goes on: a PUT that is still on its way is
            // recognised by its attempt, and the ttl counts from the first.
            Some(doubt) => Taking { expected, takeover: takeover || doubt.takeover, ..*doubt },
            None => Taking {
                lease: Lease {
                    holder: self.identity.holder.to_string(),
                    attempt: around.draw.id(),
                    guards: base.generation.0,
                    ttl_ms: u64::try_from(self.policy.lease_ttl.as_millis()).unwrap_or(u64::MAX),
                    acquired_at: around.now.wall,
                },
                expected,
                first_sent: around.now.monotonic,
                takeover,
            },
        };
        self.enter(State::PuttingLease { base, taking: Box::new(taking) })
    }

    pub(super) fn on_lease_put(
        &mut self,
        base: Box<Stored>,
        taking: Box<Taking>,
        put: Result<Generation, PutFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match put {
            Ok(generation) => self.acquired(base, &taking, generation, around),
            Err(PutFault::Conflict) => {
                self.enter(State::ReadingLease { base, doubt: Some(taking) })
            }
            Err(PutFault::Unknown(why)) => {
                let next = State::ReadingLease { base, doubt: Some(taking) };
                self.look_again(why, next, self.deadline, around)
            }
            Err(PutFault::Refused(why) | PutFault::TooLarge(why)) => {
                self.fail(Error::Unavailable(why))
            }
            Err(PutFault::Paused(why)) => self.fail(why),
        }
    }

    pub(super) fn on_lease_read(
        &mut self,
        base: Box<Stored>,
        doubt: Option<Box<Taking>>,
        read: Result<Option<SeenLease>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        let seen = match read {
            Ok(seen) => seen,
            Err(fault) => return self.read_failed(fault),
        };
        if let (Some(taking), Some(lease)) = (&doubt, &seen)
            && lease.is_attempt(&taking.lease.attempt)
        {
            return self.acquired(base, taking, lease.generation, around);
        }
        match (judge(seen.as_ref(), base.generation), seen) {
            (Verdict::Void(expected), _) => self.take_lease(base, doubt, expected, false, around),
            (Verdict::Ahead, Some(lease)) => {
                self.enter(State::RereadingToken { base, lease: lease.generation })
            }
            (_, Some(lease)) => {
                let now = around.now.monotonic;
                Observation::note(&mut around.memory.observation, &lease, now);
                // Where the lease has moved, a PUT of mine that is still on its way can
                // no longer succeed. Otherwise it can, and I must recognise it.
                let doubt = doubt.filter(|taking| taking.expected == lease.generation);
                self.wait_or_take_over(base, doubt, around)
            }
            (_, None) => unreachable!("no lease is void"),
        }
    }

    pub(super) fn on_reread(
        &mut self,
        base: Box<Stored>,
        lease: Generation,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match read {
            Err(fault) => self.read_failed(fault),
            Ok(None) => self.consent(ConsentReason::Unknown),
            Ok(Some(stored)) if stored.generation == base.generation => {
                // Read after the lease and still older than what it guards: the
                // bucket was restored, and the lease means nothing here.
                self.take_lease(base, None, lease, false, around)
            }
            Ok(Some(stored)) => self.moved(&base.record.grant_id, stored, around),
        }
    }

    pub(super) fn acquired(
        &mut self,
        base: Box<Stored>,
        taking: &Taking,
        generation: Generation,
        around: &mut Around<'_>,
    ) -> Action {
        self.notes.leases += 1;
        self.notes.takeovers += u32::from(taking.takeover);
        self.retries.reset();
        // If this series fails, my own standing lease is waited out like any other.
        let seen = SeenLease { body: Some(taking.lease.clone()), generation };
        Observation::note(&mut around.memory.observation, &seen, around.now.monotonic);
        self.hold = Some(Hold {
            lease: taking.lease.clone(),
            generation,
            taken: taking.first_sent,
            renewed: taking.first_sent,
            renewal: Renewal::due(taking.first_sent.plus(self.policy.renewal_interval())),
            takeover: taking.takeover,
            sent: None,
            ambiguous: false,
            doubted: false,
            rejected: None,
            revoking: None,
        });
        if taking.expected == Generation::ABSENT || taking.takeover {
            self.enter(State::Confirming { base })
        } else {
            self.begin_work(base, around)
        }
    }

    /// The lease is mine, and what it guards is what I read.
    fn begin_work(&mut self, base: Box<Stored>, around: &mut Around<'_>) -> Action {
        match self.errand {
            Errand::Refresh | Errand::Present => self.attempt(base, None, around),
            Errand::Reseal => self.reseal(base, around),
        }
    }

    pub(super) fn on_confirmed(
        &mut self,
        base: Box<Stored>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match read {
            Err(fault) => self.read_failed(fault),
            Ok(None) => self.consent(ConsentReason::Unknown),
            Ok(Some(stored)) if stored.generation == base.generation => {
                self.begin_work(base, around)
            }
            Ok(Some(stored)) => self.moved(&base.record.grant_id, stored, around),
        }
    }

    /// Another replica holds the lease. `doubt` is a takeover of mine whose reply was
    /// lost, while the lease still is the one that it would replace.
    pub(super) fn wait_or_take_over(
        &mut self,
        base: Box<Stored>,
        doubt: Option<Box<Taking>>,
        around: &mut Around<'_>,
    ) -> Action {
        let now = around.now.monotonic;
        let Some(seen) = around.memory.observation.clone() else {
            return self.enter(State::ReadingLease { base, doubt });
        };
        let remaining = seen.remaining(now);
        if remaining.is_zero() {
            return self.take_lease(base, doubt, seen.generation, true, around);
        }
        if !self.foreground {
            return self.finish(Finish::HeldElsewhere);
        }
        let patience = self.deadline.since(now);
        if patience.is_zero() {
            return self.fail(Error::waited(self.policy.wait_limit));
        }
        let pause = self.polls.next(around.draw.unit()).min(remaining).min(patience);
        self.pause(pause, State::Polling { base })
    }

    pub(super) fn on_polled(
        &mut self,
        base: Box<Stored>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match read {
            Err(fault) => self.read_failed(fault),
            Ok(None) => self.consent(ConsentReason::Unknown),
            Ok(Some(stored)) if stored.generation == base.generation => {
                self.wait_or_take_over(base, None, around)
            }
            Ok(Some(stored)) => self.moved(&base.record.grant_id, stored, around),
        }
    }
}
