//! The state of the model.

use std::sync::Arc;
use std::time::Duration;

use shared::ports::{Generation, Monotonic};
use worker::claim::Sighting;
use worker::effect::Knowledge;
use worker::outbox::clearing::{Clearing, Step as ClearingStep};
use worker::parking::resumption::{Entry, Resumption, Step as ResumptionStep};
use worker::settlement::{Around, Ending, Facts, OUTBOX_AFTER, Part, Parts, Ran, Settlement, Step};

use super::properties::Watch;
use super::setup::{Dedupe, Place, Setup};

/// After so many rests a delivery rests until what it waits for takes something again.
pub(super) const RESTS: u8 = 3;

/// One state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// What the subscription holds.
    pub(super) copies: Vec<Copied>,
    /// The deliveries in hand; those of one replica stand together.
    pub(super) hands: Vec<Option<Arc<Delivery>>>,
    pub(super) replicas: Vec<Replica>,
    /// Places that take nothing, as bits of [`Place`].
    pub(super) down: u8,
    /// The end that the bucket remembers.
    pub(super) remembered: Option<Ending>,
    /// The outbox.
    pub(super) endings: Vec<Stored>,
    /// Parked objects: message ID and generation.
    pub(super) parked: Vec<(u8, i64)>,
    /// The claim to resume the user's jobs.
    pub(super) claim: Option<Claim>,
    pub(super) generation: i64,
    /// The user has consented.
    pub(super) active: bool,
    /// So many resumptions are due.
    pub(super) due: u8,
    pub(super) resumers: [Option<Arc<Resumer>>; 2],
    /// Dead letters: the ID of the message that each was made of, and what it records.
    pub(super) letters: Vec<(u8, Option<Knowledge>)>,
    /// What is written of the end of each message, by its ID.
    pub(super) written: Vec<Parts>,
    /// How many runs began.
    pub(super) runs: u8,
    pub(super) faults: u8,
    pub(super) redrives: u8,
    pub(super) watch: Watch,
}

/// One message of the job at the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Copied {
    pub(super) id: u8,
    /// The hand that has it.
    pub(super) leased: Option<u8>,
}

/// What a replica keeps between deliveries.
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Replica {
    /// It has received something.
    pub(super) begun: bool,
    /// Troubles that stop jobs, as bits of [`Place`].
    pub(super) closed: u8,
    /// The bucket did not say what it remembers: nothing is received.
    pub(super) blind: bool,
    /// Topics to which an end was not written that the outbox has now, and that were not seen
    /// to take anything since.
    pub(super) kept: u8,
    /// `--dedupe memory`.
    pub(super) remembered: Option<Ending>,
    pub(super) sweep: Option<Arc<Sweep>>,
    /// Another's claim to a stored end.
    pub(super) sighting: Option<(u8, Sighting)>,
    pub(super) stopping: bool,
    pub(super) over: bool,
}

/// A delivery, the step that it is at, and its driver's memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Delivery {
    pub(super) settlement: Settlement,
    pub(super) step: Step,
    pub(super) id: u8,
    /// How often it rested; each time a quarter of an hour.
    pub(super) rests: u8,
    /// What the run under way will come to.
    pub(super) running: Option<(Ran, Knowledge)>,
    /// How far the parking is.
    pub(super) parking: u8,
    /// What did not take the end when it was tried last.
    pub(super) unwritten: u8,
    /// Of those, the places that have taken nothing of this replica's since.
    pub(super) refused_last: u8,
    /// The lease lapsed: another may have the message.
    pub(super) lapsed: bool,
    /// The end was remembered before this delivery began.
    pub(super) knows: bool,
    /// A mutant acknowledged the message ahead of its time.
    pub(super) acknowledged: bool,
}

/// Who claims a stored end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claimant {
    Nobody,
    Replica(usize),
    /// A replica that does no more about it.
    Gone,
}

/// An end in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    pub(super) id: u8,
    pub(super) generation: i64,
    pub(super) claimed: Claimant,
    pub(super) ending: Ending,
    pub(super) rest: Parts,
    /// What its topic refused; a sweep comes to it last.
    pub(super) refused: Parts,
    /// Nothing else is left: no sweep tries it.
    pub(super) shelved: bool,
}

impl Stored {
    /// What a sweep writes next.
    pub(super) fn first(&self) -> Option<Part> {
        self.rest.first().or(self.refused.first())
    }
}

/// A replica that writes a stored end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sweep {
    pub(super) clearing: Clearing,
    pub(super) step: ClearingStep,
    pub(super) now: Monotonic,
    /// The object as it knows it.
    pub(super) object: Stored,
}

/// Somebody who publishes parked jobs again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Resumer {
    pub(super) resumption: Resumption,
    pub(super) step: ResumptionStep,
    pub(super) claim: Option<i64>,
    /// It has released a claim.
    pub(super) released: bool,
}

/// `parked/<user>/claim`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    pub(super) generation: i64,
    /// The jobs that are noted in it as published.
    pub(super) published: Vec<Entry>,
    /// Its holder is alive: nobody takes it over.
    pub(super) live: bool,
}

impl World {
    pub(super) fn new(setup: &Setup) -> Self {
        let copies = (0..setup.copies).map(|id| Copied { id, leased: None }).collect();
        Self {
            copies,
            hands: vec![None; setup.replicas * setup.hands],
            replicas: vec![Replica::default(); setup.replicas],
            down: 0,
            remembered: None,
            endings: Vec::new(),
            parked: Vec::new(),
            claim: None,
            generation: 0,
            active: setup.active,
            due: 0,
            resumers: [None, None],
            letters: Vec::new(),
            written: vec![Parts::default(); usize::from(setup.copies)],
            runs: 0,
            faults: setup.faults,
            redrives: setup.redrives,
            // A job that was published twice runs twice.
            watch: Watch { excused: setup.copies > 1, ..Watch::default() },
        }
    }

    /// Publishes the job once more.
    pub(super) fn publish(&mut self) {
        let id = u8::try_from(self.written.len()).expect("a few messages");
        self.written.push(Parts::default());
        self.copies.push(Copied { id, leased: None });
    }

    pub(super) fn next_generation(&mut self) -> i64 {
        self.generation += 1;
        self.generation
    }

    pub(super) fn is_down(&self, place: Place) -> bool {
        self.down & place as u8 != 0
    }

    pub(super) fn hand(&mut self, h: usize) -> &mut Delivery {
        Arc::make_mut(self.hands[h].as_mut().expect("a delivery in hand"))
    }

    /// The end that a delivery of this replica finds remembered.
    pub(super) fn recall(&self, setup: &Setup, r: usize) -> Option<Ending> {
        match setup.dedupe {
            Dedupe::Off => None,
            Dedupe::Memory => self.replicas[r].remembered,
            Dedupe::Bucket => self.remembered,
        }
    }

    pub(super) fn around(&self, setup: &Setup, h: usize, rests: u8) -> Around {
        let replica = &self.replicas[h / setup.hands];
        let now = received_at().plus(OUTBOX_AFTER * u32::from(rests));
        let (ran, stopping, over) = (Duration::ZERO, replica.stopping, replica.over);
        Around { now, unit: 0.0, ran, stopping, over }
    }

    /// Faults are over, and everything has ended.
    pub(super) fn is_settled(&self) -> bool {
        self.copies.is_empty()
            && self.hands.iter().all(Option::is_none)
            && self.replicas.iter().all(|r| r.closed == 0 && !r.blind && !r.stopping)
            && self.endings.iter().all(|ending| ending.shelved)
            && self.parked.is_empty()
    }
}

pub(super) fn received_at() -> Monotonic {
    Monotonic(Duration::from_secs(60 * 60))
}

pub(super) fn generation(generation: i64) -> Generation {
    Generation(generation)
}

pub(super) fn facts(setup: &Setup) -> Facts {
    Facts {
        ordered: false,
        remembers: setup.dedupe != Dedupe::Off,
        publishes_outcomes: setup.outcomes,
        last_attempt: setup.last_attempt,
        age: Duration::ZERO,
        received_at: received_at(),
        // One pause, so that a second failure gives the message back.
        retry_budget: Duration::from_millis(600),
        ordered_budget: Duration::ZERO,
    }
}
