//! In-process stand-ins for the Google services that a fleet talks to.
//!
//! Each emulator listens on loopback and speaks the real wire protocol, so the
//! official clients and plain HTTP clients use it unchanged.
//!
//! They can be told to misbehave: [`faults`] tells how answers of [`storage`] and
//! [`google`] are delayed, lost, refused or withheld, and how a test waits for that.

pub mod access;
mod connection;
mod date;
pub mod faults;
pub mod google;
pub mod pubsub;
pub mod storage;
