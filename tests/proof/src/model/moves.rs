//! What can happen next.

use super::course::Ask;
use super::replica::{Doing, Replica};
use super::setup::Setup;
use super::world::World;

/// What befalls a request when it reaches the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Carried out and answered.
    Answered,
    /// Carried out, and its reply is held up until the replica goes on.
    Slow,
    /// Not carried out, and nobody says so; the endpoint does (503).
    Refused,
    /// Carried out, and the reply is lost.
    ReplyLost,
    /// Carried out, and the client's own second try is a conflict.
    ConflictWithItself,
    /// Given up by its sender, and carried out at any later time.
    Late,
    /// A refresh that is carried out at any later time, and awaited meanwhile.
    Hangs,
    /// A refresh that is carried out, and whose answer comes at any later time.
    AnsweredLate,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// A caller needs a token.
    Call(usize),
    /// A request of a replica reaches the world.
    Serve(usize, Fate),
    /// A replica stands still, its request not sent; or it oversleeps.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// What keeps the lease of a replica reaches the world.
    Keep(usize, Fate),
    /// The late answer arrives.
    Answer(usize),
    /// It ends; another process starts in its place.
    Crash(usize),
    /// The provider ends the newest consent.
    EndGrant,
    /// An API rejects the token that a replica holds.
    Reject(usize),
    /// The write that was given up arrives.
    Arrive,
    /// A login with a new refresh token, with an access token or without one; what
    /// befalls its write.
    Login(bool, Fate),
    /// A login without a refresh token: nothing is stored.
    LoginWithoutRefreshToken,
    /// The user's deletion begins.
    Delete,
    /// A re-seal begins.
    Reseal,
    /// The clock moves.
    Tick,
}

impl World {
    pub(super) fn moves(&self, setup: &Setup, moves: &mut Vec<Move>) {
        if !self.watch.broken.is_empty() {
            return;
        }
        let resting = self.replicas.iter().all(|r| r.rests(self.now));
        let (replicas, people) = self.replicas.split_at(setup.replicas);
        for (i, replica) in replicas.iter().enumerate() {
            self.moves_of(setup, i, replica, moves);
            // All replicas begin alike: the first call of each comes after the
            // first call of the one before it.
            if replica.calls == 0 {
                break;
            }
        }
        for (k, person) in people.iter().enumerate() {
            self.moves_at_work(setup.replicas + k, person, moves);
        }
        if self.late.is_some() {
            moves.push(Move::Arrive);
        }
        if self.people > 0 && setup.ends {
            if !self.provider.has_ended() {
                moves.push(Move::EndGrant);
            }
        } else if self.people > 0 {
            for fate in self.fates_of_a_write() {
                moves.extend([Move::Login(true, fate), Move::Login(false, fate)]);
            }
            moves.push(Move::LoginWithoutRefreshToken);
            if self.bucket.token.is_some() {
                moves.extend([Move::Delete, Move::Reseal]);
            }
        }
        // Before the first call time means nothing.
        let begun = self.replicas[0].calls > 0;
        if begun && resting && self.now < setup.horizon {
            moves.push(Move::Tick);
        }
    }

    fn moves_of(&self, setup: &Setup, i: usize, replica: &Replica, moves: &mut Vec<Move>) {
        if replica.doing == Doing::Idle {
            if replica.calls < setup.calls {
                moves.push(Move::Call(i));
            }
            if self.people > 0 && replica.held.is_some() && !replica.calls.eq(&setup.calls) {
                moves.push(Move::Reject(i));
            }
            return;
        }
        self.moves_at_work(i, replica, moves);
    }

    /// What can happen to a process that is at something.
    fn moves_at_work(&self, i: usize, replica: &Replica, moves: &mut Vec<Move>) {
        let faulty = self.faults > 0;
        let Some(course) = &replica.course else {
            return;
        };
        // Nothing is waiting for a process that may linger: to stand still and to end
        // are ways of lingering.
        let awaited = !course.may_linger();
        if faulty && awaited {
            moves.push(Move::Crash(i));
        }
        if let Some(since) = replica.paused {
            if self.now > since {
                moves.push(Move::Resume(i));
            }
            return;
        }
        if let Some((ask, _)) = &replica.keeping {
            match ask {
                Ask::PutLease(..) => {
                    moves.extend(self.fates_of_a_write().map(|fate| Move::Keep(i, fate)));
                }
                _ => moves.push(Move::Keep(i, Fate::Answered)),
            }
        }
        match &replica.doing {
            Doing::Awaited(_, since) if self.now > *since => moves.push(Move::Answer(i)),
            Doing::Hanging(_, since) if self.now > *since => {
                moves.push(Move::Serve(i, Fate::Answered));
                if faulty {
                    moves.push(Move::Serve(i, Fate::ReplyLost));
                }
            }
            // Only somebody with a lease does harm by sleeping too long.
            Doing::Asleep(_)
                if faulty && replica.deeds.series.as_ref().is_some_and(|s| s.applied) =>
            {
                moves.push(Move::Pause(i));
            }
            _ => {}
        }
        let Doing::Asked(ask) = &replica.doing else {
            return;
        };
        if faulty && awaited {
            moves.extend([Move::Pause(i), Move::Serve(i, Fate::Slow)]);
        }
        match ask {
            Ask::Refresh(_) if faulty => moves.extend([
                Move::Serve(i, Fate::Answered),
                Move::Serve(i, Fate::Refused),
                Move::Serve(i, Fate::ReplyLost),
                Move::Serve(i, Fate::Hangs),
                Move::Serve(i, Fate::AnsweredLate),
            ]),
            Ask::Refresh(_) | Ask::ReadLease => moves.push(Move::Serve(i, Fate::Answered)),
            Ask::ReadToken if awaited => moves.push(Move::Serve(i, Fate::Answered)),
            // Together with the write that follows.
            Ask::ReadToken
            | Ask::PutLease(..)
            | Ask::PutToken(..)
            | Ask::DeleteToken(_)
            | Ask::DeleteLease(_) => {
                moves.extend(self.fates_of_a_write().map(|fate| Move::Serve(i, fate)));
            }
        }
    }

    fn fates_of_a_write(&self) -> impl Iterator<Item = Fate> + use<> {
        let faulty = self.faults > 0;
        let faults = [Fate::Refused, Fate::ReplyLost, Fate::ConflictWithItself];
        let late = (faulty && self.late.is_none()).then_some(Fate::Late);
        std::iter::once(Fate::Answered)
            .chain(faults.into_iter().filter(move |_| faulty))
            .chain(late)
    }
}
