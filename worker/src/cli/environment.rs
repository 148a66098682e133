//! Where a command finds what it works with.

use std::sync::Arc;

use crate::backlog::Backlogs;
use crate::kinds::OutputStore;
use crate::pubsub::{Connection, Publisher};
use anyhow::Context as _;
use shared::adapters::{CloudKms, CloudStorage, CloudStorageConfig, http_client};
use shared::ports::Clock;
use url::Url;

use super::emulated::Emulators;
use super::google_access;
use super::output::Usage;

/// Where everything is, by the environment.
pub(crate) struct Place {
    /// The emulators, if any.
    pub(crate) emulators: Option<Emulators>,
}

impl Place {
    /// Reads the emulator variables.
    pub(crate) fn from_env() -> Result<Self, Usage> {
        Ok(Self { emulators: Emulators::from_env()? })
    }

    /// Where Pub/Sub is.
    pub(crate) fn connection(&self) -> Connection {
        Connection { emulator: self.emulators.as_ref().map(|e| e.pubsub.clone()) }
    }

    /// Who tells how subscriptions stand.
    ///
    /// # Errors
    /// A text that says why nobody does.
    pub(crate) fn backlogs(&self, http: reqwest::Client) -> Result<Backlogs, String> {
        Backlogs::new(http, self.emulators.as_ref().map(|e| e.pubsub.as_str()))
    }

    /// Finds out at once that an emulator is not there, or that there are no credentials for
    /// the service: the official client would try for long without a word.
    pub(crate) async fn reach_pubsub(&self) -> anyhow::Result<()> {
        let Some(emulators) = &self.emulators else {
            return google_access::find().await;
        };
        tokio::net::TcpStream::connect(&emulators.pubsub).await.map(drop).with_context(|| {
            format!(
                "nothing answers at PUBSUB_EMULATOR_HOST={}; start the emulator (`fleet dev`), or unset it",
                emulators.pubsub
            )
        })
    }

    /// Publishes to a topic, by its full name.
    pub(crate) async fn publisher(&self, topic: &str) -> anyhow::Result<Publisher> {
        self.reach_pubsub().await?;
        Ok(Publisher::open(&self.connection(), topic).await?)
    }

    /// The bucket. Says at once where there are no credentials for it.
    pub(crate) async fn bucket(&self, name: &str) -> anyhow::Result<CloudStorage> {
        if self.emulators.is_none() {
            google_access::find().await?;
        }
        let config = CloudStorageConfig {
            bucket: name.to_owned(),
            timeout: None,
            emulator: self.emulators.as_ref().map(|e| e.storage.clone()),
            emulator_grpc: self.emulators.as_ref().and_then(|e| e.storage_grpc.clone()),
        };
        CloudStorage::connect(config).await.map_err(anyhow::Error::msg)
    }

    /// Where the data keys of a keyring are wrapped.
    pub(crate) fn kms(&self) -> anyhow::Result<CloudKms> {
        let http = http_client(concat!("fleet/", env!("CARGO_PKG_VERSION")))?;
        let emulator = match &self.emulators {
            None => None,
            Some(emulators) => Some(emulators.kms_root.as_ref().ok_or_else(|| {
                Usage("Cloud KMS wraps the keyring, and emulators are used: set FLEET_KMS_ROOT to the origin of an emulator of it, or name another keyring".to_owned())
            })?),
        };
        CloudKms::new(http, emulator.map(Url::as_str)).map_err(anyhow::Error::msg)
    }

    /// What writes the output of `api` jobs, into any bucket.
    pub(crate) async fn output_store(&self, clock: Arc<dyn Clock>) -> anyhow::Result<OutputStore> {
        let emulators = self.emulators.as_ref();
        let origin = emulators.map(|e| e.storage.as_str());
        let grpc = emulators.and_then(|e| e.storage_grpc.as_deref());
        OutputStore::connect(origin, grpc, clock).await.map_err(anyhow::Error::msg)
    }
}
