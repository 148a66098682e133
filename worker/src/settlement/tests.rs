use super::*;
use crate::effect::Effect;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const NOTHING: Knowledge = Knowledge::NOTHING;
const SPENT: Knowledge = Knowledge { effect: Effect::Unknown, repeatable: false };
const REPEATABLE: Knowledge = Knowledge { effect: Effect::Unknown, repeatable: true };
const DONE: Knowledge = Knowledge { effect: Effect::Done, repeatable: false };
const FAILED: Ran = Ran::Failed { after: None };

/// A delivery, its driver and its clock.
struct Driven {
    settlement: Settlement,
    around: Around,
}

fn facts() -> Facts {
    Facts {
        ordered: false,
        remembers: true,
        publishes_outcomes: true,
        last_attempt: false,
        age: Duration::ZERO,
        received_at: Monotonic(HOUR),
        retry_budget: MINUTE,
        ordered_budget: 6 * HOUR,
    }
}

impl Driven {
    fn new(facts: Facts) -> Self {
        let now = facts.received_at;
        let ran = Duration::ZERO;
        let around = Around { now, unit: 0.0, ran, stopping: false, over: false };
        Self { settlement: Settlement::new(facts), around }
    }

    /// A delivery whose job is about to run.
    fn running(facts: Facts) -> Self {
        let remembers = facts.remembers;
        let mut driven = Self::new(facts);
        let mut step = driven.tell(Event::Start);
        if remembers {
            assert_eq!(step, Step::Recall);
            step = driven.tell(Event::NotRemembered);
        }
        assert_eq!(step, Step::Run);
        driven
    }

    fn tell(&mut self, event: Event) -> Step {
        self.settlement.step(event, self.around)
    }

    fn pass(&mut self, time: Duration) {
        self.around.now = self.around.now.plus(time);
    }

    /// Tells that everything is written, until the delivery is over: the parts, in order.
    fn written(&mut self, mut step: Step) -> (Vec<Part>, Ending) {
        let mut parts = Vec::new();
        loop {
            match step {
                Step::Write(part, ..) => parts.push(part),
                Step::Acknowledge(ending) => return (parts, ending),
                other => panic!("{other:?}"),
            }
            step = self.tell(Event::Written);
        }
    }

    /// Waits as long as it is told; for how long.
    fn wait(&mut self, step: Step) -> Duration {
        let (Step::Wait { pause, .. } | Step::Rest(pause)) = step else { panic!("{step:?}") };
        self.pass(pause);
        pause
    }
}

#[test]
fn every_end_is_written_in_order_before_the_message_is_acknowledged() {
    use Part::{DeadLetter, Outcome, Park, Remember};
    for (ran, known, parts) in [
        (Ran::Done, DONE, vec![Remember, Outcome]),
        (Ran::Done, NOTHING, vec![Remember, Outcome]),
        (Ran::Rejected, NOTHING, vec![DeadLetter, Outcome]),
        (Ran::Rejected, REPEATABLE, vec![DeadLetter, Outcome]),
        (Ran::Rejected, SPENT, vec![Remember, DeadLetter, Outcome]),
        (FAILED, SPENT, vec![Remember, DeadLetter, Outcome]),
        (Ran::NeedsConsent, NOTHING, vec![Park, Outcome]),
        (Ran::NeedsConsent, DONE, vec![Remember, DeadLetter, Outcome]),
    ] {
        let mut driven = Driven::running(facts());
        let step = driven.tell(Event::Ran(ran, known));
        let (written, ending) = driven.written(step);
        assert_eq!(written, parts, "{ran:?} {known:?}");
        assert_eq!(ending.known, known);
        let mut plain =
            Driven::running(Facts { remembers: false, publishes_outcomes: false, ..facts() });
        let step = plain.tell(Event::Ran(ran, known));
        let own: Vec<_> =
            parts.into_iter().filter(|part| matches!(part, DeadLetter | Park)).collect();
        assert_eq!(plain.written(step).0, own);
    }
}

#[test]
fn a_spent_run_is_the_last_whatever_its_verdict_and_the_last_attempt() {
    for ran in [FAILED, Ran::Failed { after: Some(MINUTE) }, Ran::NeedsConsent, Ran::Rejected] {
        for ordered in [false, true] {
            let mut driven = Driven::running(Facts { ordered, ..facts() });
            let step = driven.tell(Event::Ran(ran, SPENT));
            let Step::Write(Part::Remember, ending, Cut::Whole) = step else { panic!("{step:?}") };
            assert_eq!(ending, Ending { status: Status::Rejected, known: SPENT });
        }
    }
}

#[test]
fn a_remembered_end_is_written_again_and_nothing_runs() {
    for (status, known, parts) in [
        (Status::Done, DONE, vec![Part::Outcome]),
        (Status::Rejected, SPENT, vec![Part::DeadLetter, Part::Outcome]),
    ] {
        let mut driven = Driven::new(facts());
        assert_eq!(driven.tell(Event::Start), Step::Recall);
        let step = driven.tell(Event::Remembered(Ending { status, known }));
        let (written, ending) = driven.written(step);
        assert_eq!((written, ending.status, ending.known), (parts, status, known));
    }
}

#[test]
fn the_end_that_was_remembered_first_is_told() {
    let mut driven = Driven::running(facts());
    let step = driven.tell(Event::Ran(FAILED, SPENT));
    assert!(matches!(step, Step::Write(Part::Remember, ..)));
    let first = Ending { status: Status::Done, known: DONE };
    let step = driven.tell(Event::Remembered(first));
    assert_eq!(driven.written(step), (vec![Part::Outcome], first));
}

#[test]
fn a_job_with_other_parameters_is_rejected_before_it_runs() {
    let mut driven = Driven::new(facts());
    assert_eq!(driven.tell(Event::Start), Step::Recall);
    let step = driven.tell(Event::Ran(Ran::Rejected, NOTHING));
    assert_eq!(driven.written(step).0, [Part::DeadLetter, Part::Outcome]);
}

#[test]
fn what_cannot_be_recalled_is_tried_again_and_may_go_back() {
    let mut driven = Driven::new(facts());
    driven.tell(Event::Start);
    let step = driven.tell(Event::Unwritten);
    driven.wait(step);
    assert_eq!(driven.tell(Event::Waited), Step::Recall);
    let Step::Rest(_) = driven.tell(Event::Unwritten) else { panic!("it rests again") };
    assert_eq!(driven.tell(Event::GoBack), Step::GiveBack(Duration::ZERO));
}

#[test]
fn a_job_without_a_key_is_tried_within_its_budget_then_given_back_by_its_age() {
    for (age, pause) in [(0, 6), (80, 16), (8000, 60)] {
        let age = Duration::from_secs(age);
        let mut driven = Driven::running(Facts { age, ..facts() });
        let mut waited = Duration::ZERO;
        let given_back = loop {
            match driven.tell(Event::Ran(FAILED, REPEATABLE)) {
                step @ Step::Wait { known: false, .. } => waited += driven.wait(step),
                step => break step,
            }
            assert_eq!(driven.tell(Event::Waited), Step::Run);
        };
        assert!(waited <= MINUTE && waited > MINUTE / 2, "{waited:?}");
        let Step::GiveBack(after) = given_back else { panic!("{given_back:?}") };
        assert_eq!(after.as_secs(), pause);
    }
}

#[test]
fn a_wait_whose_end_is_known_is_held() {
    let after = |time| Event::Ran(Ran::Failed { after: Some(time) }, NOTHING);
    let mut driven = Driven::running(facts());
    for time in [90 * MINUTE, HOUR] {
        let step = driven.tell(after(time));
        assert_eq!(step, Step::Wait { pause: time, known: true });
        driven.wait(step);
        assert_eq!(driven.tell(Event::Waited), Step::Run);
    }
    let step = driven.tell(after(Duration::from_millis(1)));
    assert!(driven.wait(step) >= Duration::from_millis(500), "no shorter than our own pause");
    driven.tell(Event::Waited);
    // Longer than a message may be held.
    let step = driven.tell(after(23 * HOUR));
    assert!(matches!(step, Step::Wait { known: false, .. }), "{step:?}");
    let mut driven = Driven::running(facts());
    let step = driven.tell(after(48 * HOUR));
    assert!(matches!(step, Step::Wait { known: false, .. }), "{step:?}");
}

#[test]
fn a_job_with_a_key_is_tried_where_it_is_then_rejected() {
    let mut driven = Driven::running(Facts { ordered: true, ..facts() });
    let begun = driven.around.now;
    let mut longest = Duration::ZERO;
    let step = loop {
        match driven.tell(Event::Ran(FAILED, REPEATABLE)) {
            step @ Step::Wait { .. } => longest = longest.max(driven.wait(step)),
            step => break step,
        }
        driven.tell(Event::Waited);
    };
    assert_eq!(longest, ORDERED_PAUSE_MAX);
    assert_eq!(driven.around.now.since(begun), 6 * HOUR);
    let Step::Write(Part::DeadLetter, ending, _) = step else { panic!("{step:?}") };
    assert_eq!(ending.known, REPEATABLE);
}

/// While it waits for a place, a token or a time that somebody named, it is not tried.
#[test]
fn what_holds_a_job_with_a_key_takes_nothing_from_how_long_it_is_tried() {
    for budget in [5 * MINUTE, 6 * HOUR] {
        let mut driven =
            Driven::running(Facts { ordered: true, ordered_budget: budget, ..facts() });
        // Its handler is down; then it answers, and an API asks to wait.
        driven.pass(7 * HOUR);
        let step = driven.tell(Event::Ran(Ran::Failed { after: Some(HOUR) }, NOTHING));
        assert_eq!(step, Step::Wait { pause: HOUR, known: true });
        driven.wait(step);
        let mut tried = Duration::ZERO;
        let step = loop {
            assert_eq!(driven.tell(Event::Waited), Step::Run);
            driven.pass(MINUTE / 6);
            driven.around.ran += MINUTE / 60;
            match driven.tell(Event::Ran(FAILED, REPEATABLE)) {
                step @ Step::Wait { known: false, .. } => tried += driven.wait(step),
                step => break step,
            }
        };
        assert!(matches!(step, Step::Write(Part::DeadLetter, ..)), "{step:?}");
        let tried = tried + driven.around.ran;
        assert!(tried >= budget && tried < budget + 2 * MINUTE, "{tried:?} of {budget:?}");
    }
}

/// The next delivery tries it for half an hour again.
#[test]
fn a_job_with_a_key_that_was_held_until_its_lease_ends_goes_back() {
    let mut driven = Driven::running(Facts { ordered: true, ..facts() });
    driven.pass(LONGEST_HOLD);
    let step = driven.tell(Event::Ran(FAILED, REPEATABLE));
    assert_eq!(step, Step::GiveBack(MINUTE));
}

#[test]
fn how_long_a_job_with_a_key_is_tried() {
    let limit = 6 * HOUR;
    for (limit, age, key_fails, minutes) in [
        (limit, Duration::ZERO, false, 360),
        (limit, 2 * HOUR, false, 240),
        (limit, 5 * HOUR + 50 * MINUTE, false, 30),
        (limit, 100 * HOUR, false, 30),
        (limit, Duration::ZERO, true, 5),
        (limit, 100 * HOUR, true, 5),
        (MINUTE, Duration::ZERO, false, 1),
        (MINUTE, HOUR, true, 1),
    ] {
        let budget = ordered_budget(limit, age, key_fails);
        assert_eq!(budget, minutes * MINUTE, "{limit:?} {age:?} {key_fails}");
    }
}

#[test]
fn at_the_last_permitted_attempt_a_job_is_rejected_with_its_effect() {
    let last = || Facts { last_attempt: true, ..facts() };
    let mut driven = Driven::running(last());
    driven.around.stopping = true;
    let step = driven.tell(Event::Ran(FAILED, REPEATABLE));
    let (parts, ending) = driven.written(step);
    assert_eq!(parts, [Part::DeadLetter, Part::Outcome]);
    assert_eq!(ending, Ending { status: Status::Rejected, known: REPEATABLE });
    let mut driven = Driven::new(last());
    let step = driven.tell(Event::GoBack);
    let (_, ending) = driven.written(step);
    assert_eq!(ending, Ending { status: Status::Rejected, known: NOTHING });
}

#[test]
fn at_the_end_of_the_replica_what_is_not_spent_goes_back_at_once() {
    let mut driven = Driven::running(facts());
    driven.around.stopping = true;
    let step = driven.tell(Event::Ran(FAILED, REPEATABLE));
    assert_eq!(step, Step::GiveBack(Duration::ZERO));
    let mut driven = Driven::running(facts());
    let step = driven.tell(Event::Ran(FAILED, REPEATABLE));
    assert!(matches!(step, Step::Wait { .. }));
    assert_eq!(driven.tell(Event::GoBack), Step::GiveBack(Duration::ZERO));
}

#[test]
fn an_end_that_no_topic_takes_is_held_then_kept_in_the_outbox() {
    let mut driven = Driven::running(facts());
    driven.tell(Event::Ran(FAILED, SPENT));
    let letter = driven.tell(Event::Written);
    assert!(matches!(letter, Step::Write(Part::DeadLetter, ..)));
    let begun = driven.around.now;
    let mut longest = Duration::ZERO;
    let store = loop {
        match driven.tell(Event::Unwritten) {
            step @ Step::Rest(_) => longest = longest.max(driven.wait(step)),
            step => break step,
        }
        assert_eq!(driven.tell(Event::Waited), letter);
    };
    assert_eq!(longest, MINUTE);
    let held = driven.around.now.since(begun);
    assert!(held >= OUTBOX_AFTER && held <= OUTBOX_AFTER + MINUTE, "{held:?}");
    let rest = Parts::of(&[Part::DeadLetter, Part::Outcome]);
    let ending = Ending { status: Status::Rejected, known: SPENT };
    assert_eq!(store, Step::Store { ending, rest, refused: Parts::default() });
    // The bucket does not take it either: both are tried on.
    let step = driven.tell(Event::NotStored);
    driven.wait(step);
    assert_eq!(driven.tell(Event::Waited), letter);
    assert_eq!(driven.tell(Event::Unwritten), store);
    assert_eq!(driven.tell(Event::Stored), Step::Acknowledge(ending));
}

#[test]
fn what_is_taken_in_between_begins_the_time_anew() {
    let mut driven = Driven::running(facts());
    driven.tell(Event::Ran(FAILED, SPENT));
    driven.tell(Event::Written);
    driven.tell(Event::Unwritten);
    driven.pass(OUTBOX_AFTER);
    driven.tell(Event::Waited);
    assert!(matches!(driven.tell(Event::Written), Step::Write(Part::Outcome, ..)));
    let step = driven.tell(Event::Unwritten);
    assert!(matches!(step, Step::Rest(_)), "{step:?}");
}

#[test]
fn a_message_that_is_refused_for_itself_is_cut_down_then_kept() {
    let mut driven = Driven::running(facts());
    driven.tell(Event::Ran(Ran::Done, DONE));
    let step = driven.tell(Event::Written);
    let ending = Ending { status: Status::Done, known: DONE };
    assert_eq!(step, Step::Write(Part::Outcome, ending, Cut::Whole));
    for cut in [Cut::WithoutResult, Cut::Bare] {
        assert_eq!(driven.tell(Event::Refused), Step::Write(Part::Outcome, ending, cut));
    }
    let (rest, refused) = (Parts::default(), Parts::of(&[Part::Outcome]));
    let store = Step::Store { ending, rest, refused };
    assert_eq!(driven.tell(Event::Refused), store);
    let step = driven.tell(Event::NotStored);
    driven.wait(step);
    assert_eq!(driven.tell(Event::Waited), store);
    assert_eq!(driven.tell(Event::Stored), Step::Acknowledge(ending));
}

#[test]
fn a_letter_that_is_refused_for_itself_does_not_hold_up_the_outcome() {
    for outcome_is_taken in [true, false] {
        let mut driven = Driven::running(facts());
        driven.tell(Event::Ran(Ran::Rejected, NOTHING));
        driven.tell(Event::Refused);
        driven.tell(Event::Refused);
        let step = driven.tell(Event::Refused);
        let ending = Ending { status: Status::Rejected, known: NOTHING };
        assert_eq!(step, Step::Write(Part::Outcome, ending, Cut::Whole));
        driven.around.over = true;
        let event = if outcome_is_taken { Event::Written } else { Event::Unwritten };
        let store = driven.tell(event);
        let rest = if outcome_is_taken { Parts::default() } else { Parts::of(&[Part::Outcome]) };
        let refused = Parts::of(&[Part::DeadLetter]);
        assert_eq!(store, Step::Store { ending, rest, refused });
        assert_eq!(driven.tell(Event::Stored), Step::Acknowledge(ending));
    }
}

#[test]
fn a_letter_that_was_cut_down_leaves_the_outcome_whole() {
    let mut driven = Driven::running(facts());
    driven.tell(Event::Ran(Ran::Rejected, NOTHING));
    driven.tell(Event::Refused);
    let step = driven.tell(Event::Written);
    assert!(matches!(step, Step::Write(Part::Outcome, _, Cut::Whole)), "{step:?}");
}

#[test]
fn when_the_time_is_over_ends_go_to_the_outbox_and_else_back() {
    for interrupted in [Event::TimeIsOver, Event::Unwritten] {
        let mut driven = Driven::running(facts());
        driven.tell(Event::Ran(FAILED, SPENT));
        driven.around.over = true;
        let ending = Ending { status: Status::Rejected, known: SPENT };
        let rest = Parts::of(&[Part::Remember, Part::DeadLetter, Part::Outcome]);
        let refused = Parts::default();
        assert_eq!(driven.tell(interrupted), Step::Store { ending, rest, refused });
        assert_eq!(driven.tell(Event::NotStored), Step::Abandon(ending));
    }
}

#[test]
fn a_job_that_is_being_parked_runs_when_its_credential_moved() {
    let mut driven = Driven::running(facts());
    for _ in 0..PARK_ROUNDS {
        let step = driven.tell(Event::Ran(Ran::NeedsConsent, NOTHING));
        assert!(matches!(step, Step::Write(Part::Park, ..)), "{step:?}");
        assert_eq!(driven.tell(Event::RunIt), Step::Run);
    }
    let step = driven.tell(Event::Ran(Ran::NeedsConsent, NOTHING));
    assert!(matches!(step, Step::Wait { .. }), "it moves too often: {step:?}");
}

#[test]
fn a_job_that_cannot_be_parked_is_held_and_at_the_end_goes_back() {
    let mut driven = Driven::running(facts());
    driven.tell(Event::Ran(Ran::NeedsConsent, NOTHING));
    for _ in 0..40 {
        let step = driven.tell(Event::Unwritten);
        driven.wait(step);
        let step = driven.tell(Event::Waited);
        assert!(matches!(step, Step::Write(Part::Park, ..)), "{step:?}");
    }
    driven.around.over = true;
    assert_eq!(driven.tell(Event::TimeIsOver), Step::GiveBack(Duration::ZERO));
}

#[test]
fn pauses_before_giving_back_grow_with_the_age() {
    for (age, pause) in [(0, 1), (8, 1), (16, 2), (80, 10), (480, 60), (100_000, 60)] {
        assert_eq!(give_back_pause(Duration::from_secs(age)).as_secs(), pause, "{age}");
    }
}
