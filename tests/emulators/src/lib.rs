//! In-process stand-ins for the Google services that a fleet talks to.
//!
//! Each emulator listens on loopback and speaks the real wire protocol, so the
//! official clients and plain HTTP clients use it unchanged.

pub mod access;
mod date;
pub mod google;
pub mod pubsub;
pub mod storage;
