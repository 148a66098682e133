//! The least that a worker on the official client can be: its loop, one HTTP client for every 64
//! jobs at once (a connection carries 100 requests), a constant token.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::Subscriber;
use google_cloud_pubsub::model::Message;
use google_cloud_storage::client::Storage;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::adapters::http_client;
use tokio::sync::Semaphore;
use url::Url;

use super::{Bare, USER_AGENT, variable};

const JOBS_PER_CLIENT: usize = 64;

/// What a job says.
#[derive(Debug, Deserialize)]
struct Job {
    kind: String,
    #[serde(default)]
    params: Params,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Params {
    url: String,
    paginate: bool,
    output: Option<String>,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    #[serde(default, rename = "nextPageToken")]
    next: Option<String>,
}

struct Clients {
    http: Vec<reqwest::Client>,
    storage: Storage,
    root: String,
    bare: Bare,
}

/// Works until it is killed.
pub(super) async fn run(bare: Bare) -> anyhow::Result<()> {
    let subscriber = Subscriber::builder()
        .with_endpoint(format!("http://{}", variable("PUBSUB_EMULATOR_HOST")?))
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await?;
    let mut stream = subscriber
        .subscribe(variable("FLEET_SUBSCRIPTION")?)
        .set_max_outstanding_messages(i64::try_from(8 * bare.slots)?)
        .build();
    let storage = Storage::builder()
        .with_endpoint(variable("STORAGE_EMULATOR_HOST")?)
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await?;
    let http = (0..bare.slots.div_ceil(JOBS_PER_CLIENT)).map(|_| http_client(USER_AGENT));
    let (slots, http) = (Arc::new(Semaphore::new(bare.slots)), http.collect::<Result<_, _>>()?);
    let clients = Arc::new(Clients { http, storage, root: variable("FLEET_API_ROOT")?, bare });
    for turn in 0.. {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (message, handler) = stream.next().await.context("the stream ended")??;
        let clients = Arc::clone(&clients);
        tokio::spawn(async move {
            match Box::pin(clients.work(turn, message)).await {
                Ok(()) => handler.ack(),
                Err(error) => crate::say(&format!("{error:#}")),
            }
            drop(slot);
        });
    }
    Ok(())
}

impl Clients {
    async fn work(&self, turn: usize, message: Message) -> anyhow::Result<()> {
        let job: Job = serde_json::from_slice(&message.data)?;
        let http = &self.http[turn % self.http.len()];
        if job.kind == "forwarded" {
            let json = ("content-type", "application/json");
            let post = http.post(&self.bare.handler).header(json.0, json.1).body(message.data);
            post.send().await?.error_for_status()?.bytes().await?;
            return Ok(());
        }
        let url = Url::parse(&job.params.url)?;
        let mut url = Url::parse(&self.root)?.join(&url[url::Position::BeforePath..])?;
        let mut content = self.get(http, &url).await?;
        if job.params.paginate {
            let mut lines = Vec::new();
            loop {
                let page: Page<'_> = serde_json::from_slice(&content)?;
                for item in page.items {
                    lines.extend_from_slice(item.get().as_bytes());
                    lines.push(b'\n');
                }
                let Some(next) = page.next else { break };
                url.query_pairs_mut().clear().append_pair("pageToken", &next);
                content = self.get(http, &url).await?;
            }
            content = lines.into();
        }
        let Some(output) = job.params.output else { return Ok(()) };
        let object = output.strip_prefix("gs://").and_then(|path| path.split_once('/'));
        let Some((bucket, object)) = object else { bail!("{output} is no object") };
        let bucket = format!("projects/_/buckets/{bucket}");
        let write = self.storage.write_object(bucket, object, content);
        Box::pin(write.set_if_generation_match(0_i64).send_buffered()).await?;
        Ok(())
    }

    async fn get(&self, http: &reqwest::Client, url: &Url) -> anyhow::Result<Bytes> {
        let call = http.get(url.clone()).bearer_auth(&self.bare.token);
        Ok(call.send().await?.error_for_status()?.bytes().await?)
    }
}
