//! A stage for end-to-end tests: servers, an identity provider, and the `fleet`
//! binary as a person would run it.

mod cloud;
mod external;
mod process;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use emulators::google::{self, ClientKind, Google};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use worker::pubsub::{
    Admin, Connection, Intake, IntakeSettings, OUTSTANDING_BYTES, Outgoing, Publisher, Source as _,
    SubscriptionPlan,
};

use crate::gateway::Gateway;
use crate::write_secret;

pub use cloud::Cloud;
pub use external::{LIMITS, Missing, find_clients, leave_out};
pub(crate) use process::with_variables;
pub use process::{Output, Worker, example, fleet_binary, run, run_program};

/// No test waits longer than this for anything but a message ([`Inbox::next`]).
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that one test needs, its own and nobody else's.
#[derive(Debug)]
pub struct Stage {
    /// Pub/Sub and storage.
    pub cloud: Cloud,
    /// Identity and APIs.
    pub google: Google,
    /// What stands before the provider's token endpoint, if anything.
    pub gateway: Option<Gateway>,
    /// Variables on top of the stage's own.
    pub variables: Vec<(String, String)>,
    folder: tempfile::TempDir,
}

/// Names on every stage; a stage's servers are its own.
pub const PROJECT: &str = "stage";
/// The token bucket.
pub const BUCKET: &str = "stage-tokens";
const SCOPES: [&str; 4] = ["openid", "email", "profile", "https://www.googleapis.com/auth/tasks"];

/// A full name on the stage.
pub fn full(collection: &str, id: &str) -> String {
    format!("projects/{PROJECT}/{collection}/{id}")
}

impl Stage {
    /// Sets a stage up in `cloud`: topics, subscriptions, bucket, and a provider
    /// that rotates refresh tokens and revokes on reuse.
    ///
    /// # Errors
    /// When a server or command fails.
    pub async fn set(cloud: Cloud) -> anyhow::Result<Self> {
        Self::set_with(cloud, google::Config::default()).await
    }

    /// As [`Stage::set`], with a provider of these settings, which rotates all the
    /// same.
    ///
    /// # Errors
    /// When a server or command fails.
    pub async fn set_with(cloud: Cloud, provider: google::Config) -> anyhow::Result<Self> {
        let google = Google::start(google::Config { rotate: true, ..provider }).await?;
        Self::set_up(cloud, google, None).await
    }

    /// As [`Stage::set_with`], with a [`Gateway`] before the token endpoint.
    ///
    /// # Errors
    /// When a server or command fails.
    pub async fn behind_gateway(provider: google::Config) -> anyhow::Result<Self> {
        let google = Google::start(google::Config { rotate: true, ..provider }).await?;
        let gateway = Gateway::before(&google).await?;
        Self::set_up(Cloud::embedded().await?, google, Some(gateway)).await
    }

    async fn set_up(
        cloud: Cloud,
        google: Google,
        gateway: Option<Gateway>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let stage = Self { cloud, google, gateway, variables: Vec::new(), folder };
        write_secret(stage.path("client.json"), stage.client().to_string())?;
        let mut setup = vec!["setup", "--topic", "jobs", "--subscription", "jobs-workers"];
        setup.extend(["--dead-topic", "jobs-dead", "--outcomes-topic", "outcomes"]);
        let mut variables = stage.environment();
        if !stage.cloud.creates_buckets() {
            stage.cloud.create_bucket(BUCKET).await?;
            variables.push(("FLEET_BUCKET".to_owned(), String::new()));
        }
        let output = run(&setup, &variables).await?;
        ensure!(output.code == 0, "setup failed: {}", output.stderr);
        let admin = Admin::connect(&stage.connection()).await.map_err(anyhow::Error::msg)?;
        let plan = SubscriptionPlan {
            name: full("subscriptions", "outcomes"),
            topic: full("topics", "outcomes"),
            dead_topic: None,
            ordering: false,
            min_backoff: Duration::from_secs(1),
        };
        admin.create_subscription(&plan).await.map_err(anyhow::Error::msg)?;
        Ok(stage)
    }

    /// The OAuth client's file.
    fn client(&self) -> Value {
        let mut client = self.google.client_json(ClientKind::Installed, &["http://localhost"]);
        if let Some(gateway) = &self.gateway {
            client["installed"]["token_uri"] = gateway.token_uri().into();
        }
        client
    }

    /// The gateway of a stage that has one.
    ///
    /// # Panics
    /// When it has none.
    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("the stage was set behind a gateway")
    }

    /// Where Pub/Sub is.
    pub fn connection(&self) -> Connection {
        Connection { emulator: Some(self.cloud.pubsub.clone()) }
    }

    /// A file of this stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The variables of this stage's commands.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables: Vec<(String, String)> = [
            ("GOOGLE_CLOUD_PROJECT", PROJECT.to_owned()),
            ("PUBSUB_EMULATOR_HOST", self.cloud.pubsub.clone()),
            ("STORAGE_EMULATOR_HOST", self.cloud.storage.clone()),
            ("FLEET_API_ROOT", self.google.origin()),
            ("FLEET_USERINFO_URL", self.google.userinfo_url()),
            ("FLEET_REVOKE_URL", self.google.revoke_url()),
            ("FLEET_BUCKET", BUCKET.to_owned()),
            ("FLEET_TOPIC", "jobs".to_owned()),
            ("FLEET_SUBSCRIPTION", "jobs-workers".to_owned()),
            ("FLEET_DEAD_TOPIC", "jobs-dead".to_owned()),
            ("FLEET_OUTCOMES_TOPIC", "outcomes".to_owned()),
            ("FLEET_OAUTH_CLIENT", self.path("client.json").display().to_string()),
            ("FLEET_LISTEN", "127.0.0.1:0".to_owned()),
            ("FLEET_LOG_FORMAT", "gcp".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        if let Some(grpc) = &self.cloud.storage_grpc {
            variables.push(("STORAGE_EMULATOR_HOST_GRPC".to_owned(), grpc.clone()));
        }
        variables.extend(self.variables.iter().cloned());
        variables
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub async fn fleet(&self, args: &[&str]) -> anyhow::Result<Output> {
        run(args, &self.environment()).await
    }

    /// Starts a command with piped stderr; dropping it kills it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, args: &[&str]) -> anyhow::Result<tokio::process::Child> {
        process::start(args, &self.environment())
    }

    /// Starts a replica and waits until it takes jobs.
    ///
    /// # Errors
    /// When it ends before that.
    pub async fn worker(&self, flags: &[&str]) -> anyhow::Result<Worker> {
        let mut worker = self.start_worker(flags)?;
        worker.wait_for(|line| line["message"] == "taking jobs").await?;
        Ok(worker)
    }

    /// Starts a replica.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_worker(&self, flags: &[&str]) -> anyhow::Result<Worker> {
        Worker::start(flags, &self.environment())
    }

    /// Starts another program with this stage's variables.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(&self, program: &Path, args: &[&str]) -> anyhow::Result<Worker> {
        Worker::start_program(program, args, &self.environment())
    }

    /// Starts a command that serves, as a process that may have so many descriptors open.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with_descriptors(&self, args: &[&str], most: u32) -> anyhow::Result<Worker> {
        Worker::start_with_descriptors(args, most, &self.environment())
    }

    /// Starts a replica with other variables than the stage's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_worker_with(
        &self,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Worker> {
        let mut all = self.environment();
        all.extend(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        Worker::start(flags, &all)
    }

    /// Stores a user whose access token lives for an hour and is `age` old.
    ///
    /// # Errors
    /// When the import fails.
    pub async fn user(&self, sub: &str, age: Duration) -> anyhow::Result<()> {
        let record = self.record_of(sub, Duration::from_secs(3600), age)?;
        self.import(sub, &record).await
    }

    /// Stores a user with a refresh token and no access token, from gcloud's
    /// file.
    ///
    /// # Errors
    /// When the import fails.
    pub async fn user_without_access_token(&self, sub: &str) -> anyhow::Result<()> {
        let file = self.authorized_user(sub);
        self.import(sub, &file).await
    }

    /// Writes gcloud's file of a user who has consented just now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_authorized_user(&self, sub: &str, path: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(path, self.authorized_user(sub).to_string())?)
    }

    fn authorized_user(&self, sub: &str) -> Value {
        let grant = self.consent(sub);
        let client = self.client();
        json!({
            "type": "authorized_user",
            "client_id": client["installed"]["client_id"],
            "client_secret": "fake-and-unused",
            "refresh_token": grant.refresh_token,
        })
    }

    fn consent(&self, sub: &str) -> google::Grant {
        let user = google::User {
            sub: sub.to_owned(),
            email: format!("{sub}@example.com"),
            name: format!("The user {sub}"),
            ..google::User::default()
        };
        let grant = self.google.add_user(user, SCOPES);
        if let Some(gateway) = &self.gateway {
            gateway.learn(sub, &grant.refresh_token);
        }
        grant
    }

    /// The token record of a user who has consented just now; see [`token_record`].
    fn record_of(&self, sub: &str, life: Duration, age: Duration) -> anyhow::Result<Value> {
        let grant = self.consent(sub);
        let mut record = token_record(&grant, sub, &SCOPES, life, age, &self.google)?;
        record["token_uri"] = self.client()["installed"]["token_uri"].clone();
        Ok(record)
    }

    /// Stores a user with a live access token as the very record, for tests with
    /// more users than commands could import in time.
    ///
    /// # Errors
    /// When the storage server refuses.
    pub async fn write_user(&self, sub: &str, life: Duration) -> anyhow::Result<()> {
        let record = self.record_of(sub, life, Duration::ZERO)?;
        self.write(sub, &record).await
    }

    /// As [`Stage::write_user`], with an access token that lives for an hour and is `age` old.
    ///
    /// # Errors
    /// When the storage server refuses.
    pub async fn write_user_of_age(&self, sub: &str, age: Duration) -> anyhow::Result<()> {
        let record = self.record_of(sub, Duration::from_secs(3600), age)?;
        self.write(sub, &record).await
    }

    /// As [`Stage::write_user`], with an access token that expired an hour ago.
    ///
    /// # Errors
    /// When the storage server refuses.
    pub async fn write_expired_user(&self, sub: &str) -> anyhow::Result<()> {
        self.write_user_of_age(sub, Duration::from_secs(7200)).await
    }

    async fn write(&self, sub: &str, record: &Value) -> anyhow::Result<()> {
        self.cloud.create(BUCKET, &format!("tokens/{sub}.json"), &record.to_string()).await
    }

    async fn import(&self, sub: &str, content: &Value) -> anyhow::Result<()> {
        let file = self.path("import.json");
        std::fs::write(&file, content.to_string())?;
        let file = file.display().to_string();
        let output = self.fleet(&["users", "import", &file, "--user", sub]).await?;
        ensure!(output.code == 0, "import failed: {}", output.stderr);
        Ok(())
    }

    /// Publishes jobs, one JSON line each, ordered by user.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn publish(&self, jobs: &[Value], flags: &[&str]) -> anyhow::Result<()> {
        let file = self.path("jobs.jsonl");
        let lines: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        std::fs::write(&file, lines.join("\n"))?;
        let file = file.display().to_string();
        let mut args = vec!["publish", "--file", &file];
        args.extend(flags);
        let output = self.fleet(&args).await?;
        ensure!(output.code == 0, "publish failed: {}", output.stderr);
        Ok(())
    }

    /// Publishes jobs, ordered by user or not, as another program than `fleet publish` does,
    /// which refuses what a worker would reject.
    ///
    /// # Errors
    /// When Pub/Sub does not take one.
    pub async fn publish_unchecked(&self, jobs: &[Value], ordered: bool) -> anyhow::Result<()> {
        let publisher = Publisher::open(&self.connection(), &full("topics", "jobs")).await?;
        for job in jobs {
            let user = job["user"].as_str().filter(|_| ordered);
            let ordering_key = user.unwrap_or_default().to_owned();
            let data = job.to_string().into();
            let attributes = HashMap::new();
            publisher.publish(Outgoing { data, attributes, ordering_key }).await?;
        }
        Ok(())
    }

    /// Messages of a subscription.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub async fn inbox(&self, subscription: &str) -> anyhow::Result<Inbox> {
        let settings = IntakeSettings {
            subscription: full("subscriptions", subscription),
            max_outstanding: 1000,
            max_outstanding_bytes: OUTSTANDING_BYTES,
            ack_extension: Duration::from_secs(60),
        };
        Ok(Inbox(Intake::open(&self.connection(), settings).await?))
    }

    /// A stored token record.
    ///
    /// # Errors
    /// When there is none.
    pub async fn record(&self, user: &str) -> anyhow::Result<Value> {
        let output = self.fleet(&["users", "export", user]).await?;
        ensure!(output.code == 0, "export failed: {}", output.stderr);
        Ok(serde_json::from_str(&output.stdout)?)
    }
}

/// A token record as the fleet stores it, whose token of this `life` is `age` old.
///
/// # Errors
/// When a duration is out of range.
pub fn token_record(
    grant: &google::Grant,
    sub: &str,
    scopes: &[&str],
    life: Duration,
    age: Duration,
    google: &Google,
) -> anyhow::Result<Value> {
    let life = SignedDuration::try_from(life)?;
    // The clock of the test process is the one that the commands look at.
    let now = shared::ports::Clock::wall(&shared::adapters::SystemClock::default());
    let issued: Timestamp = now - SignedDuration::try_from(age)?;
    let client = google.client_json(ClientKind::Installed, &[]);
    Ok(json!({
        "version": 1, "user": sub, "sub": sub, "state": "active", "reason": null,
        "refresh_token": grant.refresh_token, "access_token": grant.access_token,
        "expires_at": issued + life, "expires_in": life.as_secs(),
        "scopes": scopes, "token_uri": client["installed"]["token_uri"],
        "client_id": client["installed"]["client_id"], "grant_id": "g", "write_id": "w",
        "holder": "test", "lease_generation": null, "created_at": issued, "updated_at": issued,
    }))
}

/// Messages, acknowledged as they are read.
#[derive(Debug)]
pub struct Inbox(Intake);

/// A message's data as JSON (or text) and its attributes.
pub type Letter = (Value, HashMap<String, String>);

impl Inbox {
    /// The next message.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next(&mut self) -> anyhow::Result<Letter> {
        let (data, attributes) = self.next_bytes().await?;
        let value = serde_json::from_slice(&data)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&data).into_owned()));
        Ok((value, attributes))
    }

    /// The next message, its data as it is.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next_bytes(&mut self) -> anyhow::Result<(bytes::Bytes, HashMap<String, String>)> {
        // What Google's emulator has given to a stream that ended comes again when its lease
        // of a minute is over, and not before.
        let delivery = tokio::time::timeout(2 * PATIENCE, self.0.next())
            .await
            .context("no message came in time")??;
        let data = delivery.received.data.clone();
        let attributes = delivery.received.attributes.clone();
        delivery.settle.ack().await;
        Ok((data, attributes))
    }

    /// Outcomes of so many different jobs, by job ID.
    ///
    /// # Errors
    /// When they do not come in time.
    pub async fn outcomes(
        &mut self,
        jobs: usize,
    ) -> anyhow::Result<std::collections::BTreeMap<String, Value>> {
        let mut seen = std::collections::BTreeMap::new();
        while seen.len() < jobs {
            let (outcome, _) = self.next().await.with_context(|| {
                format!("{} of {jobs} outcomes came: {:?}", seen.len(), seen.keys())
            })?;
            let job = outcome["job"].as_str().unwrap_or_default().to_owned();
            seen.entry(job).or_insert(outcome);
        }
        Ok(seen)
    }
}
