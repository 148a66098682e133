//! What one check explores: the provider, the budgets, and the safeguard that is
//! missing, if any.

use std::sync::Arc;
use std::time::Duration;

use shared::Policy;

/// One clock step: the model's unit of time.
pub const TICK: Duration = Duration::from_secs(10);

/// A safeguard that is taken away, outside the production code: by answering
/// the flight with something else than what the world says, or by carrying out
/// something else than what the flight asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The lease is never written, and always held.
    NoLease,
    /// Lease writes ignore the generation.
    LeaseWithoutPrecondition,
    /// Record writes of a commit ignore the generation.
    CommitWithoutPrecondition,
    /// After a 412, a stored record with the refresh token that I spent counts
    /// as the one I replaced, whatever its grant.
    SameRefreshTokenIsMine,
    /// After `invalid_grant` the record that was read before is declared revoked.
    RevokeWithoutReading,
    /// A re-seal takes no lease.
    ResealWithoutLease,
    /// A re-seal writes over whatever is stored.
    ResealWithoutPrecondition,
    /// A replica does not look at its clock before it sends a refresh.
    RefreshAfterItsTtl,
    /// No lease is renewed.
    NoRenewal,
    /// A replica whose answer is late takes its own lease over and asks again.
    OwnTakeoverWhileUnanswered,
    /// A renewal that was lost to another replica counts as done.
    SentAlthoughTheRenewalWasLost,
    /// After a 412 a record with my grant counts as my write, though it is revoked.
    DoneAlthoughRevoked,
    /// A re-seal does not look at its clock before it writes.
    ResealAfterItsTtl,
    /// A login writes over whatever is stored.
    LoginWithoutPrecondition,
    /// A login takes what it stored, or what came of it, for somebody else's.
    LoginForgetsItsWrites,
    /// A login without a refresh token is stored like any other.
    LoginWithoutRefreshTokenStored,
    /// A deletion deletes whichever lease it finds at the end.
    LeaseDeletedWithoutPrecondition,
    /// A deletion deletes the lease before the token.
    LeaseDeletedBeforeTheToken,
    /// Whoever is done deletes the lease object.
    LeaseDeletedOnRelease,
    /// A lease is over when the observer's wall clock says so.
    TakeoverByWallClock,
    /// After a takeover the token is not read again.
    NoSecondRead,
    /// The remembered lease generation is tried by every call.
    HintUsedTwice,
    /// A waiter whose patience is over refreshes as if it held the lease.
    TimeoutFallsThrough,
    /// An observer waits for its own ttl, shorter than the lease's.
    OwnTtlInsteadOfTheLeases,
    /// A lease write without a reply counts as done.
    LostReplyIsSuccess,
    /// The guarded generation is not looked at: every standing lease is void.
    GuardIgnored,
    /// An observation ends with its call.
    ObservationForgotten,
    /// An answer that meets another write is thrown away.
    ConflictThrowsTheAnswerAway,
    /// A commit that fails is not tried again.
    CommitNotRetried,
    /// A commit that finds no record creates one.
    CommitCreates,
    /// Rejections by an API are not remembered.
    RejectionForgotten,
}

/// One check.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each switch stands for itself")]
pub struct Setup {
    /// How the check is called where it is reported.
    pub name: &'static str,
    /// Replicas.
    pub replicas: usize,
    /// Whether each refresh spends its refresh token.
    pub rotating: bool,
    /// Whether a spent refresh token that comes back kills its family.
    pub family_revocation: bool,
    /// Crashes, pauses, lost, late and refused requests and answers, all together.
    pub faults: u8,
    /// Logins, re-seals, deletions, rejections and grants that the provider ends, all
    /// together.
    pub people: u8,
    /// The interventions are grants that the provider ends and tokens that an API rejects,
    /// instead of what people do.
    pub ends: bool,
    /// Calls that begin on their own, per replica; a call that fails for now is
    /// repeated without limit.
    pub calls: u8,
    /// Clock steps.
    pub horizon: u64,
    /// How long a caller waits, in clock steps.
    pub patience: u32,
    /// The token has a lease and a remembered generation of it.
    pub hinted: bool,
    /// What is missing.
    pub mutant: Option<Mutant>,
}

impl Setup {
    /// Three replicas with a rotating provider that revokes the family.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            replicas: 3,
            rotating: true,
            family_revocation: true,
            faults: 1,
            people: 0,
            ends: false,
            calls: 1,
            horizon: 6,
            patience: 6,
            hinted: true,
            mutant: None,
        }
    }

    /// Lease ttl three steps: connecting and a commit take one of them, and a lease is
    /// renewed at the second.
    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::new(Policy {
            lease_ttl: 3 * TICK,
            refresh_ahead: TICK,
            min_ttl: TICK,
            wait_limit: self.patience * TICK,
            poll_min: TICK,
            poll_max: TICK,
            look_min: TICK,
            retry_min: TICK,
            retry_max: TICK,
            breaker_threshold: 1,
        })
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}
