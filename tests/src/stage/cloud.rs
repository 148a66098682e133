//! Pub/Sub and storage: the embedded emulators, or the external ones.

use anyhow::{Context as _, ensure};
use emulators::pubsub::{self, PubSub};
use emulators::storage::{self, Storage};
use serde_json::json;

use super::external::{ExternalServers, Missing};

/// Pub/Sub and storage servers that live as long as this.
#[derive(Debug)]
pub struct Cloud {
    /// `host:port`.
    pub pubsub: String,
    /// Origin of the JSON API.
    pub storage: String,
    /// `host:port` of the gRPC API, where there is one.
    pub storage_grpc: Option<String>,
    /// The embedded servers, to look inside.
    pub embedded: Option<(PubSub, Storage)>,
    /// One for all requests: making another reads every certificate of the machine.
    http: reqwest::Client,
    _external: Option<ExternalServers>,
}

impl Cloud {
    /// The embedded emulators.
    ///
    /// # Errors
    /// When a port cannot be bound.
    pub async fn embedded() -> anyhow::Result<Self> {
        let pubsub = PubSub::start(pubsub::Config::default()).await?;
        let storage = Storage::start(storage::Config::default()).await?;
        Ok(Self {
            pubsub: pubsub.address().to_string(),
            storage: storage.http_origin(),
            storage_grpc: Some(storage.grpc_address().to_string()),
            embedded: Some((pubsub, storage)),
            http: reqwest::Client::new(),
            _external: None,
        })
    }

    /// Google's Pub/Sub emulator and fake-gcs-server, started for this test.
    ///
    /// # Errors
    /// [`Missing`] (to be told apart by `downcast_ref`) when one is not
    /// installed.
    pub async fn external() -> anyhow::Result<Self> {
        let servers = ExternalServers::start().await?;
        Ok(Self {
            pubsub: servers.pubsub.clone(),
            storage: servers.storage.clone(),
            storage_grpc: None,
            embedded: None,
            http: reqwest::Client::new(),
            _external: Some(servers),
        })
    }

    /// The external servers; `None` when they are not installed and need not be,
    /// which is said plainly.
    ///
    /// # Errors
    /// When they are required and missing, or do not start.
    pub async fn external_if_found(test: &str) -> anyhow::Result<Option<Self>> {
        match Self::external().await {
            Ok(cloud) => Ok(Some(cloud)),
            Err(error) => match error.downcast_ref::<Missing>() {
                Some(missing) => {
                    super::leave_out(test, missing)?;
                    Ok(None)
                }
                None => Err(error),
            },
        }
    }

    /// Whether `fleet setup` can create buckets here.
    pub fn creates_buckets(&self) -> bool {
        self.storage_grpc.is_some()
    }

    /// Creates a bucket over the JSON API.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        let response = self
            .http
            .post(format!("{}/storage/v1/b?project=stage", self.storage))
            .json(&json!({"name": name}))
            .send()
            .await
            .context("the storage server does not answer")?;
        ensure!(response.status().is_success(), "bucket: {}", response.status());
        Ok(())
    }

    /// Names of the objects under a prefix, over the JSON API.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn objects(&self, bucket: &str, prefix: &str) -> anyhow::Result<Vec<String>> {
        let url = format!("{}/storage/v1/b/{bucket}/o?prefix={prefix}", self.storage);
        let list: serde_json::Value = reqwest::get(url).await?.error_for_status()?.json().await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().filter_map(|i| i["name"].as_str().map(str::to_owned)).collect())
    }

    /// An object's content, over the JSON API.
    ///
    /// # Errors
    /// When there is none.
    pub async fn object(&self, bucket: &str, name: &str) -> anyhow::Result<String> {
        let name = name.replace('%', "%25").replace('/', "%2F");
        let url = format!("{}/storage/v1/b/{bucket}/o/{name}?alt=media", self.storage);
        Ok(reqwest::get(url).await?.error_for_status()?.text().await?)
    }

    /// What the writer of an object noted beside it, over the JSON API.
    ///
    /// # Errors
    /// When there is no such object.
    pub async fn metadata(&self, bucket: &str, name: &str) -> anyhow::Result<serde_json::Value> {
        let name = name.replace('%', "%25").replace('/', "%2F");
        let url = format!("{}/storage/v1/b/{bucket}/o/{name}", self.storage);
        let said: serde_json::Value = reqwest::get(url).await?.error_for_status()?.json().await?;
        Ok(said["metadata"].clone())
    }

    /// Creates an object whose name needs no encoding, over the JSON API.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(&self, bucket: &str, name: &str, content: &str) -> anyhow::Result<()> {
        let name = name.replace('/', "%2F");
        let url = format!(
            "{}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}&ifGenerationMatch=0",
            self.storage
        );
        let sent = self.http.post(url).body(content.to_owned()).send().await?;
        sent.error_for_status()?;
        Ok(())
    }

    /// Overwrites an object, over the JSON API and without precondition.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn overwrite(&self, bucket: &str, name: &str, content: &str) -> anyhow::Result<()> {
        if let Some((_, storage)) = &self.embedded {
            // An operator's repair, not the fleet's write.
            storage.set_one_mutation_per_second(false);
        }
        let name = name.replace('%', "%25").replace('/', "%2F");
        let url =
            format!("{}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", self.storage);
        let sent = self.http.post(url).body(content.to_owned()).send().await?;
        sent.error_for_status()?;
        Ok(())
    }
}
