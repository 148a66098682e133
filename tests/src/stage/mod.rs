//! A stage for end-to-end tests: servers, an identity provider, and the `fleet`
//! binary as a person would run it.

mod cloud;
mod external;
mod messages;
mod process;
mod users;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use emulators::google::{self, ClientKind, Google};
use serde_json::Value;
use worker::pubsub::{Admin, Connection, SubscriptionPlan};

use crate::gateway::Gateway;
use crate::write_secret;

pub use cloud::Cloud;
pub use external::{LIMITS, Missing, find_clients, find_gcloud, leave_out};
pub use messages::{Inbox, Letter};
pub(crate) use process::with_variables;
pub use process::{Output, Worker, example, fleet_binary, run, run_program};
pub use users::token_record;

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
}
