//! Emulators in this process, and replicas as processes of the same binary.

mod children;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::pubsub::{Connection, SubscriptionPlan};
use anyhow::Context as _;
use emulators::account::Account;
use emulators::google::{self, ClientKind, Google};
use emulators::pubsub::{self, PubSub};
use emulators::storage::{self, Storage};
use jiff::{SignedDuration, Timestamp};
use shared::adapters::{HttpTokenEndpoint, SystemClock, http_client};
use shared::ports::Clock as _;
use shared::{Grant, OAuthClient, Secret, TokenStore, UserId};

use super::super::emulated::Emulators;
use super::super::environment::Place;
use super::super::setup;
use super::kept::{Kept, write_private};
use super::no_proxy;
use super::ports::Ports;

pub(super) use children::{Line, Replica};

/// Names of everything on the stack.
pub(super) const PROJECT: &str = "fleet-local";
pub(super) const BUCKET: &str = "fleet-local-tokens";
pub(super) const TOPIC: &str = "jobs";
pub(super) const SUBSCRIPTION: &str = "jobs-workers";
pub(super) const DEAD: &str = "jobs-dead";
pub(super) const DEAD_REVIEW: &str = "jobs-dead-review";
pub(super) const OUTCOMES: &str = "outcomes";
pub(super) const EVENTS: &str = "events";
const SCOPES: [&str; 5] = [
    "openid",
    "email",
    "profile",
    "https://www.googleapis.com/auth/tasks",
    "https://www.googleapis.com/auth/drive.readonly",
];
/// What the users of a stack that stays up have granted besides: the APIs that its root answers.
const MORE_SCOPES: [&str; 5] = [
    "https://www.googleapis.com/auth/calendar.events",
    "https://www.googleapis.com/auth/drive.file",
    "https://www.googleapis.com/auth/gmail.readonly",
    "https://www.googleapis.com/auth/gmail.send",
    "https://www.googleapis.com/auth/spreadsheets",
];

/// What the stack should be like.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) token_lifetime: Duration,
    pub(super) api_latency: Duration,
    pub(super) refresh_latency: Duration,
    /// How long a job waits at least that was given back.
    pub(super) min_backoff: Duration,
    /// The command of every replica, as a shell reads it, if not this program.
    pub(super) worker: Option<String>,
    /// Flags of every replica.
    pub(super) replica_flags: Vec<String>,
    /// Whether an object's name may be written once a second only.
    pub(super) strict_writes: bool,
    /// Where it listens, if not at any free ports.
    pub(super) ports: Option<Ports>,
}

/// A running stack.
pub(super) struct Stack {
    pub(super) pubsub: PubSub,
    pub(super) storage: Storage,
    pub(super) google: Google,
    /// What the bucket saw of refreshes.
    pub(super) account: Account,
    folder: Folder,
    plan: Plan,
}

/// Where the stack's files are.
enum Folder {
    /// Goes with the stack.
    Temporary(tempfile::TempDir),
    /// Stays. The emulators' data is dropped after them.
    Kept(Kept),
}

pub(super) fn full(collection: &str, id: &str) -> String {
    format!("projects/{PROJECT}/{collection}/{id}")
}

impl Stack {
    /// Starts the emulators and creates what the fleet needs.
    pub(super) async fn start(plan: Plan) -> anyhow::Result<Self> {
        Self::start_on(plan, None).await
    }

    /// Starts with what a folder keeps, if one is given.
    pub(super) async fn start_on(plan: Plan, kept: Option<Kept>) -> anyhow::Result<Self> {
        let (mut to_pubsub, mut to_storage) =
            (pubsub::Config::default(), storage::Config::default());
        to_storage.one_mutation_per_second = plan.strict_writes;
        let mut to_google = google::Config::default();
        if let Some(ports) = plan.ports {
            to_pubsub.listen = ports.pubsub();
            (to_storage.http, to_storage.grpc) = (ports.storage(), ports.storage_grpc());
            to_google.listen = ports.google();
        }
        let to_google = google::Config {
            token_lifetime: plan.token_lifetime,
            rotate: true,
            api_latency: plan.api_latency,
            refresh_latency: plan.refresh_latency,
            ..to_google
        };
        let data = kept.as_ref().map(|kept| &kept.data);
        let pubsub = match data {
            Some(data) => PubSub::start_on(to_pubsub, data).await,
            None => PubSub::start(to_pubsub).await,
        };
        let storage = match data {
            Some(data) => Storage::start_on(to_storage, data).await,
            None => Storage::start(to_storage).await,
        };
        let google = match data {
            Some(data) => Google::start_on(to_google, data).await,
            None => Google::start(to_google).await,
        };
        let (pubsub, storage) =
            (pubsub.context("Pub/Sub emulator")?, storage.context("storage emulator")?);
        let google = google.context("identity emulator")?;
        let account = Account::open(&storage);
        let folder = match kept {
            Some(kept) => Folder::Kept(kept),
            None => Folder::Temporary(tempfile::Builder::new().prefix("fleet-").tempdir()?),
        };
        let client = google.client_json(ClientKind::Installed, &["http://localhost"]);
        let stack = Self { pubsub, storage, google, account, folder, plan };
        // It names the ports, which may be others than the last time.
        write_private(&stack.client_path(), &serde_json::to_vec_pretty(&client)?)?;
        stack.set_up().await?;
        Ok(stack)
    }

    async fn set_up(&self) -> anyhow::Result<()> {
        let place = self.place()?;
        let topics = [TOPIC, DEAD, OUTCOMES, EVENTS].map(|t| full("topics", t));
        let plan = |id: &str, topic: &str, dead: Option<&str>, ordering| SubscriptionPlan {
            name: full("subscriptions", id),
            topic: full("topics", topic),
            dead_topic: dead.map(|d| full("topics", d)),
            ordering,
            min_backoff: self.plan.min_backoff,
        };
        let plans = [
            plan(SUBSCRIPTION, TOPIC, Some(DEAD), true),
            plan(OUTCOMES, OUTCOMES, None, false),
            plan(EVENTS, EVENTS, None, false),
        ];
        let review = (full("subscriptions", DEAD_REVIEW), full("topics", DEAD));
        setup::create(&place, &topics, &plans, Some(&review)).await?;
        let bucket = place.bucket(BUCKET).await?;
        bucket.create_if_missing(PROJECT).await.context("bucket")?;
        Ok(())
    }

    /// Where everything is, as the environment would say.
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        Ok(Place {
            emulators: Some(Emulators {
                pubsub: self.pubsub.address().to_string(),
                storage: self.storage.http_origin(),
                storage_grpc: Some(self.storage.grpc_address().to_string()),
                api_root: Some(self.google.origin().parse().context("API origin")?),
                kms_root: None,
            }),
        })
    }

    pub(super) fn connection(&self) -> Connection {
        Connection { emulator: Some(self.pubsub.address().to_string()) }
    }

    /// The variables that point the commands at this stack.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let pubsub = self.pubsub.address();
        let storage = self.storage.http_origin();
        let mut variables = vec![
            // As gcloud reads them.
            ("CLOUDSDK_CORE_PROJECT", PROJECT.to_owned()),
            ("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true".to_owned()),
            ("CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB", format!("http://{pubsub}/")),
            ("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", format!("{storage}/storage/v1/")),
            ("GOOGLE_CLOUD_PROJECT", PROJECT.to_owned()),
            ("PUBSUB_EMULATOR_HOST", self.pubsub.address().to_string()),
            ("STORAGE_EMULATOR_HOST", self.storage.http_origin()),
            ("STORAGE_EMULATOR_HOST_GRPC", self.storage.grpc_address().to_string()),
            ("FLEET_API_ROOT", self.google.origin()),
            ("FLEET_USERINFO_URL", self.google.userinfo_url()),
            ("FLEET_REVOKE_URL", self.google.revoke_url()),
            ("FLEET_BUCKET", BUCKET.to_owned()),
            ("FLEET_TOPIC", TOPIC.to_owned()),
            ("FLEET_SUBSCRIPTION", SUBSCRIPTION.to_owned()),
            ("FLEET_DEAD_TOPIC", DEAD.to_owned()),
            ("FLEET_OUTCOMES_TOPIC", OUTCOMES.to_owned()),
            ("FLEET_EVENTS_TOPIC", EVENTS.to_owned()),
            ("FLEET_OAUTH_CLIENT", self.client_path().display().to_string()),
        ];
        variables.extend(no_proxy::variables());
        variables
    }

    /// Each server, and what it is, for people.
    pub(super) fn endpoints(&self) -> [(&'static str, String); 4] {
        [
            ("Pub/Sub", self.pubsub.address().to_string()),
            ("Cloud Storage", self.storage.http_origin()),
            ("Cloud Storage by gRPC", self.storage.grpc_address().to_string()),
            ("Google's APIs", self.google.origin()),
        ]
    }

    fn client_path(&self) -> PathBuf {
        self.folder().join("client.json")
    }

    /// The OAuth client of everybody here.
    pub(super) fn client(&self) -> anyhow::Result<OAuthClient> {
        Ok(OAuthClient::from_json(&std::fs::read(self.client_path())?)?)
    }

    fn sub(number: usize) -> String {
        format!("user-{number}")
    }

    /// A user who has consented, with a live access token and when that expires.
    pub(super) fn consent(
        &self,
        number: usize,
    ) -> anyhow::Result<(String, google::Grant, Timestamp)> {
        let sub = Self::sub(number);
        let user = google::User {
            email: format!("{sub}@example.com"),
            name: format!("User {number}"),
            sub: sub.clone(),
            ..google::User::default()
        };
        let granted = self.google.add_user(user, SCOPES.into_iter().chain(MORE_SCOPES));
        let life = SignedDuration::try_from(Duration::from_secs(granted.expires_in))?;
        Ok((sub, granted, SystemClock::default().wall() + life))
    }

    /// Imports users that have consented, with live access tokens. Those that a folder has kept
    /// stay as they are.
    pub(super) async fn import_users(&self, count: usize) -> anyhow::Result<Vec<UserId>> {
        let client = self.client()?;
        let endpoint = HttpTokenEndpoint::new(&client, http_client("fleet-demo")?)?;
        let bucket = self.place()?.bucket(BUCKET).await?.shared();
        let store = TokenStore::builder(bucket, Arc::new(endpoint)).build()?;
        let mut users = Vec::with_capacity(count);
        for number in 1..=count {
            let user = UserId::new(Self::sub(number))?;
            if self.storage.object(BUCKET, &user.token_object()).is_some() {
                users.push(user);
                continue;
            }
            let (sub, granted, expires_at) = self.consent(number)?;
            let grant = Grant {
                refresh_token: Some(Secret::new(granted.refresh_token)),
                access_token: Some(Secret::new(granted.access_token)),
                expires_at: Some(expires_at),
                expires_in: Some(Duration::from_secs(granted.expires_in)),
                scopes: granted.scopes,
                sub: Some(sub),
                ended: None,
            };
            store.import(&user, grant, true).await?;
            users.push(user);
        }
        Ok(users)
    }

    /// Accounts that have granted nothing yet, for the consent page.
    pub(super) fn offer_accounts(&self) {
        for number in 1..=2 {
            let sub = format!("guest-{number}");
            self.google.add_account(google::User {
                email: format!("{sub}@example.com"),
                name: format!("Guest {number}"),
                picture: format!("{}/picture/g", self.google.origin()),
                sub,
                ..google::User::default()
            });
        }
    }

    /// The folder of this stack's files.
    pub(super) fn folder(&self) -> &Path {
        match &self.folder {
            Folder::Temporary(folder) => folder.path(),
            Folder::Kept(kept) => &kept.folder,
        }
    }

    /// Completes when the stack can keep no more of what it is told; why.
    pub(super) async fn failed(&self) -> String {
        match &self.folder {
            Folder::Temporary(_) => std::future::pending().await,
            Folder::Kept(kept) => kept.data.failed().await,
        }
    }
}
