//! Whole replicas (`worker::Worker`) over in-memory ports and virtual time: fair
//! dispatch, outages, retries, deduplication, hostile messages, and a long day.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod day;
mod dispatch;
mod endings;
mod forwarding;
mod house;
mod messages;
mod outages;
mod retries;
mod unknown;
mod versions;
