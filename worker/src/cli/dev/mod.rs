//! The local stack: emulators in this process, replicas as processes.

mod compare;
mod comparison;
mod control;
pub(super) mod demo;
mod jobs;
mod kept;
mod no_proxy;
mod play;
mod ports;
mod progress;
mod replicas;
mod report;
pub(super) mod serve;
mod signals;
mod stack;
pub(super) mod unguarded_worker;
