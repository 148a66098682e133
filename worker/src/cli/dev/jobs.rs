//! The demo's jobs, and how they arrive.

use std::time::Duration;

use crate::pubsub::{Outgoing, Publisher};
use serde_json::json;
use shared::UserId;
use tokio::time::Instant;

/// Every so many jobs one is of kind `profile`; the others are `api`.
const PROFILE_EVERY: usize = 5;
/// How many jobs of a user arrive together.
const BUNCH: usize = 10;

/// How jobs arrive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arrival {
    /// All at once, users in turn, each under its user as ordering key.
    AtOnce,
    /// In bunches of one user's jobs, users in turn, without ordering keys; a user's next
    /// bunch comes after the user's token, refreshed for this one, has expired.
    Bunches {
        /// How long a token lives.
        token_lifetime: Duration,
    },
}

/// Publishes so many jobs.
pub(super) async fn publish(
    publisher: Publisher,
    users: Vec<UserId>,
    jobs: usize,
    arrival: Arrival,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut published = Vec::with_capacity(jobs);
    for number in 0..jobs {
        let (user, ordering_key) = match arrival {
            Arrival::AtOnce => {
                let user = &users[number % users.len()];
                (user, user.as_str().to_owned())
            }
            Arrival::Bunches { token_lifetime } => {
                let bunch = number / BUNCH;
                // Half a lifetime to spare for the refresh itself, and a busy machine.
                let round = token_lifetime * 3 / 2;
                let at = begin + round.mul_f64(as_f64(bunch) / as_f64(users.len()));
                tokio::time::sleep_until(at).await;
                (&users[bunch % users.len()], String::new())
            }
        };
        let data = job(number, user).to_string().into();
        published.push(publisher.publish(Outgoing { data, ordering_key, ..Outgoing::default() }));
    }
    for one in published {
        one.await?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn as_f64(number: usize) -> f64 {
    number as f64
}

fn job(number: usize, user: &UserId) -> serde_json::Value {
    let id = format!("job-{number}");
    if number % PROFILE_EVERY == PROFILE_EVERY - 1 {
        json!({"id": id, "user": user.as_str(), "kind": "profile"})
    } else {
        json!({"id": id, "user": user.as_str(), "kind": "api", "params": {
            "method": "POST",
            "url": "https://tasks.googleapis.com/tasks/v1/lists/@default/tasks",
            // Counted by the emulator, so that duplicates show.
            "headers": {"x-effect-id": id},
            "body": {"title": format!("Task {number}")},
        }})
    }
}
