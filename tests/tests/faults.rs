//! Real replicas among servers that lose, refuse, delay and withhold answers: every
//! job ends as its input deserves, no refresh token is spent twice but where an answer
//! of the token endpoint was lost, and no secret reaches a log.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use emulators::faults::{Fault, Injected};
use emulators::google::{Operation as Endpoint, StatsQuery};
use emulators::pubsub::{Operation as Request, PubSub};
use emulators::storage::{Operation, Storage};
use http::StatusCode;
use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, PATIENCE, Stage, Worker, full};

/// Leases that lapse soon, and a wait long enough that a caller learns how its flight
/// ended. One that gives up before is told "busy", and its job goes back.
const HASTY: [&str; 4] = ["--lease-ttl", "6s", "--wait-limit", "10s"];

async fn stage() -> anyhow::Result<Stage> {
    Stage::set(Cloud::embedded().await?).await
}

fn job(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "profile"})
}

fn storage(stage: &Stage) -> &Storage {
    &stage.cloud.embedded.as_ref().unwrap().1
}

fn pubsub(stage: &Stage) -> &PubSub {
    &stage.cloud.embedded.as_ref().unwrap().0
}

/// Waits for a blow, not for ever.
async fn struck(fault: &Injected, times: u64) {
    let waited = tokio::time::timeout(PATIENCE, fault.hits(times)).await;
    assert!(waited.is_ok(), "struck {} of {times} times", fault.count());
}

/// The calls of the token endpoint, and how many of them spent a spent refresh token.
fn calls(stage: &Stage) -> (u64, u64) {
    let stats = stage.google.stats(&StatsQuery::default());
    (stats.token_calls, stats.reused)
}

async fn ends(worker: &mut Worker) -> anyhow::Result<()> {
    assert_eq!(worker.terminate().await?, 0);
    let log = worker.log_text();
    for secret in ["ya29.", "1//", "GOCSPX", "client_secret"] {
        assert!(!log.contains(secret), "{secret} in the log: {log}");
    }
    Ok(())
}

/// One user without access token, one replica, one job, one fault: the job is done with
/// a single refresh. What is stored is what the job used.
async fn one_job_is_done_with_one_refresh(
    inject: impl FnOnce(&Stage) -> Injected,
) -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user_without_access_token("ann").await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&HASTY).await?;
    let fault = inject(&stage);
    stage.publish(&[job("only", "ann")], &[]).await?;
    struck(&fault, 1).await;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["only"]["status"], "done", "{told:?}");
    assert_eq!(told["only"]["attempt"], 1);
    assert_eq!(fault.count(), 1);
    assert_eq!(calls(&stage), (1, 0), "one refresh, no reuse");
    // The job is done while the commit may be tried again still; the end waits for it.
    ends(&mut worker).await?;
    let record = stage.record("ann").await?;
    assert_eq!(record["state"], "active");
    assert!(record["access_token"].is_string(), "{record}");
    let stats = pubsub(&stage).subscription_stats(&full("subscriptions", "jobs-workers"));
    let stats = stats.unwrap();
    assert_eq!((stats.nacked, stats.expired, stats.dead_lettered), (0, 0, 0));
    Ok(())
}

#[tokio::test]
async fn the_reply_of_the_lease_write_is_lost() -> anyhow::Result<()> {
    let lost = || Fault::lost_reply().on(Operation::Write).under("leases/").times(1);
    one_job_is_done_with_one_refresh(|stage| storage(stage).inject(lost())).await
}

#[tokio::test]
async fn the_reply_of_the_commit_is_lost() -> anyhow::Result<()> {
    let lost = || Fault::lost_reply().on(Operation::Write).under("tokens/").times(1);
    one_job_is_done_with_one_refresh(|stage| storage(stage).inject(lost())).await
}

#[tokio::test]
async fn the_reply_of_a_read_is_lost() -> anyhow::Result<()> {
    let lost = || Fault::lost_reply().on(Operation::Read).about("tokens/ann.json").times(1);
    one_job_is_done_with_one_refresh(|stage| storage(stage).inject(lost())).await
}

#[tokio::test]
async fn a_token_request_is_stalled_before_it_spent_anything() -> anyhow::Result<()> {
    let stall = || Fault::stall().on(Endpoint::Token).about("ann").times(1);
    one_job_is_done_with_one_refresh(|stage| stage.google.inject(stall())).await
}

#[tokio::test]
async fn the_bucket_throttles_the_lease() -> anyhow::Result<()> {
    let throttle = Fault::refusal(StatusCode::TOO_MANY_REQUESTS);
    let throttle = throttle.on(Operation::Write).under("leases/").times(1);
    one_job_is_done_with_one_refresh(|stage| storage(stage).inject(throttle)).await
}

#[tokio::test]
async fn the_answer_of_the_token_endpoint_is_lost_after_the_rotation() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user_without_access_token("ann").await?;
    stage.user("bob", Duration::ZERO).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&HASTY).await?;
    let lost = stage.google.inject(Fault::lost_reply().on(Endpoint::Token).times(1));
    stage.publish(&[job("hers", "ann")], &[]).await?;
    struck(&lost, 1).await;
    // The successor is known to nobody: the retry is a reuse, and the grant ends.
    let said = worker.wait_for_message("a grant is lost").await?;
    assert!(!said.contains("ann"), "{said}");
    let (parked, _) = outcomes.next().await?;
    assert_eq!((&parked["job"], &parked["status"]), (&json!("hers"), &json!("parked")));
    assert_eq!(
        calls(&stage),
        (3, 2),
        "the lost one, its repetition, and once more since that rejection is doubted"
    );
    assert_eq!(stage.record("ann").await?["state"], "revoked");
    // Others are served, and she is when she consents again.
    stage.publish(&[job("his", "bob")], &[]).await?;
    let (done, _) = outcomes.next().await?;
    assert_eq!((&done["job"], &done["status"]), (&json!("his"), &json!("done")));
    let file = stage.path("again.json").display().to_string();
    stage.write_authorized_user("ann", &file)?;
    let import = stage.fleet(&["users", "import", &file, "--user", "ann"]).await?;
    assert_eq!(import.code, 0, "{}", import.stderr);
    stage.publish(&[job("new", "ann")], &[]).await?;
    // The parked one may come first, as soon as somebody has resumed it.
    let healed = loop {
        let (outcome, _) = outcomes.next().await?;
        if outcome["job"] == "new" {
            break outcome;
        }
    };
    assert_eq!(healed["status"], "done", "{healed}");
    assert_eq!(calls(&stage), (4, 2), "her new grant was refreshed once");
    ends(&mut worker).await?;
    assert_eq!(stage.record("ann").await?["state"], "active");
    Ok(())
}

#[tokio::test]
async fn the_token_endpoint_refuses_a_burst_before_it_spent_anything() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user_without_access_token("ann").await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&HASTY).await?;
    let burst = Fault::refusal(StatusCode::SERVICE_UNAVAILABLE).on(Endpoint::Token).times(3);
    let burst = stage.google.inject(burst);
    stage.publish(&[job("only", "ann")], &[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["only"]["status"], "done", "{told:?}");
    assert_eq!((burst.count(), calls(&stage)), (3, (1, 0)));
    ends(&mut worker).await
}

/// An outage that lasts until the replica has paused its intake: nothing is lost, no
/// delivery attempt is burnt, nothing is given up, and it ends by itself.
async fn an_outage_is_sat_out(inject: impl FnOnce(&Stage) -> Injected) -> anyhow::Result<()> {
    let stage = stage().await?;
    let users = ["ann", "bob", "cid", "dee", "eve"];
    for user in users {
        stage.user_without_access_token(user).await?;
    }
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&HASTY).await?;
    let outage = inject(&stage);
    let jobs = |round: usize| -> Vec<Value> {
        users.iter().map(|user| job(&format!("{user}-{round}"), user)).collect()
    };
    stage.publish(&jobs(0), &[]).await?;
    worker.wait_for_message("intake paused").await?;
    stage.publish(&jobs(1), &[]).await?;
    assert!(outage.count() > 0);
    outage.lift();
    worker.wait_for_message("intake resumed").await?;
    let told = outcomes.outcomes(10).await?;
    for (id, outcome) in &told {
        assert_eq!(outcome["status"], "done", "{id}: {outcome}");
        assert_eq!(outcome["delivery_attempt"], 1, "{id}: no attempt was burnt");
    }
    assert_eq!(calls(&stage), (5, 0), "one refresh for each user");
    let stats = pubsub(&stage).subscription_stats(&full("subscriptions", "jobs-workers"));
    let stats = stats.unwrap();
    assert_eq!((stats.nacked, stats.expired, stats.dead_lettered), (0, 0, 0));
    ends(&mut worker).await?;
    for user in users {
        let record = stage.record(user).await?;
        assert_eq!(record["state"], "active");
        assert!(record["access_token"].is_string(), "{record}");
    }
    Ok(())
}

#[tokio::test]
async fn the_bucket_is_down_for_a_while() -> anyhow::Result<()> {
    let down = Fault::refusal(StatusCode::SERVICE_UNAVAILABLE);
    let down = down.on(Operation::Read).on(Operation::Write);
    an_outage_is_sat_out(|stage| storage(stage).inject(down)).await
}

#[tokio::test]
async fn the_token_endpoint_is_down_for_a_while() -> anyhow::Result<()> {
    let down = Fault::refusal(StatusCode::SERVICE_UNAVAILABLE).on(Endpoint::Token);
    an_outage_is_sat_out(|stage| stage.google.inject(down)).await
}

#[tokio::test]
async fn the_bucket_throttles_everything_for_a_while() -> anyhow::Result<()> {
    let throttle = Fault::refusal(StatusCode::TOO_MANY_REQUESTS);
    let throttle = throttle.on(Operation::Read).on(Operation::Write);
    an_outage_is_sat_out(|stage| storage(stage).inject(throttle)).await
}

/// A topic whose key is disabled, or whose policy allows none of its regions, takes nothing: that
/// is no fault of the first message that meets it.
#[tokio::test]
async fn a_topic_that_is_out_of_order_holds_the_end_of_a_job_until_it_takes_it()
-> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user("ann", Duration::ZERO).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&[]).await?;
    let refusal = Fault::refusal(tonic::Code::FailedPrecondition).on(Request::Publish);
    let refusal = pubsub(&stage).inject(refusal.about(full("topics", "outcomes")));
    let params = json!({"method": "POST", "url": "https://www.googleapis.com/v1/echo"});
    let post = json!({"id": "post", "user": "ann", "kind": "api", "params": params});
    stage.publish(&[post], &[]).await?;
    let said = worker.wait_for_message("takes no messages").await?;
    assert!(said.contains("outcomes") && said.contains("FAILED_PRECONDITION"), "{said}");
    struck(&refusal, 2).await;
    let ready = format!("http://{}/readyz", worker.health().unwrap());
    assert_eq!(reqwest::get(ready).await?.status().as_u16(), 503);
    assert_eq!(stage.cloud.objects(BUCKET, "endings/").await?, Vec::<String>::new());
    refusal.lift();
    let told = outcomes.outcomes(1).await?;
    let post = &told["post"];
    assert_eq!((&post["status"], &post["attempt"]), (&json!("done"), &json!(1)), "{post}");
    assert_eq!(post["result"]["method"], "POST", "all of it: {post}");
    let stats = pubsub(&stage).subscription_stats(&full("subscriptions", "jobs-workers"));
    assert_eq!(stats.unwrap().redeliveries, 0);
    ends(&mut worker).await
}

#[tokio::test]
async fn a_connection_to_the_bucket_stalls_and_the_job_is_done_all_the_same() -> anyhow::Result<()>
{
    let stage = stage().await?;
    stage.user_without_access_token("ann").await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let (a, b) = tokio::join!(stage.worker(&[]), stage.worker(&[]));
    let mut workers = [a?, b?];
    let stall = Fault::stall().on(Operation::Write).under("tokens/").times(1);
    let stall = storage(&stage).inject(stall);
    let jobs: Vec<Value> = (0..4).map(|n| job(&format!("job-{n}"), "ann")).collect();
    stage.publish(&jobs, &["--unordered"]).await?;
    struck(&stall, 1).await;
    let told = outcomes.outcomes(4).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    // Given up after the bound on one call and written again, well within the lease.
    assert_eq!((stall.count(), calls(&stage)), (1, (1, 0)));
    for worker in &mut workers {
        ends(worker).await?;
    }
    let record = stage.record("ann").await?;
    assert_eq!(record["state"], "active");
    assert!(record["access_token"].is_string(), "{record}");
    Ok(())
}

#[tokio::test]
async fn a_slow_token_endpoint_and_three_replicas_make_one_refresh() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user_without_access_token("ann").await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let slow = stage.google.inject(Fault::latency(Duration::from_secs(2)).on(Endpoint::Token));
    let jobs: Vec<Value> = (0..12).map(|n| job(&format!("job-{n}"), "ann")).collect();
    stage.publish(&jobs, &["--unordered"]).await?;
    let flags = ["--concurrency", "1"];
    let (a, b, c) = tokio::join!(stage.worker(&flags), stage.worker(&flags), stage.worker(&flags));
    let mut workers = [a?, b?, c?];
    let told = outcomes.outcomes(12).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!((slow.count(), calls(&stage)), (1, (1, 0)));
    for worker in &mut workers {
        ends(worker).await?;
    }
    let record = stage.record("ann").await?;
    assert_eq!(record["state"], "active");
    assert!(record["access_token"].is_string(), "{record}");
    Ok(())
}
