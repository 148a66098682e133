//! Answers that come late, or while a replica stands still. A late answer can be saved; only a
//! lost one cannot.

use std::time::Duration;

use anyhow::Context as _;
use emulators::account::{Account, Judgement};
use emulators::google::{self, OnReuse};
use rustix::process::Signal;
use serde_json::Value;
use tests::gateway::{End, Manner, Passage};
use tests::stage::{Stage, Worker};
use tokio::time::Instant;

use crate::{job, judged, storage, wait_for};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
/// Of a lease.
const TTL: Duration = Duration::from_secs(6);
const FLAGS: [&str; 6] = ["--lease-ttl", "6s", "--wait-limit", "30s", "--drain", "30s"];

async fn stage() -> anyhow::Result<Stage> {
    Stage::behind_gateway(google::Config::default()).await
}

/// Jobs of one user, all at once and without order.
async fn publish(stage: &Stage, user: &str, count: usize) -> anyhow::Result<()> {
    let jobs: Vec<Value> = (0..count).map(|n| job(&format!("{user}-{n}"), user)).collect();
    stage.publish(&jobs, &["--unordered"]).await
}

/// The answer arrives when the lease would have lapsed, had it not been renewed.
#[tokio::test]
async fn an_answer_later_than_a_lease_costs_one_call_and_locks_nobody_out() -> anyhow::Result<()> {
    let stage = stage().await?;
    let account = Account::open(storage(&stage));
    let users = ["ann", "bob", "cid", "dee"];
    for user in users {
        stage.write_expired_user(user).await?;
    }
    stage.gateway().script(|_| Manner::honest().after(TTL * 4 / 3));
    let mut outcomes = stage.inbox("outcomes").await?;
    let (a, b, c) = tokio::join!(stage.worker(&FLAGS), stage.worker(&FLAGS), stage.worker(&FLAGS));
    let mut workers = [a?, b?, c?];
    for user in users {
        publish(&stage, user, 6).await?;
    }
    let told = outcomes.outcomes(24).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    for worker in &mut workers {
        assert_eq!(worker.terminate().await?, 0);
    }
    let judgement = judged(&stage, &account, HOUR, TTL);
    assert_eq!((judgement.calls, judgement.reused, judgement.cut_off), (4, 0, 0), "{judgement:?}");
    assert!(judgement.faults.is_empty(), "{judgement:?}");
    for user in users {
        assert_eq!(stage.record(user).await?["state"], "active");
    }
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_told_to_end_waits_for_a_late_answer() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.write_expired_user("ann").await?;
    let before = stage.record("ann").await?["access_token"].clone();
    stage.gateway().script(|_| Manner::honest().after(TTL * 4 / 3));
    let mut worker = stage.worker(&FLAGS).await?;
    publish(&stage, "ann", 1).await?;
    wait_for(&stage, |passages| passages.len() == 1).await?;
    assert_eq!(worker.terminate().await?, 0, "{}", worker.log_text());
    let passages = stage.gateway().passages();
    assert_eq!(passages.len(), 1, "{passages:?}");
    assert_eq!(passages[0].end, End::Answered(200));
    let record = stage.record("ann").await?;
    assert_eq!(record["state"], "active");
    assert_ne!(record["access_token"], before, "what was granted is stored");
    // Whoever comes next has it.
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut next = stage.worker(&FLAGS).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["ann-0"]["status"], "done", "{told:?}");
    assert_eq!(next.terminate().await?, 0);
    assert_eq!(stage.gateway().passages().len(), 1);
    Ok(())
}

/// Both are true when it goes on: the answer lies in its socket, and its time is up.
#[tokio::test]
async fn an_answer_that_came_while_the_replica_stood_still_is_stored() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.gateway().script(|_| Manner::honest().after(SECOND / 2));
    let mut outcomes = stage.inbox("outcomes").await?;
    let flags = ["--lease-ttl", "5s", "--wait-limit", "30s", "--ack-extension", "60s"];
    let mut worker = stage.worker(&flags).await?;
    for (number, user) in ["ann", "bob", "cid"].into_iter().enumerate() {
        stage.write_expired_user(user).await?;
        publish(&stage, user, 1).await?;
        wait_for(&stage, |passages| passages.len() == number + 1).await?;
        let stopped = Instant::now();
        worker.signal(Signal::STOP)?;
        wait_for(&stage, |passages| passages[number].end == End::Answered(200)).await?;
        tokio::time::sleep_until(stopped + 3 * SECOND).await;
        worker.signal(Signal::CONT)?;
        let (outcome, _) = outcomes.next().await?;
        assert_eq!(outcome["status"], "done", "{outcome}");
        assert_eq!(stage.record(user).await?["state"], "active");
    }
    assert_eq!(worker.terminate().await?, 0);
    assert_eq!(stage.gateway().passages().len(), 3, "one call for each");
    Ok(())
}

/// Its pause ends when it goes on, long after its lease: somebody else has refreshed.
#[tokio::test]
async fn a_replica_that_stood_still_during_a_pause_does_not_send_late() -> anyhow::Result<()> {
    let stage = stage().await?;
    let account = Account::open(storage(&stage));
    stage.write_expired_user("ann").await?;
    stage.gateway().script(|asked| match asked.before {
        0 => Manner::error(503, "temporarily_unavailable", "later"),
        _ => Manner::honest(),
    });
    let mut outcomes = stage.inbox("outcomes").await?;
    let flags = ["--lease-ttl", "6s", "--wait-limit", "30s", "--concurrency", "1"];
    let (a, b) = tokio::join!(stage.worker(&flags), stage.worker(&flags));
    let mut workers = [a?, b?];
    // More than one of them may hold, so that both have some.
    publish(&stage, "ann", 24).await?;
    let refused = wait_for(&stage, |passages| {
        passages.first().is_some_and(|first| first.end == End::Answered(503))
    });
    let first = refused.await?.swap_remove(0);
    let holder = workers.iter().position(|worker| is_of(worker, &first));
    let holder = holder.context("one of them asked")?;
    workers[holder].signal(Signal::STOP)?;
    wait_for(&stage, |passages| {
        passages.iter().any(|other| other.end == End::Answered(200) && other.agent != first.agent)
    })
    .await?;
    workers[holder].signal(Signal::CONT)?;
    let told = outcomes.outcomes(24).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    for worker in &mut workers {
        assert_eq!(worker.terminate().await?, 0);
    }
    let passages = stage.gateway().passages();
    assert_eq!(passages.len(), 2, "the refused one and the other replica's: {passages:?}");
    let judgement = judged(&stage, &account, HOUR, TTL);
    assert!(judgement.faults.is_empty() && judgement.reused == 0, "{judgement:?}");
    Ok(())
}

fn is_of(worker: &Worker, passage: &Passage) -> bool {
    let mut names = worker.log.iter().filter_map(|line| line["replica"].as_str());
    names.any(|name| passage.agent.contains(name))
}

/// A gateway gives up although the work is done: the request is sent once more, and where the
/// provider allows a reuse for a while, nothing is lost.
#[tokio::test]
async fn a_gateway_that_gives_up_costs_a_second_call_and_with_grace_nothing_else()
-> anyhow::Result<()> {
    let settings = google::Config { on_reuse: OnReuse::Accept, ..google::Config::default() };
    let stage = Stage::behind_gateway(settings).await?;
    let (told, judgement) = given_up_once(&stage).await?;
    assert_eq!(told["status"], "done", "{told}");
    assert_eq!((judgement.calls, judgement.reused), (2, 1), "{judgement:?}");
    assert_eq!(stage.record("ann").await?["state"], "active");
    Ok(())
}

/// Without grace the grant is lost, and that is said; a rejection is believed when it came twice.
#[tokio::test]
async fn a_gateway_that_gives_up_costs_the_grant_where_reuse_is_punished() -> anyhow::Result<()> {
    let stage = stage().await?;
    let (told, judgement) = given_up_once(&stage).await?;
    assert_eq!(told["status"], "parked", "{told}");
    assert!((2..=3).contains(&judgement.calls), "{judgement:?}");
    assert_eq!(stage.record("ann").await?["state"], "revoked");
    Ok(())
}

/// The first answer is a gateway's 504 after the work. The one job's outcome, and the calls.
async fn given_up_once(stage: &Stage) -> anyhow::Result<(Value, Judgement)> {
    let account = Account::open(storage(stage));
    stage.write_expired_user("ann").await?;
    stage.gateway().script(|asked| match asked.before {
        0 => Manner::edited(|_, _| {
            tests::gateway::answer(504, &[("content-type", "text/html")], b"<h1>504</h1>")
        })
        .after(SECOND),
        _ => Manner::honest(),
    });
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&FLAGS).await?;
    publish(stage, "ann", 1).await?;
    let (told, _) = outcomes.next().await?;
    assert_eq!(worker.terminate().await?, 0);
    if told["status"] == "parked" {
        assert!(worker.log_text().contains("a grant is lost"), "{}", worker.log_text());
    }
    let judgement = judged(stage, &account, HOUR, TTL);
    assert!(judgement.faults.is_empty(), "{judgement:?}");
    Ok((told, judgement))
}
