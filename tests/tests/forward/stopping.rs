//! Handlers that are slow, and replicas that end meanwhile.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::stage::{Cloud, Stage};
use tokio::sync::Notify;

use crate::acting::job;
use crate::function::{Function, answered};

#[tokio::test]
async fn a_handler_that_is_slower_than_the_ack_deadline_is_asked_once() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let function = Function::start(|_| {
        async {
            SystemClock::default().sleep(Duration::from_secs(13)).await;
            answered(200)
        }
        .boxed()
    })
    .await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let flags = ["--ack-extension", "10s", "--forward", &function.route("greet")];
    let mut worker = stage.worker(&flags).await?;
    stage.publish(&[job("job", "ann")], &[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["job"]["status"], "done", "{told:?}");
    assert_eq!(function.events().len(), 1);
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

/// The replica is told to end while a handler works: its handle still opens tokens, and what it
/// answers counts. No other job is begun.
#[tokio::test]
async fn what_runs_at_sigterm_ends_as_its_handler_says() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let (came, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told_came, told_go_on, google) =
        (Arc::clone(&came), Arc::clone(&go_on), stage.google.origin());
    let function = Function::start(move |event| {
        let (came, go_on, google) =
            (Arc::clone(&told_came), Arc::clone(&told_go_on), google.clone());
        async move {
            came.notify_one();
            go_on.notified().await;
            answered(event.act(&google).await)
        }
        .boxed()
    })
    .await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker =
        stage.worker(&["--forward", &function.route("greet"), "--drain", "50s"]).await?;
    stage.publish(&[job("first", "ann"), job("second", "ann")], &[]).await?;
    came.notified().await;
    worker.signal(rustix::process::Signal::TERM)?;
    worker.wait_for_message("stopping: no new jobs").await?;
    go_on.notify_one();
    assert_eq!(worker.ended().await?, 0);
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["first"]["status"], "done", "{told:?}");
    assert_eq!(function.events().len(), 1, "the second goes back");
    assert_eq!(stage.google.effects().len(), 1);
    Ok(())
}

/// It was given a token, and has no other end than that.
#[tokio::test]
async fn a_handler_that_outlives_the_drain_is_in_the_audit_trail() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let came = Arc::new(Notify::new());
    let told_came = Arc::clone(&came);
    let function = Function::start(move |event| {
        let came = Arc::clone(&told_came);
        async move {
            assert!(event.token().await.is_some());
            came.notify_one();
            std::future::pending().await
        }
        .boxed()
    })
    .await?;
    let flags = ["--forward", &function.route("greet"), "--drain", "3s"];
    let mut worker = stage.worker(&flags).await?;
    stage.publish(&[job("job", "ann")], &[]).await?;
    came.notified().await;
    assert_eq!(worker.terminate().await?, 0);
    let used: Vec<_> = worker.log.iter().filter(|line| line["act"] == "used").collect();
    let [used] = used[..] else { panic!("{}", worker.log_text()) };
    assert_eq!((&used["kind"], &used["host"]), (&"greet".into(), &"handler".into()));
    assert_eq!(used["user"], shared::UserId::new("ann")?.digest().to_string());
    Ok(())
}
