//! The least that a worker on the official client can cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::Subscriber;
use google_cloud_pubsub::subscriber::MessageStream;
use serde::Deserialize;
use shared::adapters::http_client;
use tokio::sync::{Notify, Semaphore};
use worker::telemetry::logging;

use crate::ground::Place;

use super::{Call, LOGS, Stopwatch, USER_AGENT, say};

async fn open(place: &Place, outstanding: usize) -> anyhow::Result<MessageStream> {
    let subscriber = Subscriber::builder()
        .with_endpoint(format!("http://{}", place.pubsub))
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await?;
    Ok(subscriber
        .subscribe(&place.subscription)
        .set_max_outstanding_messages(i64::try_from(outstanding)?)
        .build())
}

/// Does something with each of so many messages, and acknowledges it.
async fn each(
    place: &Place,
    jobs: u64,
    outstanding: usize,
    mut work: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut stream = open(place, outstanding).await?;
    let token = stream.shutdown_token();
    let mut watch = None;
    for _ in 0..jobs {
        let (message, handler) = stream.next().await.context("the stream ended")??;
        watch.get_or_insert_with(Stopwatch::start);
        work(&message.data)?;
        handler.ack();
    }
    let work = watch.context("no jobs")?.stop(jobs);
    drop(stream);
    token.shutdown().await;
    say(&work)
}

/// Acknowledges so many messages and does nothing else.
pub(super) async fn run(place: Place, jobs: u64, outstanding: usize) -> anyhow::Result<()> {
    each(&place, jobs, outstanding, |_| Ok(())).await
}

/// What a job says.
#[derive(Debug, Deserialize)]
struct Asked {
    id: String,
    user: String,
    kind: String,
}

/// Reads each job and logs its end before it is acknowledged: all that nobody who logs can
/// leave out.
pub(super) async fn run_lines(
    place: Place,
    jobs: u64,
    outstanding: usize,
    as_worker: bool,
) -> anyhow::Result<()> {
    let _logs = if as_worker {
        Some(logging::start(&LOGS, None).map_err(anyhow::Error::msg)?)
    } else {
        tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
        None
    };
    let line = |data: &[u8]| {
        let Asked { id, user, kind } = serde_json::from_slice(data)?;
        tracing::info!(job = id, user, kind, status = "done", "job done");
        Ok(())
    };
    each(&place, jobs, outstanding, line).await
}

/// One request per message.
pub(super) async fn run_calls(
    place: Place,
    jobs: u64,
    outstanding: usize,
    at_once: usize,
    call: Call,
) -> anyhow::Result<()> {
    let mut stream = open(&place, outstanding).await?;
    let token = stream.shutdown_token();
    // The same request but for the token, so the same client: its headers, its limits.
    let http = http_client(USER_AGENT)?;
    let slots = Arc::new(Semaphore::new(at_once));
    let (left, done) = (Arc::new(AtomicU64::new(jobs)), Arc::new(Notify::new()));
    let (profile, call): (Arc<str>, _) = (place.userinfo.into(), Arc::new(call));
    let mut watch = None;
    for _ in 0..jobs {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (message, handler) = stream.next().await.context("the stream ended")??;
        watch.get_or_insert_with(Stopwatch::start);
        let (http, profile, call) = (http.clone(), Arc::clone(&profile), Arc::clone(&call));
        let (left, done) = (Arc::clone(&left), Arc::clone(&done));
        tokio::spawn(async move {
            let request = match &*call {
                Call::Profile { token } => http.get(&*profile).bearer_auth(token),
                Call::Handler { url } => {
                    http.post(url).header("content-type", "application/json").body(message.data)
                }
            };
            let sent = request.send().await;
            if let Ok(answer) = sent
                && answer.status().is_success()
                && answer.bytes().await.is_ok()
            {
                handler.ack();
                if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    done.notify_one();
                }
            }
            drop(slot);
        });
    }
    done.notified().await;
    let work = watch.context("no jobs")?.stop(jobs);
    drop(stream);
    token.shutdown().await;
    say(&work)
}
