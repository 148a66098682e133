//! A worker with a kind of its own, `storage.read`: it reads an object of Cloud Storage
//! with Google's official client, as the job's user.
//!
//! ```console
//! $ export GOOGLE_CLOUD_PROJECT=my-project FLEET_BUCKET=my-tokens FLEET_OAUTH_CLIENT=client.json
//! $ cargo run -p worker --example official_client
//! $ fleet publish --topic jobs --user 1097 --kind storage.read \
//!     --params '{"bucket": "their-bucket", "object": "notes.txt"}'
//! ```
//!
//! The user must have granted `https://www.googleapis.com/auth/devstorage.read_only`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use google_cloud_storage::client::Storage;
use serde::Deserialize;
use serde_json::json;
use shared::adapters::{CloudStorage, CloudStorageConfig, HttpTokenEndpoint, http_client};
use shared::ports::Bucket;
use shared::{OAuthClient, TokenStore};
use worker::pubsub::{
    Connection, Intake, IntakeSettings, OUTSTANDING_BYTES, Publisher, Topic, resource,
};
use worker::replica::Stop;
use worker::{Job, Session, Verdict, Worker};

/// The most of an object that is read, in bytes.
const LIMIT: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Params {
    bucket: String,
    object: String,
}

fn read<'a>(job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
    async move {
        let Ok(Params { bucket, object }) = job.params.read() else {
            return Verdict::reject("`bucket` and `object` must be strings");
        };
        // The client asks these credentials before each request, so its token is fresh.
        let client = Storage::builder().with_credentials(session.google_credentials());
        let Ok(client) = client.build().await else {
            return Verdict::reject("the client cannot be built");
        };
        let bucket = format!("projects/_/buckets/{bucket}");
        let mut bytes = 0;
        // Reading has no effect, so it may be repeated.
        match client.read_object(bucket, object).send().await {
            Ok(mut answer) => loop {
                match answer.next().await {
                    Some(Ok(chunk)) => bytes += chunk.len(),
                    Some(Err(error)) => return Verdict::of_google_error(&error, true),
                    None => return Verdict::done(json!({ "bytes": bytes })),
                }
                if bytes > LIMIT {
                    return Verdict::reject("the object is larger than this kind reads");
                }
            },
            Err(error) => Verdict::of_google_error(&error, true),
        }
    }
    .boxed()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let variable = |name: &str| {
        std::env::var(name).map_err(|_| anyhow::anyhow!("set {name}; see the top of this file"))
    };
    let client = OAuthClient::from_json(&std::fs::read(variable("FLEET_OAUTH_CLIENT")?)?)?;
    let endpoint = HttpTokenEndpoint::new(&client, http_client("official-client-example")?)?;
    let bucket = CloudStorage::connect(CloudStorageConfig {
        bucket: variable("FLEET_BUCKET")?,
        timeout: None,
        emulator: None,
        emulator_grpc: None,
    });
    let bucket: Arc<dyn Bucket> = Arc::new(bucket.await.map_err(anyhow::Error::msg)?);
    let store = TokenStore::builder(Arc::clone(&bucket), Arc::new(endpoint)).build()?;
    let project = variable("GOOGLE_CLOUD_PROJECT")?;
    let subscription =
        resource(Some(&project), "subscriptions", "jobs-workers").map_err(anyhow::Error::msg)?;
    let settings = IntakeSettings {
        subscription: subscription.clone(),
        max_outstanding: 64,
        max_outstanding_bytes: OUTSTANDING_BYTES,
        ack_extension: Duration::from_secs(60),
    };
    let topic = async |id: &str| -> anyhow::Result<Arc<dyn Topic>> {
        let name = resource(Some(&project), "topics", id).map_err(anyhow::Error::msg)?;
        let publisher = Publisher::open(&Connection::default(), &name).await?;
        let topic: Arc<dyn Topic> = Arc::new(publisher);
        Ok(topic)
    };
    let worker = Worker::builder()
        .store(store)
        .bucket(bucket)
        .source(Intake::open(&Connection::default(), settings).await?)
        .subscription(subscription)
        .jobs(topic("jobs").await?)
        .dead_letters(topic("jobs-dead").await?)
        .handler("storage.read", read)
        .concurrency(16)
        .build()?;
    let stop = Stop::default();
    let asked = stop.clone();
    tokio::spawn(async move {
        // Without signals nothing would end it in order.
        if tokio::signal::ctrl_c().await.is_ok() {
            asked.drain.cancel();
        }
    });
    Ok(worker.run(stop).await?)
}
