//! What the tests of this workspace share.

pub mod memory;
pub mod model;
pub mod report;
pub mod simulation;
pub mod stage;
