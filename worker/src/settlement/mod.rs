//! How a delivery ends: pure decisions, no I/O, no clock, no runtime.
//!
//! [`Settlement`] is one delivery of one message at one replica. It is told what happened
//! ([`Event`]) and says what to do next ([`Step`]); whoever drives it does the I/O. The
//! worker drives it with real topics and a real bucket; a model check drives it through
//! every interleaving of faults.
//!
//! ```text
//!   Recall ──remembered──▶ write that end again
//!     │ nothing
//!     ▼
//!   Run ──failed, may be repeated──▶ Wait ──▶ Run …  or GiveBack
//!     │ an end                         ▲
//!     ▼                                │ the credential moved
//!   Remember ──▶ DeadLetter or Park ───┘
//!     │              │
//!     │              └──▶ Outcome ──▶ Acknowledge
//!     │ a topic or the bucket takes nothing: Rest, and again; after 15 minutes Store
//!     └ this message is refused: less of it, once more; then the other parts, and Store
//! ```
//!
//! Two rules carry the rest. A *spent* run (its effect is done or unknown, and it may not
//! be repeated) ends the job: from then on the delivery is held until its end is written,
//! in the topics or in the outbox, and only then acknowledged. And a message is never both
//! acknowledged and given back.

mod pauses;
#[cfg(test)]
mod tests;
mod writing;

use std::time::Duration;

use shared::Schedule;
use shared::ports::Monotonic;

use crate::effect::Knowledge;
use crate::outcome::Status;

pub use pauses::{
    LONGEST_HOLD, LONGEST_KNOWN_WAIT, ORDERED_PAUSE_MAX, ORDERED_RETRY_MIN, OUTBOX_AFTER,
    give_back_pause,
};
pub use writing::{Cut, Part, Parts};

use pauses::{run_pauses, write_pauses};
use writing::Writing;

/// How many times a job may find its credential changed while it is being parked.
const PARK_ROUNDS: u32 = 5;

/// What is known of a delivery when it begins.
#[expect(clippy::struct_excessive_bools, reason = "they are facts, independent of each other")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The message has an ordering key.
    pub ordered: bool,
    /// Ends are remembered (`--dedupe`).
    pub remembers: bool,
    /// An outcomes topic is set.
    pub publishes_outcomes: bool,
    /// The subscription permits no further delivery attempt.
    pub last_attempt: bool,
    /// The message's age when it was received.
    pub age: Duration,
    /// The time at which it was received.
    pub received_at: Monotonic,
    /// How long a failing job without an ordering key waits between its runs, all in all,
    /// before it is given back.
    pub retry_budget: Duration,
    /// How long a failing job with an ordering key is tried again where it is: its runs and
    /// the pauses between them, and no time in which it is held; see [`ordered_budget`].
    pub ordered_budget: Duration,
}

/// How long a failing job with an ordering key may be tried in one delivery: what is left
/// of `limit` (`--ordered-retry`) since its message was published, but at least half an
/// hour; five minutes while its key fails.
pub fn ordered_budget(limit: Duration, age: Duration, key_fails: bool) -> Duration {
    let left = limit.saturating_sub(age).max(ORDERED_RETRY_MIN.min(limit));
    if key_fails { left.min(ORDERED_PAUSE_MAX) } else { left }
}

/// Time and chance, as the driver has them now.
#[derive(Debug, Clone, Copy)]
pub struct Around {
    /// The monotonic clock.
    pub now: Monotonic,
    /// A random number in `0.0..1.0` that places jitter.
    pub unit: f64,
    /// How long the handler ran in this delivery, in all attempts.
    pub ran: Duration,
    /// The replica was asked to end: nothing runs again.
    pub stopping: bool,
    /// The replica's time is over: what is not written goes to the outbox.
    pub over: bool,
}

/// How a job ended, as far as decisions depend on it; the driver keeps the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ending {
    /// Done, parked or rejected.
    pub status: Status,
    /// What is known of its effect.
    pub known: Knowledge,
}

/// What a run of the handler came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ran {
    /// The job is done.
    Done,
    /// It can never succeed.
    Rejected,
    /// It failed and may succeed later.
    Failed {
        /// After this time, where what failed said so.
        after: Option<Duration>,
    },
    /// The user must consent.
    NeedsConsent,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The delivery begins.
    Start,
    /// To [`Step::Recall`]: nothing is remembered of this job.
    NotRemembered,
    /// To [`Step::Recall`], or to [`Step::Write`] of [`Part::Remember`]: another delivery's
    /// end of this job is remembered.
    Remembered(Ending),
    /// To [`Step::Run`], or at the start: a run ended, or none was possible. A run that was
    /// cut is told like this too, with what is known of it.
    Ran(Ran, Knowledge),
    /// To [`Step::Wait`] and [`Step::Rest`]: the time has passed.
    Waited,
    /// Nothing runs, and the message has to go back without a pause: too many wait, the
    /// process stood still, the message was held for [`LONGEST_HOLD`], or the replica ends.
    /// Told in place of the awaited event.
    GoBack,
    /// The replica's time is over ([`Around::over`]). Told in place of the awaited event.
    TimeIsOver,
    /// To [`Step::Write`]: it is written.
    Written,
    /// To [`Step::Write`] and [`Step::Recall`]: the topic or the bucket takes nothing.
    Unwritten,
    /// To [`Step::Write`]: the topic takes messages, but not this one.
    Refused,
    /// To [`Step::Write`] of [`Part::Park`]: a fresh look at the credential says that the
    /// job need not wait.
    RunIt,
    /// To [`Step::Store`]: the outbox has it.
    Stored,
    /// To [`Step::Store`]: the bucket does not take it.
    NotStored,
}

/// What the driver is to do next. The last three end the delivery; every other step is
/// answered by one [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Look whether this job's end is remembered.
    Recall,
    /// Run the handler, once it has all that it needs.
    Run,
    /// Let time pass before the next run.
    Wait {
        /// The length of the pause.
        pause: Duration,
        /// The API or the provider said when to try again, so the message counts as held.
        known: bool,
    },
    /// Write this part of the end.
    Write(Part, Ending, Cut),
    /// A topic or the bucket takes nothing: let time pass, then write that part again.
    /// Meanwhile the replica neither receives nor begins anything.
    Rest(Duration),
    /// Store what is not written yet in the outbox.
    Store {
        /// The end.
        ending: Ending,
        /// What is still to be written.
        rest: Parts,
        /// What its topic refused for itself. Once nothing else is left no sweep tries it.
        refused: Parts,
    },
    /// Everything is written: acknowledge the message.
    Acknowledge(Ending),
    /// Give the message back after this pause.
    GiveBack(Duration),
    /// The time is over and neither topic nor bucket took the end: say so and give the
    /// message back.
    Abandon(Ending),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    New,
    Recalling(Schedule),
    RestingToRecall(Schedule),
    Running,
    Waiting,
    Writing(Writing),
    Over,
}

/// One delivery on its way to its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settlement {
    facts: Facts,
    state: State,
    pauses: Schedule,
    /// How long the delivery has waited between its runs without a known end.
    waited: Duration,
    park_rounds: u32,
    /// The worst of what is known of its runs.
    known: Knowledge,
}

impl Settlement {
    /// A delivery that begins.
    pub fn new(facts: Facts) -> Self {
        let pauses = run_pauses(facts.ordered);
        Self {
            facts,
            state: State::New,
            pauses,
            waited: Duration::ZERO,
            park_rounds: 0,
            known: Knowledge::NOTHING,
        }
    }

    /// What to do next.
    ///
    /// # Panics
    /// When `event` does not answer the last step: a fault of the driver.
    pub fn step(&mut self, event: Event, around: Around) -> Step {
        match (std::mem::replace(&mut self.state, State::Over), event) {
            (State::New, Event::Start) if self.facts.remembers => self.recall(write_pauses()),
            (State::New, Event::Start)
            | (State::Recalling(_), Event::NotRemembered)
            | (State::Waiting, Event::Waited) => self.run(),
            (State::New | State::Recalling(_) | State::Running, Event::Ran(ran, known)) => {
                self.after_run(ran, known, around)
            }
            (State::Recalling(_), Event::Remembered(ending)) => {
                self.go_on(Writing::again(ending, self.facts.publishes_outcomes))
            }
            (State::Recalling(mut pauses), Event::Unwritten) => {
                let pause = pauses.next(around.unit);
                self.state = State::RestingToRecall(pauses);
                Step::Rest(pause)
            }
            (State::RestingToRecall(pauses), Event::Waited) => self.recall(pauses),
            (State::Writing(writing), Event::RunIt) => self.run_after_all(&writing),
            (State::Writing(writing), event) => self.write(writing, event, around),
            (
                State::New
                | State::Recalling(_)
                | State::RestingToRecall(_)
                | State::Running
                | State::Waiting,
                Event::GoBack | Event::TimeIsOver,
            ) => self.give_back(Duration::ZERO),
            (state, event) => unreachable!("{event:?} does not answer {state:?}"),
        }
    }

    fn recall(&mut self, pauses: Schedule) -> Step {
        self.state = State::Recalling(pauses);
        Step::Recall
    }

    fn run(&mut self) -> Step {
        self.state = State::Running;
        Step::Run
    }

    fn after_run(&mut self, ran: Ran, known: Knowledge, around: Around) -> Step {
        self.known = self.known.and(known);
        match ran {
            Ran::Done => self.end(Status::Done, known),
            Ran::Rejected => self.end(Status::Rejected, self.known),
            // Whatever it waits for, running it again would repeat what it did.
            _ if known.is_spent() => self.end(Status::Rejected, known),
            // A credential that changes faster than it can be looked at is a failure.
            Ran::NeedsConsent if self.park_rounds < PARK_ROUNDS => self.end(Status::Parked, known),
            Ran::NeedsConsent => self.failed(None, around),
            Ran::Failed { after } => self.failed(after, around),
        }
    }

    fn run_after_all(&mut self, parking: &Writing) -> Step {
        assert!(parking.is_parking(), "only a job that is being parked may run after all");
        self.park_rounds += 1;
        self.run()
    }

    /// A run failed that may be repeated.
    fn failed(&mut self, after: Option<Duration>, around: Around) -> Step {
        if around.stopping {
            return self.give_back(Duration::ZERO);
        }
        let held = around.now.since(self.facts.received_at);
        let own = self.pauses.next(around.unit);
        let is_held = |after: &Duration| {
            *after <= LONGEST_KNOWN_WAIT && held.saturating_add(*after) <= LONGEST_HOLD
        };
        if let Some(after) = after.filter(is_held) {
            return self.wait(after.max(own), true);
        }
        if self.facts.ordered {
            let left = self.facts.ordered_budget.saturating_sub(self.waited + around.ran);
            if left.is_zero() {
                return self.end(Status::Rejected, self.known);
            }
            let pause = own.min(left);
            // Beyond that the lease ends, and the messages of the key come again in any case.
            if held.saturating_add(pause) <= LONGEST_HOLD {
                self.waited += pause;
                return self.wait(pause, false);
            }
        } else if self.waited + own <= self.facts.retry_budget {
            self.waited += own;
            return self.wait(own, false);
        }
        self.give_back(give_back_pause(self.age(around.now)))
    }

    fn wait(&mut self, pause: Duration, known: bool) -> Step {
        self.state = State::Waiting;
        Step::Wait { pause, known }
    }

    /// Gives a job back that is not spent. At the last permitted attempt it is rejected
    /// instead: Pub/Sub would make a dead letter of it that tells nothing.
    fn give_back(&mut self, pause: Duration) -> Step {
        if self.facts.last_attempt {
            return self.end(Status::Rejected, self.known);
        }
        Step::GiveBack(pause)
    }

    fn end(&mut self, status: Status, known: Knowledge) -> Step {
        self.go_on(Writing::first(Ending { status, known }, &self.facts))
    }

    fn go_on(&mut self, writing: Writing) -> Step {
        let (step, rest) = writing.next();
        self.state = rest.map_or(State::Over, State::Writing);
        step
    }

    fn write(&mut self, mut writing: Writing, event: Event, around: Around) -> Step {
        match event {
            Event::Written => writing.written(),
            Event::Remembered(ending) => writing.replace(ending),
            Event::Waited => {}
            Event::Refused if writing.leave_out_more() => {}
            Event::Refused => writing.refused(),
            // A job that was to be parked did nothing, and the bucket that did not take it
            // would not keep its end either.
            Event::TimeIsOver | Event::Unwritten if around.over && writing.is_parking() => {
                return Step::GiveBack(Duration::ZERO);
            }
            Event::TimeIsOver | Event::Unwritten if around.over => return self.store(writing),
            Event::Unwritten if writing.is_stuck(around.now) => return self.store(writing),
            Event::NotStored if around.over => return Step::Abandon(writing.ending),
            Event::Unwritten | Event::NotStored => {
                let pause = writing.pauses.next(around.unit);
                self.state = State::Writing(writing);
                return Step::Rest(pause);
            }
            Event::Stored => return Step::Acknowledge(writing.ending),
            event => unreachable!("{event:?} does not answer {writing:?}"),
        }
        self.go_on(writing)
    }

    fn store(&mut self, writing: Writing) -> Step {
        let step = writing.store();
        self.state = State::Writing(writing);
        step
    }

    /// The message's age.
    pub fn age(&self, now: Monotonic) -> Duration {
        self.facts.age + now.since(self.facts.received_at)
    }

    /// Whether the end is decided: from here on the delivery is held until it is written.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, State::Writing(_))
    }
}
