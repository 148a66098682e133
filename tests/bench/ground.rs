//! The servers of a measurement: Pub/Sub, storage and the identity provider.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use emulators::google::{self, ClientKind, Google};
use emulators::pubsub::Stats;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::OAuthClient;
use tests::stage::{BUCKET, Cloud, full, token_record};
use worker::pubsub::{Admin, Connection, Outgoing, Publisher, SubscriptionPlan};

const SCOPES: [&str; 3] = ["openid", "email", "profile"];
/// How many publishes are under way at once.
const PUBLISHING: usize = 2000;
/// How many users are stored at once.
const STORING: usize = 64;

/// No wait for clients takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client needs to know about the servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    /// `host:port`.
    pub(crate) pubsub: String,
    /// Full name.
    pub(crate) subscription: String,
    /// Origin of the JSON API.
    pub(crate) storage: String,
    /// `host:port` of the gRPC API.
    pub(crate) storage_grpc: Option<String>,
    /// Where profiles come from.
    pub(crate) userinfo: String,
    /// The OAuth client, as Google's console downloads it.
    pub(crate) client: Value,
}

/// Running servers.
pub(crate) struct Ground {
    pub(crate) cloud: Cloud,
    pub(crate) google: Google,
    admin: Admin,
    topics: usize,
}

impl Ground {
    /// Starts them in `cloud`.
    pub(crate) async fn new(cloud: Cloud, provider: google::Config) -> anyhow::Result<Self> {
        let google = Google::start(provider).await?;
        cloud.create_bucket(BUCKET).await?;
        let connection = Connection { emulator: Some(cloud.pubsub.clone()) };
        let admin = Admin::connect(&connection).await.map_err(anyhow::Error::msg)?;
        Ok(Self { cloud, google, admin, topics: 0 })
    }

    /// The embedded servers, with a provider of long-lived tokens.
    pub(crate) async fn embedded() -> anyhow::Result<Self> {
        Self::new(Cloud::embedded().await?, google::Config::default()).await
    }

    /// Stores users with an hour's token each, who count from 0.
    pub(crate) async fn users(&self, count: usize) -> anyhow::Result<()> {
        let hour = Duration::from_secs(3600);
        stream::iter(0..count)
            .map(|number| async move { self.user(number, hour, Duration::ZERO).await })
            .buffer_unordered(STORING)
            .try_collect()
            .await
    }

    /// Stores a user whose token of this life is so old.
    pub(crate) async fn user(
        &self,
        number: usize,
        life: Duration,
        age: Duration,
    ) -> anyhow::Result<()> {
        let sub = user(number);
        let grant = self.consent(&sub);
        let record = token_record(&grant, &sub, &SCOPES, life, age, &self.google)?;
        self.cloud.create(BUCKET, &format!("tokens/{sub}.json"), &record.to_string()).await
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

    /// The OAuth client that the consents are for.
    pub(crate) fn oauth_client(&self) -> anyhow::Result<OAuthClient> {
        let client = self.google.client_json(ClientKind::Installed, &[]);
        Ok(OAuthClient::from_json(client.to_string().as_bytes())?)
    }

    /// An access token of a user's, for a client that has a constant one.
    pub(crate) fn constant_token(&self) -> String {
        self.consent("constant").access_token
    }

    /// A topic of its own with so many jobs in it, spread over the users; the place to
    /// take them from.
    pub(crate) async fn backlog(
        &mut self,
        kind: &str,
        jobs: usize,
        users: usize,
    ) -> anyhow::Result<Place> {
        self.topics += 1;
        let topic = full("topics", &format!("bench-{}", self.topics));
        let subscription = full("subscriptions", &format!("bench-{}", self.topics));
        let said = anyhow::Error::msg;
        self.admin.create_topic(&topic).await.map_err(said)?;
        let plan = SubscriptionPlan {
            name: subscription.clone(),
            topic: topic.clone(),
            dead_topic: None,
            ordering: false,
            min_backoff: Duration::from_secs(1),
        };
        self.admin.create_subscription(&plan).await.map_err(said)?;
        let connection = Connection { emulator: Some(self.cloud.pubsub.clone()) };
        let publisher = Publisher::open(&connection, &topic).await?;
        stream::iter(0..jobs)
            .map(|number| {
                let job = json!({
                    "id": format!("job-{number}"), "user": user(number % users), "kind": kind,
                });
                publisher.publish(Outgoing {
                    data: job.to_string().into(),
                    attributes: HashMap::new(),
                    ordering_key: String::new(),
                })
            })
            .buffer_unordered(PUBLISHING)
            .try_for_each(async |_| Ok(()))
            .await?;
        Ok(Place {
            pubsub: self.cloud.pubsub.clone(),
            subscription,
            storage: self.cloud.storage.clone(),
            storage_grpc: self.cloud.storage_grpc.clone(),
            userinfo: self.google.userinfo_url(),
            client: self.google.client_json(ClientKind::Installed, &[]),
        })
    }

    /// Waits until so many were acknowledged.
    pub(crate) async fn await_acknowledged(&self, place: &Place, jobs: u64) -> anyhow::Result<()> {
        self.await_stats(place, |stats| stats.acknowledged >= jobs).await
    }

    /// Waits until somebody pulls.
    pub(crate) async fn await_consumer(&self, place: &Place) -> anyhow::Result<()> {
        self.await_stats(place, |stats| stats.consumers > 0).await
    }

    async fn await_stats(
        &self,
        place: &Place,
        condition: impl FnMut(&Stats) -> bool,
    ) -> anyhow::Result<()> {
        let (pubsub, _) = self.cloud.embedded.as_ref().context("only embedded servers tell")?;
        let seen = pubsub.wait_for_subscription(&place.subscription, condition);
        tokio::time::timeout(PATIENCE, seen).await.context("the clients do not get on")?;
        Ok(())
    }

    /// Sees that the jobs were acknowledged, each once, as far as the server tells.
    pub(crate) fn acknowledged(&self, place: &Place, jobs: u64) -> anyhow::Result<()> {
        let Some((pubsub, _)) = &self.cloud.embedded else { return Ok(()) };
        let stats = pubsub.subscription_stats(&place.subscription).unwrap_or_default();
        ensure!(
            stats.acknowledged == jobs && stats.redeliveries == 0,
            "{jobs} jobs, but the server says {stats:?}"
        );
        Ok(())
    }
}

/// The ID of a user.
pub(crate) fn user(number: usize) -> String {
    format!("1097{number:017}")
}
