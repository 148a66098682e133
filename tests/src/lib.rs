//! What the tests of this workspace share.

pub mod memory;
pub mod stage;
