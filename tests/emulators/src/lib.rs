//! In-process stand-ins for the Google services that a fleet talks to.
//!
//! Each emulator listens on loopback and speaks the real wire protocol, so the
//! official clients and plain HTTP clients use it unchanged.
//!
//! They can be told to misbehave: [`faults`] tells how answers of [`storage`], [`google`]
//! and [`pubsub`] are delayed, lost, refused or withheld, and how a test waits for that.
//! [`proxy`] spoils the connections to any server, these or others. [`account`] judges from
//! what they saw whether a fleet's refreshes had to be.

pub mod access;
pub mod account;
mod connection;
mod date;
pub mod faults;
pub mod google;
pub mod installed;
pub mod kms;
mod made_up;
pub mod proxy;
pub mod pubsub;
pub mod storage;
