//! What the store counts: totals since its start.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::protocol::{Finish, Notes, Source};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $($name: AtomicU64),*
        }

        /// Totals since the store was built; see [`TokenStore::counts`](super::TokenStore::counts).
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64),*
        }

        impl Counters {
            pub(super) fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Requests sent to the token endpoint.
    endpoint_requests,
    /// Those of `endpoint_requests` whose answer was lost: the provider may have rotated.
    ambiguous_requests,
    /// Requests that asked the endpoint whether it accepts the client, with a made-up refresh token.
    questions,
    /// Grants obtained and stored.
    refreshed,
    /// Records of another replica or a login that a flight ended with.
    adopted,
    /// Leases acquired.
    leases,
    /// Those of `leases` that were taken over from a holder that did not commit in time.
    takeovers,
    /// Renewals of leases whose holder was still waiting for an answer or a write.
    renewals,
    /// Commits that met another write.
    commit_conflicts,
    /// Grants whose refresh token was spent and whose successor was never stored.
    lost_grants,
    /// Answers that could not be stored since the user was deleted meanwhile.
    orphans,
    /// Flights that ended since the user must consent.
    needs_consent,
    /// Flights that ended in a transient failure.
    unavailable,
    /// Flights that ended since the client is not accepted.
    misconfigured,
    /// Records that a re-seal wrote.
    resealed,
    /// API rejections of a token that was renewed because of them.
    rejected_tokens,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn flight_over(&self, notes: Notes, finish: &Finish) {
        add(&self.endpoint_requests, notes.attempts.into());
        add(&self.ambiguous_requests, notes.ambiguous.into());
        add(&self.leases, notes.leases.into());
        add(&self.takeovers, notes.takeovers.into());
        add(&self.renewals, notes.renewals.into());
        add(&self.commit_conflicts, notes.conflict.into());
        add(&self.lost_grants, notes.lost_grant.into());
        add(&self.orphans, notes.orphan.into());
        match finish {
            Finish::Use(_, Source::Obtained) => add(&self.refreshed, 1),
            Finish::Use(_, Source::Adopted) => add(&self.adopted, 1),
            Finish::Failed(Error::NeedsConsent(_)) => add(&self.needs_consent, 1),
            Finish::Failed(Error::Misconfigured(_)) => add(&self.misconfigured, 1),
            Finish::Failed(error) if error.is_transient() => add(&self.unavailable, 1),
            Finish::Resealed(_) => add(&self.resealed, 1),
            Finish::Failed(_) | Finish::HeldElsewhere => {}
        }
    }

    pub(super) fn asked(&self) {
        add(&self.questions, 1);
    }

    pub(super) fn token_rejected(&self) {
        add(&self.rejected_tokens, 1);
    }
}
