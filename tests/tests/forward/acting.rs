//! Jobs act as their user, and wait for their user.

use std::sync::Arc;
use std::time::Duration;

use axum::response::IntoResponse as _;
use emulators::google;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::stage::{BUCKET, Cloud, Stage};
use tokio::sync::Notify;

use crate::function::{Function, acting, answered};

pub(crate) fn job(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "greet", "params": {}})
}

#[tokio::test]
async fn a_job_acts_as_its_own_user_and_nobody_else() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let users = ["ann", "bob/../x"];
    for user in users {
        stage.user(user, Duration::ZERO).await?;
    }
    let google = stage.google.origin();
    let function = Function::start(move |event| {
        let google = google.clone();
        async move {
            let other = if event.body["user"] == "ann" { "bob/../x" } else { "ann" };
            let (status, refused) = event.ask(other, &[]).await;
            assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
            let status = event.act(&google).await;
            // As careless frameworks do, which return what they got.
            let token = event.token().await;
            let answer = json!({"status": status, "event": event.body, "token": token});
            axum::Json(answer).into_response()
        }
        .boxed()
    })
    .await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--forward", &function.route("greet")]).await?;
    let jobs: Vec<Value> = (0..10).map(|n| job(&format!("job-{n}"), users[n % 2])).collect();
    stage.publish(&jobs, &[]).await?;
    let told = outcomes.outcomes(10).await?;
    assert!(
        told.values().all(|o| o["status"] == "done" && o["result"]["status"] == 200),
        "{told:?}"
    );
    let effects = stage.google.effects();
    assert_eq!(effects.len(), 10);
    for effect in effects {
        let number: usize = effect.id.unwrap().trim_start_matches("job-").parse()?;
        assert_eq!(effect.sub, users[number % 2]);
    }
    let events = function.events();
    let (first, told) = (&events[0], format!("{told:?}"));
    assert_eq!(first.headers["ce-type"], "fleet.job.greet");
    assert!(!first.headers.contains_key("authorization"));
    for event in &events {
        let (status, refused) = event.ask(event.body["user"].as_str().unwrap(), &[]).await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")), "it has ended");
        assert!(!told.contains(&event.handle()), "a handle in an outcome");
    }
    assert!(!told.contains("ya29."), "a token in an outcome");
    assert_eq!(worker.terminate().await?, 0);
    let log = worker.log_text();
    assert!(!log.contains("ya29.") && !log.contains("1//"), "a token in the log");
    assert!(events.iter().all(|event| !log.contains(&event.handle())), "a handle in the log");
    Ok(())
}

/// As a library and a program do it: the API's 401 makes the library ask again, it gets the
/// same token, and the program raises.
#[tokio::test]
async fn a_token_that_an_api_rejects_is_renewed_once() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::from_secs(600)).await?;
    stage.google.expire_access_tokens("ann");
    let function = acting(stage.google.origin()).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--forward", &function.route("greet")]).await?;
    stage.publish(&[job("job", "ann")], &[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!((&told["job"]["status"], &told["job"]["attempt"]), (&json!("done"), &json!(2)));
    assert_eq!(stage.google.refresh_calls().len(), 1);
    assert_eq!(stage.google.effects().len(), 1);
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_revoked_users_job_is_parked_and_goes_on_after_consent() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::from_secs(600)).await?;
    stage.google.revoke_user("ann");
    let function = acting(stage.google.origin()).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--forward", &function.route("greet")]).await?;
    stage.publish(&[job("job", "ann")], &[]).await?;
    assert_eq!(outcomes.outcomes(1).await?["job"]["status"], "parked");
    let parked = stage.cloud.objects(BUCKET, "parked/").await?;
    assert_eq!(parked.len(), 1, "{parked:?}");
    stage.user("ann", Duration::ZERO).await?;
    assert_eq!(outcomes.outcomes(1).await?["job"]["status"], "done");
    assert_eq!(stage.google.effects().len(), 1);
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

/// The handler goes on with its user's tokens until there are none any more.
#[tokio::test]
async fn a_grant_that_ends_while_its_job_runs_parks_the_job() -> anyhow::Result<()> {
    let short = google::Config { token_lifetime: Duration::from_secs(4), ..Default::default() };
    let stage = Stage::set_with(Cloud::embedded().await?, short).await?;
    stage.user_without_access_token("ann").await?;
    let (came, told_came) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, revoked) = (Arc::clone(&came), Arc::clone(&told_came));
    let function = Function::start(move |event| {
        let (seen, revoked) = (Arc::clone(&seen), Arc::clone(&revoked));
        async move {
            assert!(event.token().await.is_some());
            seen.notify_one();
            revoked.notified().await;
            while event.token().await.is_some() {
                SystemClock::default().sleep(Duration::from_millis(50)).await;
            }
            answered(500)
        }
        .boxed()
    })
    .await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--forward", &function.route("greet")]).await?;
    stage.publish(&[job("job", "ann")], &[]).await?;
    came.notified().await;
    stage.google.revoke_user("ann");
    told_came.notify_one();
    let told = outcomes.outcomes(1).await?;
    assert_eq!((&told["job"]["status"], &told["job"]["attempt"]), (&json!("parked"), &json!(1)));
    assert_eq!(function.events().len(), 1);
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_job_that_asks_for_a_scope_that_is_missing_is_parked_for_it() -> anyhow::Result<()> {
    const DRIVE: &str = "https://www.googleapis.com/auth/drive.readonly";
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let function = Function::start(|event| {
        async move {
            let (status, answer) = event.ask("ann", &[("scope", DRIVE)]).await;
            assert_eq!((status, &answer["error"]), (400, &json!("invalid_scope")));
            answered(500)
        }
        .boxed()
    })
    .await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--forward", &function.route("greet")]).await?;
    stage.publish(&[job("job", "ann")], &[]).await?;
    assert_eq!(outcomes.outcomes(1).await?["job"]["status"], "parked");
    let parked = stage.cloud.objects(BUCKET, "parked/").await?;
    let parked = parked.iter().find(|name| !name.ends_with("/claim")).unwrap();
    let stored: Value = serde_json::from_str(&stage.cloud.object(BUCKET, parked).await?)?;
    assert_eq!(
        (&stored["reason"], &stored["missing_scopes"]),
        (&json!("scopes_missing"), &json!([DRIVE]))
    );
    assert_eq!(function.events().len(), 1);
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}
