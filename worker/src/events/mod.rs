//! Applications are told when a user's consent is needed, was given or has ended.
//!
//! `events/<user>.json` holds the state that was told last, and decides: a change is a
//! compare-and-set from another state ([`state`]), so of many replicas that see it exactly one
//! publishes. The object says `told: false` until the event is published. Whoever wrote it
//! publishes it within minutes or gives its claim back; what stands untold after that is
//! published by a sweep, after a crash perhaps a second time, then with the same
//! ID. Where a state changes again before it was published, only the later one is told.
//!
//! The topic never holds a job up: nothing that a job needs waits for it.

mod message;
mod object;
pub mod state;
mod sweep;
mod teller;
mod telling;

pub use object::{BadEvent, PREFIX, object_of};
pub use sweep::Swept;
pub use telling::{Decided, EventError, Events, Tell, Told};

pub(crate) use object::remove;
pub(crate) use teller::Teller;
