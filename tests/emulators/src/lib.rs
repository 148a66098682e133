//! In-process stand-ins for the Google services that a fleet talks to.
//!
//! A test starts one in three lines:
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
//! The example `in_a_test` is a small program with its test, which injects a fault and
//! looks at counts; the example `serve` starts three emulators for programs in any language.
//! How other workspaces depend on this crate is in `README.md` beside its manifest, and what
//! Google's own clients get from it in `CONFORMANCE.md`.
//!
//! Each emulator listens on loopback and speaks the real wire protocol, so the
//! official clients and plain HTTP clients use it unchanged. Dropping it stops it.
//!
//! They can be told to misbehave: [`faults`] tells how answers of [`storage`], [`google`]
//! and [`pubsub`] are delayed, lost, refused or withheld, and how a test waits for that;
//! [`switches`] takes the same by HTTP.
//! [`proxy`] spoils the connections to any server, these or others. They count what they
//! answered ([`pubsub::Stats`], [`storage::Stats`], [`google::Stats`]), and `wait_for` ends when
//! the counts are as a test wants them. [`account`] judges from what they saw whether a
//! fleet's refreshes had to be. [`data`] keeps what they are told in a folder.

pub mod access;
pub mod account;
mod connection;
pub mod data;
mod date;
pub mod faults;
mod front_end;
pub mod google;
pub mod installed;
pub mod kms;
mod lenient_base64;
mod made_up;
pub mod proxy;
pub mod pubsub;
pub mod storage;
pub mod switches;
