//! Servers, users and jobs of one measurement.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use emulators::google::{self, ClientKind, Google};
use emulators::pubsub::{self, PubSub};
use emulators::storage::{self, Storage};
use jiff::SignedDuration;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::json;
use shared::adapters::{
    CloudStorage, CloudStorageConfig, HttpTokenEndpoint, SystemClock, http_client,
};
use shared::ports::{Bucket, Clock as _};
use shared::{Grant, OAuthClient, Secret, TokenStore, UserId};
use tokio::process::Child;
use tokio::time::Instant;
use unguarded::Credential;
use worker::pubsub::{Connection, Outgoing, Publisher};

use super::{Plan, Way};

const PROJECT: &str = "contention";
const BUCKET: &str = "contention-tokens";
const TOPIC: &str = "projects/contention/topics/jobs";
const DEAD_TOPIC: &str = "projects/contention/topics/jobs-dead";
const SUBSCRIPTION: &str = "projects/contention/subscriptions/jobs-workers";
const SCOPE: &str = "https://www.googleapis.com/auth/tasks";

/// The bucket takes one write a second of each object: what was stored last rests.
const REST: Duration = Duration::from_millis(1200);
/// How long 32 Python processes may take to connect on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long the last jobs may take: five deliveries a second apart, and their work.
const REMAINDER: Duration = Duration::from_secs(15);

pub(super) struct Scene {
    pub(super) google: Google,
    pubsub: PubSub,
    storage: Storage,
    plan: Plan,
}

impl Scene {
    pub(super) async fn set(plan: &Plan) -> anyhow::Result<Self> {
        let google = Google::start(google::Config {
            token_lifetime: plan.token_lifetime,
            rotate: plan.rotating,
            refresh_latency: plan.refresh_latency,
            api_latency: plan.api_latency,
            ..google::Config::default()
        })
        .await?;
        let pubsub = PubSub::start(pubsub::Config::default()).await?;
        let storage = Storage::start(storage::Config::default()).await?;
        storage.create_bucket(BUCKET)?;
        let address = pubsub.address().to_string();
        unguarded::create_subscription(&address, TOPIC, SUBSCRIPTION, DEAD_TOPIC).await?;
        Ok(Self { google, pubsub, storage, plan: plan.clone() })
    }

    pub(super) fn client(&self) -> anyhow::Result<OAuthClient> {
        let client = self.google.client_json(ClientKind::Installed, &[]);
        Ok(OAuthClient::from_json(&serde_json::to_vec(&client)?)?)
    }

    pub(super) async fn bucket(&self) -> anyhow::Result<Arc<dyn Bucket>> {
        let config = CloudStorageConfig {
            bucket: BUCKET.to_owned(),
            timeout: None,
            emulator: Some(self.storage.http_origin()),
            emulator_grpc: Some(self.storage.grpc_address().to_string()),
        };
        Ok(CloudStorage::connect(config).await.map_err(anyhow::Error::msg)?.shared())
    }

    pub(super) fn config(&self, name: &str) -> anyhow::Result<unguarded::Config> {
        Ok(unguarded::Config {
            pubsub: self.pubsub.address().to_string(),
            storage: self.storage.http_origin(),
            api_root: self.google.origin().parse()?,
            bucket: BUCKET.to_owned(),
            subscription: SUBSCRIPTION.to_owned(),
            concurrency: self.plan.concurrency,
            ack_extension: Duration::from_secs(10),
            early: self.early(),
            name: name.to_owned(),
        })
    }

    /// The least that Fleet leaves of a token, too.
    fn early(&self) -> Duration {
        self.plan.token_lifetime / 10
    }

    /// What the Python workers are told.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("GOOGLE_CLOUD_PROJECT", PROJECT.to_owned()),
            ("PUBSUB_EMULATOR_HOST", self.pubsub.address().to_string()),
            ("STORAGE_EMULATOR_HOST", self.storage.http_origin()),
            ("FLEET_API_ROOT", self.google.origin()),
            ("FLEET_BUCKET", BUCKET.to_owned()),
            ("FLEET_SUBSCRIPTION", SUBSCRIPTION.to_owned()),
            ("UNGUARDED_EARLY_MS", self.early().as_millis().to_string()),
        ]
    }

    /// Stores every user in the form of that way, with an access token that has lapsed.
    pub(super) async fn store_users(&self, way: Way) -> anyhow::Result<()> {
        let client = self.client()?;
        let endpoint = Arc::new(HttpTokenEndpoint::new(&client, http_client("contention")?)?);
        let guarded = TokenStore::builder(self.bucket().await?, endpoint).build()?;
        let unguarded = self.unguarded("contention").await?;
        let lapsed = SystemClock::default().wall() - SignedDuration::from_secs(1);
        let secret = client.client_secret().context("the client has a secret")?;
        for number in 0..self.plan.users {
            let sub = user(number);
            let account = google::User { sub: sub.clone(), ..google::User::default() };
            let granted = self.google.add_user(account, [SCOPE]);
            if way == Way::Fleet {
                let grant = Grant {
                    refresh_token: Some(Secret::new(granted.refresh_token)),
                    access_token: Some(Secret::new(granted.access_token)),
                    expires_at: Some(lapsed),
                    expires_in: Some(self.plan.token_lifetime),
                    scopes: granted.scopes,
                    sub: Some(sub.clone()),
                    ended: None,
                };
                guarded.import(&UserId::new(&sub)?, grant, false).await?;
            } else {
                let credential = Credential {
                    token: Some(granted.access_token),
                    refresh_token: granted.refresh_token,
                    token_uri: client.token_uri().to_owned(),
                    client_id: client.client_id().to_owned(),
                    client_secret: secret.expose().to_owned(),
                    scopes: granted.scopes,
                    expiry: Some(lapsed),
                };
                unguarded.save(&sub, &credential).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn wait_for_replicas(&self, children: &mut [Child]) -> anyhow::Result<()> {
        let wanted = self.plan.replicas as u64;
        let died = async {
            match children.first_mut() {
                Some(child) => child.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = died => bail!("the Python workers ended before they were up: {}", status?),
            up = tokio::time::timeout(START, self.pubsub.wait_for_subscription(SUBSCRIPTION, |stats| {
                stats.consumers >= wanted
            })) => {
                up.with_context(|| format!("{wanted} replicas are not up after {START:?}"))?;
            }
        }
        Ok(())
    }

    /// Publishes the bursts; the counts and how long it took when all jobs have ended.
    pub(super) async fn play(&self) -> anyhow::Result<(pubsub::Stats, f64)> {
        let connection = Connection { emulator: Some(self.pubsub.address().to_string()) };
        let publisher = Publisher::open(&connection, TOPIC).await?;
        let mut order: Vec<usize> = (0..self.plan.users * self.plan.jobs_per_user).collect();
        let mut random = StdRng::seed_from_u64(self.plan.seed);
        let begin = Instant::now() + REST;
        for burst in 0..self.plan.bursts {
            order.shuffle(&mut random);
            let at = begin + self.plan.interval() * u32::try_from(burst)?;
            tokio::time::sleep_until(at).await;
            let published: Vec<_> =
                order.iter().map(|number| publisher.publish(self.job(burst, *number))).collect();
            for one in published {
                one.await?;
            }
        }
        let all = self.plan.jobs() as u64;
        let ended = self.pubsub.wait_for_subscription(SUBSCRIPTION, |stats| {
            stats.acknowledged + stats.dead_lettered >= all
        });
        // Whoever is not done by then has not done it.
        let stats = match tokio::time::timeout(REMAINDER, ended).await {
            Ok(stats) => stats,
            Err(_) => self.pubsub.subscription_stats(SUBSCRIPTION).unwrap_or_default(),
        };
        Ok((stats, begin.elapsed().as_secs_f64()))
    }

    fn job(&self, burst: usize, number: usize) -> Outgoing {
        let id = format!("job-{burst}-{number}");
        let job = json!({"id": id, "user": user(number % self.plan.users), "kind": "api", "params": {
            "method": "POST",
            "url": "https://tasks.googleapis.com/tasks/v1/lists/@default/tasks",
            "headers": {"x-effect-id": id},
            "body": {"title": id},
        }});
        Outgoing { data: job.to_string().into(), ..Outgoing::default() }
    }
}

fn user(number: usize) -> String {
    format!("user-{number}")
}
