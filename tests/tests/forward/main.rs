//! Jobs in any language, end to end: `fleet worker --forward` as a process, and HTTP handlers
//! that act as their users by the credentials in the event.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acting;
mod broken;
mod broker;
mod dev;
mod function;
mod python;
mod refusals;
mod rotation;
mod stopping;
mod token;
