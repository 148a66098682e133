//! Sweeps and resumptions: each drives a production [`Clearing`] or [`Resumption`].

use std::sync::Arc;
use std::time::Duration;

use shared::ports::Monotonic;
use worker::claim::{Sighting, TAKEOVER};
use worker::outbox::clearing::{Clearing, Ended, Event, PAUSE, Step};
use worker::parking::resumption::{
    Ended as ResumptionEnded, Event as ResumptionEvent, Resumption, Step as ResumptionStep,
};

use super::moves::{Fate, Move, place};
use super::setup::{Fault, Mutant, Place, Setup};
use super::world::{Claim, Claimant, Resumer, Sweep, World, generation};

impl World {
    pub(super) fn sweep_moves(&self, setup: &Setup, moves: &mut Vec<Move>) {
        let may = |kind| self.faults > 0 && setup.may(kind);
        for (r, replica) in self.replicas.iter().enumerate() {
            if let Some(sweep) = &replica.sweep {
                if may(Fault::Once) && !matches!(sweep.step, Step::End(_)) {
                    moves.push(Move::Clear(r, Fate::Fails));
                }
                let saves = !matches!(sweep.step, Step::Read | Step::Write | Step::End(_));
                let keeps_trying = saves && !matches!(sweep.step, Step::Claim(_));
                if keeps_trying && self.is_down(Place::Bucket) && !replica.stopping {
                    continue;
                }
                if may(Fault::LostAnswer) && saves {
                    moves.push(Move::Clear(r, Fate::Lost));
                }
                moves.push(Move::Clear(r, Fate::Well));
                continue;
            }
            let untouched = !replica.begun && self.replicas[..r].iter().any(|other| !other.begun);
            if replica.stopping || untouched || self.is_down(Place::Bucket) {
                continue;
            }
            let mut waiting = self.endings.iter().filter(|ending| !ending.shelved).peekable();
            let stuck = self.hands[r * setup.hands..(r + 1) * setup.hands]
                .iter()
                .flatten()
                .any(|delivery| delivery.unwritten != 0);
            if waiting.peek().is_none() && !stuck && replica.closed != 0 {
                moves.push(Move::Probe(r));
            }
            for ending in waiting {
                let takes = ending.first().is_none_or(|part| !self.is_down(place(part)));
                let seen = replica.sighting.is_some_and(|(id, seen)| {
                    (id, seen.generation) == (ending.id, generation(ending.generation))
                });
                let held = matches!(ending.claimed, Claimant::Replica(_));
                if takes && !(held && seen) {
                    moves.push(Move::Sweep(r, ending.id));
                }
            }
        }
    }

    pub(super) fn sweep(&mut self, r: usize, id: u8) {
        let Some(object) = self.endings.iter().find(|ending| ending.id == id).copied() else {
            return;
        };
        // What a dead process claims is looked at again when it stood still for long.
        let dead = object.claimed == Claimant::Gone;
        let now = Monotonic(if dead { TAKEOVER } else { Duration::ZERO });
        let seen = self.replicas[r].sighting.filter(|(of, _)| *of == id).map(|(_, seen)| seen);
        let mut clearing = Clearing::new(seen);
        let step = clearing.step(&Event::Start, now);
        let replica = &mut self.replicas[r];
        replica.begun = true;
        replica.sweep = Some(Arc::new(Sweep { clearing, step, now, object }));
    }

    pub(super) fn clear(&mut self, setup: &Setup, r: usize, fate: Fate) {
        let Some(sweep) = self.replicas[r].sweep.clone() else { return };
        if fate != Fate::Well {
            self.fault();
        }
        let mut sweep = (*sweep).clone();
        let event = self.cleared(setup, r, &mut sweep, fate);
        sweep.step = sweep.clearing.step(&event, sweep.now);
        while let Step::Wait(pause) = sweep.step {
            let gives_up = setup.is(Mutant::OutboxGivesUp) && event == Event::NotSaved;
            let stopped = self.replicas[r].stopping && pause > PAUSE;
            // Something may be published that the object does not say.
            self.watch.stored_again |= stopped;
            let waited = if gives_up || stopped { Event::Stopped } else { Event::Waited };
            sweep.step = sweep.clearing.step(&waited, sweep.now);
        }
        let Step::End(ended) = sweep.step else {
            self.replicas[r].sweep = Some(Arc::new(sweep));
            return;
        };
        self.replicas[r].sweep = None;
        if let Ended::Held(Sighting { generation, .. }) = ended {
            let at = Monotonic(Duration::ZERO);
            self.replicas[r].sighting = Some((sweep.object.id, Sighting { generation, at }));
        }
        // What it did not release stands still from now on.
        self.abandon_claims(r);
    }

    /// Whatever this replica claims of the outbox, it does no more.
    pub(super) fn abandon_claims(&mut self, r: usize) {
        for ending in &mut self.endings {
            if ending.claimed == Claimant::Replica(r) {
                ending.claimed = Claimant::Gone;
            }
        }
    }

    fn cleared(&mut self, setup: &Setup, r: usize, sweep: &mut Sweep, fate: Fate) -> Event {
        let at = self.endings.iter().position(|ending| ending.id == sweep.object.id);
        let down = fate == Fate::Fails || self.is_down(Place::Bucket);
        let (mut next, expected) = (
            sweep.object,
            match sweep.step {
                Step::Claim(expected) | Step::Rewrite(expected) | Step::Delete(expected) => {
                    expected
                }
                Step::Release { expected, .. } => expected,
                Step::Read if down => return Event::NotSaved,
                Step::Read => {
                    let Some(at) = at else { return Event::NotFound };
                    let object = self.endings[at];
                    sweep.object = object;
                    return Event::Found {
                        generation: generation(object.generation),
                        claimed: object.claimed != Claimant::Nobody,
                        parts: object.rest.iter().chain(object.refused.iter()).count(),
                        may_be_written: !object.shelved,
                    };
                }
                Step::Write => {
                    let part = sweep.object.first();
                    if fate == Fate::Fails || part.is_some_and(|part| self.is_down(place(part))) {
                        return Event::Unwritten;
                    }
                    let Some(part) = sweep.object.rest.first() else { return Event::Refused };
                    self.write_stored(setup, r, &sweep.object);
                    sweep.object.rest = sweep.object.rest.without(part);
                    return Event::Written;
                }
                Step::Wait(_) | Step::End(_) => unreachable!("it is carried out at once"),
            },
        );
        if setup.is(Mutant::OutboxWithoutClaim) && matches!(sweep.step, Step::Claim(_)) {
            return Event::Saved(expected, sweep.now);
        }
        if down {
            return Event::NotSaved;
        }
        let found = at.filter(|at| generation(self.endings[*at].generation) == expected);
        let Some(found) = found else { return Event::Conflict };
        if let Step::Delete(_) = sweep.step {
            self.endings.remove(found);
            return self.answered(Event::Deleted, fate);
        }
        next.generation = self.next_generation();
        next.claimed = Claimant::Replica(r);
        if let Step::Release { refused, .. } = sweep.step {
            next.claimed = Claimant::Nobody;
            next.shelved |= refused;
        }
        self.endings[found] = next;
        sweep.object = next;
        self.answered(Event::Saved(generation(next.generation), sweep.now), fate)
    }

    /// The answer to a write of the object, unless it is lost.
    fn answered(&mut self, event: Event, fate: Fate) -> Event {
        if fate != Fate::Lost {
            return event;
        }
        self.watch.stored_again = true;
        Event::NotSaved
    }

    pub(super) fn resume_moves(&self, moves: &mut Vec<Move>) {
        if !self.active && !self.is_settled() {
            moves.push(Move::Consent);
        }
        let free = self.resumers.iter().position(Option::is_none);
        if self.due > 0
            && !self.is_down(Place::Bucket)
            && let Some(free) = free
        {
            moves.push(Move::Resume(free));
        }
        for (i, resumer) in self.resumers.iter().enumerate() {
            if resumer.is_some() {
                moves.push(Move::Republish(i, Fate::Well));
            }
        }
    }

    pub(super) fn resume(&mut self, i: usize) {
        self.due -= 1;
        let mut resumption = Resumption::default();
        let step = resumption.step(ResumptionEvent::Start);
        let (claim, released) = (None, false);
        self.resumers[i] = Some(Arc::new(Resumer { resumption, step, claim, released }));
    }

    /// A resumer is gone; `again`: sweeps of parked jobs have to go on for it.
    pub(super) fn end_resumer(&mut self, i: usize, again: bool) {
        let Some(resumer) = self.resumers[i].take() else { return };
        if let Some(claim) = &mut self.claim
            && Some(claim.generation) == resumer.claim
        {
            claim.live = false;
        }
        self.due += u8::from(again);
    }

    pub(super) fn republish(&mut self, setup: &Setup, i: usize, fate: Fate) {
        let Some(resumer) = self.resumers[i].clone() else { return };
        if fate != Fate::Well {
            self.fault();
        }
        let mut resumer = (*resumer).clone();
        let publishes = matches!(resumer.step, ResumptionStep::Publish(_));
        let event = if !publishes && (fate == Fate::Fails || self.is_down(Place::Bucket)) {
            match &resumer.step {
                ResumptionStep::Delete(jobs) if !setup.is(Mutant::ResumerNotesNothing) => {
                    ResumptionEvent::Undeleted(jobs.clone())
                }
                ResumptionStep::Delete(_) => ResumptionEvent::Deleted,
                step => {
                    // What was published and is neither deleted nor noted runs twice.
                    self.watch.excused |= matches!(step, ResumptionStep::Note(_));
                    ResumptionEvent::Failed
                }
            }
        } else {
            self.resumed(setup, &mut resumer)
        };
        resumer.step = resumer.resumption.step(event);
        let ended = resumer.step.clone();
        self.resumers[i] = Some(Arc::new(resumer));
        if let ResumptionStep::End(ended) = ended {
            self.end_resumer(i, ended == ResumptionEnded::Failed);
        }
    }

    fn resumed(&mut self, setup: &Setup, resumer: &mut Resumer) -> ResumptionEvent {
        match resumer.step.clone() {
            ResumptionStep::Look => {
                let mut jobs: Vec<_> =
                    self.parked.iter().map(|(id, at)| (id.to_string(), generation(*at))).collect();
                if setup.is(Mutant::NoSecondListing) && resumer.released {
                    jobs.clear();
                }
                let credential = self.active.then(|| "consent".to_owned());
                ResumptionEvent::Seen { credential, jobs }
            }
            ResumptionStep::FindDue(jobs) => {
                let any = jobs.iter().any(|job| self.is_parked(&job.0));
                ResumptionEvent::Due(any, Vec::new())
            }
            ResumptionStep::Claim => {
                if setup.is(Mutant::PublishBeforeClaiming) {
                    for _ in 0..self.parked.len() {
                        self.publish();
                    }
                }
                if self.claim.as_ref().is_some_and(|claim| claim.live) {
                    return ResumptionEvent::Held;
                }
                let generation = self.next_generation();
                let published = self.claim.take().map(|claim| claim.published).unwrap_or_default();
                self.claim = Some(Claim { generation, live: true, published: published.clone() });
                resumer.claim = Some(generation);
                ResumptionEvent::Claimed(published)
            }
            ResumptionStep::Renew if self.claimed_by() == resumer.claim => ResumptionEvent::Renewed,
            ResumptionStep::Renew => ResumptionEvent::Held,
            ResumptionStep::Note(_) if self.claimed_by() != resumer.claim => {
                ResumptionEvent::Failed
            }
            ResumptionStep::Note(published) => {
                let generation = self.next_generation();
                self.claim = Some(Claim { generation, live: true, published });
                resumer.claim = Some(generation);
                ResumptionEvent::Noted
            }
            ResumptionStep::Publish(jobs) => {
                let sent: Vec<_> = jobs.into_iter().filter(|job| self.is_parked(&job.0)).collect();
                if !setup.is(Mutant::PublishBeforeClaiming) {
                    for _ in &sent {
                        self.publish();
                    }
                }
                ResumptionEvent::Published { sent, kept: Vec::new(), failed: false }
            }
            ResumptionStep::Delete(jobs) => {
                self.parked.retain(|(id, at)| !jobs.contains(&(id.to_string(), generation(*at))));
                ResumptionEvent::Deleted
            }
            ResumptionStep::Release => {
                if self.claimed_by() == resumer.claim {
                    self.claim = None;
                }
                resumer.released = true;
                ResumptionEvent::Deleted
            }
            ResumptionStep::End(_) => unreachable!("it has ended"),
        }
    }

    /// The generation of the claim.
    fn claimed_by(&self) -> Option<i64> {
        self.claim.as_ref().map(|claim| claim.generation)
    }

    fn is_parked(&self, name: &str) -> bool {
        self.parked.iter().any(|(id, _)| id.to_string() == name)
    }
}
