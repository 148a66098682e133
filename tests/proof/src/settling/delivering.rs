//! Deliveries: each drives a production [`Settlement`] as the worker does.

use std::sync::Arc;

use worker::effect::{Effect, Knowledge};
use worker::settlement::{Event, Ran, Settlement, Step};

use super::moves::{Fate, Move};
use super::setup::{Dedupe, Mutant, Place, Setup};
use super::world::{Delivery, RESTS, Replica, World, facts};
use super::writing::STORED;

impl World {
    pub(super) fn apply(&mut self, setup: &Setup, next: Move) {
        match next {
            Move::Receive(h, c) => self.receive(setup, h, c),
            Move::Deliver(h, fate) => {
                if matches!(fate, Fate::Fails | Fate::Lost) {
                    self.faults -= 1;
                }
                self.deliver(setup, h, fate);
            }
            Move::Acknowledge(h, lost) => self.acknowledge(setup, h, lost),
            Move::Crash(r) => {
                self.fault();
                self.watch.excused = true;
                self.crash(setup, r);
            }
            Move::Lapse(c) => {
                self.fault();
                self.watch.excused = true;
                if let Some(h) = self.copies[c].leased.take() {
                    self.hand(usize::from(h)).lapsed = true;
                }
            }
            Move::Down(place) => {
                self.fault();
                self.down |= place as u8;
            }
            Move::Up(place) => self.down &= !(place as u8),
            Move::Stop(r) => {
                self.fault();
                self.replicas[r].stopping = true;
            }
            Move::Over(r) => self.replicas[r].over = true,
            Move::Sweep(r, id) => self.sweep(r, id),
            Move::Clear(r, fate) => self.clear(setup, r, fate),
            Move::Probe(r) => {
                self.replicas[r].closed = 0;
                self.replicas[r].kept = 0;
            }
            Move::Consent => {
                self.active = true;
                self.due += 1;
            }
            Move::Resume(i) => self.resume(i),
            Move::Republish(i, fate) => self.republish(setup, i, fate),
            Move::CrashResumer(i) => {
                self.fault();
                self.watch.excused = true;
                self.end_resumer(i, true);
            }
            Move::Redrive(l) => {
                self.redrives -= 1;
                self.letters.remove(l);
                self.publish();
            }
        }
        for r in 0..self.replicas.len() {
            let idle = self.replicas[r].sweep.is_none()
                && self.hands[r * setup.hands..(r + 1) * setup.hands].iter().all(Option::is_none);
            if self.replicas[r].stopping && idle {
                self.replicas[r] = Replica { begun: true, ..Replica::default() };
            }
        }
    }

    pub(super) fn fault(&mut self) {
        self.faults -= 1;
    }

    fn crash(&mut self, setup: &Setup, r: usize) {
        for h in r * setup.hands..(r + 1) * setup.hands {
            // A sweep finds what was parked without a last look at the credential.
            let parker = self.hands[h].take();
            self.due += u8::from(parker.is_some_and(|delivery| delivery.parking >= STORED));
            for copied in &mut self.copies {
                if copied.leased == u8::try_from(h).ok() {
                    copied.leased = None;
                }
            }
        }
        self.replicas[r] = Replica { begun: true, ..Replica::default() };
        self.abandon_claims(r);
    }

    fn receive(&mut self, setup: &Setup, h: usize, c: usize) {
        self.copies[c].leased = u8::try_from(h).ok();
        if self.hands[h].is_some() {
            self.hand(h).lapsed = false;
            return;
        }
        self.watch_begin(setup, h);
        self.replicas[h / setup.hands].begun = true;
        let mut settlement = Settlement::new(facts(setup));
        let step = settlement.step(Event::Start, self.around(setup, h, 0));
        let knows = self.recall(setup, h / setup.hands).is_some();
        self.hands[h] = Some(Arc::new(Delivery {
            settlement,
            step,
            id: self.copies[c].id,
            rests: 0,
            running: None,
            parking: 0,
            unwritten: 0,
            refused_last: 0,
            lapsed: false,
            knows,
            acknowledged: false,
        }));
    }

    fn acknowledge(&mut self, setup: &Setup, h: usize, lost: bool) {
        let Some(delivery) = self.hands[h].take() else { return };
        let Step::Acknowledge(ending) = delivery.step else { return };
        self.watch_acknowledge(setup, h / setup.hands, &delivery, ending);
        if lost {
            self.fault();
            self.watch.excused = true;
        }
        self.let_go(h, lost || delivery.lapsed);
        if setup.is(Mutant::RememberAfterAcknowledging) {
            self.remember(setup, h / setup.hands, ending);
        }
    }

    /// The hand has done with its message, which is given back or gone.
    fn let_go(&mut self, h: usize, back: bool) {
        let leased = u8::try_from(h).ok();
        if back {
            self.copies.iter_mut().filter(|c| c.leased == leased).for_each(|c| c.leased = None);
        } else {
            self.copies.retain(|copied| copied.leased != leased);
        }
    }

    fn give_back(&mut self, h: usize) {
        let acknowledged = self.hands[h].take().is_some_and(|delivery| delivery.acknowledged);
        self.watch.require(2, !acknowledged);
        self.let_go(h, true);
    }

    fn deliver(&mut self, setup: &Setup, h: usize, fate: Fate) {
        let Some(delivery) = self.hands[h].clone() else { return };
        let r = h / setup.hands;
        let event = match delivery.step {
            Step::Recall => self.recalled(setup, r, fate),
            Step::Run => match self.run(setup, h, &delivery, fate) {
                Some(event) => event,
                None => return,
            },
            Step::Wait { .. } if fate == Fate::Interrupted => Event::GoBack,
            Step::Wait { .. } => Event::Waited,
            Step::Rest(_) if fate == Fate::Interrupted && self.replicas[r].over => {
                Event::TimeIsOver
            }
            Step::Rest(_) if fate == Fate::Interrupted => Event::GoBack,
            Step::Rest(_) => {
                self.hand(h).rests = (delivery.rests + 1).min(RESTS);
                Event::Waited
            }
            Step::Write(..) if fate == Fate::Interrupted => Event::TimeIsOver,
            Step::Write(part, ending, cut) => match self.write(setup, h, (part, ending, cut), fate)
            {
                Some(event) => event,
                None => return,
            },
            Step::Store { .. } => self.store(setup, (h, r), &delivery, fate),
            Step::Acknowledge(_) | Step::GiveBack(_) | Step::Abandon(_) => return,
        };
        let rests = self.hand(h).rests;
        let around = self.around(setup, h, rests);
        let nacked = match (setup.mutant, delivery.step, event) {
            (Some(Mutant::NackWhenSpent), Step::Write(_, ending, _), Event::Unwritten) => {
                ending.known.is_spent()
            }
            (Some(Mutant::NackAtTheEnd), _, Event::TimeIsOver) => true,
            _ => false,
        };
        if nacked {
            return self.give_back(h);
        }
        let delivery = self.hand(h);
        delivery.step = delivery.settlement.step(event, around);
        match delivery.step {
            Step::GiveBack(_) => self.give_back(h),
            Step::Abandon(_) => {
                self.watch.excused = true;
                self.give_back(h);
            }
            Step::Write(_, ending, _) if setup.is(Mutant::AcknowledgeFirst) => {
                let delivery = self.hand(h).clone();
                if !delivery.acknowledged {
                    self.watch_acknowledge(setup, r, &delivery, ending);
                    self.hand(h).acknowledged = true;
                    self.let_go(h, false);
                }
            }
            _ => {}
        }
    }

    fn recalled(&mut self, setup: &Setup, r: usize, fate: Fate) -> Event {
        if fate == Fate::Fails || setup.dedupe == Dedupe::Bucket && self.is_down(Place::Bucket) {
            self.replicas[r].blind = true;
            return Event::Unwritten;
        }
        if !setup.is(Mutant::BlindForEver) {
            self.replicas[r].blind = false;
        }
        if setup.is(Mutant::RecallOpensForWrites) {
            self.replicas[r].closed &= !(Place::Bucket as u8);
        }
        match self.recall(setup, r) {
            Some(ending) => {
                self.watch.require(3, self.watch.spent || self.watch.done);
                Event::Remembered(ending)
            }
            None => Event::NotRemembered,
        }
    }

    /// Begins a run, or ends the one under way; what that came to.
    fn run(&mut self, setup: &Setup, h: usize, d: &Delivery, fate: Fate) -> Option<Event> {
        let Some((ran, known)) = d.running else {
            if fate == Fate::Interrupted {
                return Some(Event::GoBack);
            }
            self.watch_run(setup, h, d.knows);
            let mut ends = (Ran::NeedsConsent, Knowledge::NOTHING);
            if self.active {
                let last = setup.script.len() - 1;
                ends = setup.script[usize::from(self.runs).min(last)];
                self.runs = (self.runs + 1).min(u8::try_from(last).unwrap_or(u8::MAX));
            }
            self.hand(h).running = Some(ends);
            return None;
        };
        self.hand(h).running = None;
        let unknown = Knowledge { effect: Effect::Unknown, repeatable: false };
        let (ran, known) = match fate {
            Fate::Cut(true) => (Ran::Failed { after: None }, unknown),
            Fate::Cut(false) => (Ran::Failed { after: None }, Knowledge::NOTHING),
            _ => (ran, known),
        };
        self.watch.spent |= known.is_spent();
        self.watch.done |= ran == Ran::Done;
        Some(Event::Ran(ran, known))
    }
}
