//! The refresh protocol as pure decisions: no I/O, no clock, no runtime.
//!
//! [`Flight`] is one attempt of one replica to have a usable token of one user.
//! It is told what happened ([`Event`]) and says what to do next ([`Action`]);
//! whoever drives it does the I/O. The store drives it with real ports; a model
//! check can drive it through every interleaving. What a replica remembers about
//! a user between flights is its [`Memory`]. A re-seal is a flight with another errand;
//! what needs no lease is driven in the same way: [`Granting`] is a login or an import,
//! [`Deletion`] the end of a user.
//!
//! ```text
//!             ReadToken ──fresh──▶ Use
//!                 │ due or unusable
//!                 ▼
//!   hint ──▶ PutLease ◀──void── ReadLease ──held──▶ wait: poll the token
//!                 │                 ▲ 412                 │ ttl observed: take over
//!                 │ held by me      └─────────────────────┘
//!                 ▼
//!             Refresh ──invalid_grant──▶ ReadToken ──still mine──▶ PutToken(revoked)
//!                 │ 200
//!                 ▼
//!             PutToken ──412──▶ ReadToken ──▶ done, merge, adopt or give up
//! ```

mod breaker;
mod conflict;
mod deletion;
mod flight;
mod freshness;
mod granting;
mod inquiry;
mod lease;
#[cfg(test)]
pub(crate) mod testing;

pub use breaker::{Admission, Breaker, Denial, Trouble};
pub use conflict::{Adoption, Commit, CommitStep, RejectionStep, adopt, on_invalid_grant};
pub use deletion::Deletion;
pub use flight::{
    Action, Draw, Event, Finish, Flight, Identity, Memory, Notes, PutFault, ReadFault, Refusal,
    Refusals, Source, Stored, Upkeep,
};
pub use freshness::{Freshness, Held, Rejected};
pub use granting::{Grant, Granted, Granting, Terms};
pub use inquiry::{Blame, Inquiry};
pub use lease::{Lease, Observation, SeenLease, Verdict, judge};
