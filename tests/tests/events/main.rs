//! Applications are told when a user's consent is needed, was given or has ended: once per
//! change, however many replicas see it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod replicas;
mod sweeping;
mod telling;
mod topic;
