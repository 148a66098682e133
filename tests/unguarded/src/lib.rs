//! The way users' credentials are often shared by a fleet, without any guard: what
//! Fleet is measured against.
//!
//! A credential is a JSON object in a bucket. A worker that has a job of that user loads
//! it, refreshes it when it has expired, saves it, and calls the API. There is no lock
//! and no precondition, so:
//!
//! - workers that have jobs of one user at its expiry all refresh. With a provider that
//!   rotates refresh tokens, all but the first present a spent one; one that takes this
//!   for a theft ends the grant, and the user is locked out;
//! - whoever saves last wins, also with an older grant, and a save that the bucket
//!   refuses (one write per second and object) loses the successor for good;
//! - every job reads the object, since what is in memory may be outdated.
//!
//! Everything else is as it should be: the official clients, made once and shared,
//! bounded concurrency, connections kept, a failed job given back and, after
//! [`MAX_DELIVERY_ATTEMPTS`], dead-lettered. The objects are `authorized_user` files as
//! `google-auth` writes them, so that `python/worker.py`, the same worker in Python, can
//! take turns with this one.
//!
//! It is for measurements on emulators and sends nothing anywhere else: see [`Config`].

mod credential;
mod error;
pub mod guards;
mod job;
mod store;
mod subscription;
mod tally;
mod worker;

pub use credential::Credential;
pub use error::Error;
pub use store::{Store, Tokens};
pub use subscription::{MAX_DELIVERY_ATTEMPTS, create_subscription};
pub use tally::Tally;
pub use worker::{Config, MissingVariable, run, run_with};

/// The same worker in Python.
pub const PYTHON_WORKER: &str = include_str!("../python/worker.py");
/// What it needs, pinned with hashes.
pub const PYTHON_REQUIREMENTS: &str = include_str!("../python/requirements.txt");
