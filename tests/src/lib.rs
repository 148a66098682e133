//! What the tests of this workspace share.

pub mod contention;
pub mod gateway;
pub mod report;
pub mod stage;

pub use proof::{memory, model, settling, simulation};
