//! Jobs on behalf of users: takes them from Pub/Sub, acts with the user's fresh
//! credential, and tells what became of them.
//!
//! A message is read by [`job`], queued behind its user's earlier ones, run by
//! the [`Handler`] of its kind with a credential of the shared token store, and
//! ended by exactly one [`outcome::Status`]. The program `fleet` is [`fleet`], to which kinds of
//! one's own can be added; [`Worker::from_env`] is a worker for programs with parts of their own.

mod api_clients;
pub mod audit;
mod backlog;
mod calls;
mod carrier;
pub mod claim;
mod cli;
mod conclusion;
pub mod dead_letter;
pub mod dedupe;
mod delivery;
pub mod effect;
pub mod events;
pub mod forward;
mod gate;
mod handler;
pub mod health;
mod hosts;
mod http_server;
pub mod job;
mod json;
pub mod keep_alive;
pub mod kinds;
mod logged_user;
mod message;
pub mod metered;
pub mod metrics;
mod observer;
pub mod outbox;
pub mod outcome;
pub mod parking;
mod places;
mod plain;
pub mod pubsub;
mod rate_limits;
pub mod removal;
pub mod replica;
pub mod resuming;
mod retry_after;
pub mod roles;
mod scheduler;
mod session;
pub mod settlement;
mod sign_outs;
pub mod spans;
mod status;
mod stored_users;
pub mod sweep;
pub mod telemetry;
mod told;
mod turns;
pub mod waiting;
pub mod web;

pub use calls::{ApiRequest, CallError};
pub use cli::{FromEnvError, OwnKinds, fleet};
pub use dedupe::Dedupe;
pub use effect::{CallLedger, CallUnderWay, Calls, Effect, Knowledge};
pub use handler::{AsyncHandler, Handler};
pub use job::Job;
pub use json::Json;
pub use logged_user::{LoggedUser, log_user, log_user_ids};
pub use outcome::{Limit, Verdict};
pub use places::Places;
pub use replica::Worker;
pub use session::Session;
