//! How deliveries end: everything that can happen within the budgets, with every safeguard
//! in place, and with each of them taken away.

use tests::report::say;
use tests::settling::{Dedupe, Fault, Mutant, PROPERTIES, Place, Setup, check, stranded};
use worker::effect::{Effect, Knowledge};
use worker::settlement::{Cut, Ran};

const P1: &str = PROPERTIES[0];
const P2: &str = PROPERTIES[1];
const P3: &str = PROPERTIES[2];
const P4: &str = PROPERTIES[3];
const P5: &str = PROPERTIES[4];
const P6: &str = PROPERTIES[5];
const P7: &str = PROPERTIES[6];
const P8: &str = PROPERTIES[7];

const NOTHING: Knowledge = Knowledge::NOTHING;
const DONE: Knowledge = Knowledge { effect: Effect::Done, repeatable: false };
const UNKNOWN: Knowledge = Knowledge { effect: Effect::Unknown, repeatable: false };
const REPEATABLE: Knowledge = Knowledge { effect: Effect::Unknown, repeatable: true };
const FAILED: Ran = Ran::Failed { after: None };

const SUCCEEDS: &[(Ran, Knowledge)] = &[(Ran::Done, DONE)];
const SPENT: &[(Ran, Knowledge)] = &[(FAILED, UNKNOWN)];
const LATER: &[(Ran, Knowledge)] = &[(FAILED, REPEATABLE), (FAILED, NOTHING), (Ran::Done, DONE)];
const REJECTED: &[(Ran, Knowledge)] = &[(Ran::Rejected, NOTHING), (Ran::Done, DONE)];
const REPEATABLY: &[(Ran, Knowledge)] = &[(Ran::Rejected, REPEATABLE), (FAILED, UNKNOWN)];
const SCOPES: &[(Ran, Knowledge)] = &[(Ran::NeedsConsent, DONE)];

/// The stated budgets.
fn setups() -> Vec<Setup> {
    let two = |setup: Setup| Setup { faults: 2, ..setup };
    let bucket = |setup: Setup| Setup { dedupe: Dedupe::Bucket, ..setup };
    let memory = |setup: Setup| Setup { dedupe: Dedupe::Memory, ..setup };
    let redriven = |setup: Setup| Setup { redrives: 1, ..setup };
    let mut setups = vec![
        two(Setup::new("a spent job, 2 faults", SPENT)),
        two(bucket(Setup::new("a spent job that the bucket remembers, 2 faults", SPENT))),
        two(memory(Setup::new("a job that its replica remembers, 2 faults", SUCCEEDS))),
        Setup::new("a job that fails twice, 1 fault", LATER),
        redriven(bucket(Setup::new("a rejected job that is redriven, 1 fault", REJECTED))),
        redriven(memory(Setup::new("a repeatable job that is redriven, 1 fault", REPEATABLY))),
        redriven(Setup {
            last_attempt: true,
            ..Setup::new("a job at its last attempt, 1 fault", LATER)
        }),
        Setup::new("a job that lacks scopes after another call, 1 fault", SCOPES),
        Setup { active: false, ..Setup::new("a job that waits for consent, 1 fault", SUCCEEDS) },
        Setup {
            refuses: Some((Place::Dead, None)),
            ..two(Setup::new("a message that the dead topic refuses, 2 faults", SPENT))
        },
        Setup {
            refuses: Some((Place::Outcomes, Some(Cut::Bare))),
            attributes: 99,
            ..Setup::new("an outcome that is cut down, 1 fault", SPENT)
        },
        pause("a job that was published twice, 1 fault", SPENT),
        Setup {
            refuses: Some((Place::Outcomes, None)),
            ..pause("refused outcomes of a job that was published twice, 1 fault", SPENT)
        },
    ];
    if std::env::var_os("DEEP").is_some() {
        setups.extend([
            Setup { faults: 3, ..bucket(Setup::new("a spent job, remembered, 3 faults", SPENT)) },
            Setup {
                faults: 2,
                kinds: &[Fault::Crash, Fault::LostAnswer],
                active: false,
                ..Setup::new("consent, 2 faults", SUCCEEDS)
            },
            two(pause("a job that was published twice, 2 faults", SPENT)),
        ]);
    }
    setups
}

/// One replica with two deliveries in hand.
fn pause(name: &'static str, script: &'static [(Ran, Knowledge)]) -> Setup {
    Setup { replicas: 1, hands: 2, copies: 2, ..Setup::new(name, script) }
}

#[test]
fn deliveries_end_as_they_should() {
    let mut states = 0;
    for setup in setups() {
        let outcome = check(&setup, None);
        assert!(outcome.broken.is_empty(), "{}: {:?}", setup.name, outcome.broken);
        let (explored, trap) = stranded(&setup);
        assert_eq!(trap, None, "{}: {P5}", setup.name);
        assert_eq!(explored, outcome.states, "{}: both see the same states", setup.name);
        assert!(outcome.states > 400, "{}: {} states", setup.name, outcome.states);
        say(format!("{}: {} states, depth {}", setup.name, explored, outcome.depth));
        states += outcome.states;
    }
    say(format!("{states} states, {} properties", PROPERTIES.len()));
}

#[test]
fn every_missing_rule_breaks_a_property() {
    use Fault::{Crash, Down, Drain, Once};
    let spent = Setup::new("mutant", SPENT);
    let bucket = Setup { dedupe: Dedupe::Bucket, ..spent.clone() };
    let rejected = Setup { script: REJECTED, redrives: 1, ..bucket.clone() };
    let down = Setup { faults: 2, kinds: &[Down, Drain], ..spent.clone() };
    let consent = Setup { active: false, faults: 0, ..Setup::new("mutant", SUCCEEDS) };
    let failing = Setup { faults: 1, kinds: &[Once], ..consent.clone() };
    let twice = Setup { copies: 2, ..consent.clone() };
    let paused = Setup { kinds: &[Once], ..pause("mutant", SPENT) };
    let mutants = [
        (Mutant::AcknowledgeFirst, P2, spent.clone()),
        (Mutant::AcknowledgeFirst, P3, down.clone()),
        (Mutant::NackWhenSpent, P1, Setup { kinds: &[Once], ..spent.clone() }),
        (Mutant::RememberAfterAcknowledging, P2, bucket.clone()),
        (Mutant::RememberNone, P4, rejected.clone()),
        (Mutant::RememberRepeatable, P4, Setup { script: REPEATABLY, ..rejected }),
        (Mutant::NoPause, P6, paused.clone()),
        (Mutant::StartWhileUnwritten, P6, paused.clone()),
        (Mutant::LetterWithoutEffect, P7, spent.clone()),
        (Mutant::EffectTrimmedAway, P7, Setup { attributes: 99, ..spent.clone() }),
        (Mutant::ParkerIgnoresTheClaim, P1, consent.clone()),
        (
            Mutant::ParkerReadsNothingBack,
            P1,
            Setup { faults: 1, kinds: &[Fault::LostAnswer], ..consent.clone() },
        ),
        (Mutant::PublishBeforeClaiming, P1, failing.clone()),
        (Mutant::ResumerNotesNothing, P1, failing.clone()),
        (Mutant::NoSecondListing, P5, twice),
        (Mutant::OutboxWithoutClaim, P8, Setup { faults: 2, kinds: &[Down], ..spent.clone() }),
        (Mutant::OutboxGivesUp, P8, Setup { faults: 2, kinds: &[Drain, Once], ..spent.clone() }),
        (Mutant::NackAtTheEnd, P1, down),
        (
            Mutant::UnkeptEndsStopNobody,
            P6,
            Setup { refuses: Some((Place::Outcomes, None)), ..paused.clone() },
        ),
        (Mutant::RecallOpensForWrites, P6, Setup { dedupe: Dedupe::Bucket, ..paused }),
        (Mutant::BlindForEver, P5, Setup { kinds: &[Once, Crash], ..bucket }),
    ];
    let mut survivors = Vec::new();
    for (mutant, expected, setup) in mutants {
        let setup = Setup { mutant: Some(mutant), ..setup };
        let (states, is_killed) = if expected == P5 {
            let (states, trap) = stranded(&setup);
            (states, trap.is_some())
        } else {
            let outcome = check(&setup, Some(expected));
            (outcome.states, outcome.broken.iter().any(|(name, _)| *name == expected))
        };
        if is_killed {
            say(format!("mutant killed: {mutant:?} breaks {expected:?} ({states} states)"));
        } else {
            survivors.push((mutant, expected, states));
        }
    }
    assert!(survivors.is_empty(), "{survivors:#?}");
}
