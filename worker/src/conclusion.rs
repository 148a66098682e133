//! What a run of a handler comes to: its verdict, taken together with what is known of its
//! calls.
//!
//! A handler says what should become of its job, and the [`CallLedger`] knows what its calls
//! did. Where both disagree about running the job again, the ledger wins: a spent run ends.
//!
//! [`CallLedger`]: crate::effect::CallLedger

use crate::effect::{Calls, Effect, Knowledge};
use crate::json::Json;
use crate::outcome::Verdict;

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conclusion {
    /// Never [`Verdict::Stated`]; of a spent run only `Done` or `Reject`.
    pub(crate) verdict: Verdict,
    /// What is known of the run.
    pub(crate) knowledge: Knowledge,
}

impl Conclusion {
    /// The handler returned `verdict`, and had made `calls`.
    pub(crate) fn of(verdict: Verdict, calls: &Calls) -> Self {
        let (verdict, stated_effect, stated_repeatable) = verdict.into_parts();
        let effect = stated_effect.unwrap_or_else(|| unstated(&verdict, calls));
        let repeatable = stated_repeatable.unwrap_or(!is_final(&verdict));
        let knowledge = calls.knowledge().and(Knowledge { effect, repeatable });
        Self {
            verdict: if knowledge.is_spent() { ended(verdict, knowledge) } else { verdict },
            knowledge,
        }
    }

    /// The handler panicked: nobody knows how far it was.
    pub(crate) fn of_panic(calls: &Calls) -> Self {
        let panicked = Knowledge { effect: Effect::Unknown, repeatable: false };
        Self {
            verdict: Verdict::reject(
                "the handler panicked, so whether it did the job is not known",
            ),
            knowledge: calls.knowledge().and(panicked),
        }
    }

    /// The run was cut: its future was dropped for the reason `why`. A run that had begun no
    /// call goes back; one that did not use [`Session::request`](crate::Session::request) says
    /// by [`Session::begin_call`](crate::Session::begin_call) that it must not. Where only the
    /// answer was still being read, the job is done.
    pub(crate) fn of_cut(why: &str, calls: &Calls) -> Self {
        let verdict = match calls.carried_out {
            Some(status) => Verdict::Done {
                http_status: Some(status),
                result: Json::null(),
                warning: Some(format!(
                    "the API carried out the call, but its answer was not read: {why}"
                )),
            },
            None => Verdict::retry(why),
        };
        Self::of(verdict, calls)
    }
}

/// Whether the handler wants no other run.
fn is_final(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Done { .. } | Verdict::Reject { .. })
}

/// What a verdict says of the effect when the handler states nothing. Calls through the
/// session speak for themselves; without any, the handler acted by means of its own, or not
/// at all, and only `Done` says which.
fn unstated(verdict: &Verdict, calls: &Calls) -> Effect {
    match verdict {
        Verdict::Done { .. } if calls.begun == 0 => Effect::Done,
        Verdict::Retry { .. } | Verdict::Reject { .. } if calls.begun == 0 => Effect::Unknown,
        // `Unauthorized` and those below it speak of their own call, which did nothing.
        Verdict::Done { .. }
        | Verdict::Retry { .. }
        | Verdict::Reject { .. }
        | Verdict::Stated { .. }
        | Verdict::Unauthorized
        | Verdict::RateLimited { .. }
        | Verdict::MissingScopes { .. }
        | Verdict::NeedsConsent(_)
        | Verdict::Unasked { .. } => Effect::None,
    }
}

/// The verdict on a run that is spent: it is not run again.
fn ended(verdict: Verdict, known: Knowledge) -> Verdict {
    let (why, http_status) = match verdict {
        Verdict::Retry { why, http_status, .. } => (why, http_status),
        Verdict::Unauthorized => ("the API rejects the token (HTTP status 401)".into(), Some(401)),
        Verdict::RateLimited { http_status, .. } => {
            ("the API limits the user's rate".into(), http_status)
        }
        Verdict::MissingScopes { .. } => {
            ("the user must grant more scopes (HTTP status 403)".into(), Some(403))
        }
        Verdict::NeedsConsent(why) => (format!("the user must consent: {why}"), None),
        Verdict::Unasked { why, .. } => (why, None),
        ends @ (Verdict::Done { .. } | Verdict::Reject { .. } | Verdict::Stated { .. }) => {
            return ends;
        }
    };
    let effect = match known.effect {
        Effect::Unknown => "a call that must not be repeated may have had its effect",
        Effect::Done | Effect::None => "a call that must not be repeated had its effect",
    };
    Verdict::Reject {
        reason: format!("{why}; not tried again, because {effect}"),
        detail: None,
        http_status,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::effect::CallLedger;
    use crate::outcome::Limit;

    const NONE: Effect = Effect::None;
    const DONE: Effect = Effect::Done;
    const UNKNOWN: Effect = Effect::Unknown;

    /// Calls by their effect and whether they may be repeated.
    fn calls(made: &[(Effect, bool)]) -> Calls {
        let ledger = Arc::new(CallLedger::default());
        for (effect, repeatable) in made {
            ledger.begin(*repeatable).ended(*effect);
        }
        ledger.calls()
    }

    fn limited() -> Verdict {
        Verdict::RateLimited { http_status: Some(429), after: None, limit: Limit::default() }
    }

    fn missing() -> Verdict {
        Verdict::MissingScopes { scopes: vec!["s".to_owned()] }
    }

    fn done() -> Verdict {
        Verdict::done(Json::null())
    }

    #[test]
    fn the_table() {
        let (retry, reject) = (|| Verdict::retry("why"), || Verdict::reject("why"));
        let no_calls: &[(Effect, bool)] = &[];
        let rejected = "rejected";
        for (verdict, made, becomes, effect, repeatable) in [
            // A handler that made no call through the session.
            (done(), no_calls, "done", DONE, false),
            (reject(), no_calls, rejected, UNKNOWN, false),
            (retry(), no_calls, "retry", UNKNOWN, true),
            (Verdict::Unauthorized, no_calls, "unauthorized", NONE, true),
            (limited(), no_calls, "limited", NONE, true),
            (missing(), no_calls, "missing", NONE, true),
            // What it states counts.
            (reject().effect(NONE), no_calls, rejected, NONE, true),
            (reject().effect(DONE), no_calls, rejected, DONE, false),
            (reject().repeatable(true), no_calls, rejected, UNKNOWN, true),
            (done().effect(NONE), no_calls, "done", NONE, true),
            (done().repeatable(true), no_calls, "done", DONE, true),
            (retry().effect(NONE), no_calls, "retry", NONE, true),
            (retry().effect(DONE), no_calls, "retry", DONE, true),
            (retry().repeatable(false), no_calls, rejected, UNKNOWN, false),
            (retry().effect(NONE).repeatable(false), no_calls, "retry", NONE, true),
            (limited().effect(DONE).repeatable(false), no_calls, rejected, DONE, false),
            (Verdict::Unauthorized.effect(DONE), no_calls, "unauthorized", DONE, true),
            // The calls are known: what is not stated adds nothing.
            (done(), &[(DONE, false)], "done", DONE, false),
            (done(), &[(DONE, true)], "done", DONE, true),
            (done(), &[(NONE, false)], "done", NONE, true),
            (reject(), &[(NONE, false)], rejected, NONE, true),
            (reject(), &[(UNKNOWN, false)], rejected, UNKNOWN, false),
            (reject(), &[(DONE, true), (UNKNOWN, true)], rejected, UNKNOWN, true),
            (retry(), &[(NONE, false)], "retry", NONE, true),
            (retry(), &[(UNKNOWN, true)], "retry", UNKNOWN, true),
            (retry(), &[(UNKNOWN, false)], rejected, UNKNOWN, false),
            (retry(), &[(DONE, false), (NONE, true)], rejected, DONE, false),
            (Verdict::Unauthorized, &[(NONE, false)], "unauthorized", NONE, true),
            (limited(), &[(DONE, true), (NONE, false)], "limited", DONE, true),
            // Another call of the run was spent.
            (Verdict::Unauthorized, &[(DONE, false), (NONE, false)], rejected, DONE, false),
            (limited(), &[(UNKNOWN, false), (NONE, false)], rejected, UNKNOWN, false),
            (missing(), &[(DONE, false), (NONE, false)], rejected, DONE, false),
            // What a handler states does not undo what its calls did.
            (retry().effect(NONE).repeatable(true), &[(DONE, false)], rejected, DONE, false),
            (reject().effect(NONE), &[(DONE, false)], rejected, DONE, false),
            (reject().effect(UNKNOWN), &[(DONE, true)], rejected, UNKNOWN, false),
        ] {
            let shown = format!("{verdict:?} after {made:?}");
            let Conclusion { verdict, knowledge } = Conclusion::of(verdict, &calls(made));
            let became = match verdict {
                Verdict::Done { .. } => "done",
                Verdict::Unauthorized => "unauthorized",
                Verdict::RateLimited { .. } => "limited",
                Verdict::Retry { .. } => "retry",
                Verdict::MissingScopes { .. } => "missing",
                Verdict::Reject { .. } => rejected,
                Verdict::NeedsConsent(_) => "consent",
                Verdict::Unasked { .. } => "unasked",
                Verdict::Stated { .. } => "stated",
            };
            assert_eq!(became, becomes, "{shown}");
            assert_eq!(knowledge, Knowledge { effect, repeatable }, "{shown}");
        }
    }

    #[test]
    fn a_spent_run_says_why_it_is_not_tried_again() {
        let posted = calls(&[(DONE, false)]);
        let reason = |verdict| match Conclusion::of(verdict, &posted).verdict {
            Verdict::Reject { reason, http_status, .. } => (reason, http_status),
            other => panic!("{other:?}"),
        };
        let (why, status) = reason(missing());
        assert!(why.contains("more scopes") && why.contains("had its effect"), "{why}");
        assert_eq!(status, Some(403));
        let failed =
            Verdict::Retry { why: "the API failed".into(), http_status: Some(500), after: None };
        let (why, status) = reason(failed);
        assert!(why.starts_with("the API failed; not tried again"), "{why}");
        assert_eq!(status, Some(500));
    }

    #[test]
    fn a_run_that_did_not_end_by_itself() {
        let ledger = Arc::new(CallLedger::default());
        let panicked = Conclusion::of_panic(&ledger.calls());
        assert_eq!(panicked.knowledge, Knowledge { effect: UNKNOWN, repeatable: false });
        assert!(matches!(panicked.verdict, Verdict::Reject { .. }));
        // Cut before it began a call, while it makes one that may be repeated, and one that
        // may not.
        let cut = || Conclusion::of_cut("cut", &ledger.calls());
        assert_eq!(cut().verdict, Verdict::retry("cut"));
        let _read = ledger.begin(true);
        assert_eq!(cut().verdict, Verdict::retry("cut"));
        assert_eq!(cut().knowledge, Knowledge { effect: UNKNOWN, repeatable: true });
        let written = ledger.begin(false);
        assert!(matches!(cut().verdict, Verdict::Reject { .. }));
        assert_eq!(cut().knowledge, Knowledge { effect: UNKNOWN, repeatable: false });
        written.ended(Effect::None);
        assert_eq!(cut().verdict, Verdict::retry("cut"));
        // Cut while the answer is read to the one call that the job consists of.
        ledger.begin(false).ended(Effect::Done);
        ledger.job_is_carried_out(201);
        let Verdict::Done { http_status: Some(201), result, warning: Some(why) } = cut().verdict
        else {
            panic!("{:?}", cut().verdict)
        };
        assert!(result.is_null());
        assert!(why.ends_with("not read: cut"), "{why}");
        assert_eq!(cut().knowledge, Knowledge { effect: UNKNOWN, repeatable: false }, "of the GET");
    }

    fn effect() -> impl Strategy<Value = Effect> {
        prop_oneof![Just(NONE), Just(DONE), Just(UNKNOWN)]
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        let plain = prop_oneof![
            Just(done()),
            Just(Verdict::retry("why")),
            Just(Verdict::reject("why")),
            Just(Verdict::Unauthorized),
            Just(limited()),
            Just(missing()),
        ];
        (plain, prop::option::of(effect()), prop::option::of(any::<bool>())).prop_map(
            |(verdict, effect, repeatable)| {
                let verdict = match effect {
                    Some(effect) => verdict.effect(effect),
                    None => verdict,
                };
                match repeatable {
                    Some(repeatable) => verdict.repeatable(repeatable),
                    None => verdict,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_spent_run_ends_and_nothing_that_its_calls_did_is_forgotten(
            verdict in verdict(),
            made in prop::collection::vec((effect(), any::<bool>()), 0..6),
        ) {
            let calls = calls(&made);
            let (plain, stated, _) = verdict.clone().into_parts();
            let Conclusion { verdict: becomes, knowledge } = Conclusion::of(verdict, &calls);
            let spent = made.iter().any(|(effect, again)| *effect != NONE && !again);
            prop_assert!(!spent || knowledge.is_spent());
            prop_assert!(made.iter().all(|(effect, _)| *effect <= knowledge.effect));
            prop_assert!(stated.is_none_or(|stated| stated <= knowledge.effect));
            let ends = matches!(becomes, Verdict::Done { .. } | Verdict::Reject { .. });
            prop_assert!(ends || !knowledge.is_spent());
            // Nothing else changes a verdict, and `Done` and `Reject` stay what they are.
            if !knowledge.is_spent() || is_final(&plain) {
                prop_assert_eq!(becomes, plain);
            }
        }
    }
}
