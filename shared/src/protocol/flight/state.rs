//! Where a flight is: its states, and the lease that it holds or asks for.

use std::sync::Arc;

use crate::error::Error;
use crate::ports::{Generation, Monotonic, Now};
use crate::record::{TokenRecord, WriteId};

use super::super::lease::Lease;
use super::messages::{Refusal, Stored};
use super::renewing::Renewal;

/// A lease that I hold, and what happened under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hold {
    pub(super) lease: Lease,
    pub(super) generation: Generation,
    /// When the PUT that took it was first sent: attempts after the first fit into the
    /// ttl from here.
    pub(super) taken: Monotonic,
    /// When the last PUT that is known to be applied was first sent: others may take
    /// over a ttl from here.
    pub(super) renewed: Monotonic,
    pub(super) renewal: Renewal,
    pub(super) takeover: bool,
    /// When the last request was sent.
    pub(super) sent: Option<Now>,
    /// An answer was lost.
    pub(super) ambiguous: bool,
    /// A rejection was met after a lost answer, and the request sent once more.
    pub(super) doubted: bool,
    /// When the provider first rejected the refresh token.
    pub(super) rejected: Option<Monotonic>,
    pub(super) revoking: Option<WriteId>,
}

/// A lease that I am asking for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Taking {
    pub(super) lease: Lease,
    pub(super) expected: Generation,
    pub(super) first_sent: Monotonic,
    pub(super) takeover: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Step 1.
    ReadingToken,
    /// Step 2. With `doubt`, a PUT of mine may have been applied.
    ReadingLease {
        base: Box<Stored>,
        doubt: Option<Box<Taking>>,
    },
    /// The lease guards a later generation than `base`.
    RereadingToken {
        base: Box<Stored>,
        lease: Generation,
    },
    PuttingLease {
        base: Box<Stored>,
        taking: Box<Taking>,
    },
    /// A lease was taken that says nothing about when `base` was read.
    Confirming {
        base: Box<Stored>,
    },
    /// Another replica holds the lease.
    Polling {
        base: Box<Stored>,
    },
    /// Step 3. `why` the last attempt failed.
    Refreshing {
        base: Box<Stored>,
        why: Option<Error>,
    },
    /// Whom is a refusal about?
    Judging {
        base: Box<Stored>,
        refusal: Refusal,
    },
    /// Step 4.
    Committing {
        base: Box<Stored>,
        mine: Box<TokenRecord>,
        expected: Generation,
    },
    ReadingConflict {
        base: Box<Stored>,
        mine: Box<TokenRecord>,
    },
    /// Step 5.
    ReadingRejection {
        base: Box<Stored>,
        reason: Arc<str>,
    },
    Revoking {
        base: Box<Stored>,
        reason: Arc<str>,
        on: Generation,
        dead: Box<TokenRecord>,
    },
    /// The refresh token stays: the same values sealed anew, or `blocked`.
    Rewriting {
        base: Box<Stored>,
        again: Box<TokenRecord>,
    },
    ReadingRewritten {
        base: Box<Stored>,
        again: Box<TokenRecord>,
    },
    /// Time passes, then the inner state begins.
    Pausing(Box<State>),
    Over,
}

/// What the lease is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Errand {
    Refresh,
    Reseal,
    /// A revoked record's token is to be presented once more.
    Present,
}
