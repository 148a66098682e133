//! The local stack: emulators in this process, replicas as processes.

pub(super) mod demo;
mod report;
pub(super) mod serve;
mod stack;
