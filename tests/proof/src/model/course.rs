//! What a process of the model is at: a decision procedure of the production code,
//! and the requests that it wants carried out.

use std::time::Duration;

use shared::ports::{Generation, Now};
use shared::protocol::{
    Action, Deletion, DeletionAction, DeletionEvent, Draw, Event, Finish, Flight, Granted,
    Granting, GrantingAction, Lease, Memory,
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
            Self::Flight(flight) => match flight.step(event, now, memory, draw) {
                Action::ReadToken => Next::Ask(Ask::ReadToken),
                Action::ReadLease => Next::Ask(Ask::ReadLease),
                Action::PutLease(lease, expected) => Next::Ask(Ask::PutLease(lease, expected)),
                Action::Judge(_) => unreachable!("the model's provider refuses nobody like that"),
                Action::Refresh(token, _) => Next::Ask(Ask::Refresh(token)),
                Action::PutToken(record, expected) => Next::Ask(Ask::PutToken(record, expected)),
                Action::Sleep(pause) => Next::Sleep(pause),
                Action::Finish(finish) => Next::End(End::Flight(finish)),
            },
            Self::Granting(granting) => match granting.step(event, now, draw) {
                GrantingAction::ReadToken => Next::Ask(Ask::ReadToken),
                GrantingAction::PutToken(record, expected) => {
                    Next::Ask(Ask::PutToken(record, expected))
                }
                GrantingAction::Sleep(pause) => Next::Sleep(pause),
                GrantingAction::Finish(result) => Next::End(End::Granting(result)),
            },
            Self::Deletion(deletion) => {
                match deletion.step(of_deletion(event), now.monotonic, draw) {
                    DeletionAction::ReadLease => Next::Ask(Ask::ReadLease),
                    DeletionAction::ReadToken => Next::Ask(Ask::ReadToken),
                    DeletionAction::DeleteToken(expected) => Next::Ask(Ask::DeleteToken(expected)),
                    DeletionAction::DeleteLease(expected) => Next::Ask(Ask::DeleteLease(expected)),
                    DeletionAction::Sleep(pause) => Next::Sleep(pause),
                    DeletionAction::Finish(result) => Next::End(End::Deletion(result)),
                }
            }
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

/// A deletion sees versions, not contents.
fn of_deletion(event: Event) -> DeletionEvent {
    let why = |fault| format!("{fault:?}").into();
    match event {
        Event::Start => DeletionEvent::Start,
        Event::Slept => DeletionEvent::Slept,
        Event::LeaseRead(read) => {
            DeletionEvent::Seen(read.map(|seen| seen.map(|s| s.generation)).map_err(why))
        }
        Event::TokenRead(read) => {
            DeletionEvent::Seen(read.map(|seen| seen.map(|s| s.generation)).map_err(why))
        }
        Event::TokenPut(gone) | Event::LeasePut(gone) => DeletionEvent::Deleted(gone.map(drop)),
        Event::Refreshed(_) | Event::Judged(_) => unreachable!("a deletion refreshes nothing"),
    }
}
