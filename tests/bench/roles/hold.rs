//! A token store with very many users in memory.

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use shared::adapters::{
    CloudStorage, CloudStorageConfig, HttpTokenEndpoint, SystemClock, http_client,
};
use shared::{OAuthClient, TokenStore, UserId};
use worker::metered::MeteredEndpoint;

use crate::ground::user;

use super::{USER_AGENT, variable};

/// How many credentials are read at once.
const READING: usize = 64;

/// Bytes of memory that are resident with so many users in the cache.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Resident {
    pub(crate) users: usize,
    pub(crate) bytes: u64,
}

/// Takes users in and says after each step how much memory is resident.
pub(super) async fn run(steps: Vec<usize>) -> anyhow::Result<()> {
    let most = steps.iter().copied().max().unwrap_or_default();
    // Shards fill unevenly; this leaves room for all.
    let store = open(most + most / 4 + 1).await?;
    let mut held = 0;
    for users in steps {
        read(&store, held..users).await?;
        held = users;
        anyhow::ensure!(store.cached_users() == held, "some users were evicted");
        let bytes = crate::measure::resident(std::process::id())?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&Resident { users, bytes })?)?;
        out.flush()?;
    }
    Ok(())
}

/// A store as `fleet worker` builds it.
async fn open(cached_users: usize) -> anyhow::Result<TokenStore> {
    let client = std::fs::read(variable("FLEET_OAUTH_CLIENT")?)?;
    let client = OAuthClient::from_json(&client)?;
    let endpoint = Arc::new(HttpTokenEndpoint::new(&client, http_client(USER_AGENT)?)?);
    let endpoint = Arc::new(MeteredEndpoint::new(endpoint, Arc::new(SystemClock::default())));
    let config = CloudStorageConfig {
        bucket: variable("FLEET_BUCKET")?,
        timeout: None,
        emulator: Some(variable("STORAGE_EMULATOR_HOST")?),
        emulator_grpc: Some(variable("STORAGE_EMULATOR_HOST_GRPC")?),
    };
    let bucket = CloudStorage::connect(config).await.map_err(anyhow::Error::msg)?.shared();
    Ok(TokenStore::builder(bucket, endpoint).cached_users(cached_users).build()?)
}

async fn read(store: &TokenStore, users: Range<usize>) -> anyhow::Result<()> {
    stream::iter(users)
        .map(|number| async move {
            store.get_credentials(&UserId::new(user(number))?).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(READING)
        .try_collect()
        .await
}
