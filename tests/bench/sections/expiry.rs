//! Ten thousand users whose tokens expire in the same minute, on eight replicas that
//! keep using all of them.

use std::time::Duration;

use emulators::google::StatsQuery;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::child::Client;
use crate::ground::Ground;
use crate::measure::Samples;
use crate::report::{Report, Row};
use crate::roles::{Role, Used};

const REPLICAS: usize = 8;
const USERS: usize = 10_000;
const LIFE: Duration = Duration::from_secs(3600);
/// What is left of the first token to expire when users are stored. Reading them on
/// every replica takes less than what the earliest refresh-ahead point (6 minutes
/// before the expiry) leaves of it.
const LEFT: Duration = Duration::from_secs(7 * 60);
const EXPIRE_WITHIN: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(5);

/// Runs once: it takes as long as the tokens live.
pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::embedded().await?;
    stream::iter(0..USERS)
        .map(|number| {
            let share = number as f64 / USERS as f64;
            let left = LEFT + EXPIRE_WITHIN.mul_f64(share);
            ground.user(number, LIFE, LIFE.saturating_sub(left))
        })
        .buffer_unordered(64)
        .try_collect::<()>()
        .await?;
    let place = ground.backlog("profile", 0, 1).await?;
    let mut replicas = (0..REPLICAS)
        .map(|_| Client::start(&Role::Use { place: place.clone(), users: USERS, every: EVERY }))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut used = Used::default();
    for replica in &mut replicas {
        let one: Used = replica.says().await?;
        used.calls += one.calls;
        used.awaited += one.awaited;
        used.slowest_us = used.slowest_us.max(one.slowest_us);
    }
    for replica in replicas {
        replica.end().await?;
    }
    let provider = ground.google.stats(&StatsQuery::default());
    let throttled = ground.cloud.embedded.as_ref().map_or(0, |(_, s)| s.stats().throttled);
    let mut add = |what: String, unit, value: u64, aim: &str, reached| {
        report.add(Row {
            what,
            unit,
            ours: Samples::from_iter([value as f64]),
            reference: None,
            ratio: None,
            aim: Some((aim.to_owned(), reached)),
        });
    };
    let users = USERS as u64;
    add(
        format!("{USERS} users expire in one minute on {REPLICAS} replicas: token-endpoint calls"),
        "calls",
        provider.token_calls,
        "10,000",
        provider.token_calls == users && provider.refreshed == users && provider.reused == 0,
    );
    add(
        format!("of {} calls meanwhile, awaited I/O", used.calls),
        "calls",
        used.awaited,
        "0",
        used.awaited == 0,
    );
    add("refused by storage with 429".into(), "writes", throttled, "0", throttled == 0);
    Ok(())
}
