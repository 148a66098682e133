//! What a process of the model is at: a decision procedure of the production code,
//! and the requests that it wants carried out.

use std::time::Duration;

use shared::ports::{Generation, Now};
use shared::protocol::{
    Action, Deletion, Draw, Event, Finish, Flight, Granted, Granting, Lease, Memory,
};
use shared::record::TokenRecord;
use shared::{Error, Secret};

/// The production code that decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Course {
    /// A refresh or a re-seal.
    Flight(Box<Flight>),
    /// A login.
    Granting(Box<Granting>),
    Deletion(Box<Deletion>),
}

/// A request to the bucket or the provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ask {
    ReadToken,
    ReadLease,
    PutLease(Lease, Generation),
    PutToken(Box<TokenRecord>, Generation),
    DeleteToken(Generation),
    DeleteLease(Generation),
    Refresh(Secret),
}

/// How a course ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    Flight(Finish),
    Granting(Result<Granted, Error>),
    Deletion(Result<bool, Error>),
}

/// What a course wants next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Next {
    Ask(Ask),
    Sleep(Duration),
    End(End),
}

impl Course {
    pub(super) fn step(
        &mut self,
        event: Event,
        now: Now,
        memory: &mut Memory,
        draw: &dyn Draw,
    ) -> Next {
        match self {
            Self::Flight(flight) => wanted(flight.step(event, now, memory, draw), End::Flight),
            Self::Granting(granting) => wanted(granting.step(event, now, draw), End::Granting),
            Self::Deletion(deletion) => wanted(deletion.step(event, now, draw), End::Deletion),
        }
    }

    /// The refresh or re-seal that it is.
    pub(super) fn flight(&mut self) -> Option<&mut Flight> {
        match self {
            Self::Flight(flight) => Some(flight),
            Self::Granting(_) | Self::Deletion(_) => None,
        }
    }

    pub(super) fn pending_commit(&self) -> Option<&TokenRecord> {
        match self {
            Self::Flight(flight) => flight.pending_commit(),
            Self::Granting(_) | Self::Deletion(_) => None,
        }
    }

    /// Whether it may take as long as it likes: logins and deletions hold nothing that
    /// others wait for.
    pub(super) fn may_linger(&self) -> bool {
        !matches!(self, Self::Flight(_))
    }
}

fn wanted<E>(action: Action<E>, end: impl FnOnce(E) -> End) -> Next {
    match action {
        Action::ReadToken => Next::Ask(Ask::ReadToken),
        Action::ReadLease => Next::Ask(Ask::ReadLease),
        Action::PutLease(lease, expected) => Next::Ask(Ask::PutLease(lease, expected)),
        Action::Judge(_) => unreachable!("the model's provider refuses nobody like that"),
        Action::Refresh(token, _) => Next::Ask(Ask::Refresh(token)),
        Action::PutToken(record, expected) => Next::Ask(Ask::PutToken(record, expected)),
        Action::DeleteToken(expected) => Next::Ask(Ask::DeleteToken(expected)),
        Action::DeleteLease(expected) => Next::Ask(Ask::DeleteLease(expected)),
        Action::Sleep(pause) => Next::Sleep(pause),
        Action::Finish(how) => Next::End(end(how)),
    }
}
