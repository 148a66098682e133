//! In-process stand-ins for the Google services that a fleet talks to.
//!
//! A test starts one in three lines (the example `serve` starts three for programs in any
//! language):
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use emulators::storage::{Config, Storage};
//!
//! let storage = Storage::start(Config { one_mutation_per_second: false, ..Config::default() }).await?;
//! println!("export STORAGE_EMULATOR_HOST={}", storage.http_origin());
//! # Ok(()) }
//! ```
//!
//! Other workspaces depend on this crate by path or git. What Google's own clients get
//! from it is in `CONFORMANCE.md` beside this crate's manifest.
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
pub mod data;
mod date;
pub mod faults;
pub mod google;
pub mod installed;
pub mod kms;
mod made_up;
pub mod proxy;
pub mod pubsub;
pub mod storage;
