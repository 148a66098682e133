//! The servers of a measurement: Pub/Sub, storage, the identity provider, and what stands before
//! the APIs.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use emulators::google::{self, ClientKind, Google};
use emulators::pubsub::{PubSub, Stats};
use emulators::storage::Storage;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use jiff::SignedDuration;
use proto::subscriber_client::SubscriberClient;
use serde_json::Value;
use shared::OAuthClient;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::stage::{BUCKET, Cloud, PROJECT, full, token_record};
use tests::write_secret;
use tonic::transport::{Channel, Endpoint};
use unguarded::{Credential, Store};
use worker::pubsub::{Admin, Connection, Outgoing, Publisher, SubscriptionPlan};

use crate::front::{Front, STALLED_BUCKET};

const SCOPES: [&str; 3] = ["openid", "email", "profile"];
/// Where the objects of jobs go.
pub(crate) const OUTPUTS: &str = "outputs";
/// How many publishes are under way at once.
const PUBLISHING: usize = 2000;
/// How many users are stored at once.
const STORING: usize = 64;
/// The emulator measures larger contents and keeps nothing of them.
const KEPT: usize = 4096;
/// No wait for clients takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// What users' tokens live.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A subscription with jobs, and where they came from.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Full names.
    pub(crate) topic: String,
    pub(crate) subscription: String,
    publisher: Publisher,
}

/// Running servers.
pub(crate) struct Ground {
    pub(crate) cloud: Cloud,
    pub(crate) google: Google,
    pub(crate) front: Front,
    folder: tempfile::TempDir,
    admin: Admin,
    subscriber: SubscriberClient<Channel>,
    places: usize,
}

impl Ground {
    /// Starts them.
    pub(crate) async fn start(provider: google::Config) -> anyhow::Result<Self> {
        let (cloud, google) = (Cloud::embedded().await?, Google::start(provider).await?);
        for bucket in [BUCKET, OUTPUTS, STALLED_BUCKET] {
            cloud.create_bucket(bucket).await?;
        }
        let folder = tempfile::tempdir()?;
        let client = google.client_json(ClientKind::Installed, &[]).to_string();
        write_secret(folder.path().join("client.json"), client)?;
        let front = Front::start(&cloud.storage, folder.path()).await?;
        let connection = Connection { emulator: Some(cloud.pubsub.clone()) };
        let admin = Admin::connect(&connection).await.map_err(anyhow::Error::msg)?;
        let channel = Endpoint::from_shared(format!("http://{}", cloud.pubsub))?.connect().await?;
        let subscriber = SubscriberClient::new(channel);
        let ground = Self { cloud, google, front, folder, admin, subscriber, places: 0 };
        ground.storage().keep_up_to(KEPT);
        ground.admin.create_topic(&full("topics", DEAD)).await.map_err(anyhow::Error::msg)?;
        Ok(ground)
    }

    pub(crate) fn pubsub(&self) -> &PubSub {
        &self.cloud.embedded.as_ref().expect("these are embedded").0
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.cloud.embedded.as_ref().expect("these are embedded").1
    }

    /// What a client is told of the servers, as `fleet worker` reads it.
    pub(crate) fn environment(&self, place: &Place) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.display().to_string();
        let authority = path(self.front.authority());
        vec![
            ("GOOGLE_CLOUD_PROJECT", PROJECT.to_owned()),
            ("PUBSUB_EMULATOR_HOST", self.cloud.pubsub.clone()),
            ("STORAGE_EMULATOR_HOST", self.front.origin()),
            (
                "STORAGE_EMULATOR_HOST_GRPC",
                self.cloud.storage_grpc.clone().expect("the embedded server has both"),
            ),
            ("FLEET_API_ROOT", self.front.origin()),
            ("FLEET_BUCKET", BUCKET.to_owned()),
            ("FLEET_ALLOW_BUCKETS", format!("{OUTPUTS},{STALLED_BUCKET}")),
            ("FLEET_TOPIC", place.topic.clone()),
            ("FLEET_SUBSCRIPTION", place.subscription.clone()),
            ("FLEET_DEAD_TOPIC", DEAD.to_owned()),
            ("FLEET_OAUTH_CLIENT", path(&self.folder.path().join("client.json"))),
            ("FLEET_LISTEN", "127.0.0.1:0".to_owned()),
            ("FLEET_LOG_FORMAT", "gcp".to_owned()),
            // The same authority, as each language's clients are told of it.
            ("SSL_CERT_FILE", authority.clone()),
            ("NODE_EXTRA_CA_CERTS", authority.clone()),
            ("REQUESTS_CA_BUNDLE", authority),
            // As the image sets it.
            ("MIMALLOC_ALLOW_THP", "0".to_owned()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ]
    }

    /// Stores users with a token of an hour that is so old, who count from 0: as the fleet has
    /// them and as programs without a guard do.
    pub(crate) async fn users(&self, count: usize, age: Duration) -> anyhow::Result<()> {
        let http = reqwest::Client::new();
        let store = Store::connect(&self.cloud.storage, BUCKET, http, Duration::ZERO).await?;
        let store = &store;
        stream::iter(0..count)
            .map(|number| async move { self.user(number, age, store).await })
            .buffer_unordered(STORING)
            .try_collect()
            .await
    }

    async fn user(&self, number: usize, age: Duration, store: &Store) -> anyhow::Result<()> {
        let sub = user(number);
        let grant = self.consent(&sub);
        let record = token_record(&grant, &sub, &SCOPES, HOUR, age, &self.google)?;
        self.cloud.create(BUCKET, &format!("tokens/{sub}.json"), &record.to_string()).await?;
        let client = self.google.client_json(ClientKind::Installed, &[]);
        let client = OAuthClient::from_json(client.to_string().as_bytes())?;
        let left = SignedDuration::try_from(HOUR)? - SignedDuration::try_from(age)?;
        let credential = Credential {
            token: Some(grant.access_token),
            refresh_token: grant.refresh_token,
            token_uri: client.token_uri().to_owned(),
            client_id: client.client_id().to_owned(),
            client_secret: client.client_secret().context("it has one")?.expose().to_owned(),
            scopes: grant.scopes,
            expiry: Some(SystemClock::default().wall() + left),
        };
        Ok(store.save(&sub, &credential).await?)
    }

    /// A user's consent.
    pub(crate) fn consent(&self, sub: &str) -> google::Grant {
        let account = google::User {
            sub: sub.to_owned(),
            email: format!("{sub}@example.com"),
            name: format!("The user {sub}"),
            ..google::User::default()
        };
        self.google.add_user(account, SCOPES)
    }

    /// A topic with a subscription, and nothing in them.
    pub(crate) async fn place(&mut self) -> anyhow::Result<Place> {
        self.places += 1;
        let topic = full("topics", &format!("bench-{}", self.places));
        let subscription = full("subscriptions", &format!("bench-{}", self.places));
        self.admin.create_topic(&topic).await.map_err(anyhow::Error::msg)?;
        let plan = SubscriptionPlan {
            name: subscription.clone(),
            topic: topic.clone(),
            dead_topic: None,
            ordering: false,
            min_backoff: Duration::from_secs(10),
        };
        self.admin.create_subscription(&plan).await.map_err(anyhow::Error::msg)?;
        let connection = Connection { emulator: Some(self.cloud.pubsub.clone()) };
        let publisher = Publisher::open(&connection, &topic).await?;
        Ok(Place { topic, subscription, publisher })
    }

    /// Publishes jobs.
    pub(crate) async fn publish(
        &self,
        place: &Place,
        jobs: impl IntoIterator<Item = Value>,
    ) -> anyhow::Result<()> {
        stream::iter(jobs)
            .map(|job| place.publisher.publish(message(&job)))
            .buffer_unordered(PUBLISHING)
            .try_for_each(async |_| Ok(()))
            .await?;
        Ok(())
    }

    /// Publishes one job at once, without a look for others that could go with it.
    pub(crate) async fn publish_alone(&self, place: &Place, job: Value) -> anyhow::Result<()> {
        place.publisher.publish_alone(message(&job)).await?;
        Ok(())
    }

    /// Deletes what nobody needs any more, with all that is left in it.
    pub(crate) async fn forget(&self, place: Place) -> anyhow::Result<()> {
        let request = proto::DeleteSubscriptionRequest { subscription: place.subscription };
        self.subscriber.clone().delete_subscription(request).await?;
        Ok(self.pubsub().delete_topic(&place.topic)?)
    }

    /// What the server has counted of a subscription.
    pub(crate) fn stats(&self, place: &Place) -> Stats {
        self.pubsub().subscription_stats(&place.subscription).unwrap_or_default()
    }

    /// Waits until so many were acknowledged.
    pub(crate) async fn await_acknowledged(&self, place: &Place, jobs: u64) -> anyhow::Result<()> {
        let acknowledged = |stats: &Stats| stats.acknowledged >= jobs;
        let seen = self.pubsub().wait_for_subscription(&place.subscription, acknowledged);
        let in_time = tokio::time::timeout(PATIENCE, seen).await;
        let late = || format!("the client does not get on: {:?}", self.stats(place));
        in_time.with_context(late)?;
        Ok(())
    }
}

/// Where rejected jobs would go.
const DEAD: &str = "bench-dead";

fn message(job: &Value) -> Outgoing {
    Outgoing {
        data: job.to_string().into(),
        attributes: HashMap::new(),
        ordering_key: String::new(),
    }
}

/// The ID of a user.
pub(crate) fn user(number: usize) -> String {
    format!("1097{number:017}")
}
