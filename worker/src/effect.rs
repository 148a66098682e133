//! What is known of the effect of a call, and of a run that made calls.
//!
//! | effect | of a call |
//! |---|---|
//! | `none` | nothing was sent, or the API said that it did nothing: 304, 307, 308, any 4xx other than 408 and 499, and 503 with `Retry-After` |
//! | `done` | the API carried it out: 2xx, 303 |
//! | `unknown` | it was sent and no whole answer came, or any other status did |
//!
//! A run has the worst effect of its calls, and is repeatable if every call with an
//! effect is. A run whose effect must not be repeated is *spent*: its job never runs again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What is known of a call's, or a run's, effect; from best to worst.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing happened, for certain.
    #[default]
    None,
    /// The API carried it out.
    Done,
    /// It may have been carried out, in whole or in part.
    Unknown,
}

impl Effect {
    /// As it stands in outcomes, attributes and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Done => "done",
            Self::Unknown => "unknown",
        }
    }

    /// Reads what [`Effect::as_str`] wrote.
    pub fn read(text: &str) -> Option<Self> {
        [Self::None, Self::Done, Self::Unknown].into_iter().find(|effect| effect.as_str() == text)
    }

    /// What an answer with this HTTP status says of its call. `asks_to_wait`: it has a
    /// `Retry-After`, with which a 503 says that the request was not handled.
    pub const fn of_status(status: u16, asks_to_wait: bool) -> Self {
        match status {
            200..=299 | 303 => Self::Done,
            // The server or a proxy gave up waiting; what runs behind it may go on.
            408 | 499 => Self::Unknown,
            304 | 307 | 308 | 400..=498 => Self::None,
            503 if asks_to_wait => Self::None,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a call, or of a run of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Knowledge {
    /// What happened: of a run, the worst of its calls.
    pub effect: Effect,
    /// Whether doing it again does no harm. Says nothing where the effect is `none`.
    pub repeatable: bool,
}

impl Knowledge {
    /// Nothing was done.
    pub const NOTHING: Self = Self { effect: Effect::None, repeatable: true };

    /// There was, or may have been, an effect that must not be repeated: the job never
    /// runs again.
    pub const fn is_spent(self) -> bool {
        !matches!(self.effect, Effect::None) && !self.repeatable
    }

    /// What is known of both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let known = Self {
            effect: self.effect.max(other.effect),
            repeatable: !self.is_spent() && !other.is_spent(),
        };
        if known.effect == Effect::None { Self::NOTHING } else { known }
    }
}

/// The calls of one run. It outlives the run's future, so that it can be read after a run
/// that panicked, was cut or took too long; a call whose future was dropped counts as sent
/// and unanswered.
#[derive(Debug, Default)]
pub struct CallLedger(Mutex<Calls>);

/// What a [`CallLedger`] says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    /// How many calls were begun.
    pub begun: u32,
    /// What is known of those that have ended.
    ended: Knowledge,
    /// Calls under way that may be repeated.
    repeatable_under_way: u32,
    /// Calls under way that may not.
    unrepeatable_under_way: u32,
    /// The HTTP status with which the API carried out the call that the job consists of.
    pub(crate) carried_out: Option<u16>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            begun: 0,
            ended: Knowledge::NOTHING,
            repeatable_under_way: 0,
            unrepeatable_under_way: 0,
            carried_out: None,
        }
    }
}

impl Calls {
    /// What is known of all of them. A call under way may have had its effect.
    pub fn knowledge(&self) -> Knowledge {
        let unknown = |calls: u32, repeatable| match calls {
            0 => Knowledge::NOTHING,
            _ => Knowledge { effect: Effect::Unknown, repeatable },
        };
        self.ended
            .and(unknown(self.repeatable_under_way, true))
            .and(unknown(self.unrepeatable_under_way, false))
    }

    fn under_way(&mut self, repeatable: bool) -> &mut u32 {
        if repeatable { &mut self.repeatable_under_way } else { &mut self.unrepeatable_under_way }
    }
}

impl CallLedger {
    /// What it says now.
    pub fn calls(&self) -> Calls {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that must not be repeated may have been sent and is not answered yet.
    pub fn is_unrepeatable_call_under_way(&self) -> bool {
        self.calls().unrepeatable_under_way > 0
    }

    /// Notes that the API carried out the one call that the job consists of, with this HTTP
    /// status: whatever its answer looks like, and whether it is read or not, the job is done.
    pub(crate) fn job_is_carried_out(&self, http_status: u16) {
        self.change(|calls| calls.carried_out = Some(http_status));
    }

    /// Notes a call whose first byte may be sent from now on.
    pub(crate) fn begin(self: &Arc<Self>, repeatable: bool) -> CallUnderWay {
        self.change(|calls| {
            calls.begun += 1;
            *calls.under_way(repeatable) += 1;
        });
        CallUnderWay { ledger: Arc::clone(self), repeatable, effect: Effect::Unknown }
    }

    fn change(&self, change: impl FnOnce(&mut Calls)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A call between its first byte and its answer. Dropping it says that no answer came.
#[derive(Debug)]
#[must_use = "dropped, it says that the effect is unknown"]
pub struct CallUnderWay {
    ledger: Arc<CallLedger>,
    repeatable: bool,
    effect: Effect,
}

impl CallUnderWay {
    /// The call has ended, with this effect.
    pub fn ended(mut self, effect: Effect) {
        self.effect = effect;
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        let Self { repeatable, effect, .. } = *self;
        self.ledger.change(|calls| {
            *calls.under_way(repeatable) -= 1;
            calls.ended = calls.ended.and(Knowledge { effect, repeatable });
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn effect() -> impl Strategy<Value = Effect> {
        prop_oneof![Just(Effect::None), Just(Effect::Done), Just(Effect::Unknown)]
    }

    fn knowledge() -> impl Strategy<Value = Knowledge> {
        (effect(), any::<bool>()).prop_map(|(effect, repeatable)| Knowledge { effect, repeatable })
    }

    #[test]
    fn what_a_status_says() {
        for (status, effect) in [
            (101, "unknown"),
            (200, "done"),
            (204, "done"),
            (206, "done"),
            (300, "unknown"),
            (301, "unknown"),
            (302, "unknown"),
            (303, "done"),
            (304, "none"),
            (305, "unknown"),
            (307, "none"),
            (308, "none"),
            (400, "none"),
            (401, "none"),
            (404, "none"),
            (408, "unknown"),
            (409, "none"),
            (425, "none"),
            (429, "none"),
            (499, "unknown"),
            (500, "unknown"),
            (503, "unknown"),
            (504, "unknown"),
            (600, "unknown"),
        ] {
            assert_eq!(Effect::of_status(status, false).as_str(), effect, "{status}");
        }
        assert_eq!(Effect::of_status(503, true), Effect::None);
        assert_eq!(Effect::of_status(500, true), Effect::Unknown, "only 503 says so");
        let none = (100..1000).filter(|status| Effect::of_status(*status, false) == Effect::None);
        assert_eq!(none.count(), 100 - 2 + 3, "the others of 4xx, and three redirects");
        let done = (100..1000).filter(|status| Effect::of_status(*status, true) == Effect::Done);
        assert_eq!(done.count(), 100 + 1);
    }

    #[test]
    fn an_effect_is_read_as_it_was_written() {
        for effect in [Effect::None, Effect::Done, Effect::Unknown] {
            assert_eq!(Effect::read(effect.as_str()), Some(effect));
            let json = serde_json::to_string(&effect).unwrap();
            assert_eq!(json, format!("\"{effect}\""));
            assert_eq!(serde_json::from_str::<Effect>(&json).unwrap(), effect);
        }
        for text in ["", "None", "done ", "half"] {
            assert_eq!(Effect::read(text), None, "{text:?}");
        }
        assert!(Effect::None < Effect::Done && Effect::Done < Effect::Unknown);
    }

    proptest! {
        #[test]
        fn calls_in_any_order_are_known_alike(
            calls in prop::collection::vec((knowledge(), any::<bool>()), 0..8),
        ) {
            let ledger = Arc::new(CallLedger::default());
            let (mut known, mut under_way) = (Vec::new(), Vec::new());
            for (call, ends) in calls {
                let begun = ledger.begin(call.repeatable);
                if ends {
                    begun.ended(call.effect);
                    known.push(call);
                } else {
                    known.push(Knowledge { effect: Effect::Unknown, ..call });
                    under_way.push(begun);
                }
            }
            let all = ledger.calls();
            prop_assert_eq!(all.begun as usize, known.len());
            let worst = known.iter().map(|call| call.effect).max().unwrap_or_default();
            let spent = known.iter().any(|call| call.is_spent());
            prop_assert_eq!(all.knowledge().effect, worst);
            prop_assert_eq!(all.knowledge().is_spent(), spent);
            prop_assert_eq!(
                ledger.is_unrepeatable_call_under_way(),
                under_way.iter().any(|call| !call.repeatable)
            );
            // What was under way is dropped with the run's future: no answer came.
            drop(under_way);
            prop_assert_eq!(ledger.calls().knowledge(), all.knowledge());
            prop_assert!(!ledger.is_unrepeatable_call_under_way());
        }

        #[test]
        fn knowledge_is_put_together_in_any_order(
            a in knowledge(), b in knowledge(), c in knowledge(),
        ) {
            prop_assert_eq!(a.and(b), b.and(a));
            prop_assert_eq!(a.and(b).and(c), a.and(b.and(c)));
            prop_assert_eq!(a.and(a).is_spent(), a.is_spent());
            prop_assert_eq!(a.and(b).is_spent(), a.is_spent() || b.is_spent());
            prop_assert_eq!(a.and(Knowledge::NOTHING).effect, a.effect);
        }
    }
}
