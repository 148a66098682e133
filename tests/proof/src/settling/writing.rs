//! What is carried out when a part of an end is written.

use std::collections::HashMap;
use std::sync::Arc;

use worker::dead_letter::{EFFECT, Rejection, dead_letter, recorded};
use worker::effect::Knowledge;
use worker::job::{Job, Received};
use worker::settlement::{Cut, Ending, Event, Part, Parts, Step};

use super::moves::{Fate, place};
use super::setup::{Dedupe, Mutant, Place, Setup};
use super::world::{Claimant, Delivery, Stored, World};

/// How far the parking of a job is: its credential was looked at, its object is stored, or
/// that was not answered.
pub(super) const LOOKED: u8 = 1;
pub(super) const STORED: u8 = 2;
pub(super) const READ_BACK: u8 = 3;

impl World {
    /// Writes a part; `None` where that takes another step.
    pub(super) fn write(
        &mut self,
        setup: &Setup,
        h: usize,
        (part, ending, cut): (Part, Ending, Cut),
        fate: Fate,
    ) -> Option<Event> {
        let r = h / setup.hands;
        let place = match (part, setup.dedupe) {
            // Nothing of it leaves the process.
            (Part::Remember, Dedupe::Memory | Dedupe::Off) => None,
            (part, _) => Some(place(part)),
        };
        let id = self.hand(h).id;
        if self.hand(h).parking == READ_BACK {
            let is_there = self.parked.iter().any(|(parked, _)| *parked == id);
            if is_there && fate == Fate::Well && !self.is_down(Place::Bucket) {
                self.hand(h).parking = STORED;
                return None;
            }
            // Nobody says whether it is stored, or it has gone on in between.
            self.watch.excused = true;
            self.not_taken(h, r, Place::Bucket);
            return Some(Event::Unwritten);
        }
        let fails = place.is_some_and(|place| fate == Fate::Fails || self.is_down(place));
        // Once the job is stored, a look that fails counts as one that saw a change.
        let looks_again = self.hand(h).parking == STORED;
        if let Some(place) = place
            && fails
            && !looks_again
        {
            self.not_taken(h, r, place);
            return Some(Event::Unwritten);
        }
        let event = match part {
            Part::Remember if setup.is(Mutant::RememberAfterAcknowledging) => Event::Written,
            Part::Remember => self.remember(setup, r, ending),
            Part::Park => match self.park(setup, h, id, fails) {
                Some(event) => event,
                // The object is stored, and the answer to that is lost.
                None if fate == Fate::Lost && !setup.is(Mutant::ParkerReadsNothingBack) => {
                    self.hand(h).parking = READ_BACK;
                    return None;
                }
                None if fate == Fate::Lost => Event::Written,
                None => return None,
            },
            Part::DeadLetter | Part::Outcome if is_refused(setup, part, cut) => {
                return Some(Event::Refused);
            }
            Part::DeadLetter => {
                let unworthy = match setup.mutant {
                    Some(Mutant::RememberNone) => ending.known == Knowledge::NOTHING,
                    Some(Mutant::RememberRepeatable) => !ending.known.is_spent(),
                    _ => false,
                };
                if unworthy {
                    self.remember(setup, r, ending);
                }
                self.bury(setup, id, ending.known, cut);
                Event::Written
            }
            Part::Outcome => {
                self.note(id, Part::Outcome);
                Event::Written
            }
        };
        if fate == Fate::Lost {
            if let Some(place) = place {
                self.not_taken(h, r, place);
            }
            return Some(Event::Unwritten);
        }
        self.taken(r, place);
        self.hand(h).unwritten = 0;
        self.hand(h).refused_last = 0;
        Some(event)
    }

    fn not_taken(&mut self, h: usize, r: usize, place: Place) {
        self.replicas[r].closed |= place as u8;
        let delivery = self.hand(h);
        delivery.unwritten |= place as u8;
        delivery.refused_last |= place as u8;
        // Parking begins with its first look again.
        delivery.parking = 0;
    }

    fn taken(&mut self, r: usize, place: Option<Place>) {
        let Some(place) = place else { return };
        self.replicas[r].closed &= !(place as u8);
        self.replicas[r].kept &= !(place as u8);
        let hands = self.hands.len() / self.replicas.len();
        for delivery in self.hands[r * hands..(r + 1) * hands].iter_mut().flatten() {
            if delivery.refused_last & place as u8 != 0 {
                Arc::make_mut(delivery).refused_last &= !(place as u8);
            }
        }
    }

    /// Remembers an end, unless another is remembered.
    pub(super) fn remember(&mut self, setup: &Setup, r: usize, ending: Ending) -> Event {
        let memory = match setup.dedupe {
            Dedupe::Off => return Event::Written,
            Dedupe::Memory => &mut self.replicas[r].remembered,
            Dedupe::Bucket => &mut self.remembered,
        };
        match *memory.get_or_insert(ending) {
            first if first == ending => Event::Written,
            first => Event::Remembered(first),
        }
    }

    /// Notes that a part of the end of a message is written.
    fn note(&mut self, id: u8, part: Part) {
        let written = &mut self.written[usize::from(id)];
        let parts: Vec<_> = written.iter().chain([part]).collect();
        *written = Parts::of(&parts);
    }

    /// Publishes the dead letter that production code makes of the message.
    fn bury(&mut self, setup: &Setup, id: u8, known: Knowledge, cut: Cut) {
        let found = letter(setup, id, known, cut);
        self.watch.require(6, found == Some(known));
        // Letters of one message are redriven as one, with the worst effect.
        let worse = |old: Option<Knowledge>| old.zip(found).map(|(old, found)| old.and(found));
        match self.letters.iter_mut().find(|(of, _)| *of == id) {
            Some((_, old)) => *old = worse(*old),
            None => self.letters.push((id, found)),
        }
        self.note(id, Part::DeadLetter);
    }

    /// Parks the message: a look at the credential, the object, another look.
    fn park(&mut self, setup: &Setup, h: usize, id: u8, fails: bool) -> Option<Event> {
        let is_parked = self.parked.iter().any(|(parked, _)| *parked == id);
        let stored = |world: &mut Self, moved: bool| {
            world.hand(h).parking = 0;
            if setup.is(Mutant::ParkerIgnoresTheClaim) && moved {
                world.parked.retain(|(parked, _)| *parked != id);
                return Some(Event::RunIt);
            }
            world.due += u8::from(moved);
            Some(Event::Written)
        };
        let looked = self.hand(h).parking;
        match looked {
            0 if self.active && is_parked => stored(self, true),
            0 if self.active => Some(Event::RunIt),
            0 => {
                self.hand(h).parking = LOOKED;
                None
            }
            LOOKED => {
                if !is_parked {
                    let generation = self.next_generation();
                    self.parked.push((id, generation));
                }
                self.note(id, Part::Park);
                self.hand(h).parking = STORED;
                None
            }
            _ => stored(self, self.active || fails),
        }
    }

    /// Keeps what is not written in the outbox.
    pub(super) fn store(
        &mut self,
        setup: &Setup,
        (h, r): (usize, usize),
        d: &Delivery,
        fate: Fate,
    ) -> Event {
        let Step::Store { ending, rest, refused } = d.step else { unreachable!("a store") };
        if fate == Fate::Fails || self.is_down(Place::Bucket) {
            return self.not_stored(setup, h, r);
        }
        if self.endings.iter().all(|stored| stored.id != d.id) {
            let generation = self.next_generation();
            let (id, claimed, shelved) = (d.id, Claimant::Nobody, rest.is_empty());
            self.endings.push(Stored { id, generation, claimed, ending, rest, refused, shelved });
        }
        if fate == Fate::Lost {
            self.watch.stored_again = true;
            return self.not_stored(setup, h, r);
        }
        self.taken(r, Some(Place::Bucket));
        if !rest.is_empty() {
            // A topic that has taken something since is not in trouble any more.
            let closed = self.replicas[r].closed & !(Place::Bucket as u8);
            self.replicas[r].kept |= d.unwritten & closed;
        }
        self.hand(h).unwritten = 0;
        self.hand(h).refused_last = 0;
        Event::Stored
    }

    fn not_stored(&mut self, setup: &Setup, h: usize, r: usize) -> Event {
        if !setup.is(Mutant::UnkeptEndsStopNobody) {
            self.replicas[r].closed |= Place::Bucket as u8;
        }
        self.hand(h).unwritten |= Place::Bucket as u8;
        self.hand(h).refused_last |= Place::Bucket as u8;
        Event::NotStored
    }

    /// A sweep writes the first part of a stored end.
    pub(super) fn write_stored(&mut self, setup: &Setup, r: usize, stored: &Stored) {
        let Some(part) = stored.rest.first() else { return };
        match part {
            Part::Remember => {
                self.remember(setup, r, stored.ending);
            }
            Part::DeadLetter => self.bury(setup, stored.id, stored.ending.known, Cut::Whole),
            Part::Outcome => self.note(stored.id, Part::Outcome),
            Part::Park => unreachable!("a job that is being parked is not stored"),
        }
        self.watch_swept(stored.id, part);
        if part != Part::Remember {
            self.taken(r, Some(place(part)));
        }
    }
}

/// Whether the topic refuses this message with this cut.
fn is_refused(setup: &Setup, part: Part, cut: Cut) -> bool {
    let worth = |cut| [Cut::Whole, Cut::WithoutResult, Cut::Bare].iter().position(|c| *c == cut);
    setup.refuses.is_some_and(|(refusing, least)| {
        refusing == place(part) && least.is_none_or(|least| worth(cut) < worth(least))
    })
}

/// What the dead letter of a message records.
fn letter(setup: &Setup, id: u8, known: Knowledge, cut: Cut) -> Option<Knowledge> {
    let own = (0..setup.attributes).map(|n| (format!("own-{n:02}"), String::new()));
    let message =
        Received { attributes: own.collect(), message_id: id.to_string(), ..Received::default() };
    let job = Job::decode(br#"{"id":"j","user":"u","kind":"k"}"#, "m").expect("a job");
    let about = Rejection { job: Some(&job), reason: "no", known, only_ours: cut != Cut::Whole };
    let mut attributes = dead_letter(&message, &about).attributes;
    match setup.mutant {
        Some(Mutant::LetterWithoutEffect) => {
            attributes.remove(EFFECT);
        }
        Some(Mutant::EffectTrimmedAway) => {
            let mut kept: HashMap<_, _> = message.attributes.clone();
            let mut ours: Vec<_> = attributes.into_iter().collect();
            ours.sort_unstable_by(|a, b| b.cmp(a));
            for (name, value) in ours {
                if kept.len() < 100 {
                    kept.insert(name, value);
                }
            }
            attributes = kept;
        }
        _ => {}
    }
    recorded(&Received { attributes, ..Received::default() })
}
