//! What the tests of this workspace share.

pub mod memory;
pub mod simulation;
pub mod stage;
