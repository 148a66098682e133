//! The worker's loop: message, credential, call, acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::Subscriber;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Error;
use super::error::innermost;
use super::job::Job;
use super::store::{Store, Tokens};

/// Where a worker works. Everything is an emulator: a token is sent to `api_root`
/// whatever host a job names.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pub/Sub, `host:port`.
    pub pubsub: String,
    /// Origin of Cloud Storage's JSON API.
    pub storage: String,
    /// What stands for every API.
    pub api_root: url::Url,
    /// The bucket with the credentials.
    pub bucket: String,
    /// Full name of the subscription.
    pub subscription: String,
    /// How many jobs at a time.
    pub concurrency: usize,
    /// How long a dead worker's messages stay unseen.
    pub ack_extension: Duration,
    /// A token that has less than this left counts as expired. `google-auth` has 225 s,
    /// which the short-lived tokens of a measurement do not allow.
    pub early: Duration,
    /// Tells workers apart in the emulators' records.
    pub name: String,
}

/// A variable that [`Config::from_env`] needs and did not find, or not in its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("set {0}")]
pub struct MissingVariable(&'static str);

impl Config {
    /// What the variables of Fleet's own workers say, and `UNGUARDED_CONCURRENCY` (10, as
    /// the official Python client has it), `UNGUARDED_EARLY_MS` and `UNGUARDED_NAME`.
    ///
    /// # Errors
    /// [`MissingVariable`].
    pub fn from_env() -> Result<Self, MissingVariable> {
        let optional = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let needed = |name: &'static str| optional(name).ok_or(MissingVariable(name));
        let number = |name: &'static str, default: u64| match optional(name) {
            Some(text) => text.parse().map_err(|_| MissingVariable(name)),
            None => Ok(default),
        };
        let project = needed("GOOGLE_CLOUD_PROJECT")?;
        let subscription = needed("FLEET_SUBSCRIPTION")?;
        Ok(Self {
            pubsub: needed("PUBSUB_EMULATOR_HOST")?,
            storage: needed("STORAGE_EMULATOR_HOST")?,
            api_root: needed("FLEET_API_ROOT")?
                .parse()
                .map_err(|_| MissingVariable("FLEET_API_ROOT"))?,
            bucket: needed("FLEET_BUCKET")?,
            subscription: if subscription.contains('/') {
                subscription
            } else {
                format!("projects/{project}/subscriptions/{subscription}")
            },
            concurrency: usize::try_from(number("UNGUARDED_CONCURRENCY", 10)?)
                .map_err(|_| MissingVariable("UNGUARDED_CONCURRENCY"))?,
            ack_extension: Duration::from_secs(10),
            early: Duration::from_millis(number("UNGUARDED_EARLY_MS", 225_000)?),
            name: optional("UNGUARDED_NAME").unwrap_or_else(|| "worker".to_owned()),
        })
    }

    /// The HTTP client of a worker.
    fn http(&self) -> Result<reqwest::Client, Error> {
        reqwest::Client::builder()
            .user_agent(format!("unguarded/{}", self.name))
            .build()
            .map_err(|e| Error::Client("HTTP", innermost(&e)))
    }
}

/// Does jobs with the unguarded [`Store`] until `stop`, and then those that it has begun.
/// Dropping the future leaves them where they are.
///
/// # Errors
/// [`Error::Client`], or [`Error::PubSub`] when the stream ends.
pub async fn run(config: &Config, stop: CancellationToken) -> Result<(), Error> {
    let store =
        Store::connect(&config.storage, &config.bucket, config.http()?, config.early).await?;
    run_with(config, Arc::new(store), stop).await
}

/// As [`run`], with tokens from elsewhere: the same worker around another store.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: &Config,
    tokens: Arc<dyn Tokens>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let http = config.http()?;
    let subscriber = Subscriber::builder()
        .with_endpoint(format!("http://{}", config.pubsub))
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .map_err(|e| Error::Client("Pub/Sub", innermost(&e)))?;
    let mut stream = subscriber
        .subscribe(&config.subscription)
        .set_max_lease_extension(config.ack_extension)
        .set_max_outstanding_messages(i64::try_from(config.concurrency).unwrap_or(i64::MAX))
        .build();
    let jobs = TaskTracker::new();
    let result = loop {
        let (message, handler) = tokio::select! {
            () = stop.cancelled() => break Ok(()),
            next = stream.next() => match next {
                Some(Ok(next)) => next,
                Some(Err(error)) => break Err(Error::PubSub(innermost(&error))),
                None => break Err(Error::PubSub("the stream was closed".to_owned())),
            },
        };
        let (tokens, http, root) = (Arc::clone(&tokens), http.clone(), config.api_root.clone());
        jobs.spawn(async move {
            match work(&*tokens, &http, &root, &message.data).await {
                Ok(()) => handler.ack(),
                Err(error) => {
                    tracing::warn!(message_id = message.message_id, error, "job failed");
                    handler.nack();
                }
            }
        });
    };
    jobs.close();
    jobs.wait().await;
    result
}

async fn work(
    tokens: &dyn Tokens,
    http: &reqwest::Client,
    root: &url::Url,
    data: &[u8],
) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let job = Job::read(data).map_err(text)?;
    let token = tokens.token(&job.user).await?;
    let Some(call) = job.call(http, root).map_err(text)? else {
        return Ok(());
    };
    let answer = call.bearer_auth(token).send().await;
    let answer = answer.map_err(|e| text(Error::Unreachable(innermost(&e))))?;
    if !answer.status().is_success() {
        return Err(text(Error::Api(answer.status().as_u16())));
    }
    // Read to the end, so that the connection can be used again.
    answer.bytes().await.map_err(|e| text(Error::Unreachable(innermost(&e))))?;
    Ok(())
}
