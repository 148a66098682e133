//! The ways in which shared credentials get lost elsewhere, one test each, named
//! after what went wrong.
#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test fails by panicking"
)]

mod late_answers;
mod locks;
mod logins;
mod results;
mod storms;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;
use shared::ports::{Bucket as _, Generation};
use shared::{ConsentReason, Error, Health, Login, Policy, TokenStore, UserId};
use tests::memory::{AnswerFault, Fleet, VirtualClock, WriteFault, asks, pass};
use tokio::task::JoinSet;
use tokio::time::Instant;

use results::late_commit;

const HOUR: Duration = Duration::from_secs(3600);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}
