//! Requests that reach the bucket and the provider.

use std::sync::Arc;

use shared::Secret;
use shared::ports::{EndpointError, Generation, Resend};
use shared::protocol::{Event, PutFault};
use shared::record::TokenRecord;

use super::course::Ask;
use super::moves::Fate;
use super::replica::{Doing, Sent};
use super::setup::{Mutant, Setup};
use super::world::{Late, World};

impl World {
    pub(super) fn serve(&mut self, setup: &Setup, i: usize, fate: Fate) {
        let ask = match self.replicas[i].doing.clone() {
            Doing::Asked(ask) => ask,
            Doing::Hanging(token, _) => Ask::Refresh(token),
            _ => return,
        };
        if ask == Ask::ReadToken && self.replicas[i].may_linger() {
            let read = Event::TokenRead(Ok(self.read_token(setup, i)));
            self.step(setup, i, read);
            if matches!(
                self.replicas[i].doing,
                Doing::Asked(Ask::PutToken(..) | Ask::DeleteToken(_))
            ) {
                self.serve(setup, i, fate);
            }
            return;
        }
        if fate != Fate::Answered {
            self.spend_fault();
            if !matches!(ask, Ask::Refresh(_)) {
                self.stumbles(i);
            }
        }
        if matches!(fate, Fate::Hangs | Fate::AnsweredLate) {
            self.watch.hung += 1;
            self.replica(i).deeds.stalled = true;
        }
        if let (Fate::Hangs, Ask::Refresh(token)) = (fate, &ask) {
            let now = self.now;
            self.replica(i).doing = Doing::Hanging(token.clone(), now);
            return self.keep(setup, i);
        }
        let event = match &ask {
            Ask::ReadToken => Event::TokenRead(Ok(self.read_token(setup, i))),
            Ask::ReadLease => Event::LeaseRead(Ok(self.bucket.read_lease())),
            Ask::Refresh(token) => Event::Refreshed(self.refresh(setup, i, token, fate)),
            Ask::PutLease(..) => Event::LeasePut(self.put(setup, i, &ask, fate)),
            Ask::PutToken(..) => Event::TokenPut(self.put(setup, i, &ask, fate)),
            Ask::DeleteToken(_) | Ask::DeleteLease(_) => {
                Event::Deleted(self.put(setup, i, &ask, fate).map(drop))
            }
        };
        let now = self.now;
        match fate {
            Fate::Slow => {
                self.replica(i).doing = Doing::Answered(event);
                self.pause(i);
            }
            Fate::AnsweredLate => {
                self.replica(i).doing = Doing::Awaited(event, now);
                self.keep(setup, i);
            }
            _ => self.step(setup, i, event),
        }
    }

    /// A request that keeps a lease reaches the bucket.
    pub(super) fn serve_keeping(&mut self, setup: &Setup, i: usize, fate: Fate) {
        let Some((ask, _)) = self.replicas[i].keeping.clone() else {
            return;
        };
        if fate != Fate::Answered {
            self.spend_fault();
            self.stumbles(i);
        }
        let event = match &ask {
            Ask::PutLease(..) => Event::LeasePut(self.put(setup, i, &ask, fate)),
            _ => Event::LeaseRead(Ok(self.bucket.read_lease())),
        };
        self.kept(setup, i, event);
    }

    fn put(
        &mut self,
        setup: &Setup,
        i: usize,
        ask: &Ask,
        fate: Fate,
    ) -> Result<Generation, PutFault> {
        let unknown = || PutFault::Unknown("no answer".into());
        let sent_under =
            if i < setup.replicas { None } else { self.replicas[i].deeds.sent_under() };
        match fate {
            Fate::Refused => return Err(unknown()),
            Fate::Late => {
                self.late = Some(Late { by: i, ask: ask.clone(), sent_under });
                return Err(unknown());
            }
            _ => {}
        }
        let written = self.write(setup, i, ask, sent_under).ok_or(PutFault::Conflict);
        match fate {
            Fate::ReplyLost => Err(unknown()),
            Fate::ConflictWithItself => Err(PutFault::Conflict),
            _ => {
                if let (Ask::PutLease(_, expected), Err(_)) = (ask, &written)
                    && self.replicas[i].keeping.is_none()
                    && self.replicas[i].memory.hint_used == Some(*expected)
                {
                    let again = self.replicas[i].refused == Some(*expected);
                    self.replica(i).refused = Some(*expected);
                    if again {
                        // The hint is used once: each use in vain is a write.
                        self.watch.breaks(7);
                    }
                }
                written
            }
        }
    }

    /// A conditional write arrives.
    pub(super) fn write(
        &mut self,
        setup: &Setup,
        i: usize,
        ask: &Ask,
        sent_under: Option<Sent>,
    ) -> Option<Generation> {
        let now = self.now;
        let by_replica = i < setup.replicas;
        match ask {
            Ask::PutLease(_, _)
                if setup.is(Mutant::NoLease)
                    || (setup.is(Mutant::ResealWithoutLease) && !by_replica) =>
            {
                Some(Generation(99))
            }
            Ask::PutLease(lease, expected) => {
                let free = setup.is(Mutant::LeaseWithoutPrecondition);
                if !free && self.bucket.lease_generation() != *expected {
                    return None;
                }
                self.watch.lease_written(lease, now);
                let replica = self.replica(i);
                let sent = replica.keeping.as_ref().map(|(_, sent)| *sent);
                let series = replica.deeds.series.as_mut();
                if let Some(series) = series.filter(|s| s.attempt == lease.attempt) {
                    if let (true, Some(sent)) = (series.applied, sent) {
                        series.first_sent = series.first_sent.max(sent);
                        self.watch.renewed(&lease.attempt, sent);
                    } else {
                        series.applied = true;
                    }
                }
                Some(self.bucket.write_lease(lease.clone()))
            }
            Ask::PutToken(record, expected) => {
                let free = match (by_replica, sent_under) {
                    (true, _) if record.is_active() => setup.is(Mutant::CommitWithoutPrecondition),
                    (true, _) => setup.is(Mutant::RevokeWithoutReading),
                    (false, Some(_)) => setup.is(Mutant::ResealWithoutPrecondition),
                    (false, None) => setup.is(Mutant::LoginWithoutPrecondition),
                };
                if !free && self.bucket.token_generation() != *expected {
                    return None;
                }
                let before = self.bucket.token.as_ref().map(|(r, _)| Arc::clone(r));
                let before = before.as_deref();
                match (by_replica, sent_under) {
                    (true, _) => self.watch.written(record, before, &self.provider, now),
                    (false, Some(sent)) => {
                        let replaced = self.bucket.token_generation();
                        self.watch.resealed(record, before, replaced, sent, now);
                    }
                    (false, None) => self.watch.login(record, before),
                }
                Some(self.bucket.write_token((**record).clone()))
            }
            Ask::DeleteToken(expected) => {
                self.remove_token(setup, *expected).map(|()| Generation::ABSENT)
            }
            Ask::DeleteLease(expected) => {
                self.remove_lease(setup, *expected).map(|()| Generation::ABSENT)
            }
            Ask::ReadToken | Ask::ReadLease | Ask::Refresh(_) => None,
        }
    }

    /// A record that the refresh protocol did not ask for is stored in its name.
    pub(super) fn write_record(&mut self, record: &TokenRecord) -> Generation {
        let before = self.bucket.token.as_ref().map(|(r, _)| Arc::clone(r));
        self.watch.written(record, before.as_deref(), &self.provider, self.now);
        self.bucket.write_token(record.clone())
    }

    fn refresh(
        &mut self,
        setup: &Setup,
        i: usize,
        token: &Secret,
        fate: Fate,
    ) -> Result<shared::ports::Answer, EndpointError> {
        if fate == Fate::Refused {
            return Err(EndpointError::NotNow { code: None, why: "503".into(), retry_after: None });
        }
        let answer = self.provider.refresh(token, setup);
        let lost = fate == Fate::ReplyLost;
        if let Some(series) = self.replicas[i].deeds.series.clone() {
            let asked_at = self.replicas[i].deeds.refresh_asked_at;
            self.watch.spent(&series, asked_at, answer.as_ref().ok(), lost, self.now);
        }
        let why = "no answer".into();
        if lost {
            Err(EndpointError::Ambiguous { why, resend_after: Resend::Soon })
        } else {
            answer
        }
    }
}
