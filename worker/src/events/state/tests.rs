use proptest::prelude::*;
use shared::UserId;
use shared::record::{Blocked, GrantId, WriteId};

use super::*;

const WAITS: Occasion = Occasion::Waits(None);

fn record(login: &str) -> TokenRecord {
    let at = "2026-01-01T00:00:00Z".parse().unwrap();
    TokenRecord {
        user: UserId::new("ann").unwrap(),
        sub: None,
        state: shared::record::State::Active,
        reason: None,
        refresh_token: "fake-refresh".into(),
        access_token: None,
        expires_at: None,
        expires_in: None,
        scopes: vec!["openid".into()],
        token_uri: "https://token.test/".into(),
        client_id: "client".into(),
        blocked: None,
        later: None,
        grant_id: GrantId(format!("{login}.1")),
        write_id: WriteId("w".into()),
        holder: "h".into(),
        lease_generation: None,
        created_at: at,
        updated_at: at,
    }
}

fn revoked(login: &str) -> TokenRecord {
    let state = shared::record::State::Revoked;
    TokenRecord { state, reason: Some("revoked".into()), ..record(login) }
}

fn blocked(login: &str) -> TokenRecord {
    let at = record(login).updated_at;
    let blocked = Blocked { code: "admin_policy_enforced".into(), since: at, next_try: at };
    let reason = Some("admin_policy".into());
    TokenRecord { blocked: Some(Box::new(blocked)), reason, ..record(login) }
}

fn with_scopes(scopes: &[&str], record: TokenRecord) -> TokenRecord {
    TokenRecord { scopes: list(scopes), ..record }
}

fn list(scopes: &[&str]) -> Vec<String> {
    scopes.iter().map(|scope| (*scope).to_owned()).collect()
}

fn waits_for(scopes: &[&str]) -> Occasion {
    Occasion::Waits(Some(list(scopes)))
}

fn needed(reason: Reason, missing: &[&str], login: &str) -> State {
    let login = Some(login.to_owned()).filter(|login| !login.is_empty());
    State { consent: Consent::Needed { reason, missing: list(missing) }, login }
}

fn granted(login: &str) -> State {
    State { consent: Consent::Granted, login: Some(login.into()) }
}

fn ended(reason: Reason, login: &str) -> State {
    State { consent: Consent::Ended(Ending::ByProvider(reason)), login: Some(login.into()) }
}

fn disconnected() -> State {
    State { consent: Consent::Ended(Ending::Disconnected), login: None }
}

/// What is told after what, by a record and an occasion.
#[test]
fn the_table() {
    use Occasion::{Changed, Untold};
    let waits = || Occasion::Waits(None);
    let removed = |was_stored| Occasion::Removed { was_stored };
    let revoked_a = || needed(Reason::Revoked, &[], "a");
    for (last, record, occasion, tells) in vec![
        // Jobs that wait for a grant which has ended.
        (None, Some(revoked("a")), waits(), Some(revoked_a())),
        (Some(granted("a")), Some(revoked("a")), waits(), Some(revoked_a())),
        (Some(revoked_a()), Some(revoked("a")), waits(), None),
        (Some(ended(Reason::Revoked, "a")), Some(revoked("a")), waits(), Some(revoked_a())),
        // Consent given anew and ended again is another need, told or not in between.
        (Some(revoked_a()), Some(record("b")), Changed, Some(granted("b"))),
        (Some(granted("b")), Some(revoked("b")), waits(), Some(needed(Reason::Revoked, &[], "b"))),
        (Some(revoked_a()), Some(revoked("b")), waits(), Some(needed(Reason::Revoked, &[], "b"))),
        // A grant that has ended while nothing waits.
        (Some(granted("a")), Some(revoked("a")), Changed, Some(ended(Reason::Revoked, "a"))),
        (Some(ended(Reason::Revoked, "a")), Some(revoked("a")), Changed, None),
        (Some(revoked_a()), Some(revoked("a")), Changed, None),
        (Some(revoked_a()), Some(revoked("a")), Untold, None),
        // A provider that refuses a user for now.
        (None, Some(blocked("a")), Changed, None),
        (None, Some(blocked("a")), waits(), Some(needed(Reason::AdminPolicy, &[], "a"))),
        (
            Some(needed(Reason::AdminPolicy, &[], "a")),
            Some(record("a")),
            Changed,
            Some(granted("a")),
        ),
        (
            Some(needed(Reason::AdminPolicy, &[], "a")),
            Some(revoked("a")),
            waits(),
            Some(revoked_a()),
        ),
        // Consents.
        (None, Some(record("a")), Changed, Some(granted("a"))),
        (Some(granted("a")), Some(record("a")), Changed, None),
        (Some(granted("a")), Some(record("b")), Changed, None),
        (Some(disconnected()), Some(record("b")), Changed, Some(granted("b"))),
        // The job was parked before the record became what it is.
        (None, Some(record("a")), waits(), Some(granted("a"))),
        // Scopes.
        (
            None,
            Some(record("a")),
            waits_for(&["x"]),
            Some(needed(Reason::ScopesMissing, &["x"], "a")),
        ),
        (
            Some(needed(Reason::ScopesMissing, &["x"], "a")),
            Some(record("a")),
            waits_for(&["x"]),
            None,
        ),
        (
            Some(needed(Reason::ScopesMissing, &["x"], "a")),
            Some(record("a")),
            waits_for(&["b"]),
            Some(needed(Reason::ScopesMissing, &["b", "x"], "a")),
        ),
        (
            Some(needed(Reason::ScopesMissing, &["x", "y"], "a")),
            Some(record("a")),
            waits_for(&["y"]),
            None,
        ),
        (
            Some(needed(Reason::ScopesMissing, &["x", "y"], "a")),
            Some(with_scopes(&["x"], record("b"))),
            Changed,
            None,
        ),
        (
            Some(needed(Reason::ScopesMissing, &["x", "y"], "a")),
            Some(with_scopes(&["x", "y"], record("b"))),
            Changed,
            Some(granted("b")),
        ),
        // Declined, and a job needs it again.
        (
            Some(needed(Reason::ScopesMissing, &["x"], "a")),
            Some(record("b")),
            waits_for(&["x"]),
            Some(needed(Reason::ScopesMissing, &["x"], "b")),
        ),
        // Scopes that the API did not name.
        (None, Some(record("a")), waits_for(&[]), Some(needed(Reason::ScopesMissing, &[], "a"))),
        (Some(needed(Reason::ScopesMissing, &[], "a")), Some(record("a")), Changed, None),
        (
            Some(needed(Reason::ScopesMissing, &[], "a")),
            Some(record("b")),
            Changed,
            Some(granted("b")),
        ),
        // What was missing is there by now.
        (Some(granted("a")), Some(with_scopes(&["x"], record("a"))), waits_for(&["x"]), None),
        // Without a record.
        (None, None, waits(), None),
        (Some(granted("a")), None, waits(), None),
        (None, None, Changed, None),
        (Some(granted("a")), None, Changed, None),
        (Some(disconnected()), None, Untold, None),
        (None, None, removed(true), Some(disconnected())),
        (None, None, removed(false), None),
        (Some(granted("a")), None, removed(false), Some(disconnected())),
        (Some(revoked_a()), None, removed(true), Some(disconnected())),
        (Some(disconnected()), None, removed(false), None),
        // Somebody consented between the removal and this look.
        (Some(granted("a")), Some(record("b")), removed(true), None),
        (Some(revoked_a()), Some(record("b")), removed(true), Some(granted("b"))),
    ] {
        let told = change(last.as_ref(), record.as_ref(), &occasion, false);
        assert_eq!(told, tells, "after {last:?}: {record:?} {occasion:?}");
    }
}

#[test]
fn users_who_never_consented_are_told_of_when_asked_for() {
    let unknown = needed(Reason::UnknownUser, &[], "");
    assert_eq!(change(None, None, &WAITS, true).as_ref(), Some(&unknown));
    assert_eq!(change(Some(&unknown), None, &WAITS, true), None);
    assert_eq!(change(Some(&disconnected()), None, &WAITS, true).as_ref(), Some(&unknown));
    let consents = change(Some(&unknown), Some(&record("a")), &Occasion::Changed, true);
    assert_eq!(consents, Some(granted("a")));
}

#[test]
fn scopes_are_compared_by_meaning_and_are_not_without_end() {
    let long = "https://www.googleapis.com/auth/userinfo.email";
    let held = with_scopes(&["email"], record("a"));
    assert_eq!(change(Some(&granted("a")), Some(&held), &waits_for(&[long]), false), None);
    let many: Vec<String> = (0..1000).map(|n| format!("s{n:04}")).collect();
    let occasion = Occasion::Waits(Some(many));
    let told = change(None, Some(&record("a")), &occasion, false).unwrap();
    let Consent::Needed { missing, .. } = &told.consent else { panic!("{told:?}") };
    assert_eq!(missing.len(), MOST_SCOPES);
    assert_eq!(change(Some(&told), Some(&record("a")), &occasion, false), None, "told once");
}

#[test]
fn occasions_that_come_together_are_looked_at_once() {
    use Occasion::Changed;
    let both = |a: Occasion, b: Occasion| a.and(b);
    assert_eq!(both(waits_for(&["x"]), waits_for(&["y"])), waits_for(&["x", "y"]));
    assert_eq!(both(waits_for(&["x"]), WAITS), waits_for(&["x"]));
    assert_eq!(both(WAITS, waits_for(&["x"])), waits_for(&["x"]));
    assert_eq!(both(WAITS, Changed), WAITS);
    assert_eq!(both(Changed, WAITS), WAITS);
    assert_eq!(both(Changed, Changed), Changed);
}

fn any_record() -> impl Strategy<Value = Option<TokenRecord>> {
    let login = prop_oneof![Just("a"), Just("b")];
    let scopes = prop::sample::subsequence(vec!["x", "y", "z"], 0..=3);
    (login, scopes, 0..4).prop_map(|(login, scopes, kind)| match kind {
        0 => None,
        1 => Some(revoked(login)),
        2 => Some(blocked(login)),
        _ => Some(with_scopes(&scopes, record(login))),
    })
}

fn any_occasion() -> impl Strategy<Value = Occasion> {
    let scopes = prop::sample::subsequence(vec!["x", "y", "z"], 0..=3);
    prop_oneof![
        Just(Occasion::Waits(None)),
        scopes.prop_map(|scopes| waits_for(&scopes)),
        Just(Occasion::Changed),
        Just(Occasion::Untold),
        any::<bool>().prop_map(|was_stored| Occasion::Removed { was_stored }),
    ]
}

proptest! {
    /// However many look at the same record for the same reason, one of them tells; and a look
    /// that only asks what stands untold makes no need of its own.
    #[test]
    fn the_same_look_tells_once(
        looks in prop::collection::vec((any_record(), any_occasion()), 1..12),
        unknown in any::<bool>(),
    ) {
        let mut last: Option<State> = None;
        for (record, occasion) in looks {
            let told = change(last.as_ref(), record.as_ref(), &occasion, unknown);
            if let Some(told) = told {
                prop_assert_ne!(Some(&told), last.as_ref());
                let is_need = matches!(told.consent, Consent::Needed { .. });
                prop_assert!(!is_need || matches!(occasion, Occasion::Waits(_)));
                last = Some(told);
            }
            prop_assert_eq!(change(last.as_ref(), record.as_ref(), &occasion, unknown), None);
        }
    }
}
