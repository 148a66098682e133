//! What a flight is told, what it asks for, and what it remembers.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::error::Error;
use crate::ports::{Answer, EndpointError, Generation, Limits, Monotonic, Now, Randomness};
use crate::record::{BadRecord, GrantId, TokenRecord};
use crate::secret::Secret;
use crate::user_id::UserId;

use super::super::freshness::{Held, Rejected};
use super::super::inquiry::Blame;
use super::super::lease::{Lease, Observation, SeenLease};

/// A record and the version at which it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// The record.
    pub record: TokenRecord,
    /// Its version.
    pub generation: Generation,
}

/// What the driver is to do next for a flight, a login or a deletion, which ends with `E`.
/// Each action is answered by one [`Event`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action<E = Finish> {
    /// Read the token object.
    ReadToken,
    /// Read the lease object.
    ReadLease,
    /// Write the lease object if it is at this generation.
    PutLease(Lease, Generation),
    /// Send this refresh token to the endpoint, within these limits. From
    /// here to the end of the flight nothing may cancel it.
    Refresh(Secret, Limits),
    /// Find out whether a refusal is about this user or about the client.
    Judge(Refusal),
    /// Write the token object if it is at this generation, and wait for at most
    /// [`Policy::commit_limit`](crate::Policy::commit_limit).
    PutToken(Box<TokenRecord>, Generation),
    /// Delete the token object if it is at this generation.
    DeleteToken(Generation),
    /// Delete the lease object if it is at this generation.
    DeleteLease(Generation),
    /// Let time pass.
    Sleep(Duration),
    /// It is over.
    Finish(E),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It begins.
    Start,
    /// The token object, or that there is none.
    TokenRead(Result<Option<Box<Stored>>, ReadFault>),
    /// The lease object, or that there is none.
    LeaseRead(Result<Option<SeenLease>, ReadFault>),
    /// The lease is written.
    LeasePut(Result<Generation, PutFault>),
    /// The endpoint's answer.
    Refreshed(Result<Answer, EndpointError>),
    /// Whom the refusal is about.
    Judged(Blame),
    /// The token is written.
    TokenPut(Result<Generation, PutFault>),
    /// The object is gone.
    Deleted(Result<(), PutFault>),
    /// The time has passed.
    Slept,
}

/// A refusal of the endpoint that says nothing about a dead grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The provider's code.
    pub code: Arc<str>,
    /// Who said what.
    pub why: Arc<str>,
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadFault {
    /// Worth trying again.
    Unavailable(Arc<str>),
    /// Not before an operator acts.
    Refused(Arc<str>),
    /// The object at this version is no record.
    Corrupt(BadRecord, Generation),
}

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PutFault {
    /// The object is at another generation; perhaps by this very write.
    Conflict,
    /// The write may have been applied, or may still be.
    Unknown(Arc<str>),
    /// Not applied, and not before an operator acts.
    Refused(Arc<str>),
    /// Not sent: the record is larger than anybody would read.
    TooLarge(Arc<str>),
    /// Not sent, for this reason: this replica takes no leases at the moment.
    Paused(Error),
}

/// How the flight ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// With a token to use.
    Use(Box<Held>, Source),
    /// The token that is held is due but still usable, and another replica is
    /// renewing it. Only background flights end like this.
    HeldElsewhere,
    /// The record is sealed anew, as it is stored now. Only re-seals end like this.
    Resealed(Box<Stored>),
    /// Without one.
    Failed(Error),
}

/// Where a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Another replica, or a login, stored it.
    Adopted,
    /// This flight obtained it from the provider.
    Obtained,
}

/// The configured OAuth client, as far as records must agree with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The client's ID.
    pub client_id: Arc<str>,
    /// Its token endpoint.
    pub token_uri: Arc<str>,
    /// This process.
    pub holder: Arc<str>,
}

impl Identity {
    /// Whether a record of `user` belongs to this client; its secret is sent nowhere else.
    pub(crate) fn check(&self, user: &UserId, record: &TokenRecord) -> Result<(), Error> {
        let checks = [
            ("client_id", &record.client_id, &self.client_id),
            ("token_uri", &record.token_uri, &self.token_uri),
        ];
        match checks.into_iter().find(|(_, stored, configured)| **stored != ***configured) {
            None => Ok(()),
            Some((field, stored, configured)) => Err(Error::WrongClient {
                object: user.token_object(),
                field,
                stored: stored.clone(),
                configured: configured.to_string(),
            }),
        }
    }
}

/// What one replica remembers about one user between flights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Grants that an API rejected.
    pub rejected: Rejected,
    /// The lease generation under observation.
    pub observation: Option<Box<Observation>>,
    /// The remembered lease generation that was tried last; it is tried once,
    /// whichever record remembers it.
    pub hint_used: Option<Generation>,
    /// The last grant that this replica obtained from the provider itself, and when its
    /// request was sent.
    pub obtained: Option<(GrantId, Monotonic)>,
    /// What the endpoint refused; boxed, since few users have any.
    pub refusals: Option<Box<Refusals>>,
}

/// What one replica remembers of the endpoint's refusals of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Refusals {
    /// The endpoint asked to wait until then before this user is refreshed again.
    not_before: Option<Monotonic>,
    /// The `next_try` of a blocked record that was read, and how long its user is left
    /// alone here.
    blocked: Option<(Timestamp, Monotonic)>,
    /// The grant for which the endpoint's answers make no sense, and the time of the first.
    puzzled: Option<(GrantId, Monotonic)>,
}

impl Memory {
    /// How long this user is not to be refreshed yet.
    pub(super) fn told_to_wait(&self, now: Monotonic) -> Option<Duration> {
        let left = self.refusals.as_ref()?.not_before?.since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether a blocked user is left alone still. The first look counts, on the monotonic
    /// clock, so that a wrong wall clock cannot block anybody for longer.
    pub(super) fn is_blocked(&mut self, record: &TokenRecord, now: Now) -> bool {
        let Some(blocked) = &record.blocked else {
            return false;
        };
        let refusals = self.refusals.get_or_insert_default();
        let known = refusals.blocked.filter(|(next_try, _)| *next_try == blocked.next_try);
        let (_, until) = known.unwrap_or_else(|| {
            let left = blocked.remaining(record.updated_at, now.wall);
            (blocked.next_try, now.monotonic.plus(left))
        });
        refusals.blocked = Some((blocked.next_try, until));
        now.monotonic < until && now.wall < blocked.next_try
    }

    /// Whether the endpoint's answers for this grant have made no sense for so long that
    /// something must be done about its user. Another grant begins anew: somebody was answered
    /// meanwhile.
    pub(super) fn is_puzzled_for_long(&mut self, grant: &GrantId, now: Monotonic) -> bool {
        const LONG: Duration = Duration::from_hours(1);
        let puzzled = &mut self.refusals.get_or_insert_default().puzzled;
        match puzzled {
            Some((of, first)) if of == grant => now.since(*first) >= LONG,
            _ => {
                *puzzled = Some((grant.clone(), now));
                false
            }
        }
    }

    /// The endpoint asked to leave this user alone until then.
    pub(super) fn wait_until(&mut self, at: Monotonic) {
        self.refusals.get_or_insert_default().not_before = Some(at);
    }

    pub(super) fn obtained_at(&self, grant: &GrantId) -> Option<Monotonic> {
        self.obtained.as_ref().filter(|(id, _)| id == grant).map(|(_, at)| *at)
    }
}

/// Where identifiers and jitter come from.
pub trait Draw {
    /// A number in `0.0..1.0`.
    fn unit(&self) -> f64;
    /// A fresh identifier.
    fn id(&self) -> String;
}

impl Draw for Randomness {
    fn unit(&self) -> f64 {
        Self::unit(self)
    }

    fn id(&self) -> String {
        Self::id(self)
    }
}

/// What is worth counting about a flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notes {
    /// Requests to the token endpoint.
    pub attempts: u32,
    /// Requests whose answer was lost.
    pub ambiguous: u32,
    /// Leases acquired.
    pub leases: u32,
    /// Leases that were taken over, which `leases` counts too.
    pub takeovers: u32,
    /// Renewals of them.
    pub renewals: u32,
    /// Nobody has the successor of a refresh token that was spent: it was found dead after a
    /// takeover or a lost answer, or the answer is too large to store.
    pub lost_grant: bool,
    /// An answer could not be stored since the user was deleted or the record
    /// had become unreadable.
    pub orphan: bool,
    /// A commit met another write, whatever came of it.
    pub conflict: bool,
}
