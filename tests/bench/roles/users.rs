//! A replica that does nothing but use credentials, or hold them.

use std::collections::HashSet;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::poll;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::UserId;
use shared::adapters::http_client;

use crate::ground::{Place, user};

use super::replica::{store, warm};
use super::say;

/// What using the users was like.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Used {
    pub(crate) calls: u64,
    /// Calls that were not answered from memory at once.
    pub(crate) awaited: u64,
    /// The slowest of those that were, in microseconds.
    pub(crate) slowest_us: u64,
}

/// Uses every user every so often until each has got a renewed token.
#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
pub(super) async fn run(place: Place, users: usize, every: Duration) -> anyhow::Result<()> {
    let http = http_client("fleet-bench")?;
    let (store, _bucket) = store(&place, &http, 2 * users).await?;
    warm(&store, 0..users).await?;
    let ids = (0..users).map(|n| UserId::new(user(n))).collect::<Result<Vec<_>, _>>()?;
    let mut first: Vec<Option<Timestamp>> = Vec::with_capacity(users);
    for id in &ids {
        first.push(store.get_credentials(id).await?.expires_at());
    }
    let mut waiting: HashSet<usize> = (0..users).collect();
    let mut used = Used::default();
    let mut round = tokio::time::interval(every);
    while !waiting.is_empty() {
        round.tick().await;
        for (number, id) in ids.iter().enumerate() {
            let asked = Instant::now();
            let mut call = std::pin::pin!(store.get_credentials(id));
            used.calls += 1;
            let credentials = match poll!(&mut call) {
                Poll::Ready(got) => {
                    let took = u64::try_from(asked.elapsed().as_micros())?;
                    used.slowest_us = used.slowest_us.max(took);
                    got?
                }
                Poll::Pending => {
                    used.awaited += 1;
                    call.await?
                }
            };
            if credentials.expires_at() != first[number] {
                waiting.remove(&number);
            }
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    store.shutdown(store.policy().longest_flight()).await;
    say(&used)
}

/// Bytes of memory that are resident with so many users in the cache.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Resident {
    pub(crate) users: usize,
    pub(crate) bytes: u64,
}

/// Takes users in and says after each step how much memory is resident.
pub(super) async fn hold(place: Place, steps: Vec<usize>) -> anyhow::Result<()> {
    let http = http_client("fleet-bench")?;
    let most = steps.iter().copied().max().unwrap_or_default();
    // Shards fill unevenly; this leaves room for all.
    let (store, _bucket) = store(&place, &http, most + most / 4 + 1).await?;
    let mut held = 0;
    for users in steps {
        warm(&store, held..users).await?;
        held = users;
        anyhow::ensure!(store.cached_users() == held, "some users were evicted");
        say(&Resident { users, bytes: crate::measure::resident(std::process::id())? })?;
    }
    Ok(())
}
