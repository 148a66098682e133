//! A process of the model: the production code that decides, with its [`Memory`], and
//! what the checks need to know about them.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};
use shared::Secret;
use shared::ports::{Generation, Monotonic, Now};
use shared::protocol::{Draw, Event, Held, Memory};
use shared::record::GrantId;

use super::course::{Ask, Course};
use super::setup::TICK;

/// The step of the clock, on both clocks.
pub(super) fn at(tick: u64, wall_ahead: u64) -> Now {
    let steps = u32::try_from(tick).expect("few steps");
    let ahead = u32::try_from(wall_ahead).expect("few steps");
    let wall = SignedDuration::try_from((steps + ahead) * TICK).expect("short");
    Now {
        wall: Timestamp::constant(1_767_225_600, 0) + wall,
        monotonic: Monotonic(TICK * 1000 + steps * TICK),
    }
}

/// Small identifiers that depend on nothing but their drawer's own past, so that
/// two orders of independent events meet in one state.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) drawer: usize,
    pub(super) next: Cell<u32>,
}

impl Draw for Ids {
    /// No jitter: pauses are whole steps.
    fn unit(&self) -> f64 {
        0.0
    }

    fn id(&self) -> String {
        let number = self.next.get();
        self.next.set(number + 1);
        format!("{}-{number}", self.drawer)
    }
}

/// What a replica is at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    /// No flight.
    Idle,
    /// A request that has not reached the world.
    Asked(Ask),
    /// A reply that has not reached the flight.
    Answered(Event),
    /// A timer of the flight.
    Asleep(u64),
    /// A refresh that reached the endpoint at this step; it is carried out later.
    Hanging(Secret, u64),
    /// The answer to a refresh that was carried out at this step, on its way.
    Awaited(Event, u64),
    /// Calls again at this step.
    Again(u64),
}

/// One acquisition of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Series {
    pub(super) attempt: String,
    pub(super) guards: Generation,
    /// The step from which its ttl counts: its first PUT, or the last renewal that was
    /// applied.
    pub(super) first_sent: u64,
    /// The lease was written.
    pub(super) applied: bool,
    /// Its holder stood still, or one of its writes met a fault.
    pub(super) stumbled: bool,
}

/// What the present flight did, for the invariants only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Deeds {
    pub(super) began_at: u64,
    pub(super) began_with: Option<GrantId>,
    pub(super) series: Option<Series>,
    /// The answer's family and number.
    pub(super) received: Option<(usize, u32)>,
    pub(super) rejected: bool,
    /// The next read follows an acquisition.
    pub(super) confirming: bool,
    /// When the last record write of a re-seal was decided upon.
    pub(super) asked_at: u64,
    /// When the last refresh was decided upon.
    pub(super) refresh_asked_at: u64,
    /// It was held up from outside; its times say nothing.
    pub(super) stalled: bool,
}

/// When a record write was decided upon, and under which lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sent {
    pub(super) lease_first_sent: u64,
    pub(super) asked_at: u64,
}

impl Deeds {
    /// Nothing for a course that takes no lease.
    pub(super) fn sent_under(&self) -> Option<Sent> {
        let series = self.series.as_ref()?;
        Some(Sent { lease_first_sent: series.first_sent, asked_at: self.asked_at })
    }
}

/// A process: a replica of the fleet, or one that a person started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Replica {
    pub(super) memory: Memory,
    pub(super) held: Option<Box<Held>>,
    pub(super) course: Option<Course>,
    pub(super) doing: Doing,
    /// A request that keeps its lease, and when it was sent.
    pub(super) keeping: Option<(Ask, u64)>,
    /// Since when it stands still.
    pub(super) paused: Option<u64>,
    pub(super) drawn: u32,
    pub(super) calls: u8,
    pub(super) deeds: Deeds,
    /// The last remembered lease generation that was tried in vain.
    pub(super) refused: Option<Generation>,
    /// What an API rejected, remembered for the invariants.
    pub(super) rejected: Vec<GrantId>,
}

impl Replica {
    pub(super) fn new() -> Self {
        Self {
            memory: Memory::default(),
            held: None,
            course: None,
            doing: Doing::Idle,
            keeping: None,
            paused: None,
            drawn: 0,
            calls: 0,
            deeds: Deeds::default(),
            refused: None,
            rejected: Vec::new(),
        }
    }

    /// What a person began is over.
    pub(super) fn over() -> Self {
        Self { calls: 1, ..Self::new() }
    }

    /// The process ends and another starts in its place.
    pub(super) fn crashed(&self) -> Self {
        Self { drawn: self.drawn, calls: self.calls, ..Self::new() }
    }

    /// Nothing happens here before the clock moves.
    pub(super) fn rests(&self, now: u64) -> bool {
        self.paused.is_some()
            || self.may_linger()
            || self.keeping.is_none()
                && match self.doing {
                    Doing::Idle | Doing::Hanging(..) | Doing::Awaited(..) => true,
                    Doing::Asleep(until) | Doing::Again(until) => until > now,
                    Doing::Asked(_) | Doing::Answered(_) => false,
                }
    }

    /// Whether it may take as long as it likes.
    pub(super) fn may_linger(&self) -> bool {
        self.course.as_ref().is_some_and(Course::may_linger)
    }

    pub(super) fn is_active(&self) -> bool {
        self.doing != Doing::Idle
    }
}
