//! A login or an import: the one kind of write that needs no lease, because it
//! brings a refresh token of its own.
//!
//! ```text
//! ReadToken ──▶ PutToken (if still that generation) ──▶ stored
//!     ▲             │ 412, or no answer
//!     └─────────────┘
//! ```

use std::time::Duration;

use jiff::Timestamp;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::{Generation, Monotonic, Now};
use crate::reason::{ConsentReason, Reason};
use crate::record::{GrantId, State as RecordState, TokenRecord, WriteId};
use crate::schedule::Schedule;
use crate::secret::Secret;
use crate::user_id::UserId;

use super::flight::{Action, Draw, Event, Identity, PutFault, ReadFault, Stored};

/// A user's grant as a login or an import brings it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The refresh token; a repeated login may come without one.
    pub refresh_token: Option<Secret>,
    /// The access token, if there is one.
    pub access_token: Option<Secret>,
    /// When the access token expires; an access token without this is not used.
    pub expires_at: Option<Timestamp>,
    /// The access token's lifetime when it was issued.
    pub expires_in: Option<Duration>,
    /// The granted scopes.
    pub scopes: Vec<String>,
    /// The account at the provider.
    pub sub: Option<String>,
    /// Why the provider had ended it, if an exported record says that it had: it is stored as
    /// revoked.
    pub ended: Option<Reason>,
}

/// What a grant may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Terms {
    /// The user consented just now: whatever is stored.
    Login,
    /// The grant was obtained elsewhere: an active record only when told to.
    Import {
        /// Whether it was told to.
        replace: bool,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Granted {
    /// The grant is stored.
    Stored {
        /// As it is stored now.
        stored: Box<Stored>,
        /// There was a record before.
        replaced: bool,
        /// Nobody has refreshed it since.
        as_granted: bool,
    },
    /// This very refresh token is stored already.
    Unchanged,
    /// No refresh token came, and none was needed: the account is known.
    SignedIn,
    /// No refresh token came and none is stored: repeat with `prompt=consent`.
    ConsentAgain,
}

/// What it asks for.
type Ask = Action<Result<Granted, Error>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Reading,
    Putting(Box<TokenRecord>),
    Pausing,
    Over,
}

/// One login or import, step by step: compare-and-set until it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Granting {
    user: UserId,
    identity: Identity,
    grant: Grant,
    terms: Terms,
    pauses: Schedule,
    /// A write without an answer is looked after, and sent again, until then.
    until: Monotonic,
    /// Named when it is first sent.
    grant_id: Option<GrantId>,
    replaced: bool,
    state: State,
}

impl Granting {
    /// Stores `grant` as `user`'s, on these terms.
    pub fn new(
        user: UserId,
        policy: &Policy,
        identity: Identity,
        grant: Grant,
        terms: Terms,
        now: Monotonic,
    ) -> Self {
        Self {
            until: now.plus(policy.wait_limit),
            user,
            identity,
            grant,
            terms,
            pauses: Schedule::new(policy.retry_min, policy.retry_max),
            grant_id: None,
            replaced: false,
            state: State::Reading,
        }
    }

    /// Takes one event and says what to do next.
    ///
    /// # Panics
    /// When the event does not answer the last action: a fault of the driver.
    pub fn step(&mut self, event: Event, now: Now, draw: &dyn Draw) -> Ask {
        match (std::mem::replace(&mut self.state, State::Over), event) {
            (State::Reading, Event::Start) | (State::Pausing, Event::Slept) => self.read(),
            (State::Reading, Event::TokenRead(read)) => match read {
                Ok(stored) => self.decide(stored, now, draw),
                Err(ReadFault::Corrupt(why, _)) => {
                    finish(Err(Error::Corrupt { object: self.user.token_object(), why }))
                }
                Err(ReadFault::Unavailable(why) | ReadFault::Refused(why)) => {
                    finish(Err(Error::Unavailable(why)))
                }
            },
            (State::Putting(record), Event::TokenPut(put)) => {
                self.on_put(record, put, now.monotonic, draw)
            }
            (state, event) => panic!("{event:?} does not answer {state:?}"),
        }
    }

    fn read(&mut self) -> Ask {
        self.state = State::Reading;
        Action::ReadToken
    }

    fn decide(&mut self, stored: Option<Box<Stored>>, now: Now, draw: &dyn Draw) -> Ask {
        if let (Some(stored), Some(mine)) = (&stored, &self.grant_id)
            && stored.record.grant_id.is_kin_of(mine)
        {
            // The reply to my own write was lost. Whoever refreshed since then has spent
            // the refresh token that I brought: to store it again would undo that.
            let as_granted = stored.record.grant_id == *mine;
            let (stored, replaced) = (stored.clone(), self.replaced);
            return finish(Ok(Granted::Stored { stored, replaced, as_granted }));
        }
        let before = stored.as_ref().map(|s| &s.record);
        let Some(refresh_token) = self.grant.refresh_token.clone() else {
            return finish(match self.terms {
                Terms::Login if before.is_some_and(|s| self.is_known(s)) => Ok(Granted::SignedIn),
                Terms::Login => Ok(Granted::ConsentAgain),
                Terms::Import { .. } => Err(Error::NeedsConsent(ConsentReason::Unknown)),
            });
        };
        if let (Terms::Import { replace }, Some(before)) = (self.terms, before) {
            // Also of a record that was revoked with this very token: only the provider can
            // say that it lives after all.
            if before.refresh_token == refresh_token {
                return finish(Ok(Granted::Unchanged));
            }
            if before.is_active() && !replace {
                return finish(Err(Error::Exists { object: self.user.token_object() }));
            }
        }
        self.replaced = before.is_some();
        let record = self.record(refresh_token, before, now, draw);
        let expected = stored.map_or(Generation::ABSENT, |s| s.generation);
        self.grant_id = Some(record.grant_id.clone());
        self.state = State::Putting(Box::new(record.clone()));
        Action::PutToken(Box::new(record), expected)
    }

    fn on_put(
        &mut self,
        record: Box<TokenRecord>,
        put: Result<Generation, PutFault>,
        now: Monotonic,
        draw: &dyn Draw,
    ) -> Ask {
        match put {
            Ok(generation) => {
                let stored = Box::new(Stored { record: *record, generation });
                let replaced = self.replaced;
                finish(Ok(Granted::Stored { stored, replaced, as_granted: true }))
            }
            Err(PutFault::Conflict) => self.read(),
            Err(PutFault::Unknown(_)) if now < self.until => {
                self.state = State::Pausing;
                Action::Sleep(self.pauses.next(draw.unit()))
            }
            Err(PutFault::Unknown(why) | PutFault::Refused(why) | PutFault::TooLarge(why)) => {
                finish(Err(Error::Unavailable(why)))
            }
            Err(PutFault::Paused(_)) => unreachable!("only leases are paused"),
        }
    }

    /// Whether the account that signed in is the one that is stored, so that no new
    /// refresh token is needed. A blocked one needs it: whoever consents is tried again at
    /// once, and not when the record's next try is due.
    fn is_known(&self, stored: &TokenRecord) -> bool {
        stored.is_active()
            && stored.blocked.is_none()
            && stored.sub.is_some()
            && stored.sub == self.grant.sub
            && *stored.client_id == *self.identity.client_id
    }

    fn record(
        &self,
        refresh_token: Secret,
        before: Option<&TokenRecord>,
        now: Now,
        draw: &dyn Draw,
    ) -> TokenRecord {
        let grant = &self.grant;
        let mut scopes = grant.scopes.clone();
        scopes.sort();
        scopes.dedup();
        // Another refresh token may be another account's.
        let same = before.filter(|stored| stored.refresh_token == refresh_token);
        TokenRecord {
            user: self.user.clone(),
            sub: grant.sub.clone().or_else(|| same.and_then(|stored| stored.sub.clone())),
            state: if grant.ended.is_some() { RecordState::Revoked } else { RecordState::Active },
            reason: grant.ended.map(|reason| reason.to_string()),
            refresh_token,
            access_token: grant.access_token.clone().filter(|_| grant.expires_at.is_some()),
            expires_at: grant.expires_at,
            expires_in: grant.expires_in,
            scopes,
            token_uri: self.identity.token_uri.to_string(),
            client_id: self.identity.client_id.to_string(),
            blocked: None,
            later: None,
            // One answer of the provider, however often it is sent.
            grant_id: self.grant_id.clone().unwrap_or_else(|| GrantId(draw.id())),
            write_id: WriteId(draw.id()),
            holder: self.identity.holder.to_string(),
            // Still the lease's generation, unless a refresh is under way; then
            // the hint fails once and the lease is read.
            lease_generation: before.and_then(|s| s.lease_generation),
            created_at: before.map_or(now.wall, |s| s.created_at),
            updated_at: now.wall,
        }
    }
}

fn finish(result: Result<Granted, Error>) -> Ask {
    Action::Finish(result)
}
