//! The model check: everything that can happen within the budgets, with every
//! safeguard in place, and with each of them taken away. `DEEP=1` adds budgets
//! that take minutes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "model/settling.rs"]
mod settling;

use tests::model::{INVARIANTS, Mutant, Setup, check};
use tests::report::say;

const I1: &str = INVARIANTS[0];
const I2: &str = INVARIANTS[1];
const I3: &str = INVARIANTS[2];
const I4: &str = INVARIANTS[3];
const I5: &str = INVARIANTS[4];
const I6: &str = INVARIANTS[5];
const I7: &str = INVARIANTS[6];

/// The stated budgets.
fn setups() -> Vec<Setup> {
    let rotating = Setup::new;
    let lenient = |name| Setup { family_revocation: false, ..Setup::new(name) };
    let steady = |name| Setup { rotating: false, family_revocation: false, ..Setup::new(name) };
    let mut setups = vec![
        Setup { faults: 2, ..rotating("3 replicas, 2 faults, rotating, family revoked") },
        Setup { faults: 1, calls: 2, ..lenient("3 replicas, 1 fault, rotating") },
        Setup { faults: 1, calls: 2, ..steady("3 replicas, 1 fault, not rotating") },
        Setup {
            people: 1,
            horizon: 5,
            ..rotating("3 replicas, 1 intervention, 1 fault, family revoked")
        },
        Setup {
            replicas: 2,
            people: 1,
            calls: 2,
            ..rotating("2 replicas, 1 intervention, 1 fault, 2 calls each, family revoked")
        },
        Setup {
            replicas: 2,
            people: 1,
            ..lenient("2 replicas, 1 intervention, 1 fault, rotating")
        },
        Setup {
            replicas: 2,
            people: 1,
            ..steady("2 replicas, 1 intervention, 1 fault, not rotating")
        },
        Setup {
            replicas: 2,
            people: 2,
            faults: 0,
            ..rotating("2 replicas, 2 interventions, family revoked")
        },
        Setup {
            replicas: 2,
            people: 2,
            ends: true,
            ..rotating("2 replicas, grant ended and token rejected, 1 fault, family revoked")
        },
        Setup {
            replicas: 2,
            people: 1,
            hinted: false,
            ..rotating("2 replicas, 1 intervention, 1 fault, first lease")
        },
        Setup {
            replicas: 2,
            faults: 2,
            patience: 2,
            horizon: 9,
            ..rotating("2 replicas, 2 faults, callers less patient than the ttl")
        },
    ];
    if std::env::var_os("DEEP").is_some() {
        setups.extend([
            Setup { people: 1, ..steady("3 replicas, 1 intervention, 1 fault, not rotating") },
            Setup { replicas: 2, faults: 3, ..rotating("2 replicas, 3 faults, family revoked") },
            Setup { faults: 2, ..steady("3 replicas, 2 faults, not rotating") },
        ]);
    }
    setups
}

#[test]
fn the_protocol_keeps_its_invariants() {
    let mut states = 0;
    for setup in setups() {
        let outcome = check(&setup, None);
        say(format!("{}: {} states, depth {}", setup.name, outcome.states, outcome.depth));
        assert!(outcome.broken.is_empty(), "{setup:?}: {:?}", outcome.broken);
        assert!(outcome.states > 1000, "{setup:?} explores next to nothing");
        states += outcome.states;
    }
    say(format!("{states} states, {} invariants", INVARIANTS.len()));
}

#[test]
fn every_missing_safeguard_breaks_an_invariant() {
    let none = Setup { replicas: 2, faults: 0, ..Setup::new("mutant") };
    let one = Setup { faults: 1, ..none.clone() };
    let two = Setup { faults: 2, ..none.clone() };
    let steady = Setup { rotating: false, family_revocation: false, ..two.clone() };
    let person = Setup { people: 1, ..none.clone() };
    let short = Setup { patience: 2, ..one.clone() };
    let mutants = [
        (Mutant::NoLease, I1, none.clone()),
        (Mutant::LeaseWithoutPrecondition, I7, none.clone()),
        (Mutant::CommitWithoutPrecondition, I3, person.clone()),
        (Mutant::CommitWithoutPrecondition, I4, person.clone()),
        (Mutant::SameRefreshTokenIsMine, I3, steady),
        (Mutant::RevokeWithoutReading, I3, two.clone()),
        (Mutant::ResealWithoutLease, I1, person.clone()),
        (Mutant::ResealWithoutPrecondition, I3, Setup { people: 2, ..none.clone() }),
        (Mutant::ResealWithoutPrecondition, I4, Setup { people: 2, ..none.clone() }),
        (Mutant::ResealAfterItsTtl, I1, Setup { people: 1, ..one.clone() }),
        (Mutant::RefreshAfterItsTtl, I1, two.clone()),
        (Mutant::NoRenewal, I1, one.clone()),
        (Mutant::OwnTakeoverWhileUnanswered, I7, one.clone()),
        (Mutant::SentAlthoughTheRenewalWasLost, I1, Setup { hinted: false, ..one.clone() }),
        (Mutant::DoneAlthoughRevoked, I5, Setup { people: 2, ends: true, calls: 2, ..one.clone() }),
        (Mutant::LoginWithoutPrecondition, I3, Setup { people: 1, ..one.clone() }),
        (Mutant::LoginForgetsItsWrites, I3, Setup { people: 1, ..one.clone() }),
        (Mutant::LoginWithoutRefreshTokenStored, I2, person.clone()),
        (Mutant::LeaseDeletedWithoutPrecondition, I7, Setup { people: 2, ..none.clone() }),
        (Mutant::LeaseDeletedBeforeTheToken, I7, person.clone()),
        (Mutant::LeaseDeletedOnRelease, I7, two.clone()),
        (Mutant::TakeoverByWallClock, I7, none.clone()),
        (Mutant::NoSecondRead, I1, two.clone()),
        (Mutant::HintUsedTwice, I7, short.clone()),
        (Mutant::TimeoutFallsThrough, I7, short.clone()),
        (Mutant::OwnTtlInsteadOfTheLeases, I7, one.clone()),
        (Mutant::LostReplyIsSuccess, I1, one.clone()),
        (Mutant::GuardIgnored, I7, none),
        (Mutant::ObservationForgotten, I6, Setup { horizon: 10, ..short }),
        (Mutant::ConflictThrowsTheAnswerAway, I2, two),
        (Mutant::CommitNotRetried, I2, one),
        (Mutant::CommitCreates, I4, person.clone()),
        (Mutant::RejectionForgotten, I5, Setup { calls: 2, ..person }),
    ];
    let mut survivors = Vec::new();
    for (mutant, expected, setup) in mutants {
        let outcome = check(&Setup { mutant: Some(mutant), ..setup }, Some(expected));
        match outcome.broken.iter().find(|(name, _)| *name == expected) {
            Some((name, _)) => {
                say(format!("mutant killed: {mutant:?} breaks {name} ({} states)", outcome.states));
            }
            None => survivors.push((mutant, expected, outcome)),
        }
    }
    assert!(survivors.is_empty(), "{survivors:#?}");
}
