//! What can happen next.

use worker::settlement::{Part, Step};

use super::setup::{Dedupe, Fault, Mutant, Place, Setup};
use super::world::{Delivery, RESTS, World};
use super::writing::LOOKED;

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// A hand receives a message.
    Receive(usize, usize),
    /// A delivery's step is carried out.
    Deliver(usize, Fate),
    /// A delivery acknowledges; whether that is lost.
    Acknowledge(usize, bool),
    /// A replica dies.
    Crash(usize),
    /// A message's lease lapses.
    Lapse(usize),
    /// A place takes nothing from now on.
    Down(Place),
    /// It comes back.
    Up(Place),
    /// A replica is asked to end.
    Stop(usize),
    /// Its time is over.
    Over(usize),
    /// A replica begins to write a stored end.
    Sweep(usize, u8),
    /// It takes the next step of that.
    Clear(usize, Fate),
    /// A sweep finds nothing to write while the replica's gate is closed.
    Probe(usize),
    /// The user consents.
    Consent,
    /// Somebody begins to publish the parked jobs.
    Resume(usize),
    /// The next step of that.
    Republish(usize, Fate),
    /// Whoever does that dies.
    CrashResumer(usize),
    /// A dead letter goes back to the jobs.
    Redrive(usize),
}

/// How a step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// As the world is.
    Well,
    /// It is not taken.
    Fails,
    /// It is taken, and the answer is lost.
    Lost,
    /// The replica ends before it is carried out.
    Interrupted,
    /// The replica cuts the run; whether a call was under way.
    Cut(bool),
}

const PLACES: [Place; 3] = [Place::Bucket, Place::Dead, Place::Outcomes];

impl World {
    pub(super) fn moves(&self, setup: &Setup, moves: &mut Vec<Move>) {
        let mut also = |kind: Fault, next: Move| {
            if self.faults > 0 && setup.may(kind) {
                moves.push(next);
            }
        };
        let busy = !self.is_settled();
        for place in PLACES {
            let used = match place {
                Place::Outcomes => setup.outcomes,
                Place::Dead | Place::Bucket => true,
            };
            if used && !self.is_down(place) && busy {
                also(Fault::Down, Move::Down(place));
            }
        }
        for (c, copied) in self.copies.iter().enumerate() {
            if copied.leased.is_some() {
                also(Fault::Lapse, Move::Lapse(c));
            }
        }
        for (r, replica) in self.replicas.iter().enumerate() {
            if replica.begun && busy {
                also(Fault::Crash, Move::Crash(r));
                if !replica.stopping && self.replicas.iter().all(|other| !other.stopping) {
                    also(Fault::Drain, Move::Stop(r));
                }
            }
        }
        for (i, resumer) in self.resumers.iter().enumerate() {
            if let Some(resumer) = resumer {
                also(Fault::Crash, Move::CrashResumer(i));
                if matches!(resumer.step, worker::parking::resumption::Step::Publish(_)) {
                    continue;
                }
                also(Fault::Once, Move::Republish(i, Fate::Fails));
            }
        }
        moves.extend(PLACES.into_iter().filter(|place| self.is_down(*place)).map(Move::Up));
        for (r, replica) in self.replicas.iter().enumerate() {
            if replica.stopping && !replica.over {
                moves.push(Move::Over(r));
            }
        }
        for h in 0..self.hands.len() {
            match &self.hands[h] {
                Some(delivery) => self.delivery_moves(setup, h, delivery, moves),
                None => self.receive_moves(setup, h, moves),
            }
        }
        self.sweep_moves(setup, moves);
        self.resume_moves(moves);
        for (l, (_, known)) in self.letters.iter().enumerate() {
            if self.redrives > 0 && known.is_some_and(|known| !known.is_spent()) {
                moves.push(Move::Redrive(l));
            }
        }
    }

    fn receive_moves(&self, setup: &Setup, h: usize, moves: &mut Vec<Move>) {
        let r = h / setup.hands;
        let replica = &self.replicas[r];
        let own = r * setup.hands..(r + 1) * setup.hands;
        let first_free = own.clone().find(|h| self.hands[*h].is_none()) == Some(h);
        // Replicas begin alike.
        let alike = !replica.begun && self.replicas[..r].iter().any(|other| !other.begun);
        let paused = !setup.is(Mutant::NoPause) && (replica.closed != 0 || replica.blind);
        if !first_free || alike || replica.stopping || paused {
            return;
        }
        for (c, copied) in self.copies.iter().enumerate() {
            let in_hand = |h: usize| self.hands[h].as_ref().is_some_and(|d| d.id == copied.id);
            if copied.leased.is_none() && !own.clone().any(in_hand) {
                moves.push(Move::Receive(h, c));
            }
        }
    }

    fn delivery_moves(&self, setup: &Setup, h: usize, d: &Delivery, moves: &mut Vec<Move>) {
        let replica = &self.replicas[h / setup.hands];
        let may = |kind| self.faults > 0 && setup.may(kind);
        let mut go = |fate| moves.push(Move::Deliver(h, fate));
        match d.step {
            Step::Recall => {
                go(Fate::Well);
                if setup.dedupe == Dedupe::Bucket && may(Fault::Once) {
                    go(Fate::Fails);
                }
            }
            Step::Run if d.running.is_some() => {
                go(Fate::Well);
                if replica.stopping {
                    go(Fate::Cut(true));
                    go(Fate::Cut(false));
                }
            }
            Step::Run | Step::Wait { .. } if replica.stopping => go(Fate::Interrupted),
            Step::Run => {
                let ignored = setup.is(Mutant::NoPause) || setup.is(Mutant::StartWhileUnwritten);
                if ignored || replica.closed == 0 {
                    go(Fate::Well);
                }
            }
            Step::Wait { .. } => go(Fate::Well),
            Step::Rest(_) => {
                if replica.over || replica.stopping && !d.settlement.is_ending() {
                    go(Fate::Interrupted);
                    return;
                }
                let awaited = if d.unwritten == 0 { Place::Bucket as u8 } else { d.unwritten };
                if d.rests < RESTS || awaited & self.down == 0 {
                    go(Fate::Well);
                }
            }
            Step::Write(part, ..) => {
                go(Fate::Well);
                if may(Fault::Once) && !self.is_down(place(part)) {
                    go(Fate::Fails);
                }
                let has_answer = part != Part::Park || d.parking == LOOKED;
                if may(Fault::LostAnswer) && !self.is_down(place(part)) && has_answer {
                    go(Fate::Lost);
                }
                // A job that is being parked is not left, and memory takes an end at once.
                let in_memory = part == Part::Remember && setup.dedupe == Dedupe::Memory;
                if replica.over && part != Part::Park && !in_memory {
                    go(Fate::Interrupted);
                }
            }
            Step::Store { .. } => {
                go(Fate::Well);
                if !self.is_down(Place::Bucket) {
                    if may(Fault::Once) {
                        go(Fate::Fails);
                    }
                    if may(Fault::LostAnswer) {
                        go(Fate::Lost);
                    }
                }
            }
            Step::Acknowledge(_) => {
                moves.push(Move::Acknowledge(h, false));
                if may(Fault::LostAck) {
                    moves.push(Move::Acknowledge(h, true));
                }
            }
            Step::GiveBack(_) | Step::Abandon(_) => unreachable!("they are carried out at once"),
        }
        // The message comes again, and its handle is added to the delivery.
        if d.lapsed
            && let Some(c) = self.copies.iter().position(|c| c.id == d.id && c.leased.is_none())
        {
            moves.push(Move::Receive(h, c));
        }
    }
}

/// Where a part is written.
pub(super) fn place(part: Part) -> Place {
    match part {
        Part::Remember | Part::Park => Place::Bucket,
        Part::DeadLetter => Place::Dead,
        Part::Outcome => Place::Outcomes,
    }
}
