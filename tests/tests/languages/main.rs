//! Jobs in any language, with the field's own clients: handlers in Python and Node as the README
//! has them, as processes of the frameworks that people run them with.
//!
//! The clients are what `tests/clients/` pins; `.ci/run` installs them and names their folder in
//! `FLEET_CLIENTS`. Without it the tests say that they are left out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acting;
mod broker;
mod pages;
mod programs;
mod publishers;
mod troubles;
mod written;
