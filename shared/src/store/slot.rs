//! What the cache has of a user, laid out so that the callers of a fresh token touch
//! nothing beyond it: no lock of the entry, no reference count besides the one that
//! they return. With more of either, callers of one user on many threads wait for one
//! another's cache lines.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use quick_cache::{Lifecycle, UnitWeighter};

use crate::ports::Clock;
use crate::user_id::{UserDigest, UserId};

use super::credentials::Credentials;
use super::entry::Entry;
use super::served::Served;

/// The users in memory, each in a slot.
pub(super) type Slots = Cache<UserId, Slot, UnitWeighter, ahash::RandomState, PinFlights>;

/// One user. A clone costs one reference count.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    /// No token was handed out yet.
    New(Arc<Entry>),
    /// The token that was handed out last.
    Served(Arc<Offer>),
}

/// A token as callers get it, and the entry that knows better once it no longer stands.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) served: Arc<Served>,
    /// Of the user, for callers that log each use of the token.
    pub(super) digest: UserDigest,
    entry: Arc<Entry>,
}

/// Keeps entries with a flight under way in the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct PinFlights;

impl Lifecycle<UserId, Slot> for PinFlights {
    type RequestState = ();

    fn begin_request(&self) {}

    fn on_evict(&self, _state: &mut (), _user: UserId, _slot: Slot) {}

    fn is_pinned(&self, _user: &UserId, slot: &Slot) -> bool {
        slot.entry().is_flying()
    }
}

impl Slot {
    /// The slot of `user`, made if there is none.
    pub(super) fn of(user: &UserId, slots: &Slots) -> Self {
        if let Some(slot) = slots.get(user) {
            return slot;
        }
        let new =
            || Ok::<_, std::convert::Infallible>(Self::New(Arc::new(Entry::new(user.clone()))));
        match slots.get_or_insert_with(user, new) {
            Ok(slot) => slot,
            Err(never) => match never {},
        }
    }

    pub(super) fn entry(&self) -> &Arc<Entry> {
        match self {
            Self::New(entry) => entry,
            Self::Served(offer) => &offer.entry,
        }
    }

    /// `served` as a caller gets it, whose entry is this slot's. Later callers find it
    /// in the cache, unless the user was forgotten or deleted meanwhile.
    pub(super) fn hand_out(self, served: Arc<Served>, slots: &Slots) -> Credentials {
        let entry = match self {
            Self::Served(offer) if Arc::ptr_eq(&offer.served, &served) => {
                return Credentials::new(offer);
            }
            Self::Served(offer) => Arc::clone(&offer.entry),
            Self::New(entry) => entry,
        };
        let digest = entry.user.digest();
        let offer = Arc::new(Offer { served, digest, entry });
        let replaced = slots.entry(&offer.entry.user, Some(Duration::ZERO), |_, slot| {
            let before = Arc::ptr_eq(slot.entry(), &offer.entry)
                .then(|| std::mem::replace(slot, Self::Served(Arc::clone(&offer))));
            // Returned, so that a token is not wiped under the lock of the cache.
            EntryAction::Retain(before)
        });
        match replaced {
            EntryResult::Retained(before) => drop(before),
            // Dropped, a guard leaves the slot vacant.
            EntryResult::Vacant(_) | EntryResult::Timeout => {}
            EntryResult::Removed(..) | EntryResult::Replaced(..) => {
                unreachable!("the slot was retained")
            }
        }
        Credentials::new(offer)
    }
}

impl Offer {
    /// Whether it may be handed out again as it is. If not, the entry may still say so.
    pub(super) fn stands(&self, clock: &dyn Clock) -> bool {
        self.served.is_current() && self.served.is_fresh(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::ports::{Generation, Monotonic};
    use crate::protocol::Held;
    use crate::protocol::testing::record;
    use crate::store::served::ScopeSets;

    fn slots() -> Slots {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        Slots::with(10, 10, UnitWeighter, hasher, PinFlights)
    }

    fn served(generation: i64) -> Arc<Served> {
        let held = Held {
            record: record("u"),
            generation: Some(Generation(generation)),
            obtained_at: None,
            ahead: Duration::ZERO,
        };
        Arc::new(Served::new(
            held,
            &Policy::default(),
            &ScopeSets::default(),
            Monotonic(Duration::ZERO),
        ))
    }

    fn user() -> UserId {
        UserId::new("u").unwrap()
    }

    fn cached(slots: &Slots) -> Option<Arc<Served>> {
        match slots.get(&user()) {
            Some(Slot::Served(offer)) => Some(Arc::clone(&offer.served)),
            Some(Slot::New(_)) | None => None,
        }
    }

    #[test]
    fn later_callers_find_what_was_handed_out_last() {
        let slots = slots();
        for generation in [1, 2] {
            let served = served(generation);
            Slot::of(&user(), &slots).hand_out(Arc::clone(&served), &slots);
            assert!(Arc::ptr_eq(&cached(&slots).unwrap(), &served));
        }
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn a_user_who_was_forgotten_is_not_brought_back() {
        let slots = slots();
        let before = Slot::of(&user(), &slots);
        slots.remove(&user());
        before.clone().hand_out(served(1), &slots);
        assert!(slots.is_empty());
        // Nor may an entry take the place of its successor, which has a flight of its own.
        let after = Slot::of(&user(), &slots);
        before.hand_out(served(1), &slots);
        assert!(cached(&slots).is_none());
        assert!(Arc::ptr_eq(Slot::of(&user(), &slots).entry(), after.entry()));
    }

    #[test]
    fn only_what_the_entry_serves_and_no_api_rejected_is_current() {
        let entry = Entry::new(user());
        let (first, second) = (served(1), served(2));
        assert!(!first.is_current());
        let mut state = entry.lock();
        for _ in 0..2 {
            state.hold(Some(Arc::clone(&first)));
            assert!(first.is_current());
        }
        state.hold(Some(Arc::clone(&second)));
        assert!(!first.is_current() && second.is_current());
        state.reject(&second.held().record.grant_id);
        assert!(!second.is_current());
        let moved = Arc::new(second.moved_to(Generation(3)));
        state.hold(Some(Arc::clone(&moved)));
        assert!(!moved.is_current(), "the same grant");
        state.hold(None);
        assert!(state.held().is_none());
    }
}
